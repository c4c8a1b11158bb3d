"""What every metric of features needs: checked arrays, and errors by half-sampling.

A metric here is a pure function of feature vectors; where they come from (a domain classifier, Inception) is the
caller's business and part of the metric's name. All arithmetic is float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from numpy.typing import NDArray

from medgan.metrics.intervals import clopper_pearson
from medgan.metrics.measured import TooFewImagesError
from medgan.metrics.sampling import split, split_patients
from pipeline.records import MedaugError

Features = torch.Tensor | NDArray[Any]
"""Feature vectors [N, D] as a tensor or an array of any floating type."""

DOMAIN = "domain"
"""The extractor whose precision, recall, density and coverage carry no extractor in their names."""

Z95 = 1.959963984540054  # 97.5 % quantile of the normal distribution


def as_features(features: Features, name: str, minimum: int = 2) -> torch.Tensor:
    """Checks features and brings them to float64.

    Args:
        features: [N, D].
        name: named in messages, e.g. "real features".
        minimum: fewest vectors allowed.

    Returns:
        float64 [N, D], detached.

    Raises:
        TooFewImagesError: fewer than ``minimum`` vectors.
        MedaugError: another shape, no dimension, or values that are not finite.
    """
    tensor = torch.as_tensor(features).detach().to(torch.float64)
    if tensor.ndim != 2 or tensor.shape[1] == 0:
        raise MedaugError(f"{name}: shape {tuple(tensor.shape)}, expected [images, features]; flatten them first")
    if len(tensor) < minimum:
        raise TooFewImagesError(f"{name}: {len(tensor)} vector(s), expected at least {minimum}; give more images")
    if not torch.isfinite(tensor.sum()):  # NaN and infinity survive in a sum, which is one pass without a mask
        bad = int((~torch.isfinite(tensor)).any(dim=1).sum())
        raise MedaugError(f"{name}: {bad} of {len(tensor)} vectors hold NaN or infinity, expected finite values")
    return tensor


def as_pair(real: Features, synthetic: Features, minimum: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Checks two sets that are to be compared: :func:`as_features` for both, and one dimension.

    Raises:
        MedaugError: as :func:`as_features`, or the dimensions differ.
    """
    x, y = as_features(real, "real features", minimum), as_features(synthetic, "synthetic features", minimum)
    if x.shape[1] != y.shape[1]:
        raise MedaugError(
            f"features: real have {x.shape[1]} dimensions, synthetic {y.shape[1]}; use one extractor for both"
        )
    return x, y


def is_constant(features: torch.Tensor) -> bool:
    """Whether all vectors are equal up to rounding."""
    spread = (features - features[0]).abs().max()
    return bool(spread <= 1e-12 * features[0].abs().max().clamp(min=1.0))


def share_interval(value: float, error: float, independent: int) -> tuple[float, float]:
    """95 % interval of a share from its standard error.

    At 0 and at 1 half samples do not scatter, and their error says nothing: there the ends are at least as far apart as
    Clopper and Pearson's exact ones for so many independent cases.

    Args:
        value: the share.
        error: its standard error.
        independent: cases behind it: patients, not images, where a patient has several.
    """
    low, high = max(value - Z95 * error, 0.0), min(value + Z95 * error, 1.0)
    if value in (0.0, 1.0):
        exact = clopper_pearson(independent if value else 0, independent)
        low, high = min(low, exact[0]), max(high, exact[1])
    return low, high


def standard_errors(
    metric: Callable[[torch.Tensor, torch.Tensor], Sequence[float]],
    real: torch.Tensor,
    synthetic: torch.Tensor,
    patients: torch.Tensor,
    repeats: int,
    seed: int,
) -> list[float]:
    """Standard errors of a metric (or several at once) by the delete-half jackknife.

    The bootstrap repeats vectors, which lowers the rank of covariances and puts exact neighbours next to each other: it
    biases FID and every k-NN metric. Halves drawn without replacement have neither fault, and the deviation of a
    half-sample estimate around the whole one equals the whole one's standard error to first order, since
    σ²/(n/2) − σ²/n = σ²/n (Shao and Wu 1989, "A general theory for jackknife variance estimation"). The real halves
    are of whole patients: images of one patient are not independent.

    Args:
        metric: function of (real, synthetic) that gives one figure or more.
        real: float64 [N, D].
        synthetic: float64 [M, D].
        patients: patient number of each real vector, int64 [N].
        repeats: pairs of halves, at least 2.
        seed: of the draw.

    Returns:
        One standard error for each figure.
    """
    assert repeats > 1, "a spread needs at least two repeats"
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    for _ in range(repeats):
        half, _ = split_patients(patients, len(real) // 2, generator)
        y, _ = split(synthetic, len(synthetic) // 2, generator)
        drawn.append(list(metric(real[half], y)))
    return torch.tensor(drawn, dtype=torch.float64).std(dim=0).tolist()
