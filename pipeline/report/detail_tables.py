"""Tables behind the endpoint: where its variation comes from, who is taken for what, and figures by subgroup."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.records import ResultRow
from pipeline.report.arm_tables import arm_key, dose_of
from pipeline.report.estimates import Evidence, estimate
from pipeline.report.numbers import MISSING, finite, many, number
from pipeline.report.tables import Cell, Group, Line, Table, columns_of, figure_cell
from pipeline.report.words import metric_of, metric_order

SOURCES = (
    ("gan", "GAN seeds", "a new training of the GAN"),
    ("classifier", "classifier seeds", "a new training of the classifier"),
    ("rest", "their interplay", "what neither explains alone"),
    ("patients", "test patients", "other patients, the mean over runs"),
)


def _name(row: ResultRow) -> str:
    return f"{row.arm} {row.gan}".strip()


def variation_table(evidence: Evidence) -> Table | None:
    """Standard deviations of the endpoint by source, a line an arm; None where none were measured."""
    rows = [row for row in evidence.data.rows if row.stage == "variance"]
    if not rows:
        return None
    groups = []
    for classifier in dict.fromkeys(row.classifier for row in rows):
        lines = []
        mine = [row for row in rows if row.classifier == classifier]
        for key in dict.fromkeys(arm_key(row) for row in mine):
            own = {row.metric.removeprefix("sd."): row for row in mine if arm_key(row) == key}
            first = next(iter(own.values()))
            cells = tuple(
                Cell(number(own[source].value, 3))
                if source in own
                else Cell(MISSING, why="one seed, or no GAN: it cannot be told apart")
                for source, _, _ in SOURCES
            )
            note = ", ".join([*dose_of(key), many(first.n or 0, "run")])
            known = evidence.gan(first.gan)
            lines.append(Line(_name(first), cells, note, known.colour if known else ""))
        groups.append(Group(classifier, tuple(lines)))
    notes = (
        f"Standard deviations in {metric_of(evidence.endpoint).label}. The first three are of a single run, estimated "
        "from the table of GAN seeds × classifier seeds; 0 where the method of moments gives no more than chance.",
    )
    return Table("Arm", tuple((name, hint) for _, name, hint in SOURCES), tuple(groups), notes)


def confusion_table(evidence: Evidence) -> Table | None:
    """Scans of each class by the class they were taken for: means over seeds."""
    rows = [row for row in evidence.data.rows if row.stage == "detail" and row.metric.startswith("confusion.")]
    if not rows or not evidence.classes:
        return None
    groups = []
    for classifier in dict.fromkeys(row.classifier for row in rows):
        lines = []
        mine = [row for row in rows if row.classifier == classifier]
        for key in dict.fromkeys(arm_key(row) for row in mine):
            own = [row for row in mine if arm_key(row) == key]
            for true in evidence.classes:
                cells = tuple(_mean_cell(own, f"confusion.{true}.{said}") for said in evidence.classes)
                known = evidence.gan(own[0].gan)
                note = ", ".join(dose_of(key))
                lines.append(Line(f"{_name(own[0])}: {true}", cells, note, known.colour if known else ""))
        groups.append(Group(classifier, tuple(lines)))
    columns = tuple((f"taken for {name}", "scans, mean over seeds") for name in evidence.classes)
    return Table("Arm: true class", columns, tuple(groups), ("By the most probable class.",))


def _mean_cell(rows: Sequence[ResultRow], metric: str) -> Cell:
    value = estimate([row for row in rows if row.metric == metric]).value
    return Cell(number(value, 1), why="not counted")


def subgroup_table(evidence: Evidence) -> Table | None:
    """The main figures within groups of patients; None where the dataset keeps no groups."""
    rows = [row for row in evidence.data.rows if row.stage == "subgroup" and finite(row.value) is not None]
    if not rows:
        return None
    bases = sorted({row.metric.split(".")[0] for row in rows}, key=metric_order)
    groups = []
    for title in dict.fromkeys(row.metric.split(".", 1)[1] for row in rows):
        lines = []
        mine = [row for row in rows if row.metric.split(".", 1)[1] == title]
        for classifier, key in dict.fromkeys((row.classifier, arm_key(row)) for row in mine):
            own = [row for row in mine if (row.classifier, arm_key(row)) == (classifier, key)]
            cells = []
            for base in bases:
                found = [row for row in own if row.metric.startswith(f"{base}.")]
                cells.append(figure_cell(estimate(found), places=3) if found else Cell(MISSING, why="not measured"))
            note = ", ".join([classifier, *dose_of(key), many(own[0].n or 0, "scan")])
            known = evidence.gan(own[0].gan)
            lines.append(Line(_name(own[0]), tuple(cells), note, known.colour if known else ""))
        groups.append(Group(title.replace(".", ": ", 1), tuple(lines)))
    notes = ("Mean ± standard deviation over seeds. Groups of fewer than five patients of each of two classes are left "
             "out; differences between groups of this size are mostly chance, and none was tested.",)  # fmt: skip
    return Table("Group, arm", columns_of(bases), tuple(groups), notes)
