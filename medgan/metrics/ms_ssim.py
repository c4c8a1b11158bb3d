"""Diversity within a class: multi-scale structural similarity (MS-SSIM) between random pairs of its images.

    MS-SSIM(x, y) = l_M(x, y)^w_M · Π_j cs_j(x, y)^w_j            (Wang et al. 2003, eq. 7)
    l = (2 μx μy + C₁) / (μx² + μy² + C₁),   cs = (2 σxy + C₂) / (σx² + σy² + C₂)

in Gaussian windows of 11 x 11 pixels (σ 1.5), averaged over the image, at scales each half of the one before; negative
means count as 0. Odena et al. 2017, section 4.2: a class whose generated images resemble each other more than its real
images do has lost diversity. Wang's five scales need 176 pixels a side; smaller images get as many scales as leave 11
pixels at the smallest, with the first of the weights scaled to a sum of 1, so values compare at one size only.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from medgan.metrics.images import BLOCK, Images, Labels, Picture, as_image_pair, as_numbers, mosaic
from medgan.metrics.intervals import RESAMPLES, percentiles, resample
from medgan.metrics.measured import Measured, TooFewImagesError
from medgan.metrics.sampling import FEWEST_PATIENTS

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Of the scales, finest first (Wang et al. 2003, section 3.2)."""
WINDOW, SIGMA = 11, 1.5
C1, C2 = 0.01**2, 0.03**2
"""For values in [0, 1]."""
PAIRS = 300
"""Pairs of a class."""
LOOKED_AT = 1000
"""Images of a class that pairs are drawn from, at most."""
FEWEST = 8
"""Images (of two patients or more) of a class below which no figure is given."""


def scales(height: int, width: int) -> int:
    """How many scales images of a size allow, 1 to 5.

    Raises:
        TooFewImagesError: images smaller than one window.
    """
    if min(height, width) < WINDOW:
        raise TooFewImagesError(f"ms_ssim: images of {height}x{width}, expected at least {WINDOW} pixels a side")
    count = 1
    while count < len(WEIGHTS) and min(height, width) >> count >= WINDOW:
        count += 1
    return count


