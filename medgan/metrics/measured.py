"""What a metric or probe answers: one figure, its interval and what it rests on."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.records import MedaugError, ResultRow


class TooFewImagesError(MedaugError):
    """So few images (or patients, or classes) that a figure would mislead; says how many there are and would do."""


@dataclass(frozen=True)
class Measured:
    """One figure.

    Attributes:
        value: the figure, finite.
        low: lower end of its 95 % interval; None only where the figure is a plain fact (a count, a share of seeds).
        high: upper end; None beside a lower end where it is not bounded.
        n_real: real images behind it; None where none are.
        n_synthetic: synthetic images behind it; None where none are.
        note: what a reader must know to read it: the interval's kind, k, subsets, the extractor's limits.
    """

    value: float
    low: float | None = None
    high: float | None = None
    n_real: int | None = None
    n_synthetic: int | None = None
    note: str = ""

    def row(self, metric: str, stage: str = "score") -> ResultRow:
        """As a result row under the metric's name."""
        return ResultRow(
            stage=stage,
            metric=metric,
            value=self.value,
            low=self.low,
            high=self.high,
            n_real=self.n_real,
            n_synthetic=self.n_synthetic,
            note=self.note,
        )
