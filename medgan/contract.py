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
from torch import Tensor, nn

from medgan import losses
from medgan.config import GanConfig
from medgan.layers import double, halve
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
    """Image and class to one logit."""

    @abstractmethod
    def forward(self, images: Tensor, labels: Tensor, stage: Stage) -> Tensor:
        """Images [N, C, h, w] at the stage's size and labels [N] to logits [N]."""


class Architecture(nn.Module, ABC):
    """A pair of networks with its phases; what :mod:`medgan.registry` names.

    Attributes:
        Options: frozen dataclass of the architecture's own options.
        config: the configuration.
        spec: what the images are.
        pyramid: their sizes.
        generator: see :class:`Generator`.
        discriminator: see :class:`Discriminator`.
    """

    Options: ClassVar[type[Any]]
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
        """Raises ValueError where options, loss and regularisation make no sense together."""
        if config.regularisation.path_length > 0:
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

    def discriminator_loss(self, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The adversarial loss, and the penalties that run at every step."""
        penalties = self.config.regularisation
        with torch.no_grad():
            fake = self.fakes(batch).float()
        real_logits = self.discriminator(batch.images, batch.labels, batch.stage).float()
        fake_logits = self.discriminator(fake, batch.labels, batch.stage).float()
        loss = self.loss.discriminator(real_logits, fake_logits)
        curves = {"loss.discriminator": loss, "logit.real": real_logits.mean(), "logit.fake": fake_logits.mean()}
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
        """The adversarial loss."""
        logits = self.discriminator(self.fakes(batch), batch.labels, batch.stage).float()
        loss = self.loss.generator(logits)
        return loss, {"loss.generator": loss}

    def _critic(self, batch: Batch) -> Callable[[Tensor], Tensor]:
        return lambda images: self.discriminator(images, batch.labels, batch.stage)


def random_latent(batch: Batch, latent: int) -> Tensor:
    """Standard normal z, float32 [N, latent], from the step's generator."""
    return torch.randn(len(batch.labels), latent, device=batch.labels.device, generator=batch.rng)


def random_noise(batch: Batch) -> NoiseSource:
    """Fresh standard normal noise for every layer, from the step's generator."""

    def noise(layer: int, height: int, width: int) -> Tensor:
        return torch.randn(len(batch.labels), 1, height, width, device=batch.labels.device, generator=batch.rng)

    return noise
