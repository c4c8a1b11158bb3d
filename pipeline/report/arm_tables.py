"""Tables of classifiers: arm × metric, and the contrasts that count."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from pipeline.records import ResultRow
from pipeline.report.contrasts import UNCERTAIN, Comparison, Contrast, patients_of
from pipeline.report.estimates import Evidence, estimate
from pipeline.report.numbers import MISSING, count, finite, interval, many, number, probability
from pipeline.report.tables import Cell, Group, Line, Table, columns_of, figure_cell
from pipeline.report.words import metric_of, metric_order, split_class

ArmKey = tuple[str, str, float | None, float | None, str]
"""Arm, GAN, ratio, fraction, variant."""
Pooled = Mapping[tuple[ArmKey, str], ResultRow]
"""Rows of stage "arm": (arm, metric) → the figure over all runs, with an interval over patients."""


def classifier_tables(evidence: Evidence) -> tuple[tuple[str, Table, Table | None], ...]:
    """For each classifier its name, the table over all classes, and the one for single classes where measured."""
    rows = [row for row in evidence.data.rows if row.stage == "classify"]
    tables = []
    for classifier in dict.fromkeys(row.classifier for row in rows):
        mine = [row for row in rows if row.classifier == classifier]
        pooled = {
            (arm_key(row), row.metric): row
            for row in evidence.data.rows
            if row.stage == "arm" and row.classifier == classifier and finite(row.value) is not None
        }
        tables.append((classifier or "classifier", _overall(evidence, mine, pooled), _by_class(evidence, mine)))
    return tuple(tables)


def _overall(evidence: Evidence, rows: Sequence[ResultRow], pooled: Pooled) -> Table:
    metrics = {row.metric for row in rows if not split_class(row.metric, evidence.classes)[1]}
    bases = sorted(metrics, key=lambda metric: (metric != evidence.endpoint, metric_order(metric)))
    notes = ["Mean ± standard deviation over seeds."]
    told = [metric for metric in bases if any(metric == of for _, of in pooled)]
    if told:
        patients = sorted({row.n for row in pooled.values() if row.n is not None})
        of = (
            f" ({' to '.join(map(count, sorted({patients[0], patients[-1]})))} test {evidence.cases})"
            if patients
            else ""
        )
        labels = ", ".join(metric_of(metric).label for metric in told)
        notes[0] += f" Below {labels} its 95 % interval over {evidence.cases}{of}, for the mean of these runs."
    if any(row.low is not None and (arm_key(row), row.metric) not in pooled for row in rows):
        where = "Below other figures" if told else "Below it"
        notes[0] += f" {where} the 95 % interval over test cases, from the lowest to the highest end over seeds."
    sizes = sorted({row.n for row in rows if row.n is not None})
    if sizes:
        notes[0] += f" Measured on {' to '.join(map(count, sorted({sizes[0], sizes[-1]})))} real test scans."
    notes += [f"{text}." for text in dict.fromkeys(row.note for row in rows if row.note)]
    notes += _sampling(evidence, rows[0].classifier)
    return Table("Arm", columns_of(bases), (Group("", _lines(evidence, rows, bases, pooled)),), tuple(notes))


def _sampling(evidence: Evidence, classifier: str) -> list[str]:
    """How the classifier was shown its classes, as the configuration has it."""
    configured = evidence.data.config.get("classifiers", ())
    named = [one for one in configured if isinstance(one, Mapping) and one.get("name") == classifier]
    texts = {
        "balanced": "In training every class was drawn equally often.",
        "natural": "In training every scan was drawn equally often, so that common classes weigh more.",
    }
    return [texts[one["sampling"]] for one in named if one.get("sampling") in texts]


def _by_class(evidence: Evidence, rows: Sequence[ResultRow]) -> Table | None:
    bases = sorted(
        {base for row in rows for base, name in [split_class(row.metric, evidence.classes)] if name}, key=metric_order
    )
    if not bases:
        return None
    groups = []
    for name in evidence.classes:
        metrics = [f"{base}.{name}" for base in bases]
        groups.append(Group(name, _lines(evidence, [row for row in rows if row.metric in metrics], metrics, {})))
    columns = tuple((label.removeprefix("macro "), hint) for label, hint in columns_of(bases))
    return Table("Class, arm", columns, tuple(group for group in groups if group.lines))


def _lines(evidence: Evidence, rows: Sequence[ResultRow], metrics: Sequence[str], pooled: Pooled) -> tuple[Line, ...]:
    names = [gan.name for gan in evidence.gans]

    def order(key: ArmKey) -> tuple[float, str, int, float, str]:
        arm, gan, ratio, fraction, variant = key
        return fraction or 1.0, arm, names.index(gan) if gan in names else -1, ratio or 0.0, variant

    lines = []
    for key in sorted({arm_key(row) for row in rows}, key=order):
        arm, gan = key[:2]
        mine = [row for row in rows if arm_key(row) == key]
        seeds = len({(row.gan_seed, row.classifier_seed) for row in mine})
        note = ", ".join([*dose_of(key), many(seeds, "seed")])
        cells = []
        for metric in metrics:
            found = [row for row in mine if row.metric == metric]
            if (key, metric) in pooled:
                cells.append(_pooled_cell(pooled[key, metric]))
            else:
                cells.append(figure_cell(estimate(found), places=3) if found else Cell(MISSING, why="not measured"))
        known = evidence.gan(gan)
        lines.append(Line(f"{arm} {gan}".strip(), tuple(cells), note, known.colour if known else ""))
    return tuple(lines)


def arm_key(row: ResultRow) -> ArmKey:
    """Which arm a row is about."""
    return row.arm, row.gan, row.ratio, row.fraction, row.variant


def dose_of(key: ArmKey) -> list[str]:
    """``["10 % of the patients", "ratio 1", "balanced"]``, as far as it applies."""
    _, _, ratio, fraction, variant = key
    return [text for text in (patients_of(fraction), f"ratio {ratio:g}" if ratio is not None else "", variant) if text]


def _pooled_cell(row: ResultRow) -> Cell:
    """A row of stage "arm"; its note holds the spread: ``SD over seeds 0.012``."""
    found = re.search(r"SD over seeds ([0-9.]+(?:e[+-]?[0-9]+)?)", row.note)
    spread = f" ± {number(float(found.group(1)), 3)}" if found else ""
    ends = interval(row.low, row.high, 3)
    return Cell(number(row.value, 3) + spread, (ends,) if ends else ())


def contrast_table(evidence: Evidence, found: Sequence[Comparison]) -> Table | None:
    """Every contrast with its figures and verdict; None where there are none."""
    if not found:
        return None
    groups = []
    for gan, fraction in dict.fromkeys((comparison.gan, comparison.fraction) for comparison in found):
        known = evidence.gan(gan)
        colour = known.colour if known else ""
        lines = tuple(
            Line(
                one.arms,
                _contrast_cells(one),
                ", ".join(part for part in (comparison.dose, comparison.classifier) if part),
                colour,
            )
            for comparison in found
            if (comparison.gan, comparison.fraction) == (gan, fraction)
            for one in comparison.contrasts
        )
        groups.append(Group(", ".join(part for part in (gan, patients_of(fraction)) if part), lines))
    columns = (
        ("difference", f"{'below' if metric_of(evidence.endpoint).better == 'lower' else 'above'} 0 favours synthetic"),
        ("95 % interval", f"{evidence.cases} and runs"),
        ("Holm p", "p below it"),
        (f"test {evidence.cases}", "runs"),
        ("smallest gain", "at 80 % power"),
        ("verdict", ""),
    )
    notes = (
        "Holm's correction is over all planned contrasts (classifiers × controls × GANs × ratios, fractions, balances "
        "and filters); one that failed counts with p = 1. A single contrast shows a direction only: help and harm need "
        "D−B and D−C both. The smallest gain is about the true difference that would have been shown in four of five "
        "such experiments. From a single GAN training nothing can be shown: its luck is unknown, and p is set to 1.",
    )
    return Table("Contrast", columns, tuple(groups), notes)


def _contrast_cells(one: Contrast) -> tuple[Cell, ...]:
    row = one.row
    return (
        Cell(number(row.value, 3, sign=True), (one.spread,) if one.spread else (), why="the difference is not finite"),
        Cell(interval(row.low, row.high, 3, sign=True) or MISSING, why="no interval was measured"),
        Cell(probability(one.holm), (probability(one.p),), why="not in the row's note"),
        Cell(count(row.n), tuple(text for text in (one.runs, one.gan_seeds) if text), why="not recorded"),
        _smallest_cell(one.smallest),
        Cell(one.verdict, (one.why,), lead=one.verdict != UNCERTAIN),
    )


def _smallest_cell(smallest: float | None) -> Cell:
    if smallest is not None and smallest >= 1.0:
        return Cell("none", ("could have been shown",))
    return Cell(number(smallest, 3), why="not measured")
