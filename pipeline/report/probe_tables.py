"""The scorecard's two long tables: every check of every claim, and every figure of every probe."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.claims import Concern, Verdict
from pipeline.records import ResultRow
from pipeline.report.criteria import figure_of, quantity, reason_of, side_of, word_of
from pipeline.report.estimates import Evidence, estimate
from pipeline.report.numbers import MISSING, decimals, interval, many, number
from pipeline.report.tables import Cell, Group, Line, Table
from pipeline.report.words import in_words, metric_of, metric_order

STAGE = "probe"


def check_table(concerns: Sequence[Concern], verdicts: Sequence[Verdict]) -> Table:
    """Claim by claim, a line for each check and GAN."""
    groups = []
    for concern in concerns:
        lines = tuple(_check_line(one) for one in verdicts if one.claim == concern.claim)
        if lines:
            groups.append(Group(f"{concern.text} ({concern.source})", lines))
    columns = tuple((name, "") for name in ("verdict", "figure", "shown if", "rests on", "note"))
    return Table("check", columns, tuple(groups))


def _check_line(one: Verdict) -> Line:
    counts = ((one.n_real, "real"), (one.n_synthetic, "synthetic"))
    figure, _, ends = figure_of(one).partition(" ")
    cells = (
        Cell(word_of(one), ("leads",) if one.leading else ()),
        Cell(figure, (ends.strip("()"),)),
        Cell(side_of(one), tuple(filter(None, [reason_of(one.criterion)]))),
        Cell(many(one.seeds, "training"), tuple(f"{n:,} {what}" for n, what in counts if n is not None)),
        Cell("; ".join(filter(None, (in_words(one.remedy), one.note)))),
    )
    return Line(f"{one.gan}: {quantity(one)}", cells)


def figure_table(evidence: Evidence) -> Table:
    """Metric × GAN, mean over seeds with its interval, the same as the verdicts'."""
    found: dict[tuple[str, str], list[ResultRow]] = {}
    for row in evidence.data.rows:
        if row.stage == STAGE:
            found.setdefault((row.metric, row.gan), []).append(row)
    gans = [gan for gan in evidence.gans if any(name == gan.name for _, name in found)]
    lines = []
    for metric in sorted({metric for metric, _ in found}, key=_order):
        cells = []
        for gan in gans:
            rows = found.get((metric, gan.name))
            if rows is None:
                cells.append(Cell(MISSING, why="not measured, or it does not concern this GAN"))
                continue
            one = estimate(rows)
            places = decimals(one.value, one.low, one.high)
            ends = interval(one.low, one.high, places)
            cells.append(Cell(number(one.value, places), (ends,) if ends else ()))
        lines.append(Line(metric_of(metric).label, tuple(cells), metric))
    return Table("figure", tuple((gan.name, "") for gan in gans), (Group("", tuple(lines)),) if lines else ())


def _order(metric: str) -> tuple[tuple[int, str], str]:
    """A metric beside its floor and its excess."""
    base = metric
    for prefix in ("floor_ratio.", "floor.", "excess.", "worst.", "loss."):
        base = base.removeprefix(prefix)
    return metric_order(base), metric
