"""GAN: Goodfellow et al., "Generative Adversarial Nets", NeurIPS 2014; CGAN: Mirza & Osindero, arXiv 1411.1784.

Fully connected: rectifiers in the generator, maxout with dropout in the discriminator (Goodfellow, section 5). With
classes, z and label have layers of their own that a common one joins, and so have image and label (Mirza, section 4.1).

Deviations. z is normal, as everywhere here, instead of uniform, and goes through a layer as wide as the others with
classes, too (Mirza: 200). The output is tanh, which is their sigmoid on [-1, 1]. Weights have He's variance instead of
one uniform range, which suits the papers' widths only. All maxout units have 5 pieces, those that join image and label
as well (Mirza: 4). The presets train with Adam instead of momentum and its schedule.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medgan.architecture import Architecture
from medgan.config import GanConfig
from medgan.contract import Discriminator, Generator, NoiseSource
from medgan.options import require
from medgan.ranks import uniform
from medgan.sizes import Stage
from pipeline.records import ImageSpec


@dataclass(frozen=True)
class Options:
    """Their networks' numbers.

    Attributes:
        latent: length of z.
        hidden: units of the generator's layers (Goodfellow's code: 1200; Mirza: 1200 where z and label meet).
        label_hidden: units of the generator's layer for the label.
        units: maxout units of the discriminator's layers (both: 240).
        label_units: maxout units of its layer for the label (Mirza: 50).
        pieces: linear pieces of a maxout unit (both: 5).
        dropout: share of hidden units that a discriminator's training step leaves out.
        input_dropout: the same share of pixels.
    """

    latent: int = 100
    hidden: int = 1200
    label_hidden: int = 1000
    units: int = 240
    label_units: int = 50
    pieces: int = 5
    dropout: float = 0.5
    input_dropout: float = 0.2

    def __post_init__(self) -> None:
        for key in ("latent", "hidden", "label_hidden", "units", "label_units", "pieces"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "1 or more")
        for key in ("dropout", "input_dropout"):
            require(0 <= getattr(self, key) < 1, key, getattr(self, key), "at least 0 (off), below 1")


class Linear(nn.Module):
    """[N, I] -> [N, O], weights from N(0, gain²/I)."""

    def __init__(self, inputs: int, outputs: int, gain: float = 1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.empty(outputs))
        self.deviation = gain / math.sqrt(inputs)

    def draw_weights(self, rng: torch.Generator) -> None:
        """Draws the weight; the bias starts at 0."""
        with torch.no_grad():
            self.weight.normal_(0.0, self.deviation, generator=rng)
            self.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return F.linear(x, self.weight, self.bias)


class Maxout(nn.Module):
    """maxⱼ (xᵀWⱼ + bⱼ): [N, I] -> [N, units] (Goodfellow et al., "Maxout Networks", ICML 2013)."""

    def __init__(self, inputs: int, units: int, pieces: int):
        super().__init__()
        self.linear = Linear(inputs, units * pieces)
        self.shape = (units, pieces)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return self.linear(x).unflatten(1, self.shape).amax(dim=2)  # [N, U·P] -> [N, U, P] -> [N, U]


def dropout(x: Tensor, share: float, rng: torch.Generator | None) -> Tensor:
    """Leaves out a share of values and scales the others up, so that the mean stays (Srivastava et al. 2014).

    Drawn from the step's own generator: torch's dropout would draw from the global one, which a resumed training
    cannot bring back.
    """
    if rng is None or share == 0:
        return x
    kept = uniform(x.shape, rng) >= share
    return x * kept.to(x.dtype) / (1 - share)


class MlpGenerator(Generator):
    """z and label -> rectifiers -> tanh."""

    def __init__(self, options: Options, spec: ImageSpec, condition: str):
        super().__init__()
        self.latent = options.latent
        self.shape = (spec.channels, spec.height, spec.width)
        classes = len(spec.classes) if condition == "embedding" else 1
        gain = math.sqrt(2.0)
        self.first = Linear(options.latent, options.hidden, gain)
        self.label = nn.Parameter(torch.empty(classes, options.label_hidden)) if classes > 1 else None
        joined = options.hidden + (options.label_hidden if classes > 1 else 0)
        self.second = Linear(joined, options.hidden, gain)
        self.last = Linear(options.hidden, math.prod(self.shape))

    def draw_weights(self, rng: torch.Generator) -> None:
        """A linear layer of a one-hot label is a row for each class."""
        if self.label is not None:
            with torch.no_grad():
                self.label.normal_(0.0, math.sqrt(2.0), generator=rng)

    def forward(self, z: Tensor, labels: Tensor, stage: Stage, noise: NoiseSource | None) -> Tensor:
        """See :meth:`Generator.forward`."""
        x = F.relu(self.first(z))
        if self.label is not None:
            x = torch.cat([x, stage.label * F.relu(self.label[labels]).to(x.dtype)], dim=1)
        x = F.relu(self.second(x))
        return torch.tanh(self.last(x).float()).unflatten(1, self.shape)  # [N, C·H·W] -> [N, C, H, W]


class MlpDiscriminator(Discriminator):
    """Image, and label where it is an input -> maxout with dropout -> one number."""

    def __init__(self, options: Options, spec: ImageSpec, condition: str):
        super().__init__(len(spec.classes), condition)
        self.options = options
        self.draws = options.dropout > 0 or options.input_dropout > 0
        units, pieces = options.units, options.pieces
        self.first = Maxout(spec.channels * spec.height * spec.width, units, pieces)
        beside = options.label_units if self.condition == "input" else 0
        self.label = nn.Parameter(torch.empty(len(spec.classes), beside, pieces)) if beside else None
        self.second = Maxout(units + beside, units, pieces)
        self.last = Linear(units, self.outputs)

    def draw_weights(self, rng: torch.Generator) -> None:
        """The label's maxout layer: of a one-hot label it is a row for each class."""
        if self.label is not None:
            with torch.no_grad():
                self.label.normal_(generator=rng)

    def score(self, images: Tensor, labels: Tensor, stage: Stage, rng: torch.Generator | None) -> Tensor:
        """See :meth:`Discriminator.score`."""
        share = self.options.dropout
        x = dropout(images.flatten(1), self.options.input_dropout, rng)  # [N, C, H, W] -> [N, C·H·W]
        x = dropout(self.first(x), share, rng)
        if self.label is not None:
            named = stage.label * self.label[labels].amax(dim=2)  # [classes, U, P] -> [N, U, P] -> [N, U]
            x = torch.cat([x, dropout(named, share, rng).to(x.dtype)], dim=1)
        x = dropout(self.second(x), share, rng)
        scores: Tensor = self.last(x)
        return scores


class Mlp(Architecture):
    """The fully connected pair, with any loss."""

    Options: ClassVar[type[Any]] = Options
    discriminator_conditions: ClassVar[tuple[str, ...]] = ("projection", "input", "auxiliary", "none")

    def __init__(self, config: GanConfig, spec: ImageSpec):
        super().__init__(config, spec)
        self.generator = MlpGenerator(self.options, spec, config.conditioning.generator)
        self.discriminator = MlpDiscriminator(self.options, spec, config.conditioning.discriminator)
