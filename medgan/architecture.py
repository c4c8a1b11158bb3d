"""What all architectures share: a pair of networks, and what each phase of a training step computes with them."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medgan import losses
from medgan.augment import Augment
from medgan.compiled import Pass
from medgan.config import GanConfig
from medgan.contract import Batch, Discriminator, Generator, Phase, random_latent, random_noise
from medgan.layers import double, halve
from medgan.options import read_options
from medgan.sizes import Pyramid, Stage
from pipeline.records import ImageSpec

Reading = Callable[[Tensor], Tensor]
"""A discriminator's scores [N, outputs] to logits [N]."""


@dataclass(frozen=True)
class Game:
    """An adversarial game with its penalties; a step plays one, in transitional training up to two.

    Attributes:
        weight: of all its terms.
        logits: how the discriminator's scores are read.
    """

    weight: float
    logits: Reading


class Architecture(nn.Module, ABC):
    """A pair of networks with its phases; what :mod:`medgan.registry` names.

    Attributes:
        Options: frozen dataclass of the architecture's own options.
        generator_conditions: what :class:`medgan.options.Conditioning` may say of the generator here.
        discriminator_conditions: the same of the discriminator.
        has_w: whether there is an intermediate latent.
        generates: the generator's method that makes a training's images, and may be compiled.
        config: the configuration.
        spec: what the images are.
        pyramid: their sizes.
        generator: see :class:`Generator`.
        discriminator: see :class:`Discriminator`.
        augment: what is done to all that the discriminator sees; None for nothing.
    """

    Options: ClassVar[type[Any]]
    generator_conditions: ClassVar[tuple[str, ...]] = ("embedding", "none")
    discriminator_conditions: ClassVar[tuple[str, ...]] = ("projection", "auxiliary", "none")
    has_w: ClassVar[bool] = False
    generates: ClassVar[str] = "forward"
    generator: Generator
    discriminator: Discriminator

    def __init__(self, config: GanConfig, spec: ImageSpec):
        super().__init__()
        self.config = config
        self.spec = spec
        self.pyramid = Pyramid.of(spec.height, spec.width)
        self.loss = losses.LOSSES[config.loss]
        self.options = read_options(self.Options, config.architecture, f"architecture ({config.network})")
        self.augment = Augment(config.augmentation) if config.augmentation.kind != "none" else None

    @cached_property
    def passes(self) -> Mapping[str, Pass]:
        """The networks' forward passes in training where they are differentiated once; see :mod:`medgan.compiled`."""
        mode = self.config.compile
        return {
            "generator": Pass(self.generator, self.generates, mode),
            "discriminator": Pass(self.discriminator, "score", mode),
        }

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
        if config.augmentation.kind == "adaptive" and losses.LOSSES[config.loss].boundary is None:
            raise ValueError(
                "augmentation.kind: adaptive counts real images that the discriminator takes for real, but with the "
                f"loss {config.loss} no value of a logit says so; expected constant or diffaugment, or another loss"
            )
        if penalties.path_length > 0 and not cls.has_w:
            raise ValueError(
                f"regularisation.path_length: {config.network} has no w whose paths could be measured; expected 0"
            )

    def stage_at(self, images_seen: int) -> Stage:
        """Size, fade and the weight of the class after so many real images."""
        return replace(self.size_at(images_seen), label=self.config.conditioning.label_at(images_seen))

    def size_at(self, images_seen: int) -> Stage:
        """Size and fade; for networks that do not grow always the same."""
        return Stage(self.pyramid.levels)

    def games(self, batch: Batch) -> list[Game]:
        """What is played for: in general one conditional game.

        Transitional training plays the unconditional game, and with the weight λ the conditional one beside it:
        L = L_u + λ·L_c (Shahbazi et al. 2022). Where the discriminator projects, ψ is its unconditional
        logit and ψ + ⟨v_y, φ⟩ the conditional one. With an auxiliary classifier the game is unconditional anyway, and λ
        weighs its cross-entropy. Where the class is an input there is one logit alone, into which λ weighs the class.
        """
        labels, label = batch.labels, batch.stage.label
        conditional = Game(1.0, lambda scores: self.discriminator.logits(scores, labels))
        if not self.config.conditioning.transitional or self.discriminator.condition != "projection":
            return [conditional]
        unconditional = Game(1.0, lambda scores: scores[:, 0])
        return [unconditional] if label == 0 else [unconditional, replace(conditional, weight=label)]

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
        noise = self.generator.draw_noise(batch.stage, random_noise(batch))
        return self.passes["generator"]([z, batch.labels], batch.stage, noise)

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
        """The adversarial loss, the auxiliary classifier's, and the penalties that run at every step.

        Penalties are on the slope at what the discriminator was shown: with augmentation, at augmented images.
        """
        penalties = self.config.regularisation
        with torch.no_grad():
            fake = self.shown(self.fakes(batch).float(), batch)
            real = self.shown(batch.images, batch)
        real_scores, fake_scores = self.scores(real, batch), self.scores(fake, batch)
        games = self.games(batch)
        loss = weighted(games, lambda read: self.loss.discriminator(read(real_scores), read(fake_scores)))
        real_logits, fake_logits = (
            self.discriminator.logits(scores, batch.labels, batch.stage.label) for scores in (real_scores, fake_scores)
        )
        curves = {"loss.discriminator": loss, "logit.real": real_logits.mean(), "logit.fake": fake_logits.mean()}
        if self.augment is not None:
            if self.loss.boundary is not None:
                curves["augment.sign"] = self.augment.observe(real_logits, self.loss.boundary)
            curves["augment.p"] = self.augment.probability.clone()
        if self.discriminator.condition == "auxiliary":
            named = self.class_loss(real_scores, batch) + self.class_loss(fake_scores, batch)
            loss = loss + batch.stage.label * self.config.conditioning.auxiliary * named
            curves["loss.class"] = named
        if penalties.drift > 0:
            loss = loss + penalties.drift * weighted(games, lambda read: losses.drift(read(real_scores)))
        if penalties.gradient_penalty > 0:
            penalty = weighted(
                games, lambda read: losses.gradient_penalty(self._critic(batch, read), real, fake, batch.rng)
            )
            loss = loss + penalties.gradient_penalty * penalty
            curves["penalty.gradient"] = penalty
        if penalties.r1 > 0 and penalties.r1_every == 1:
            penalty = weighted(games, lambda read: losses.r1(self._critic(batch, read), real))
            loss = loss + penalties.r1 / 2 * penalty
            curves["penalty.r1"] = penalty
        return loss, curves

    def r1_loss(self, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Lazy R1: computed at every k-th step, so weighted by k (StyleGAN2, appendix B)."""
        real = self.shown(batch.images, batch)
        penalty = weighted(self.games(batch), lambda read: losses.r1(self._critic(batch, read), real))
        weight = self.config.regularisation.r1 / 2 * self.config.regularisation.r1_every
        return weight * penalty, {"penalty.r1": penalty}

    def generator_loss(self, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The adversarial loss, and the auxiliary classifier's: both networks want classes to be seen (Odena 2017)."""
        scores = self.scores(self.shown(self.fakes(batch), batch), batch)
        loss = weighted(self.games(batch), lambda read: self.loss.generator(read(scores)))
        curves = {"loss.generator": loss}
        if self.discriminator.condition == "auxiliary":
            loss = loss + batch.stage.label * self.config.conditioning.auxiliary * self.class_loss(scores, batch)
        return loss, curves

    def shown(self, images: Tensor, batch: Batch) -> Tensor:
        """Images as the discriminator gets to see them."""
        return images if self.augment is None else self.augment(images, batch.rng)

    def scores(self, images: Tensor, batch: Batch) -> Tensor:
        """What the discriminator says of images of the batch's classes, float32 [N, outputs]."""
        rng = batch.rng if self.discriminator.draws else None
        return self.passes["discriminator"]([images, batch.labels], batch.stage, rng).float()

    def class_loss(self, scores: Tensor, batch: Batch) -> Tensor:
        """−E[log P(class | image)] of the auxiliary classifier (Odena et al. 2017, section 3)."""
        return F.cross_entropy(scores[:, 1:], batch.labels)

    def _critic(self, batch: Batch, read: Reading) -> losses.Critic:
        return lambda images: read(self.discriminator.score(images, batch.labels, batch.stage, batch.rng))


def weighted(games: Sequence[Game], term: Callable[[Reading], Tensor]) -> Tensor:
    """Sum of a term over games, each with its weight."""
    return torch.stack([game.weight * term(game.logits) for game in games]).sum()
