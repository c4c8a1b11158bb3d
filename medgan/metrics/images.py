"""What every metric of images needs: checked arrays, grey values, and pictures that let a reader see.

Images are [N, C, H, W] with values in [-1, 1]. Metrics look at the mean over channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from medgan.metrics.measured import TooFewImagesError
from medgan.metrics.sampling import split_patients, unsplittable
from pipeline.records import MedaugError

Images = torch.Tensor | NDArray[Any]
"""Images [N, C, H, W] in [-1, 1] as a tensor or an array of any floating type."""

Labels = torch.Tensor | NDArray[np.integer[Any]]
"""Class indices or patient numbers [N]."""

Picture = NDArray[np.uint8]
"""[H, W], black 0 and white 255."""

BLOCK = 256
"""Images that are worked on at a time."""


def as_images(images: Images, name: str, minimum: int = 1) -> torch.Tensor:
    """Checks images and averages their channels.

    Args:
        images: [N, C, H, W].
        name: named in messages, e.g. "real images".
        minimum: fewest images a figure needs.

    Returns:
        Grey images [N, H, W], detached, of the type they came in (at least float32).

    Raises:
        MedaugError: another shape, or values that are not finite.
        TooFewImagesError: fewer than ``minimum`` images.
    """
    tensor = torch.as_tensor(images).detach()
    if tensor.ndim != 4 or 0 in tensor.shape[1:]:
        raise MedaugError(f"{name}: shape {tuple(tensor.shape)}, expected [images, channels, height, width]")
    if len(tensor) < minimum:
        raise TooFewImagesError(f"{name}: {len(tensor)}, expected at least {minimum}; give more images")
    if tensor.dtype not in (torch.float32, torch.float64):
        tensor = tensor.float()
    tensor = tensor[:, 0] if tensor.shape[1] == 1 else tensor.mean(dim=1)
    if not bool(torch.isfinite(tensor.sum())):
        raise MedaugError(f"{name}: some hold NaN or infinity, expected finite values in [-1, 1]")
    return tensor


def as_image_pair(real: Images, synthetic: Images, minimum: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Checks two sets that are to be compared: :func:`as_images` for both, and one size.

    Raises:
        MedaugError: as :func:`as_images`, or the sizes differ.
        TooFewImagesError: fewer than ``minimum`` images in a set.
    """
    x, y = as_images(real, "real images", minimum), as_images(synthetic, "synthetic images", minimum)
    if x.shape[1:] != y.shape[1:]:
        raise MedaugError(
            f"images: real ones are {tuple(x.shape[1:])} pixels, synthetic ones {tuple(y.shape[1:])}; "
            "compare images of one size"
        )
    return x, y


def as_numbers(numbers: Labels | None, count: int, name: str) -> torch.Tensor:
    """Class indices or patient numbers, int64 [N]; None makes each image its own.

    Raises:
        MedaugError: not one for each image.
    """
    if numbers is None:
        return torch.arange(count)
    tensor = torch.as_tensor(numbers).cpu().long()
    if tensor.shape != (count,):
        raise MedaugError(f"{name}: shape {tuple(tensor.shape)}, expected one for each of {count} images")
    return tensor


def real_halves(
    patients: torch.Tensor, generator: torch.Generator, fewest: int = 2, labels: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions of two halves of the real images that share no patient.

    Args:
        patients: int64 [N].
        generator: of the draw.
        fewest: images that each half needs.
        labels: class index [N]; with it both halves have nearly the mix of classes of the whole.

    Raises:
        TooFewImagesError: images of too few patients for two halves.
    """
    if why := unsplittable(patients, fewest):
        raise TooFewImagesError(f"real images: {why}; give images of more patients")
    return split_patients(patients, len(patients) // 2, generator, labels)


def shrink(grey: torch.Tensor, longest: int) -> torch.Tensor:
    """Averages [N, H, W] over pixel areas until the longer side has at most ``longest`` pixels; never enlarges."""
    height, width = grey.shape[1:]
    factor = longest / max(height, width)
    if factor >= 1.0:
        return grey
    size = (max(round(height * factor), 1), max(round(width * factor), 1))
    return F.adaptive_avg_pool2d(grey[:, None], size)[:, 0]


def to_pixels(grey: torch.Tensor) -> NDArray[np.uint8]:
    """[..., H, W] in [-1, 1] to uint8."""
    pixels: NDArray[np.uint8] = ((grey.double().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu().numpy()
    return pixels


def mosaic(rows: Sequence[Sequence[torch.Tensor | None]], gap: int = 2) -> Picture:
    """A picture of images [H, W] in rows, white lines between them; None leaves a place empty (mid-grey).

    Args:
        rows: at least one row with at least one image; all images of one size.
        gap: width of the white lines in pixels.
    """
    height, width = next(image.shape for row in rows for image in row if image is not None)
    columns = max(map(len, rows))
    picture = np.full((len(rows) * (height + gap) - gap, columns * (width + gap) - gap), 255, np.uint8)
    for down, row in enumerate(rows):
        for across in range(columns):
            image = row[across] if across < len(row) else None
            top, left = down * (height + gap), across * (width + gap)
            picture[top : top + height, left : left + width] = 128 if image is None else to_pixels(image)
    return picture
