"""Figures of what synthetic scans changed: forest plots, gain over the amount of real data, fidelity against gain."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.records import ResultRow
from pipeline.report.arm_tables import arm_key
from pipeline.report.contrasts import Comparison, patients_of
from pipeline.report.curves import Panel
from pipeline.report.estimates import PALETTE, Evidence
from pipeline.report.figures import Dots, Interval, dots_figure, forest_figure
from pipeline.report.numbers import difference, finite, interval, number
from pipeline.report.words import metric_of

FEWEST = 3
"""Trainings that a picture of fidelity against gain needs."""


def forest_panels(evidence: Evidence, found: tuple[Comparison, ...]) -> tuple[Panel, ...]:
    """One forest plot a classifier, its contrasts grouped by GAN and fraction of the patients."""
    panels = []
    label = metric_of(evidence.endpoint).label
    rows = [contrast.row for comparison in found for contrast in comparison.contrasts]
    ends = [abs(end) for row in rows for v in (row.value, row.low, row.high) if (end := finite(v)) is not None]
    reach = max(ends, default=0.0) * 1.12 or 0.1
    names = [gan.name for gan in evidence.gans]

    def place(one: Comparison) -> tuple[int, float, float, str]:
        return names.index(one.gan) if one.gan in names else -1, one.fraction or 1.0, one.ratio or 0.0, one.variant

    for i, classifier in enumerate(dict.fromkeys(one.classifier for one in found)):
        mine = sorted((one for one in found if one.classifier == classifier), key=place)
        intervals = []
        whole = "all patients" if any(one.fraction for one in mine) else ""
        for comparison in mine:
            group = ", ".join(part for part in (comparison.gan, patients_of(comparison.fraction) or whole) if part)
            for one in comparison.contrasts:
                row = one.row
                name = ", ".join(part for part in (one.arms, comparison.dose) if part)
                colour = _colour(evidence, comparison.gan)
                intervals.append(Interval(group, name, row.value, row.low, row.high, colour, row.arm == "D-B"))
        told = "; ".join(
            f"{one.gan}{f' {patients_of(one.fraction)}' if one.fraction else ''} {c.arms} {c.figures}"
            for one in mine
            for c in one.contrasts
        )
        svg = forest_figure(
            intervals, reach, evidence.endpoint, f"forest{i}", f"Differences in {label}, {classifier}: {told}"
        )
        note = f"● D−B,\u2002◆ D−C; lines are 95 % intervals over {evidence.cases} and runs."
        panels.append(Panel(classifier or "classifier", svg, note))
    return tuple(panels)


def fraction_panels(evidence: Evidence, found: tuple[Comparison, ...]) -> tuple[Panel, ...]:
    """For each classifier the endpoint and the gain D−B over the fraction of the training patients.

    Nothing where only one fraction was trained on.
    """
    arms = [row for row in evidence.data.rows if row.stage == "arm" and row.metric == evidence.endpoint]
    fractions = sorted({row.fraction or 1.0 for row in arms})
    if len(fractions) < 2:
        return ()
    ticks = [f"{fraction * 100:g} %" for fraction in fractions]
    label = metric_of(evidence.endpoint).label
    panels = []
    for i, classifier in enumerate(dict.fromkeys(row.classifier for row in arms)):
        mine = [row for row in arms if row.classifier == classifier and row.arm in ("B", "D") and not row.variant]
        levels = _series(evidence, mine, fractions)
        told = f"{label} of {classifier or 'the classifier'} over the fraction of the training patients"
        svg = dots_figure(levels, "real training patients", label, f"level{i}", told, ticks=ticks)
        note = f"B without, D with synthetic scans; bars are 95 % intervals over {evidence.cases}."
        panels.append(Panel(f"{classifier or 'classifier'}: {label}", svg, note))
        rows = [
            one.row
            for comparison in found
            if comparison.classifier == classifier and not comparison.variant
            for one in comparison.contrasts
            if one.row.arm == "D-B"
        ]
        if rows:
            figures = "; ".join(
                f"{row.gan} {ticks[fractions.index(row.fraction or 1.0)]} {difference(row.value, row.low, row.high)}"
                for row in rows
            )
            told = f"Gain D−B of {classifier or 'the classifier'} over the training patients: {figures}"
            gains = _series(evidence, rows, fractions)
            svg = dots_figure(gains, "real training patients", "gain D−B", f"gain{i}", told, ticks=ticks, line="zero")
            note = (
                f"Bars are 95 % intervals over {evidence.cases} and runs. The GAN learnt from the same training scans."
            )
            panels.append(Panel(f"{classifier or 'classifier'}: gain D−B", svg, note))
    return tuple(panels)


def _series(evidence: Evidence, rows: Sequence[ResultRow], fractions: Sequence[float]) -> list[Dots]:
    """One line a GAN and ratio, over the fractions' places."""
    series = []
    for key in dict.fromkeys((row.arm, row.gan, row.ratio) for row in rows):
        arm, gan, ratio = key
        mine = sorted(
            (row for row in rows if (row.arm, row.gan, row.ratio) == key), key=lambda row: row.fraction or 1.0
        )
        several = len({row.ratio for row in rows if row.gan == gan}) > 1
        name = " ".join(part for part in (gan or arm, f"×{ratio:g}" if several and ratio else "") if part)
        points = [(float(fractions.index(row.fraction or 1.0)), row.value) for row in mine]
        spans = [(row.low, row.high) for row in mine]
        series.append(Dots(name, points, spans, _colour(evidence, gan) if gan else "", joined=True))
    return series


