"""Memorisation: synthetic images that copy a training image, found in pixels and in features.

A copy is an image more alike to a training image than new patients' images are. How alike those are is measured: of
validation images, whose patients the generator never saw, to the training images. The threshold is conformal: with V
validation images it is the k-th highest of their scores, k = max(1, ⌊(V + 1)/100⌋), so that an image of one more new
patient passes it with probability k/(V + 1) (Vovk et al. 2005, section 2.2): the ``expected`` share, about 1 %.
Validation images that are the same picture as a training image (in pixels or features) set no threshold, for it would
blind the probe; but they pass it, and as many of new patients' images do, so that ``expected`` counts them: with D of
them it is (D + k)/(V + 1), where k comes from the others. D > 0 says that the split may not tell patients apart; an
image of which the real ones have doubles is then no sign of memorisation, and only an excess over them is.
Slices of one patient are not independent, so the expected share is approximate where patients have several.

Scores. In pixels: correlation of detail at the best shift of up to two pixels, see :mod:`medgan.metrics.likeness`;
blind to brightness, contrast and small moves. In features: with t the nearest training image of s, and t' the nearest
one of t of another patient, the ratio d(t, t')/d(s, t): how many times nearer than training images are to each other,
so that images in the dense middle of the distribution are no copies for that alone (the authenticity of Alaa et al.
2022, section 4, with a calibrated threshold; the idea of such tests: Meehan et al. 2020).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from medgan.metrics.features import Features, as_pair
from medgan.metrics.images import Images, Labels, Picture, as_image_pair, as_numbers, mosaic, real_halves
from medgan.metrics.intervals import clopper_pearson
from medgan.metrics.likeness import Matches, bands, best_matches
from medgan.metrics.measured import Measured, TooFewImagesError
from pipeline.records import MedaugError

LEVEL = 0.01
"""Share of new patients' images that may pass for copies."""
SAME_PICTURE = 0.97
"""Similarity in pixels from which two real images are the same picture, whatever their patients are called."""
SAME_FEATURES = 1e3
"""The same in features, as a ratio of distances."""
FEWEST = 20
"""Validation images below which no threshold is set, and training images below which nothing is compared."""
SPLITS = 20
BLOCK = 1024


@dataclass(frozen=True)
class Copies:
    """What was found.

    Attributes:
        share: share of copies among synthetic images, with its exact interval.
        floor: the same of validation images under a threshold from other validation patients; None where there are
            too few for two halves.
        expected: share of new patients' images that would pass for copies, doubles of training images included.
        calibrated: validation patients behind it.
        threshold: scores above it are copies.
        mask: bool [M], True for a copy: what an export leaves out.
        nearest: position of the most alike training image, int64 [M].
        score: of each synthetic image, float64 [M].
        calibration: scores of the validation images, float64 [V], those of the same picture left out.
    """

    share: Measured
    floor: Measured | None
    expected: float
    calibrated: int
    threshold: float
    mask: torch.Tensor
    nearest: torch.Tensor
    score: torch.Tensor
    calibration: torch.Tensor

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """(synthetic, training) positions of all copies, the most alike first."""
        order = self.score.argsort(descending=True)[: int(self.mask.sum())]
        return [(int(one), int(self.nearest[one])) for one in order]


def copies(
    train: Images, validation: Images, synthetic: Images, validation_patients: Labels | None = None, seed: int = 0
) -> Copies:
    """Copies of training images in pixels, metric ``copies``.

    Args:
        train: all images the generator was trained on [N, C, H, W] in [-1, 1].
        validation: real images of other patients [V, C, H, W].
        synthetic: [M, C, H, W].
        validation_patients: patient number [V]; None makes each image its own.
        seed: of the halves behind the floor.

    Raises:
        TooFewImagesError: fewer than :data:`FEWEST` validation or training images.
        MedaugError: images or patients that do not fit.
    """
    known, held_out = as_image_pair(train, validation)
    drawn = as_image_pair(train, synthetic)[1]
    patients = as_numbers(validation_patients, len(held_out), "validation patients")
    gallery = bands(known)
    of_drawn, of_held_out = (best_matches(bands(images), gallery) for images in (drawn, held_out))
    return _judge(of_drawn, of_held_out, patients, len(known), SAME_PICTURE, "correlation of detail", seed)


def copies_in_features(
    train: Features,
    validation: Features,
    synthetic: Features,
    train_patients: Labels | None = None,
    validation_patients: Labels | None = None,
    seed: int = 0,
) -> Copies:
    """Copies of training images in features, metric ``copies.<extractor>``.

    Args:
        train: features of all images the generator was trained on [N, D].
        validation: of real images of other patients [V, D].
        synthetic: [M, D].
        train_patients: patient number [N]; None makes each image its own.
        validation_patients: patient number [V].
        seed: of the halves behind the floor.

    Raises:
        TooFewImagesError: fewer than :data:`FEWEST` validation or training images, or training images of one patient.
        MedaugError: features or patients that do not fit.
    """
    known, held_out = as_pair(train, validation)
    drawn = as_pair(train, synthetic)[1]
    owner = as_numbers(train_patients, len(known), "training patients")
    patients = as_numbers(validation_patients, len(held_out), "validation patients")
    if len(owner.unique()) < 2:
        raise TooFewImagesError("copies: training images of one patient, expected at least two patients")
    centre = known.mean(dim=0)  # distances by matrix products lose digits far from the origin
    known = known - centre
    spacing = _spacing(known, owner)
    of_drawn, of_held_out = (_ratios(points - centre, known, spacing) for points in (drawn, held_out))
    return _judge(of_drawn, of_held_out, patients, len(known), SAME_FEATURES, "ratio of distances", seed)


