"""What follows from the figures of two or many GANs, each with its 95 % interval; one GAN is pooled in the pipeline."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Literal

from pipeline.pooled import Figure, pool, student_t

__all__ = ["Figure", "compare", "pool", "spearman", "student_t"]


def compare(one: Figure, other: Figure, relation: Literal["ratio", "difference"]) -> Figure:
    """Difference or ratio of two independent figures with the interval that follows from theirs.

    MOVER (Zou & Donner 2008, equations 6 and 7): each end of the difference takes the two ends that make it, in
    quadrature. Ratios of figures that cannot be negative go over their logarithms; where an end below is not positive,
    the ratio is not bounded. A ratio of 0 has no logarithm: it reaches up to the highest end over the lowest one.
    """
    sizes = (_common(one.n_real, other.n_real), _common(one.n_synthetic, other.n_synthetic))
    seeds = min(one.seeds, other.seeds)
    if relation == "ratio" and one.value <= 0:
        return Figure(0.0, 0.0, max(one.high, 0.0) / other.low if other.low > 0 else math.inf, seeds, *sizes)
    a, b = (one, other) if relation == "difference" else (_log(one), _log(other))
    value = a.value - b.value
    low = value - math.hypot(a.value - a.low, b.high - b.value)
    high = value + math.hypot(a.high - a.value, b.value - b.low)
    if relation == "ratio":
        value, low, high = (math.exp(min(end, 700.0)) if end < math.inf else end for end in (value, low, high))
    return Figure(value, low, high, seeds, *sizes)


def _log(figure: Figure) -> Figure:
    value, low, high = (math.log(end) if end > 0 else -math.inf for end in (figure.value, figure.low, figure.high))
    return Figure(value, low, high, figure.seeds)


def _common(a: int | None, b: int | None) -> int | None:
    return a if a == b else None


def spearman(pairs: Sequence[tuple[float, float]]) -> Figure:
    """Spearman's ρ, its interval by Fisher's z with the error √((1 + ρ²/2)/(n − 3)) of Bonett & Wright (2000)."""
    a, b = ([float(r) for r in _ranks(column)] for column in zip(*pairs, strict=True))
    if len(set(a)) < 2 or len(set(b)) < 2:
        return Figure(0.0, -1.0, 1.0, len(pairs))
    rho = statistics.correlation(a, b)
    z = math.atanh(max(-0.999999, min(0.999999, rho)))
    half = 1.959964 * math.sqrt((1 + rho * rho / 2) / (len(pairs) - 3))
    return Figure(rho, math.tanh(z - half), math.tanh(z + half), len(pairs))


def _ranks(values: Sequence[float]) -> list[float]:
    """From 1; ties share their mean rank."""
    order = sorted(values)
    return [order.index(value) + (order.count(value) + 1) / 2 for value in values]
