"""Tables as plain data, which the template draws; here those of GANs against fidelity metrics."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.records import ResultRow
from pipeline.report.estimates import Estimate, Evidence, Gan
from pipeline.report.numbers import MISSING, count, decimals, duration, interval, many, number
from pipeline.report.words import metric_of, metric_order

EXPECTED = ("kid.domain", "fid.domain", "precision", "recall", "density", "coverage")
"""Fidelity metrics whose absence is said."""

FLOORS = (
    "“× floor” is FID's ratio to the FID between two halves of the real patients, one scan of each, both at one n: a "
    "perfect GAN has about 1. “Real against real” compares halves with all scans of each patient; where patients have "
    "many, those are more alike than a perfect GAN's, and shares there are low. KID between halves is 0 but for chance."
)


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: the figure; "–" where there is none.
        details: smaller lines below it.
        lead: whether it stands out beyond doubt.
        why: the reason for "–", shown when pointed at and read aloud.
    """

    text: str
    details: tuple[str, ...] = ()
    lead: bool = False
    why: str = ""


@dataclass(frozen=True)
class Line:
    """One row: its name, its cells, what stands under the name, its colour in the figures ("" for none)."""

    name: str
    cells: tuple[Cell, ...]
    note: str = ""
    colour: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Group:
    """Rows under a common heading ("" for none)."""

    name: str
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Table:
    """Column headings with a hint each, groups of rows, and notes below."""

    corner: str
    columns: tuple[tuple[str, str], ...]
    groups: tuple[Group, ...]
    notes: tuple[str, ...] = ()


def fidelity_bases(evidence: Evidence, by_class: bool = False) -> tuple[str, ...]:
    """Metrics of stage "score" that were measured over all classes, or for single ones."""
    found = {base for _, base, name in evidence.scores if bool(name) == by_class}
    found |= {base for base, name in evidence.floors if bool(name) == by_class}
    return tuple(sorted(found, key=metric_order))


def gan_table(evidence: Evidence) -> Table:
    """GAN × metrics over all classes, below it the real-against-real floor."""
    bases = fidelity_bases(evidence)
    places = {base: column_places(evidence, base, ("",)) for base in bases}
    lines = []
    for gan in evidence.gans:
        cells = [_score_cell(evidence, gan, base, "", places[base]) for base in bases]
        kind = "failed" if gan.failed else ""
        lines.append(Line(gan.name, (*cells, _cost_cell(gan)), gan.status, gan.colour, kind))
    if evidence.floors:
        floor = tuple(_floor_cell(evidence, base, "", places[base]) for base in bases)
        lines.append(Line("real against real", (*floor, Cell("")), _floor_note(evidence), kind="floor"))
    cost = ("training", "time, images, parameters G / D")
    notes = [*_sizes(row for (_, _, name), found in evidence.scores.items() if not name for row in found)]
    families = {base.split(".")[0] for base in bases}
    absent = [metric_of(base).label for base in EXPECTED if base.split(".")[0] not in families]
    if absent:
        notes.append(f"Not measured in this run: {', '.join(absent)}.")
    notes.append(
        "“lead” marks a best value only where its 95 % interval overlaps no other GAN's."
        + (f" {FLOORS}" if evidence.floors or evidence.ratios else "")
    )
    notes += _remarks(evidence)
    if any(len(gan.trainings) > 1 for gan in evidence.gans):
        notes.append(
            "Mean ± standard deviation over GAN seeds; 95 % intervals hold the seeds' own and the luck of training."
        )
    return Table("GAN", (*columns_of(bases), cost), (Group("", tuple(lines)),), tuple(notes))


def class_tables(evidence: Evidence) -> tuple[Table, ...]:
    """For each metric measured by class: GAN × class, below it the floor."""
    tables = []
    for base in fidelity_bases(evidence, by_class=True):
        names = [
            name for name in evidence.classes if any((gan.name, base, name) in evidence.scores for gan in evidence.gans)
        ]
        places = column_places(evidence, base, names)
        lines = [
            Line(gan.name, tuple(_score_cell(evidence, gan, base, name, places) for name in names), "", gan.colour)
            for gan in evidence.gans
        ]
        if any((base, name) in evidence.floors for name in names):
            floor = tuple(_floor_cell(evidence, base, name, places) for name in names)
            lines.append(Line("real against real", floor, kind="floor"))
        known = metric_of(base)
        corner = f"{known.label}, {known.better} is better" if known.better else known.label
        notes = _sizes(
            row for (_, one, name), found in evidence.scores.items() if one == base and name for row in found
        )
        if names:
            tables.append(Table(corner, tuple((name, "") for name in names), (Group("", tuple(lines)),), notes))
    return tuple(tables)