def similarity(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """MS-SSIM of pairs.

    Args:
        first: [P, H, W], values in [-1, 1].
        second: the same shape.

    Returns:
        float64 [P], 0 to 1.
    """
    count = scales(*first.shape[1:])
    weights = torch.tensor(WEIGHTS[:count], dtype=torch.float64)
    weights /= weights.sum()
    parts = [
        _similarity((x.double()[:, None] + 1) / 2, (y.double()[:, None] + 1) / 2, weights)
        for x, y in zip(first.split(BLOCK), second.split(BLOCK), strict=True)
    ]
    return torch.cat(parts)


def _similarity(x: torch.Tensor, y: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Of [P, 1, H, W] in [0, 1]."""
    product = torch.ones(len(x), dtype=torch.float64)
    for scale, weight in enumerate(weights):
        if scale > 0:
            x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
        # legend: five moments as channels of one batch, [5P, 1, h, w]
        blurred = _window(torch.cat([x, y, x * x, y * y, x * y])).chunk(5)
        mean_x, mean_y = blurred[0], blurred[1]
        spread = blurred[2] - mean_x.square() + blurred[3] - mean_y.square()
        contrast = (2 * (blurred[4] - mean_x * mean_y) + C2) / (spread + C2)
        if scale == len(weights) - 1:
            contrast = contrast * (2 * mean_x * mean_y + C1) / (mean_x.square() + mean_y.square() + C1)
        product *= contrast.mean(dim=(1, 2, 3)).clamp(min=0.0) ** weight
    return product


def _window(images: torch.Tensor) -> torch.Tensor:
    """Weighted means in every whole window, down and then across."""
    place = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    kernel = (-(place**2) / (2 * SIGMA**2)).exp()
    kernel /= kernel.sum()
    return F.conv2d(F.conv2d(images, kernel.reshape(1, 1, -1, 1)), kernel.reshape(1, 1, 1, -1))


def random_pairs(patients: torch.Tensor, count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions of random pairs of images of different patients, none twice; about ``count``, or all there are.

    Args:
        patients: int64 [N].
        count: wanted.
        generator: of the draw.
    """
    first, second = torch.triu_indices(len(patients), len(patients), 1)
    apart = (patients[first] != patients[second]).nonzero()[:, 0]
    chosen = apart[torch.randperm(len(apart), generator=generator)[:count]]
    return first[chosen], second[chosen]


def intra_class(
    real: Images,
    synthetic: Images,
    real_labels: Labels,
    synthetic_labels: Labels,
    real_patients: Labels | None,
    classes: Sequence[str],
    pairs: int = PAIRS,
    seed: int = 0,
) -> dict[str, Measured]:
    """How alike images of one class are, synthetic against real.

    Real pairs are of different patients. Intervals are percentile bootstraps over images (over patients on the real
    side): a pair weighs as much as the product of how often both its images were drawn.

    Args:
        real: [N, C, H, W] in [-1, 1].
        synthetic: [M, C, H, W].
        real_labels: class index [N].
        synthetic_labels: class index [M].
        real_patients: patient number [N]; None makes each image its own.
        classes: names in label order.
        pairs: at most so many of a class.
        seed: of pairs and resamples.

    Returns:
        ``ms_ssim`` (synthetic), ``floor.ms_ssim`` (real) and ``excess.ms_ssim`` (their difference: above 0, less
        diversity than real), as means over classes and with ``.<class>`` for each; a class with too few images is
        left out, and the notes name it.

    Raises:
        TooFewImagesError: no class has :data:`FEWEST` images on both sides, or images below 11 pixels.
        MedaugError: images, labels or patients that do not fit.
    """
    x, y = as_image_pair(real, synthetic)
    x_labels = as_numbers(real_labels, len(x), "real labels")
    y_labels = as_numbers(synthetic_labels, len(y), "synthetic labels")
    patients = as_numbers(real_patients, len(x), "patients")
    note = f"{scales(*x.shape[1:])} of 5 scales"
    generator = torch.Generator().manual_seed(seed)
    measured: dict[str, Measured] = {}
    found: list[tuple[torch.Tensor, torch.Tensor]] = []  # of each class: figure and resampled ones, synthetic and real
    left_out = []
    for index, name in enumerate(classes):
        own, own_patients, drawn = x[x_labels == index], patients[x_labels == index], y[y_labels == index]
        if min(len(own), len(drawn)) < FEWEST or len(own_patients.unique()) < FEWEST_PATIENTS:
            left_out.append(name)
            continue
        pair = [
            _mean_similarity(images, units, pairs, generator)
            for images, units in ((drawn, torch.arange(len(drawn))), (own, own_patients))
        ]
        found.append((torch.stack([pair[0][0], pair[1][0]]), torch.stack([pair[0][1], pair[1][1]])))
        measured |= _figures(*found[-1], len(own), len(drawn), f"{note}, at most {pairs} pairs", f".{name}")
    if not found:
        raise TooFewImagesError(
            f"ms_ssim: no class has {FEWEST} real images of {FEWEST_PATIENTS} patients and {FEWEST} synthetic ones; "
            "give more images"
        )
    if left_out:
        note += f"; without {', '.join(left_out)}: fewer than {FEWEST} images or {FEWEST_PATIENTS} patients"
    value, resampled = torch.stack([v for v, _ in found]).mean(dim=0), torch.stack([r for _, r in found]).mean(dim=0)
    return _figures(value, resampled, len(x), len(y), f"mean over classes, {note}", "") | measured


def _figures(
    value: torch.Tensor, resampled: torch.Tensor, n_real: int, n_synthetic: int, note: str, suffix: str
) -> dict[str, Measured]:
    """Synthetic, real and their difference from values [2] and bootstrap values [2, repeats]."""
    synthetic, real = value.tolist()
    return {
        f"ms_ssim{suffix}": Measured(synthetic, *percentiles(resampled[0]), None, n_synthetic, note),
        f"floor.ms_ssim{suffix}": Measured(real, *percentiles(resampled[1]), n_real, None, f"real images, {note}"),
        f"excess.ms_ssim{suffix}": Measured(
            synthetic - real,
            *percentiles(resampled[0] - resampled[1]),
            n_real,
            n_synthetic,
            f"synthetic minus real: above 0, less diversity than real; {note}",
        ),
    }


def _mean_similarity(
    images: torch.Tensor, units: torch.Tensor, pairs: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean over random pairs, and the same in bootstrap resamples [RESAMPLES]."""
    chosen = torch.randperm(len(units), generator=generator)[:LOOKED_AT]
    images, units = images[chosen], units[chosen]
    first, second = random_pairs(units, pairs, generator)
    alike = similarity(images[first], images[second])
    times = resample(units, RESAMPLES, generator)
    weight = times[:, first] * times[:, second]
    total = weight.sum(dim=1)
    # a resample in which no pair is whole says nothing: it takes the mean
    resampled = torch.where(total > 0, (weight @ alike) / total.clamp(min=1.0), alike.mean())
    return alike.mean(), resampled


def picture(
    real: Images, synthetic: Images, real_labels: Labels, synthetic_labels: Labels, label: int, count: int = 8
) -> Picture:
    """The first images of one class, real ones above synthetic ones: a collapsed class is seen at once."""
    x, y = as_image_pair(real, synthetic)
    own = x[as_numbers(real_labels, len(x), "real labels") == label][:count]
    drawn = y[as_numbers(synthetic_labels, len(y), "synthetic labels") == label][:count]
    return mosaic([list(own), list(drawn)])
