"""What an architecture must offer, and the parts of a training step that all of them share.

The trainer decides *when* a phase runs; the phase decides *what* is computed. An architecture is a module that owns a
generator, a discriminator and whatever else a training has to remember, so that its ``state_dict`` is the whole of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medgan import losses
from medgan.config import GanConfig
from medgan.layers import double, halve, project_logits
from medgan.options import read_options
from medgan.sizes import Pyramid, Stage
from pipeline.records import ImageSpec

NoiseSource = Callable[[int, int, int], Tensor]
"""``noise(layer, height, width)`` gives the layer's noise, float32 [N, 1, height, width]."""


@dataclass(frozen=True)
class Batch:
    """What a phase sees of one step.

    Attributes:
        images: real images at the stage's size, float32 [N, C, h, w] in [-1, 1].
        labels: their classes, int64 [N].
        stage: see :class:`Stage`.
        rng: every random number of the step comes from here.
    """

    images: Tensor
    labels: Tensor
    stage: Stage
    rng: torch.Generator


LossFunction = Callable[[Batch], tuple[Tensor, Mapping[str, Tensor]]]
"""Loss to descend (scalar), and detached scalars for the curves."""


@dataclass(frozen=True)
class Phase:
    """A unit of training.

    Attributes:
        name: for messages.
        network: whose weights it updates.
        every: steps from one run to the next.
        loss: what it computes.
        lazy: a regulariser that runs seldom; its optimiser is corrected for the additional steps it causes.
    """

    name: str
    network: Literal["generator", "discriminator"]
    every: int
    loss: LossFunction
    lazy: bool = False


class Generator(nn.Module, ABC):
    """Latent and class to image.

    Attributes:
        latent: length of z.
    """

    latent: int

    @abstractmethod
    def forward(self, z: Tensor, labels: Tensor, stage: Stage, noise: NoiseSource | None) -> Tensor:
        """Draws images.

        Args:
            z: float32 [N, latent], standard normal.
            labels: int64 [N].
            stage: size and fade.
            noise: per-pixel noise; None leaves it out. Networks without noise do not call it.

        Returns:
            [N, C, h, w] at the stage's size.
        """

    def noise_layers(self, stage: Stage) -> Sequence[tuple[int, int]]:
        """Height and width of the noise of each layer, in the order of layers; empty where there is none."""
        return ()