def _spacing(points: torch.Tensor, owner: torch.Tensor) -> torch.Tensor:
    """Distance of each point to the nearest one of another owner that is not its exact double, [N]."""
    found = []
    for rows, owners in zip(points.split(BLOCK), owner.split(BLOCK), strict=True):
        distance = torch.cdist(rows, points)
        double = distance <= 1e-6 * points.norm(dim=1).mean()
        found.append(distance.masked_fill((owners[:, None] == owner[None, :]) | double, torch.inf).amin(dim=1))
    spacing = torch.cat(found)
    # nothing but doubles: there is no distance to compare with, and no image counts as near
    return torch.where(spacing.isinf(), 0.0, spacing)


def _ratios(queries: torch.Tensor, known: torch.Tensor, spacing: torch.Tensor) -> Matches:
    """d(t, t')/d(s, t) of each query s, with the place of t."""
    nearest = [torch.cdist(rows, known).min(dim=1) for rows in queries.split(BLOCK)]
    distance, index = torch.cat([near.values for near in nearest]), torch.cat([near.indices for near in nearest])
    return Matches(spacing[index] / distance.clamp(min=1e-9 * float(spacing.max()) + 1e-300), index)


def _judge(
    drawn: Matches, held_out: Matches, patients: torch.Tensor, train: int, same: float, kind: str, seed: int
) -> Copies:
    """Sets the threshold and counts."""
    calibration = held_out.similarity[held_out.similarity < same]
    if min(len(calibration), train) < FEWEST:
        raise TooFewImagesError(
            f"copies: {len(calibration)} validation and {train} training images, expected at least {FEWEST} each; "
            "give more, or a larger validation split"
        )
    threshold, expected = threshold_beside_doubles(held_out.similarity, same)
    score = drawn.similarity
    mask = score > threshold
    count, left_out = int(mask.sum()), len(patients) - len(calibration)
    doubles = (
        f"; {left_out} of them, the same picture as a training image, set no threshold: the split may not tell "
        "patients apart"
    )
    note = (
        f"{kind} above {threshold:.3g}, which {expected:.2%} of new patients' images pass "
        f"({len(patients)} validation images{doubles if left_out else ''})"
    )
    share = Measured(count / len(score), *clopper_pearson(count, len(score)), train, len(score), note)
    floor = _floor(held_out.similarity, patients, same, seed)
    calibrated = len(patients.unique())
    return Copies(share, floor, expected, calibrated, threshold, mask, drawn.index, score, calibration)


def threshold_beside_doubles(scores: torch.Tensor, same: float) -> tuple[float, float]:
    """The conformal threshold of the scores below ``same``, and how often one more like all of them exceeds it.

    Args:
        scores: [V], at least one of them below ``same``.
        same: score from which two real images are one picture.

    Returns:
        Threshold and probability.
    """
    kept = scores[scores < same]
    threshold, alone = conformal_threshold(kept)
    rank = round(alone * (len(kept) + 1))
    return threshold, (len(scores) - len(kept) + rank) / (len(scores) + 1)


def conformal_threshold(scores: torch.Tensor, level: float = LEVEL) -> tuple[float, float]:
    """The score that one more like these exceeds with a probability of at most ``level``, or 1/(V + 1) if that is more.

    Args:
        scores: [V].
        level: wanted probability.

    Returns:
        Threshold and probability.
    """
    rank = max(1, int(level * (len(scores) + 1)))
    return float(scores.sort(descending=True).values[rank - 1]), rank / (len(scores) + 1)


def _floor(scores: torch.Tensor, patients: torch.Tensor, same: float, seed: int) -> Measured | None:
    """Share of one half of the validation patients' images above the threshold of the other half."""
    generator = torch.Generator().manual_seed(seed)
    shares, promised = [], []
    try:
        for _ in range(SPLITS):
            first, second = real_halves(patients, generator, FEWEST // 2)
            if int((scores[first] < same).sum()) < FEWEST // 2:
                return None
            threshold, expected = threshold_beside_doubles(scores[first], same)
            shares.append(float((scores[second] > threshold).double().mean()))
            promised.append(expected)
    except TooFewImagesError:
        return None
    note = (
        f"real against real: {SPLITS} half splits of the validation patients, mean and range; expected "
        f"{sum(promised) / SPLITS:.2%}"
    )
    return Measured(sum(shares) / SPLITS, min(shares), max(shares), len(scores) // 2, None, note)


def picture(train: Images, synthetic: Images, found: Copies, count: int = 8) -> Picture:
    """Copies above, the training images they copy below; where there are none, the most alike pairs."""
    known, drawn = as_image_pair(train, synthetic)
    order = found.score.argsort(descending=True)[:count]
    return mosaic([list(drawn[order]), list(known[found.nearest[order]])])


def without_copies(images: Images, found: Copies) -> Images:
    """The synthetic images that are no copies, [M - copies, C, H, W].

    Raises:
        MedaugError: images other than those that were judged.
    """
    if len(images) != len(found.mask):
        raise MedaugError(f"copies: {len(images)} images, expected the {len(found.mask)} that were judged")
    return images[~found.mask] if isinstance(images, torch.Tensor) else images[~found.mask.numpy()]
