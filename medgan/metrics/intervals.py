"""Intervals that several metrics share: of a share, of a spread, and by resampling whole patients. No SciPy here."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from medgan.seeds import seeded

TAIL = 0.025
"""What each side of a 95 % interval leaves out."""
RESAMPLES = 500
"""Draws of a percentile bootstrap; enough for the second digit of a 95 % interval's ends."""


def clopper_pearson(successes: int, trials: int) -> tuple[float, float]:
    """Exact 95 % interval of a share (Clopper and Pearson 1934): the p that neither tail of the binomial rejects.

    Args:
        successes: 0 to ``trials``.
        trials: at least 1.
    """
    assert 0 <= successes <= trials, (successes, trials)
    # P(X ≥ k) rises with p, P(X ≤ k) falls
    low = 0.0 if successes == 0 else _root(lambda p: _binomial(successes, trials, trials, p) - TAIL)
    high = 1.0 if successes == trials else _root(lambda p: TAIL - _binomial(0, successes, trials, p))
    return low, high


def _binomial(first: int, last: int, trials: int, p: float) -> float:
    """P(first ≤ X ≤ last) for X ~ Binomial(trials, p), 0 < p < 1."""
    k = torch.arange(first, last + 1, dtype=torch.float64)
    ways = math.lgamma(trials + 1) - torch.lgamma(k + 1) - torch.lgamma(trials - k + 1)
    return float((ways + k * math.log(p) + (trials - k) * math.log1p(-p)).exp().sum())


def _root(rising: Callable[[float], float], low: float = 0.0, high: float = 1.0) -> float:
    """Where a rising function crosses zero between two bounds, by halving."""
    for _ in range(60):
        middle = (low + high) / 2
        if rising(middle) < 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def deviation_interval(deviation: float, n: int) -> tuple[float, float]:
    """95 % interval of a standard deviation from n normal values: (n − 1)s²/σ² is χ² with n − 1 degrees of freedom.

    Args:
        deviation: s, with divisor n − 1.
        n: at least 2.
    """
    assert n > 1, n
    degrees = n - 1
    low, high = (deviation * math.sqrt(degrees / _chi_square_quantile(share, degrees)) for share in (1 - TAIL, TAIL))
    return low, high


def _chi_square_quantile(share: float, degrees: int) -> float:
    half = torch.tensor(degrees / 2, dtype=torch.float64)

    def excess(x: float) -> float:
        return float(torch.special.gammainc(half, torch.tensor(x / 2, dtype=torch.float64))) - share

    return _root(excess, 0.0, 10.0 * degrees + 50.0)


def resample(patients: torch.Tensor, repeats: int, generator: torch.Generator) -> torch.Tensor:
    """How often each image is drawn when as many patients as there are get drawn with replacement.

    Args:
        patients: int64 [N], the patient of each image.
        repeats: draws.
        generator: their source.

    Returns:
        float64 [repeats, N].
    """
    _, owner = patients.unique(return_inverse=True)
    count = int(owner.max()) + 1
    drawn = torch.randint(count, (repeats, count), generator=generator)
    times = torch.zeros(repeats, count, dtype=torch.float64)
    times.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))
    return times[:, owner]


def resamples(count: int, seed: int, repeats: int = RESAMPLES) -> torch.Tensor:
    """Positions of ``count`` independent units drawn with replacement, int64 [repeats, count]."""
    return torch.randint(count, (repeats, count), generator=seeded(seed, "bootstrap"))


def percentiles(values: torch.Tensor) -> tuple[float, float]:
    """Ends of the 95 % percentile interval of bootstrap values [repeats]."""
    low, high = torch.quantile(values, torch.tensor([TAIL, 1 - TAIL], dtype=values.dtype)).tolist()
    return low, high
