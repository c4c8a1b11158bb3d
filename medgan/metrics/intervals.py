"""Intervals of figures: resampled units, and of a share."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medgan.metrics.features import Z95
from medgan.seeds import seeded

REPEATS = 1000


def resamples(count: int, seed: int, repeats: int = REPEATS) -> Tensor:
    """Bootstrap samples: positions drawn with replacement, int64 [repeats, count] (Efron 1979)."""
    return torch.randint(count, (repeats, count), generator=seeded(seed, "bootstrap"))


def percentile_interval(values: Tensor) -> tuple[float, float]:
    """The middle 95 % of bootstrap values [repeats]."""
    low, high = torch.quantile(values.double(), torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


def wilson_interval(successes: int, count: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927): unlike the normal one it is right at shares of 0 and 1, too."""
    share, square = successes / count, Z95**2
    middle = share + square / (2 * count)
    half = Z95 * math.sqrt(share * (1 - share) / count + square / (4 * count**2))
    low, high = ((middle + sign * half) / (1 + square / count) for sign in (-1, 1))
    return max(low, 0.0), min(high, 1.0)
