"""How far a training is and how it went: records and a picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from medgan.sample import LoadedGenerator

GRID_COLUMNS = 8

Curves = dict[str, list[tuple[float, float]]]


@dataclass(frozen=True)
class TrainResult:
    """How a training ended.

    Attributes:
        status: "done", or "diverged".
        reason: the diagnosis of a divergence, one line; else "".
        images_seen: real images shown to the discriminator.
        seconds: wall time, all resumptions together.
        parameters: {"generator": n, "discriminator": n}.
        curves: metric → list of (images seen, value).
    """

    status: str
    reason: str
    images_seen: int
    seconds: float
    parameters: Mapping[str, int]
    curves: Mapping[str, list[tuple[float, float]]]


@dataclass
class Progression:
    """What changes while training and is not in a network: goes into the checkpoint's JSON.

    Attributes:
        step: steps made.
        images_seen: real images shown to the discriminator.
        seconds: wall time.
        snapshots: evaluation points passed.
        good: points passed at which a state to go back to was kept.
        rollbacks: how often the training went back to one.
        curves: metric → list of (images seen, value).
        passes: how the networks' passes ran; see :class:`medgan.compiled.Pass`.
    """

    step: int = 0
    images_seen: int = 0
    seconds: float = 0.0
    snapshots: int = 0
    good: int = 0
    rollbacks: int = 0
    curves: Curves = field(default_factory=dict)
    passes: dict[str, list[str]] = field(default_factory=dict)


def grid(generator: LoadedGenerator, seed: int) -> NDArray[np.uint8]:
    """A picture of samples, one row a class: uint8 [rows, columns], or [rows, columns, 3] for 3 or more channels."""
    classes = len(generator.spec.classes)
    labels = [label for label in range(classes) for _ in range(GRID_COLUMNS)]
    images = generator.sample(labels, seed)
    images = images[:, :3] if images.shape[1] >= 3 else images[:, :1]
    C, H, W = images.shape[1:]
    tiles = images.reshape(classes, GRID_COLUMNS, C, H, W).permute(0, 3, 1, 4, 2)  # -> [classes, H, columns, W, C]
    pixels = ((tiles + 1) * 127.5).round().to(torch.uint8).reshape(classes * H, GRID_COLUMNS * W, C).numpy()
    return pixels if C == 3 else pixels[..., 0]
