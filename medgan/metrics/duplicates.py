"""Near-duplicates within a synthetic set: the plainest sign of collapse.

A synthetic image is a near-duplicate where another one is more alike to it than real images of different patients are
to each other. Alike is what :mod:`medgan.metrics.likeness` measures; the threshold is conformal as in
:mod:`medgan.metrics.copies`, from as many real images as are taken of the synthetic ones, for the nearest neighbour
among more images is nearer. About 1 % is expected of a perfect generator, and what doubles real images have under other
patients beside: they set no threshold, but count for the expected share. Arora and Zhang 2018, "Do GANs learn the
distribution?", count duplicates in samples likewise (by eye) and conclude on the size of the distribution's support.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from medgan.metrics.copies import SAME_PICTURE, threshold_beside_doubles
from medgan.metrics.images import Images, Labels, Picture, as_image_pair, as_numbers, mosaic
from medgan.metrics.intervals import clopper_pearson
from medgan.metrics.likeness import bands, best_matches, is_flat
from medgan.metrics.measured import Measured, TooFewImagesError

FEWEST = 40
"""Images below which no figure is given, real or synthetic."""


@dataclass(frozen=True)
class Duplicates:
    """What was found.

    Attributes:
        share: share of near-duplicates, with its exact interval: ``duplicates``.
        expected: share among as many real images of different patients, their doubles included.
        calibrated: real patients behind it.
        threshold: similarity above which two are near-duplicates.
        mask: bool [n], of the synthetic images that were looked at.
        looked_at: their positions in the synthetic set, int64 [n].
        nearest: position in the synthetic set of the image most alike to each, int64 [n].
        similarity: to it, float64 [n].
    """

    share: Measured
    expected: float
    calibrated: int
    threshold: float
    mask: torch.Tensor
    looked_at: torch.Tensor
    nearest: torch.Tensor
    similarity: torch.Tensor


def duplicates(real: Images, synthetic: Images, real_patients: Labels | None = None, seed: int = 0) -> Duplicates:
    """Near-duplicates among synthetic images.

    Args:
        real: training images [N, C, H, W] in [-1, 1].
        synthetic: [M, C, H, W].
        real_patients: patient number [N]; None makes each image its own.
        seed: which images are looked at, where one set is larger.

    Raises:
        TooFewImagesError: fewer than :data:`FEWEST` images on a side, or real images of fewer than two patients.
        MedaugError: images or patients that do not fit.
    """
    x, y = as_image_pair(real, synthetic, FEWEST)
    patients = as_numbers(real_patients, len(x), "patients")
    if len(patients.unique()) < 2:
        raise TooFewImagesError("duplicates: real images of one patient, expected at least two patients")
    generator = torch.Generator().manual_seed(seed)
    size = min(len(x), len(y))
    chosen, looked_at = (torch.randperm(len(images), generator=generator)[:size] for images in (x, y))
    x, y, patients = bands(x[chosen]), bands(y[looked_at]), patients[chosen]
    among_real = best_matches(x, x, patients, patients).similarity
    kept = int((among_real < SAME_PICTURE).sum())
    if kept < FEWEST // 2:
        raise TooFewImagesError(
            f"duplicates: {kept} real images without a double under another patient, expected {FEWEST // 2}"
        )
    threshold, expected = threshold_beside_doubles(among_real, SAME_PICTURE)
    each = torch.arange(size)
    found = best_matches(y, y, each, each)
    flat = is_flat(y)
    # images without any detail resemble nothing, but two of them are one
    mask = (found.similarity > threshold) | (flat & (flat.sum() > 1))
    count = int(mask.sum())
    note = (
        f"correlation of detail above {threshold:.3g}, which {expected:.2%} of as many real images pass"
        f"{f'; {size - kept} real ones are the same picture as one of another patient' if kept < size else ''}"
        f"{f'; {int(flat.sum())} without any detail' if flat.any() else ''}"
    )
    share = Measured(count / size, *clopper_pearson(count, size), size, size, note)
    calibrated = len(patients.unique())
    return Duplicates(share, expected, calibrated, threshold, mask, looked_at, looked_at[found.index], found.similarity)


def picture(real: Images, synthetic: Images, found: Duplicates, count: int = 8) -> Picture:
    """The most alike pairs of synthetic images, one above the other, each pair once."""
    _, y = as_image_pair(real, synthetic)
    pairs: dict[tuple[int, int], None] = {}
    for place in found.similarity.argsort(descending=True).tolist():
        one, other = int(found.looked_at[place]), int(found.nearest[place])
        pairs.setdefault((min(one, other), max(one, other)))
        if len(pairs) == count:
            break
    return mosaic([[y[one] for one, _ in pairs], [y[other] for _, other in pairs]])
