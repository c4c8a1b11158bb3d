"""Tables of the data: what was found, what was kept, who is in which split, what gives the label away."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.records import SPLITS
from pipeline.report.audit_tables import AuditView, audit_view, near_sentence
from pipeline.report.numbers import MISSING, count, many, number
from pipeline.report.tables import Cell, Group, Line, Table

FATES = ("kept", "duplicates", "quarantined", "set_aside", "unlabelled")


@dataclass(frozen=True)
class DataView:
    """What the report says about the dataset.

    Attributes:
        facts: name → text: size, window, unit, split.
        counts: class × split, slices and patients.
        files: how many were found; "" where not recorded.
        parts: what became of them, (number, name), which adds up to ``files``; the number may be "0".
        slices: how many images were kept, where files and slices differ; else "".
        mismatch: a sentence where the parts do not add up to what was found; else "".
        quarantine: reason × number of files, quarantined or set aside.
        examples: (file, reason) of some of them.
        audit: which header fields give the label away.
        near: what is known of near-duplicates, in a sentence; "" where nothing is.
    """

    facts: tuple[tuple[str, str], ...]
    counts: Table | None
    files: str
    parts: tuple[tuple[str, str], ...]
    slices: str
    mismatch: str
    quarantine: Table | None
    examples: tuple[tuple[str, str], ...]
    audit: AuditView
    near: str


def data_view(dataset: Mapping[str, Any]) -> DataView:
    """Reads a dataset artifact's ``meta``; parts that it lacks stay empty."""
    quarantine = _mapping(dataset.get("quarantine"))
    reasons, files = _mappings(quarantine.get("reasons")), _mappings(quarantine.get("files"))
    sums = _whole_numbers(dataset.get("found"))
    return DataView(
        facts=_facts(dataset),
        counts=_counts(dataset),
        files=count(sums["files"]) if "files" in sums else "",
        parts=tuple((count(sums[part]), part.replace("_", " ")) for part in FATES if part in sums),
        slices=many(sums["slices"], "slice") if sums.get("slices", sums.get("kept")) != sums.get("kept") else "",
        mismatch=_mismatch(sums),
        quarantine=Table(
            "Reason",
            (("what became of them", ""), ("files", "")),
            (Group("", tuple(_reason(one) for one in reasons)),),
        )
        if reasons
        else None,
        examples=tuple((str(one.get("file", MISSING)), str(one.get("reason", MISSING))) for one in files),
        audit=audit_view(dataset),
        near=near_sentence(dataset),
    )


def _facts(dataset: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    facts = []
    size = _whole_numbers(dataset)
    if "height" in size and "width" in size:
        channels = size.get("channels", 1)
        kind = {1: "grey", 3: "RGB"}.get(channels, f"{channels} channels")
        facts.append(("image size", f"{size['width']} × {size['height']} pixels, {kind}"))
    span = _mapping(dataset.get("value_range"))
    low, high, unit = span.get("low"), span.get("high"), str(span.get("unit", ""))
    if isinstance(low, int | float) and isinstance(high, int | float):
        unit = "" if unit in ("", "1") else f" {unit}"
        centre = f" (centre {number((low + high) / 2)}, width {number(high - low)})"
        facts.append(("value window", f"{number(low)} to {number(high)}{unit}{centre}"))
        facts.append(("unit", unit.strip() or "none stated by the source"))
    spacing = dataset.get("pixel_spacing")
    if isinstance(spacing, list | tuple) and all(isinstance(one, int | float) for one in spacing):
        facts.append(("pixel spacing", " × ".join(number(one) for one in spacing) + " mm"))
    for key in ("window", "modality", "split"):
        value = dataset.get(key)
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            facts.append((key, str(value)))
    return tuple(facts)


def _counts(dataset: Mapping[str, Any]) -> Table | None:
    counts = _mapping(dataset.get("counts"))
    splits = [split for split in (*SPLITS, *counts) if split in counts]
    splits = list(dict.fromkeys(splits))
    if not splits:
        return None
    named = [str(name) for name in dataset.get("classes", ())]
    seen = [str(name) for split in splits for name in _mapping(counts[split])]
    lines = []
    for name in dict.fromkeys(named + seen):
        cells = []
        for split in splits:
            entry = _whole_numbers(_mapping(counts[split]).get(name))
            patients = (many(entry["patients"], "patient"),) if "patients" in entry else ()
            slices = many(entry["slices"], "slice") if "slices" in entry else MISSING
            cells.append(Cell(slices, patients, why="none recorded"))
        lines.append(Line(name, tuple(cells)))
    totals = [sum(_whole_numbers(entry).get("slices", 0) for entry in _mapping(counts[one]).values()) for one in splits]
    lines.append(Line("all classes", tuple(Cell(many(total, "slice")) for total in totals), kind="floor"))
    return Table(
        "Class",
        tuple((split, "") for split in splits),
        (Group("", tuple(lines)),),
        ("A patient with slices of several classes counts once in each of them.",),
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _whole_numbers(value: Any) -> dict[str, int]:
    return {str(key): n for key, n in _mapping(value).items() if isinstance(n, int) and not isinstance(n, bool)}


def _mappings(value: Any) -> list[Mapping[str, Any]]:
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list | tuple) else []


def _reason(entry: Mapping[str, Any]) -> Line:
    times = _whole_numbers(entry).get("count")
    return Line(str(entry.get("reason", MISSING)), (Cell(str(entry.get("status", MISSING))), Cell(count(times))))


def _mismatch(sums: Mapping[str, int]) -> str:
    parts = sum(sums.get(part, 0) for part in FATES)
    if "files" not in sums or parts == sums["files"]:
        return ""
    return f"Kept and left out add up to {count(parts)} files, not to the {count(sums['files'])} found."
