"""Labels: from a CSV, by DICOM tag or by folder; and the classes they make."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from pipeline.records import MedaugError


class LabelConfig(BaseModel):
    """Where the labels are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    by: Literal["auto", "file", "tag", "folders"] = Field(
        default="auto",
        description="auto: the file if one is given or labels.csv lies in the source, else the folders' names",
    )
    file: Path | None = Field(default=None, description="CSV with the columns file and label")
    tag: str | None = Field(default=None, description="keyword of the DICOM attribute, for by: tag")
    mapping: dict[str, str] | None = Field(default=None, description="found label: class; others are left out")
    classes: tuple[str, ...] | None = Field(default=None, description="the classes in order; else sorted by name")


def read_labels(file: Path) -> list[tuple[str, str]]:
    """The columns ``file`` and ``label`` of a CSV, in order.

    Raises:
        MedaugError: no such file, no text, the columns are missing, or it is empty.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise MedaugError(f"labels {file}: no such file; expected a CSV with the columns file and label") from None
    except (OSError, UnicodeDecodeError):
        raise MedaugError(f"labels {file}: not readable as UTF-8 text; expected a CSV") from None
    first = text.split("\n", 1)[0]
    delimiter = ";" if ";" in first and "," not in first else ","  # spreadsheets of half of Europe write semicolons
    reader = csv.DictReader(io.StringIO(text), delimiter=delimiter, skipinitialspace=True)
    columns = [name.strip() for name in reader.fieldnames or []]
    if "file" not in columns or "label" not in columns:
        raise MedaugError(f"labels {file}: has the columns {', '.join(columns) or 'none'}; expected file and label")
    reader.fieldnames = columns
    rows = [((row["file"] or "").strip(), (row["label"] or "").strip()) for row in reader]
    rows = [(name, label) for name, label in rows if name and label]
    if not rows:
        raise MedaugError(f"labels {file}: holds no row with both a file and a label")
    return rows


def match_labels(rows: Iterable[tuple[str, str]], names: Sequence[str], file: Path) -> dict[str, str]:
    """Labels by file name.

    A row names a file by its path relative to the source. Where there is no such file, one path may be the end of the
    other: the bare file name, or a path that starts above the source.

    Args:
        rows: (file, label).
        names: the source's files.
        file: the labels' file, for messages.

    Raises:
        MedaugError: rows that name no file, or several; a file with two labels.
    """
    known = set(names)
    by_base: dict[str, list[str]] = {}
    for name in names:
        by_base.setdefault(name.rsplit("/", 1)[-1], []).append(name)
    labels: dict[str, str] = {}
    missing = []
    for given, label in rows:
        name = given.replace("\\", "/").removeprefix("./")
        alike = [name] if name in known else by_base.get(name.rsplit("/", 1)[-1], [])
        candidates = [one for one in alike if f"/{one}".endswith(f"/{name}") or f"/{name}".endswith(f"/{one}")]
        if not candidates:
            missing.append(given)
            continue
        if len(candidates) > 1:
            raise MedaugError(
                f"labels {file}: {given} fits {len(candidates)} files; give paths relative to the data folder"
            )
        if labels.setdefault(candidates[0], label) != label:
            raise MedaugError(f"labels {file}: {given} has two labels, {labels[candidates[0]]!r} and {label!r}")
    if missing:
        raise MedaugError(
            f"labels {file}: {len(missing)} file(s) named there are not in the data: {first_five(missing)}; "
            "correct the names or remove the rows"
        )
    return labels


def choose_classes(found: Iterable[str], config: LabelConfig) -> tuple[str, ...]:
    """The classes in label order.

    Args:
        found: label of each image, after the mapping.
        config: may fix the classes and their order.

    Raises:
        MedaugError: fewer than two classes, a class without an image, or a label that is no class.
    """
    counts = Counter(found)
    classes = config.classes or tuple(sorted(counts, key=_by_name_or_number))
    strange = sorted(set(counts) - set(classes))
    if strange:
        raise MedaugError(
            f"labels.classes: {', '.join(classes)}; found also {first_five(strange)}; add them or map them"
        )
    empty = [name for name in classes if not counts[name]]
    if empty:
        raise MedaugError(
            f"labels: no readable image of class {first_five(empty)}; expected at least 3 patients a class"
        )
    if len(classes) < 2:
        raise MedaugError(f"labels: one class only ({first_five(classes)}); expected at least two")
    return classes


def _by_name_or_number(name: str) -> tuple[bool, int, str]:
    return not name.isdecimal(), int(name) if name.isdecimal() else 0, name


def first_five(names: Sequence[str]) -> str:
    """The first five names, and that there are more."""
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
