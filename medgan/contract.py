"""What networks and phases are to the trainer.

The trainer decides *when* a phase runs; the phase decides *what* is computed. An architecture is a module that owns a
generator, a discriminator and whatever else a training has to remember, so that its ``state_dict`` is the whole of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from medgan.layers import project_logits
from medgan.ranks import normal
from medgan.sizes import Stage

NoiseSource = Callable[[int, int, int], Tensor]
"""``noise(layer, height, width)`` gives the layer's noise, float32 [N, 1, height, width]."""


class DrawnNoise:
    """Noise of all layers, drawn before any is used.

    Args:
        maps: by layer, float32 [N, 1, height, width].
    """

    def __init__(self, maps: Mapping[int, Tensor]):
        self.maps = maps

    def __call__(self, layer: int, height: int, width: int) -> Tensor:
        """See :data:`NoiseSource`."""
        return self.maps[layer]


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
        name: of its own within an architecture; for messages, and to count its skipped steps.
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

    def draw_noise(self, stage: Stage, noise: NoiseSource) -> DrawnNoise:
        """All noise of a pass at a stage, drawn in the order of layers, which is that in which a pass would draw it."""
        return DrawnNoise({layer: noise(layer, *size) for layer, size in enumerate(self.noise_layers(stage))})


class Discriminator(nn.Module, ABC):
    """Image and class to one logit, and with an auxiliary classifier to a logit for each class.

    Args:
        classes: number of classes.
        condition: see :class:`medgan.options.Conditioning`; with a single class it is "none".

    Attributes:
        condition: how the class enters.
        outputs: numbers that the last layer gives for an image.
        draws: whether :meth:`score` draws random numbers in training.
    """

    draws: bool = False

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
        return self.logits(self.score(images, labels, stage, rng), labels, stage.label)

    def logits(self, scores: Tensor, labels: Tensor, label: float = 1.0) -> Tensor:
        """Scores [N, outputs] to logits [N] of real against generated, the class weighted by ``label``."""
        return project_logits(scores, labels, label) if self.condition == "projection" else scores[:, 0]


def random_latent(batch: Batch, latent: int) -> Tensor:
    """Standard normal z, float32 [N, latent], from the step's generator."""
    return normal((len(batch.labels), latent), batch.rng)


def random_noise(batch: Batch) -> NoiseSource:
    """Fresh standard normal noise for every layer, from the step's generator."""

    def noise(layer: int, height: int, width: int) -> Tensor:
        return normal((len(batch.labels), 1, height, width), batch.rng)

    return noise