class Discriminator(nn.Module, ABC):
    """Image and class to one logit, and with an auxiliary classifier to a logit for each class.

    Args:
        classes: number of classes.
        condition: see :class:`medgan.options.Conditioning`; with a single class it is "none".

    Attributes:
        condition: how the class enters.
        outputs: numbers that the last layer gives for an image.
    """

    def __init__(self, classes: int, condition: str):
        super().__init__()
        self.condition = condition if classes > 1 else "none"
        self.outputs = 1 + classes if self.condition in ("projection", "auxiliary") else 1

    @abstractmethod
    def score(self, images: Tensor, labels: Tensor, stage: Stage, rng: torch.Generator | None) -> Tensor:
        """What the last layer says.

        Args:
            images: [N, C, h, w] at the stage's size.
            labels: int64 [N].
            stage: size and fade.
            rng: where a training's own randomness (dropout) comes from; None leaves it out.

        Returns:
            [N, outputs].
        """

    def forward(self, images: Tensor, labels: Tensor, stage: Stage, rng: torch.Generator | None = None) -> Tensor:
        """See :meth:`score`; logits [N], above the loss's boundary for what looks real."""
        return self.logits(self.score(images, labels, stage, rng), labels)

    def logits(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Scores [N, outputs] to logits [N] of real against generated."""
        return project_logits(scores, labels) if self.condition == "projection" else scores[:, 0]


class Architecture(nn.Module, ABC):
    """A pair of networks with its phases; what :mod:`medgan.registry` names.

    Attributes:
        Options: frozen dataclass of the architecture's own options.
        generator_conditions: what :class:`medgan.options.Conditioning` may say of the generator here.
        discriminator_conditions: the same of the discriminator.
        has_w: whether there is an intermediate latent.
        config: the configuration.
        spec: what the images are.
        pyramid: their sizes.
        generator: see :class:`Generator`.
        discriminator: see :class:`Discriminator`.
    """

    Options: ClassVar[type[Any]]
    generator_conditions: ClassVar[tuple[str, ...]] = ("embedding", "none")
    discriminator_conditions: ClassVar[tuple[str, ...]] = ("projection", "auxiliary", "none")
    has_w: ClassVar[bool] = False
    generator: Generator
    discriminator: Discriminator

    def __init__(self, config: GanConfig, spec: ImageSpec):
        super().__init__()
        self.config = config
        self.spec = spec
        self.pyramid = Pyramid.of(spec.height, spec.width)
        self.loss = losses.LOSSES[config.loss]
        self.options = read_options(self.Options, config.architecture, f"architecture ({config.network})")

    @classmethod
    def refuse(cls, config: GanConfig) -> None:
        """Raises ValueError where options, loss, regularisation and conditioning make no sense together."""
        penalties, conditioning = config.regularisation, config.conditioning
        for key, known in (("generator", cls.generator_conditions), ("discriminator", cls.discriminator_conditions)):
            if (found := getattr(conditioning, key)) not in known:
                raise ValueError(
                    f"conditioning.{key}: found {found!r}, which {config.network} has no place for; expected "
                    f"{' or '.join(known)}"
                )
        if config.loss == "wasserstein" and not penalties.image_penalties and penalties.clip == 0:
            raise ValueError(
                "loss: wasserstein is a distance only where the critic's slope is bounded (Arjovsky 2017, section 3), "
                "else it grows without end; expected regularisation.gradient_penalty, r1 or clip above 0"
            )
        if penalties.clip > 0 and config.architecture.get("equalised", False):
            raise ValueError(
                f"regularisation.clip: {config.network} draws weights from N(0, 1) and scales them at use, so clamping "
                "them would flatten the network; expected 0, or architecture.equalised: false"
            )
        if penalties.path_length > 0 and not cls.has_w:
            raise ValueError(
                f"regularisation.path_length: {config.network} has no w whose paths could be measured; expected 0"
            )

    def stage_at(self, images_seen: int) -> Stage:
        """Size and fade after so many real images."""
        return Stage(self.pyramid.levels)

    def reals(self, images: Tensor, stage: Stage) -> Tensor:
        """Real images as the stage shows them: averaged down to its size, faded like the networks (PGGAN, figure 2)."""
        for _ in range(self.pyramid.levels - stage.level):
            images = halve(images)
        return images if stage.alpha == 1.0 else torch.lerp(double(halve(images)), images, stage.alpha)

    def initialise(self, rng: torch.Generator) -> None:
        """Draws all weights from one CPU generator, so that a seed means the same in any thread and on any device."""
        for module in self.modules():
            draw = getattr(module, "draw_weights", None)
            if draw is not None:
                draw(rng)

    def fakes(self, batch: Batch) -> Tensor:
        """Generated images for a training step, [N, C, h, w], of the batch's classes."""
        z = random_latent(batch, self.generator.latent)
        return self.generator(z, batch.labels, batch.stage, random_noise(batch))

    def phases(self) -> tuple[Phase, ...]:
        """In the order in which a step runs them."""
        lazy = self.config.regularisation.r1_every
        phases = [Phase("discriminator", "discriminator", 1, self.discriminator_loss)]
        if self.config.regularisation.r1 > 0 and lazy > 1:
            phases.append(Phase("r1", "discriminator", lazy, self.r1_loss, lazy=True))
        phases.append(Phase("generator", "generator", self.config.critic_steps, self.generator_loss))
        return tuple(phases)

    def after_update(self, network: str) -> None:
        """What follows an update of a network's weights: WGAN's clamping of the critic's."""
        clip = self.config.regularisation.clip
        if clip > 0 and network == "discriminator":
            weights: list[Tensor] = list(self.discriminator.parameters())
            with torch.no_grad():
                torch._foreach_clamp_min_(weights, -clip)
                torch._foreach_clamp_max_(weights, clip)

    def discriminator_loss(self, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The adversarial loss, the auxiliary classifier's, and the penalties that run at every step."""
        penalties = self.config.regularisation
        with torch.no_grad():
            fake = self.fakes(batch).float()
        real_scores, fake_scores = self.scores(batch.images, batch), self.scores(fake, batch)
        real_logits = self.discriminator.logits(real_scores, batch.labels)
        fake_logits = self.discriminator.logits(fake_scores, batch.labels)
        loss = self.loss.discriminator(real_logits, fake_logits)
        curves = {"loss.discriminator": loss, "logit.real": real_logits.mean(), "logit.fake": fake_logits.mean()}
        if self.discriminator.condition == "auxiliary":
            named = self.class_loss(real_scores, batch) + self.class_loss(fake_scores, batch)
            loss = loss + self.config.conditioning.auxiliary * named
            curves["loss.class"] = named
        if penalties.drift > 0:
            loss = loss + penalties.drift * losses.drift(real_logits)
        if penalties.gradient_penalty > 0:
            penalty = losses.gradient_penalty(self._critic(batch), batch.images, fake, batch.rng)
            loss = loss + penalties.gradient_penalty * penalty
            curves["penalty.gradient"] = penalty
        if penalties.r1 > 0 and penalties.r1_every == 1:
            penalty = losses.r1(self._critic(batch), batch.images)
            loss = loss + penalties.r1 / 2 * penalty
            curves["penalty.r1"] = penalty
        return loss, curves

    def r1_loss(self, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Lazy R1: computed at every k-th step, so weighted by k (StyleGAN2, appendix B)."""
        penalty = losses.r1(self._critic(batch), batch.images)
        weight = self.config.regularisation.r1 / 2 * self.config.regularisation.r1_every
        return weight * penalty, {"penalty.r1": penalty}

    def generator_loss(self, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The adversarial loss, and the auxiliary classifier's: both networks want classes to be seen (Odena 2017)."""
        scores = self.scores(self.fakes(batch), batch)
        loss = self.loss.generator(self.discriminator.logits(scores, batch.labels))
        curves = {"loss.generator": loss}
        if self.discriminator.condition == "auxiliary":
            loss = loss + self.config.conditioning.auxiliary * self.class_loss(scores, batch)
        return loss, curves

    def scores(self, images: Tensor, batch: Batch) -> Tensor:
        """What the discriminator says of images of the batch's classes, float32 [N, outputs]."""
        return self.discriminator.score(images, batch.labels, batch.stage, batch.rng).float()

    def class_loss(self, scores: Tensor, batch: Batch) -> Tensor:
        """−E[log P(class | image)] of the auxiliary classifier (Odena et al. 2017, equation 3)."""
        return F.cross_entropy(scores[:, 1:], batch.labels)

    def _critic(self, batch: Batch) -> Callable[[Tensor], Tensor]:
        return lambda images: self.discriminator(images, batch.labels, batch.stage, batch.rng)


def random_latent(batch: Batch, latent: int) -> Tensor:
    """Standard normal z, float32 [N, latent], from the step's generator."""
    return torch.randn(len(batch.labels), latent, device=batch.labels.device, generator=batch.rng)


def random_noise(batch: Batch) -> NoiseSource:
    """Fresh standard normal noise for every layer, from the step's generator."""

    def noise(layer: int, height: int, width: int) -> Tensor:
        return torch.randn(len(batch.labels), 1, height, width, device=batch.labels.device, generator=batch.rng)

    return noise