def columns_of(bases: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Column headings of metrics, with the direction as a hint."""
    metrics = [metric_of(base) for base in bases]
    return tuple((one.label, f"{one.better} is better" if one.better else "") for one in metrics)


def column_places(evidence: Evidence, base: str, names: Sequence[str]) -> int:
    """Decimal places of a metric's column or table: three digits for its smallest GAN value, within reason.

    Shares (precision, recall and the like) have three places.
    """
    found = [evidence.score(gan.name, base, name) for gan in evidence.gans for name in names]
    values = [abs(one.value) for one in found if one is not None and one.value]
    if not values or metric_of(base).better == "higher":
        return 3
    return min(decimals(min(values)), decimals(max(values)) + 2)


def figure_cell(one: Estimate, places: int, lead: bool = False, extra: tuple[str, ...] = ()) -> Cell:
    """An estimate as a cell: mean ± spread, below it the interval and ``extra``."""
    if one.value is None:
        return Cell(MISSING, why="the value is not finite")
    spread = f" ± {number(one.spread, places)}" if one.spread is not None else ""
    ends = interval(one.low, one.high, places)
    broken = f"{many(one.broken, 'value')} not finite" if one.broken else ""
    details = tuple(detail for detail in (ends, broken, *extra) if detail)
    return Cell(number(one.value, places) + spread, details, lead)


def _score_cell(evidence: Evidence, gan: Gan, base: str, name: str, places: int) -> Cell:
    one = evidence.score(gan.name, base, name)
    if one is None:
        return Cell(MISSING, why=gan.status if gan.unfinished else "not measured")
    ratio = evidence.ratio(gan.name, base, name)
    extra = (f"{number(ratio)} × floor",) if ratio is not None else ()
    return figure_cell(one, places, evidence.leader(base, name) == gan.name, extra)


def _floor_cell(evidence: Evidence, base: str, name: str, places: int) -> Cell:
    floor = evidence.floor(base, name)
    return Cell(MISSING, why="no floor was measured") if floor is None else figure_cell(floor, places)


def _cost_cell(gan: Gan) -> Cell:
    if not gan.trainings:
        return Cell(MISSING, why="no training recorded")
    seconds = [one.seconds for one in gan.trainings]
    averaged = (f"mean of {many(len(seconds), 'seed')}",) if len(seconds) > 1 else ()
    parameters = gan.trainings[0].parameters
    sizes = " / ".join(_millions(parameters.get(part)) for part in ("generator", "discriminator"))
    images = f"{_span([one.images_seen for one in gan.trainings])} images"
    return Cell(duration(statistics.fmean(seconds)), (*averaged, images, *((sizes,) if parameters else ())))


def _millions(value: int | None) -> str:
    return f"{number(value / 1e6)} M" if value is not None and value >= 1e5 else count(value)


def _span(values: Sequence[int]) -> str:
    return count(values[0]) if len(set(values)) == 1 else f"{count(min(values))} to {count(max(values))}"


def _floor_note(evidence: Evidence) -> str:
    """How the floor was measured, from its rows."""
    rows = [row for (_, name), found in evidence.floors.items() if not name for row in found]
    told = {re.sub(r"^real against real\W*", "", row.note) for row in rows if row.note}
    halves = [row.n_real for row in rows if row.n_real is not None]
    parts = (*(told if len(told) == 1 else ()), *([f"{_span(halves)} scans a half"] if halves else ()))
    return "; ".join(parts) or "the floor"


def _remarks(evidence: Evidence) -> list[str]:
    """What the rows' own notes say of the overall figures: of which metric, and of which GAN where they differ."""
    said: dict[str, dict[str, list[str]]] = {}  # note → metric → GANs
    scored: dict[str, int] = {}  # metric → number of GANs
    for (gan, base, name), rows in evidence.scores.items():
        if name:
            continue
        label = metric_of(base).label
        scored[label] = scored.get(label, 0) + 1
        for text in dict.fromkeys(row.note for row in rows if row.note):
            said.setdefault(text, {}).setdefault(label, []).append(gan)
    return [
        ", ".join(
            label if len(gans) == scored[label] else f"{label} of {' and '.join(gans)}" for label, gans in whose.items()
        )
        + f": {text}."
        for text, whose in said.items()
    ]


def _sizes(rows: Iterable[ResultRow]) -> tuple[str, ...]:
    found = list(rows)
    real = [row.n_real for row in found if row.n_real is not None]
    synthetic = [row.n_synthetic for row in found if row.n_synthetic is not None]
    parts = ([f"{_span(real)} real scans"] if real else []) + (
        [f"{_span(synthetic)} synthetic scans of each GAN"] if synthetic else []
    )
    return (f"Measured on {' and '.join(parts)}.",) if parts else ()
