"""A GAN's figure over its trainings with its 95 % interval, the same for verdicts and for every table."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

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
