"""Figures of a GAN over its trainings, and what follows from two or many of them, each with its 95 % interval."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.records import ResultRow


@dataclass(frozen=True)
class Figure:
    """A figure of one GAN over its trainings.

    Attributes:
        value: the mean.
        low: lower end of its 95 % interval; minus infinity where it has none.
        high: upper end.
        seeds: trainings.
        n_real: real images behind it.
        n_synthetic: synthetic images of each training behind it.
        note: the rows' own, where there is one.
    """

    value: float
    low: float
    high: float
    seeds: int
    n_real: int | None = None
    n_synthetic: int | None = None
    note: str = ""


def pool(rows: Sequence[ResultRow]) -> Figure:
    """Mean over trainings.

    Its interval holds the mean width of the trainings' own intervals, each end apart, and the luck of training
    (Student's t on the mean), added in quadrature. All trainings share the real images, so that their own intervals do
    not shrink with their number. A row without an interval is a plain fact; one end alone means that the other is not
    bounded. A row without a seed of its own is over ``n`` trainings.
    """
    values = [row.value for row in rows]
    value = statistics.fmean(values)
    ends = [_ends(row) for row in rows]
    below = statistics.fmean(row.value - low for row, (low, _) in zip(rows, ends, strict=True))
    above = statistics.fmean(high - row.value for row, (_, high) in zip(rows, ends, strict=True))
    luck = 0.0
    if len(values) > 1:
        luck = student_t(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return Figure(
        value,
        value - math.hypot(below, luck),
        value + math.hypot(above, luck),
        len(rows) if rows[0].gan_seed is not None or rows[0].n is None else rows[0].n,
        rows[0].n_real,
        rows[0].n_synthetic,
        rows[0].note,
    )


def _ends(row: ResultRow) -> tuple[float, float]:
    if row.low is None and row.high is None:
        return row.value, row.value
    return -math.inf if row.low is None else row.low, math.inf if row.high is None else row.high


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


def student_t(degrees: int) -> float:
    """0.975 quantile of Student's t: a table, then Abramowitz & Stegun 26.7.5 (exact to 0.001 from 7 on)."""
    if degrees <= 6:
        return (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469)[degrees - 1]
    z = 1.959964
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + sum(term / degrees ** (i + 1) for i, term in enumerate(terms))
