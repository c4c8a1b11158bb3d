"""What probes of a generator share: classes in turn, points and images batch by batch, pictures of images."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medgan import explore
from medgan.explore import Space
from medgan.sample import LoadedGenerator
from pipeline.records import MedaugError

Extractor = Callable[[Tensor], Tensor]
"""Images float32 [N, C, H, W] in [-1, 1] to features [N, D]."""

Picture = NDArray[np.uint8]
"""Grey values [H, W]."""


def classes_in_turn(generator: LoadedGenerator, count: int) -> Tensor:
    """0, 1, 2, ... 0, 1, ...: int64 [count], every class as often as any other."""
    return torch.arange(count) % len(generator.spec.classes)


def batches(generator: LoadedGenerator, count: int) -> Iterator[slice]:
    """Positions 0 to ``count`` in parts that the generator draws at a time."""
    for begin in range(0, count, generator.batch):
        yield slice(begin, min(begin + generator.batch, count))


def points(generator: LoadedGenerator, labels: Tensor, seed: int, space: Space, start: int = 0) -> Tensor:
    """:func:`medgan.explore.points`, batch by batch (the noise drawn with them would fill the memory), on the CPU."""
    parts = batches(generator, len(labels))
    drawn = [explore.points(generator, labels[part], seed, space, start=start + part.start) for part in parts]
    return torch.cat(drawn).cpu()


def of_images(
    function: Extractor, generator: LoadedGenerator, at: Tensor, labels: Tensor, seed: int, space: Space
) -> Tensor:
    """A function of the images at points, which are never all in memory.

    Args:
        function: images [N, C, H, W] to [N] or [N, D].
        generator: who draws.
        at: points [N, width].
        labels: class of each, int64 [N].
        seed: of the noise, the same for all.
        space: of the points.

    Returns:
        float64 [N] or [N, D], on the CPU.
    """
    found = []
    for part in batches(generator, len(labels)):
        images = explore.images(generator, at[part], labels[part], seed, space)
        found.append(finite(function(images), len(images)))
    return torch.cat(found)


def finite(values: Tensor, count: int) -> Tensor:
    """What an extractor gave for so many images, detached, float64, on the CPU.

    Raises:
        MedaugError: another number of vectors, or values that are not finite.
    """
    values = torch.as_tensor(values).detach().cpu().double()
    if len(values) != count:
        raise MedaugError(f"extractor: {len(values)} vectors for {count} images, expected one for each")
    if not bool(torch.isfinite(values).all()):
        raise MedaugError("extractor: NaN or infinity among the features, expected finite values")
    return values


def tiled(images: Tensor, low: float = -1.0, high: float = 1.0) -> Picture:
    """Images in rows and columns as one picture.

    Args:
        images: [rows, columns, C, H, W] of any floating type; channels are averaged.
        low: what is black.
        high: what is white.

    Returns:
        uint8 [rows·H, columns·W].
    """
    grey = (images.double().mean(dim=2) - low) / max(high - low, 1e-12)  # [R, K, C, H, W] -> [R, K, H, W]
    R, K, H, W = grey.shape
    sheet = grey.clamp(0, 1).mul(255).round().permute(0, 2, 1, 3).reshape(R * H, K * W)
    return np.asarray(sheet.cpu().numpy(), dtype=np.uint8)