def worth_panels(evidence: Evidence) -> tuple[Panel, ...]:
    """For each classifier and fidelity metric the gain of each GAN training against its distance from real scans."""
    panels = []
    for i, worth in enumerate(row for row in evidence.data.rows if row.stage == "worth"):
        points = trainings(evidence, worth)
        label = metric_of(worth.metric).label
        ends = interval(worth.low, worth.high, 2)
        rho = f"rank correlation {number(worth.value, 2)}" + (f" ({ends})" if ends else ", too few for an interval")
        told = f"Gain D−B against {label} over {worth.n} GAN trainings, {worth.classifier}: {rho}"
        series = [Dots(gan, dots, (), _colour(evidence, gan)) for gan, dots in points.items()]
        svg = dots_figure(series, label, "gain D−B", f"worth{i}", told, line="zero")
        note = f"{rho[:1].upper()}{rho[1:]}, {worth.n} trainings. Below 0: a better {label} went with a larger gain."
        panels.append(Panel(f"{worth.classifier or 'classifier'}: {label} against gain", svg, note))
    return tuple(panels)


def trainings(evidence: Evidence, worth: ResultRow) -> dict[str, list[tuple[float, float]]]:
    """For each GAN its trainings' (distance, gain), on all training patients and without a filter.

    Args:
        evidence: the rows.
        worth: which metric and classifier.
    """
    plain = (row for row in evidence.data.rows if row.stage == "gain" and row.fraction is None)
    gains = [row for row in plain if "filter" not in row.variant and row.classifier == worth.classifier]
    points: dict[str, list[tuple[float, float]]] = {}
    for gan, seed in dict.fromkeys((row.gan, row.gan_seed) for row in gains):
        mine = [row.value for row in gains if (row.gan, row.gan_seed) == (gan, seed)]
        there = [row.value for row in evidence.scores.get((gan, worth.metric, ""), ()) if row.gan_seed == seed]
        if there:
            points.setdefault(gan, []).append((sum(there) / len(there), sum(mine) / len(mine)))
    return points


def reliability_panels(evidence: Evidence) -> tuple[Panel, ...]:
    """For each classifier how often it is right at each stated confidence, for its arms on all training patients."""
    rows = [row for row in evidence.data.rows if row.stage == "detail" and row.fraction is None and not row.variant]
    panels = []
    for i, classifier in enumerate(dict.fromkeys(row.classifier for row in rows)):
        mine = [row for row in rows if row.classifier == classifier]
        series = []
        for j, key in enumerate(dict.fromkeys(arm_key(row) for row in mine if row.arm != "E")):
            own = [row for row in mine if arm_key(row) == key]
            arm, gan, ratio = key[:3]
            name = " ".join(part for part in (arm, gan, f"×{ratio:g}" if gan and ratio else "") if part)
            colour = _colour(evidence, gan) if gan else ("", PALETTE[4], PALETTE[9])["ABC".index(arm)]
            series.append(Dots(name, calibration(own), (), colour, joined=True, marker=j))
        told = f"Share of right answers over stated confidence, {classifier or 'classifier'}"
        svg = dots_figure(series, "stated confidence", "share right", f"reliable{i}", told, line="diagonal")
        panels.append(Panel(classifier or "classifier", svg, "On the diagonal, probabilities mean what they say."))
    return tuple(panels)


def calibration(rows: Sequence[ResultRow]) -> list[tuple[float, float]]:
    """(stated confidence, share right) of each bin over all seeds, each seed weighed by its scans there."""
    bins = sorted({row.metric.split(".")[1] for row in rows if row.metric.startswith("reliability.")})
    return [(_pooled(rows, f"confidence.{one}"), _pooled(rows, f"reliability.{one}")) for one in bins]


def _pooled(rows: Sequence[ResultRow], metric: str) -> float:
    """Mean over seeds, each bin weighed by its scans."""
    mine = [row for row in rows if row.metric == metric]
    return sum(row.value * (row.n or 1) for row in mine) / sum(row.n or 1 for row in mine)


def _colour(evidence: Evidence, gan: str) -> str:
    known = evidence.gan(gan)
    return known.colour if known else PALETTE[0]
