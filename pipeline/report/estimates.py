"""Rows to estimates: the mean over seeds, its spread, and an interval."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.pooled import pool
from pipeline.records import GanSummary, ReportInput, ResultRow
from pipeline.report.numbers import finite
from pipeline.report.words import metric_of, split_class

FLOOR, RATIO = "floor.", "floor_ratio."

PALETTE = (
    *("#0072B2", "#D55E00", "#009980", "#7733FF", "#CC0044", "#4D88FF"),
    *("#137386", "#E6664C", "#E600BF", "#8C6D00", "#6B6B6B"),
)
"""Contrast of 3:1 on the light and on the dark page. Of the first nine each next one lies farthest from those before,
with and without simulated protanopia and deuteranopia (Machado 2009)."""


@dataclass(frozen=True)
class Estimate:
    """A metric of one cell over its seeds.

    Attributes:
        value: mean over seeds; None where no seed gave a finite value.
        spread: standard deviation over seeds; None with fewer than two.
        seeds: finite values behind the mean.
        broken: values that were NaN or infinite.
        low: lower end of its 95 % interval; None where a seed has none.
        high: upper end.
        n: cases behind a value, where all rows agree.
        n_real: real images, where all rows agree.
        n_synthetic: synthetic images, where all rows agree.
    """

    value: float | None
    spread: float | None
    seeds: int
    broken: int
    low: float | None
    high: float | None
    n: int | None
    n_real: int | None
    n_synthetic: int | None


GAN_STAGES = ("score", "probe")
"""Rows of these are figures of one GAN training each; those of classifiers have intervals over patients alone."""


def estimate(rows: Sequence[ResultRow]) -> Estimate:
    """Averages rows that differ in their seeds alone.

    The interval of a GAN's figure is that of :func:`pipeline.pooled.pool`, by which the scorecard judges; that of
    a classifier runs from the lowest to the highest seed's end. An end beyond what the metric can be is cut.
    """
    good = [row for row in rows if finite(row.value) is not None]
    values = [float(row.value) for row in good]
    low, high = _interval(good)
    ends = metric_of(rows[0].metric).ends
    return Estimate(
        value=statistics.fmean(values) if values else None,
        spread=statistics.stdev(values) if len(values) > 1 else None,
        seeds=len(values),
        broken=len(rows) - len(good),
        low=None if low is None else max(low, ends[0]),
        high=None if high is None else min(high, ends[1]),
        n=_common(row.n for row in rows),
        n_real=_common(row.n_real for row in rows),
        n_synthetic=_common(row.n_synthetic for row in rows),
    )


def _interval(rows: Sequence[ResultRow]) -> tuple[float | None, float | None]:
    lows = [low for row in rows if (low := finite(row.low)) is not None]
    highs = [high for row in rows if (high := finite(row.high)) is not None]
    if not rows or not len(lows) == len(highs) == len(rows):
        return None, None
    if rows[0].stage not in GAN_STAGES:
        return min(lows), max(highs)
    figure = pool(rows)
    return figure.low, figure.high


def _common(values: Iterable[int | None]) -> int | None:
    found = set(values)
    return found.pop() if len(found) == 1 else None


@dataclass(frozen=True)
class Gan:
    """One GAN preset with all its trainings.

    Attributes:
        name: preset name.
        colour: its colour in every figure.
        trainings: one summary a seed; empty where only rows mention it.
    """

    name: str
    colour: str
    trainings: tuple[GanSummary, ...]

    @property
    def unfinished(self) -> tuple[GanSummary, ...]:
        """Trainings that diverged or failed."""
        return tuple(one for one in self.trainings if one.status != "done")

    @property
    def status(self) -> str:
        """``done``, or which seeds did what and why."""
        if not self.trainings:
            return "no training recorded"
        if not self.unfinished:
            return "done" if len(self.trainings) == 1 else f"done, {len(self.trainings)} seeds"
        told = "; ".join(
            (f"seed {one.seed} " if len(self.trainings) > 1 else "")
            + one.status
            + (f": {one.reason}" if one.reason else ", no reason given")
            for one in self.unfinished
        )
        done = len(self.trainings) - len(self.unfinished)
        return told if len(self.trainings) == 1 else f"{done} of {len(self.trainings)} seeds done; {told}"

    @property
    def failed(self) -> bool:
        """Whether no training of it was completed."""
        return bool(self.trainings) and len(self.unfinished) == len(self.trainings)


class Evidence:
    """A report's rows, looked up by what they are about.

    Args:
        data: the report's input.
    """

    def __init__(self, data: ReportInput):
        self.data = data
        self.classes: tuple[str, ...] = tuple(str(name) for name in data.dataset.get("classes", ()))
        names = list(dict.fromkeys([one.gan for one in data.gans] + [row.gan for row in data.rows if row.gan]))
        self.gans = tuple(
            Gan(name, PALETTE[i % len(PALETTE)], tuple(one for one in data.gans if one.gan == name))
            for i, name in enumerate(names)
        )
        self.scores: dict[tuple[str, str, str], list[ResultRow]] = {}  # (gan or "", base metric, class or "") → rows
        self.ratios: dict[tuple[str, str, str], list[ResultRow]] = {}  # the same, for measured ratios to the floor
        self.floors: dict[tuple[str, str], list[ResultRow]] = {}  # (base metric, class or "") → rows
        for row in data.rows:
            if row.stage != "score":
                continue
            base, name = split_class(row.metric, self.classes)
            if base.startswith(FLOOR):
                base, name = split_class(row.metric.removeprefix(FLOOR), self.classes)
                self.floors.setdefault((base, name), []).append(row)
            elif base.startswith(RATIO):
                self.ratios.setdefault((row.gan, base.removeprefix(RATIO), name), []).append(row)
            else:
                self.scores.setdefault((row.gan, base, name), []).append(row)

    @property
    def endpoint(self) -> str:
        """The primary endpoint: the configuration's, else that of the contrasts, else macro AUROC."""
        named: object = self.data.config.get("classification")
        if isinstance(named, Mapping) and named.get("endpoint"):
            return str(named["endpoint"])
        return next((row.metric for row in self.data.rows if row.stage == "contrast"), "auroc")

    @property
    def patients_unknown(self) -> bool:
        """Whether the source names no patients, so that every image counts as one; the ingest's warning says so."""
        told = [
            re.match(r"patients unknown for (\d+) file", str(text)) for text in self.data.dataset.get("warnings", ())
        ]
        found = self.data.dataset.get("found")
        kept = found.get("kept", 0) if isinstance(found, Mapping) else 0
        return any(one is not None and int(one.group(1)) >= kept for one in told)

    @property
    def cases(self) -> str:
        """What is resampled: "patients", or "images" where patients are unknown."""
        return "images" if self.patients_unknown else "patients"

    def gan(self, name: str) -> Gan | None:
        """The GAN of that name."""
        return next((gan for gan in self.gans if gan.name == name), None)

    def score(self, gan: str, base: str, name: str = "") -> Estimate | None:
        """A GAN's metric over all classes or for one; None where nothing was measured."""
        rows = self.scores.get((gan, base, name))
        return estimate(rows) if rows else None

    def floor(self, base: str, name: str = "") -> Estimate | None:
        """The real-against-real value of a metric."""
        rows = self.floors.get((base, name))
        return estimate(rows) if rows else None

    def ratio(self, gan: str, base: str, name: str = "") -> float | None:
        """How many times the real-against-real value a GAN's FID is.

        A ratio that was measured at equal n comes first (FID's bias depends on n); else the two values' own. None for
        other metrics: KID is unbiased, so that its floor is 0 but for chance and a ratio to it means nothing.
        """
        if base.split(".")[0] != "fid":
            return None
        if (gan, base, name) in self.ratios:
            return estimate(self.ratios[gan, base, name]).value
        one, floor = self.score(gan, base, name), self.floor(base, name)
        if one is None or one.value is None or floor is None or floor.value is None or floor.value <= 0:
            return None
        return one.value / floor.value

    def leader(self, base: str, name: str = "") -> str:
        """The GAN with the best value, if its interval overlaps no other GAN's; else "".

        A lead needs at least two GANs, and an interval for every one of them.
        """
        better = metric_of(base).better
        found = {gan.name: self.score(gan.name, base, name) for gan in self.gans}
        measured = {gan: one for gan, one in found.items() if one is not None and one.value is not None}
        if not better or len(measured) < 2 or any(one.low is None or one.high is None for one in measured.values()):
            return ""
        sign = 1.0 if better == "higher" else -1.0
        best = max(measured, key=lambda gan: sign * (measured[gan].value or 0.0))
        ends = {gan: (one.low or 0.0, one.high or 0.0) for gan, one in measured.items()}  # all are there: see above
        low, high = ends.pop(best)
        return "" if any(low <= their_high and their_low <= high for their_low, their_high in ends.values()) else best
