"""Where the variation of an arm's figure comes from, and rank correlation.

The runs of an arm D are a table GAN seeds × classifier seeds with one figure y_gs in each cell. The mixed model

    y_gs = μ + a_g + b_s + e_gs        a ~ (0, σ²_gan), b ~ (0, σ²_classifier), e ~ (0, σ²_rest)

is estimated by the method of moments from the two-way table's mean squares (Searle, Casella and McCulloch 1992,
"Variance Components", chapter 4): E[MS_gan] = σ²_rest + S·σ²_gan, E[MS_classifier] = σ²_rest + G·σ²_classifier,
E[MS_rest] = σ²_rest; a negative estimate is 0. The variation over patients stands apart: it is the bootstrap's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy.stats import norm, rankdata

from pipeline.records import LEVEL

FEWEST = 6  # points of a rank correlation


class Components(NamedTuple):
    """Standard deviations; None where the runs cannot tell it from the rest."""

    gan: float | None
    classifier: float | None
    rest: float | None


def components(figures: Mapping[tuple[int | None, int], float]) -> Components:
    """Standard deviations that GAN seeds, classifier seeds and their interplay add to a single run.

    Args:
        figures: (GAN seed or None, classifier seed) → figure of that run.

    Returns:
        With one GAN seed (or none) the spread over classifier seeds alone. Of an incomplete table only the GAN seeds
        that have a figure for every classifier seed count.
    """
    seeds = sorted({seed for _, seed in figures})
    gans = [gan for gan in {gan for gan, _ in figures} if all((gan, seed) in figures for seed in seeds)]
    if not gans or len(seeds) * len(gans) < 2:
        return Components(None, None, None)
    table = np.array([[figures[gan, seed] for seed in seeds] for gan in gans])
    if len(gans) == 1:
        return Components(None, float(table.std(ddof=1)), None)
    if len(seeds) == 1:
        return Components(float(table.std(ddof=1)), None, None)
    rows, columns, mean = table.mean(axis=1), table.mean(axis=0), table.mean()
    ms_gan = len(seeds) * rows.var(ddof=1)
    ms_classifier = len(gans) * columns.var(ddof=1)
    rest = table - rows[:, None] - columns[None, :] + mean
    ms_rest = float((rest**2).sum() / ((len(gans) - 1) * (len(seeds) - 1)))
    return Components(
        float(np.sqrt(max(0.0, ms_gan - ms_rest) / len(seeds))),
        float(np.sqrt(max(0.0, ms_classifier - ms_rest) / len(gans))),
        float(np.sqrt(ms_rest)),
    )


class RankCorrelation(NamedTuple):
    """Spearman's ρ with a 95 % interval; None for the interval of fewer than six points."""

    value: float
    low: float | None
    high: float | None
    n: int


def rank_correlation(x: list[float], y: list[float]) -> RankCorrelation | None:
    """Spearman's rank correlation; None with fewer than three points or where one side does not vary.

    The interval is Fisher's z with Bonett and Wright's standard error √((1 + ρ²/2)/(n − 3)) (2000, "Sample size
    requirements for estimating Pearson, Kendall and Spearman correlations"); a perfect order of n points is taken for
    1 − 1/n there, since its z is infinite.

    Args:
        x: e.g. a distance for each GAN training.
        y: e.g. the gain that its images brought.
    """
    if len(x) < 3 or len(set(x)) < 2 or len(set(y)) < 2:
        return None
    rho, n = float(np.corrcoef(rankdata(x), rankdata(y))[0, 1]), len(x)
    if n < FEWEST:
        return RankCorrelation(rho, None, None, n)
    inner = float(np.clip(rho, -1.0 + 1.0 / n, 1.0 - 1.0 / n))
    half = norm.isf(LEVEL / 2) * np.sqrt((1.0 + inner**2 / 2.0) / (n - 3))
    low, high = np.tanh(np.arctanh(inner) - half), np.tanh(np.arctanh(inner) + half)
    return RankCorrelation(rho, min(float(low), rho), max(float(high), rho), n)
