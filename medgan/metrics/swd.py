"""Sliced Wasserstein distance between patches of Laplacian pyramids: is each scale of detail like the real one?

Karras et al. 2018, "Progressive Growing of GANs", section 5 and table 1. Every level of an image's Laplacian pyramid,
from the full size down to 16 pixels, gives random 7x7 patches; per set they are brought to mean 0 and deviation 1, so
that a change of brightness or contrast alone does not count. The distance of two sets is the mean over random
directions of the Wasserstein-1 distance between their projections (Rabin et al. 2011):

    SWD = E_θ ∫₀¹ |F⁻¹_θ(q) − G⁻¹_θ(q)| dq

which for sorted projections of equal numbers is a mean of differences. Values are times 1,000, as in the paper. There,
16,384 images gave 128 patches a level each; here all images given are used, with as many patches each as make at most
65,536 a level, and grey values instead of RGB. The distance is biased upwards by sampling, the more the fewer images:
it means something beside ``floor.swd`` and ``floor_ratio.swd`` only.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from medgan.metrics.features import Z95
from medgan.metrics.images import Images, Labels, as_image_pair, as_numbers, real_halves
from medgan.metrics.measured import Measured
from pipeline.records import MedaugError

PATCH, PATCHES = 7, 128
SMALLEST = 16
DESCRIPTORS = 2**16
"""Patches of a set and a level at most."""
DIRECTIONS = 4 * 128
HALF_DIRECTIONS = 32
"""Directions of the half samples behind intervals and floor: always the same ones."""
REPEATS = 10
SCALE = 1e3
FEWEST = 16
PAPER_IMAGES = 16_384


def pyramid(grey: torch.Tensor) -> list[torch.Tensor]:
    """Laplacian pyramid (Burt and Adelson 1983), finest level first; the last one is the remaining image itself.

    Args:
        grey: [N, H, W].

    Returns:
        float64 [N, h, w] each; every level halves both sides (rounding up), as long as 16 pixels remain.
    """
    image = grey.double()[:, None]
    levels = []
    while min((side + 1) // 2 for side in image.shape[2:]) >= SMALLEST:
        smaller = _blur(image)[:, :, ::2, ::2]
        spread = torch.zeros_like(image)
        spread[:, :, ::2, ::2] = 4 * smaller
        levels.append((image - _blur(spread))[:, 0])
        image = smaller
    return [*levels, image[:, 0]]


def _blur(images: torch.Tensor) -> torch.Tensor:
    """[1, 4, 6, 4, 1]/16 down and across, mirrored at the border; [N, 1, H, W]."""
    kernel = torch.tensor([1, 4, 6, 4, 1], dtype=torch.float64) / 16
    padded = F.pad(images, (2, 2, 2, 2), mode="reflect")
    return F.conv2d(F.conv2d(padded, kernel.reshape(1, 1, -1, 1)), kernel.reshape(1, 1, 1, -1))


def descriptors(level: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """Random patches of each image of a level, normalised over the whole set.

    Args:
        level: float64 [N, h, w], sides of at least 7.
        count: patches of each image.
        generator: of their places.

    Returns:
        float64 [N, count, 49].
    """
    N, height, width = level.shape
    top = torch.randint(height - PATCH + 1, (N, count, 1, 1), generator=generator)
    left = torch.randint(width - PATCH + 1, (N, count, 1, 1), generator=generator)
    inside = torch.arange(PATCH)
    place = (top + inside[:, None]) * width + left + inside  # [N, count, 7, 7]
    patches = level.flatten(1).gather(1, place.flatten(1)).reshape(N, count, PATCH * PATCH)
    deviation = patches.std()
    return (patches - patches.mean()) / deviation if deviation > 0 else torch.zeros_like(patches)


def directions(dimensions: int, count: int, generator: torch.Generator) -> torch.Tensor:
    """Random directions: columns of length 1, float64 [dimensions, count]."""
    drawn = torch.randn(dimensions, count, dtype=torch.float64, generator=generator)
    return drawn / drawn.norm(dim=0)


def sliced_wasserstein(first: torch.Tensor, second: torch.Tensor) -> float:
    """Mean over directions of the Wasserstein-1 distance of projected points.

    Sets of different size are compared at the quantiles of the smaller one.

    Args:
        first: projections, float64 [n, K].
        second: float64 [m, K].
    """
    # NumPy sorts contiguous rows several times faster than torch does columns
    x, y = (np.sort(np.ascontiguousarray(points.T.numpy()), axis=1) for points in (first, second))
    if x.shape[1] > y.shape[1]:
        x, y = y, x
    n, m = x.shape[1], y.shape[1]
    return float(np.abs(x - y[:, ((np.arange(n) + 0.5) * m / n).astype(int)]).mean())


def swd(
    real: Images, synthetic: Images, real_patients: Labels | None = None, seed: int = 0, repeats: int = REPEATS
) -> dict[str, Measured]:
    """Sliced Wasserstein distances of all levels, their mean, and what real images have among themselves.

    Intervals are normal 95 % ones from half samples without replacement, of whole patients on the real side (see
    :func:`medgan.metrics.features.standard_errors`).

    Args:
        real: [N, C, H, W] in [-1, 1], at least 16 pixels a side.
        synthetic: [M, C, H, W].
        real_patients: patient number [N]; None makes each image its own.
        seed: of patches, directions and halves.
        repeats: pairs of halves, at least 2.

    Returns:
        ``swd`` (mean over the levels) and ``swd.<pixels>`` for each, named by its longer side; ``floor.swd`` and its
        levels, real halves against each other; ``floor_ratio.swd`` and its levels, synthetic against real halves at
        that n over it: images as good as those of new patients score about 1.

    Raises:
        TooFewImagesError: fewer than :data:`FEWEST` images on a side, or too few patients for halves.
        MedaugError: images below 16 pixels, or that do not fit.
    """
    assert repeats > 1, "a spread needs at least two repeats"
    x, y = as_image_pair(real, synthetic, FEWEST)
    if min(x.shape[1:]) < SMALLEST:
        raise MedaugError(f"swd: images of {tuple(x.shape[1:])} pixels, expected at least {SMALLEST} a side")
    patients = as_numbers(real_patients, len(x), "patients")
    generator = torch.Generator().manual_seed(seed)
    halves = []
    for _ in range(repeats):
        first, second = real_halves(patients, generator, FEWEST // 2)
        halves.append((first, second, torch.randperm(len(y), generator=generator)[: len(y) // 2]))
    sides, values, against_synthetic, against_real = [], [], [], []
    for real_level, drawn_level in zip(pyramid(x), pyramid(y), strict=True):
        sides.append(max(real_level.shape[1:]))
        patches = [
            descriptors(level, min(PATCHES, -(-DESCRIPTORS // len(level))), generator)
            for level in (real_level, drawn_level)
        ]
        slices = directions(PATCH * PATCH, DIRECTIONS, generator)
        values.append(SCALE * _distance(patches[0], patches[1], slices))
        few = slices[:, :HALF_DIRECTIONS]
        against_synthetic.append([SCALE * _distance(patches[0][a], patches[1][c], few) for a, _, c in halves])
        against_real.append([SCALE * _distance(patches[0][a], patches[0][b], few) for a, b, _ in halves])
    # legend: both [levels, repeats]
    at_half, floor = (torch.tensor(drawn, dtype=torch.float64) for drawn in (against_synthetic, against_real))
    note = f"times 1,000; {len(x)} real and {len(y)} synthetic images where the paper has {PAPER_IMAGES:,}"
    n = len(x), len(y)
    mean = float(np.mean(values))
    measured = {"swd": _normal(mean, float(at_half.mean(dim=0).std()), *n, f"mean over the levels, {note}")}
    for side, value, drawn in zip(sides, values, at_half, strict=True):
        measured[f"swd.{side}"] = _normal(value, float(drawn.std()), *n, note)
    halved = f"{repeats} half splits by patient"
    suffixes = ["", *(f".{side}" for side in sides)]
    drawn_rows, real_rows = (torch.cat([rows.mean(dim=0, keepdim=True), rows]) for rows in (at_half, floor))
    for suffix, drawn, lowest in zip(suffixes, drawn_rows, real_rows, strict=True):
        note = f"real against real: {halved}, their mean and range; times 1,000"
        ends = float(lowest.min()), float(lowest.max())
        measured[f"floor.swd{suffix}"] = Measured(float(lowest.mean()), *ends, len(x) // 2, None, note)
        if lowest.mean() > 0:
            ratio = float(drawn.mean() / lowest.mean())
            spread = float((drawn - ratio * lowest).std() / lowest.mean())  # delta method, as for FID's
            # halves of patients with many images hold fewer independent ones than as many synthetic images are
            note = f"synthetic against real over real against real, {halved}, all images of each"
            measured[f"floor_ratio.swd{suffix}"] = _normal(ratio, spread, *n, note)
    return measured


def _distance(first: torch.Tensor, second: torch.Tensor, slices: torch.Tensor) -> float:
    """Of descriptors [n, count, 49] and [m, count, 49] along directions [49, K], some at a time."""
    x, y = first.flatten(0, 1), second.flatten(0, 1)
    parts = [sliced_wasserstein(x @ some, y @ some) * some.shape[1] for some in slices.split(64, dim=1)]
    return sum(parts) / slices.shape[1]


def _normal(value: float, error: float, n_real: int, n_synthetic: int, note: str) -> Measured:
    return Measured(value, max(value - Z95 * error, 0.0), value + Z95 * error, n_real, n_synthetic, note)
