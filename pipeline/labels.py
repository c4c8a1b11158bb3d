"""Labels: from a CSV or Parquet, by DICOM tag or by folder; and the classes they make."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, field_validator

from pipeline.records import MedaugError

KEYS = ("file", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "PatientID")
"""Columns that say which images a row speaks of; the first that is there counts."""

SIDES = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip
"""How people write the sides of a split."""


class LabelConfig(BaseModel):
    """Where the labels are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    by: Literal["auto", "file", "tag", "folders"] = Field(
        default="auto",
        description="auto: the file if one is given or labels.csv lies in the source, else the tag, else the folders",
    )
    file: Path | None = Field(
        default=None,
        description="CSV or Parquet: one column of file, SOPInstanceUID, SeriesInstanceUID, StudyInstanceUID or "
        "PatientID; the label's columns; and, if wanted, patient and split",
    )
    columns: tuple[str, ...] = Field(
        default=("label",), min_length=1, description="the label's columns; several are joined by a hyphen"
    )
    tag: str | None = Field(default=None, description="keyword of the DICOM attribute, for by: tag")
    mapping: dict[str, str] | None = Field(default=None, description="found label: class; others are left out")
    classes: tuple[str, ...] | None = Field(default=None, description="the classes in order; else sorted by name")

    @field_validator("tag")
    @classmethod
    def _known_keyword(cls, value: str | None) -> str | None:
        if value is not None and not value.isalnum():
            raise ValueError(f"tag {value!r}: expected the keyword of a DICOM attribute, e.g. BodyPartExamined")
        return value


@dataclass(frozen=True, slots=True)
class Label:
    """What is known of one file beside its content.

    Attributes:
        name: the class, as found.
        patient: identity from the labels' file, or "".
        side: "train", "validation" or "test" from the labels' file or the source, or "".
    """

    name: str
    patient: str = ""
    side: str = ""


@dataclass(frozen=True)
class LabelTable:
    """A file of labels.

    Attributes:
        file: for messages.
        key: which of :data:`KEYS` the rows go by.
        rows: by the value of that column.
    """

    file: Path
    key: str
    rows: Mapping[str, Label]


def read_labels(file: Path, columns: Sequence[str] = ("label",)) -> LabelTable:
    """Reads a CSV or Parquet of labels.

    Args:
        file: with one of :data:`KEYS` as a column.
        columns: of the label; several are joined by "-". A row that lacks one of them has no label.

    Raises:
        MedaugError: no such file, not readable, the columns are missing, it is empty, a row contradicts another, or
            a split is none of :data:`SIDES`.
    """
    table = _read_table(file)
    key = next((name for name in KEYS if name in table.columns), None)
    lacking = [name for name in columns if name not in table.columns]
    if key is None or lacking:
        wanted = f"{' and '.join(columns)}, and one of {', '.join(KEYS)}"
        raise MedaugError(
            f"labels {file}: has the columns {', '.join(table.columns) or 'none'}; expected file and label"
            if tuple(columns) == ("label",) and key is None
            else f"labels {file}: has the columns {', '.join(table.columns) or 'none'}; expected {wanted}"
        )
    rows: dict[str, Label] = {}
    for row in table.to_dict("records"):
        parts = [row[name] for name in columns]
        if not row[key] or not all(parts):
            continue
        side = row.get("split", "").lower()
        if side and side not in SIDES:
            raise MedaugError(
                f"labels {file}: split {row['split']!r}; expected train, validation or test in the column split"
            )
        label = Label("-".join(parts), row.get("patient", ""), SIDES.get(side, ""))
        if rows.setdefault(row[key], label) != label:
            raise MedaugError(f"labels {file}: {row[key]} {two_labels(rows[row[key]], label)}")
    if not rows:
        raise MedaugError(f"labels {file}: holds no row with both a {key} and a label")
    return LabelTable(file, key, rows)


def _read_table(file: Path) -> pd.DataFrame:
    """All columns as stripped text, "" where empty."""
    try:
        if file.suffix.lower() in (".parquet", ".pq"):
            table = pd.read_parquet(file)
        else:
            text = file.read_text(encoding="utf-8-sig")
            first = text.split("\n", 1)[0]
            # spreadsheets of half of Europe write semicolons
            delimiter = ";" if ";" in first and "," not in first else ","
            table = pd.read_csv(
                io.StringIO(text), sep=delimiter, dtype=str, keep_default_na=False, skipinitialspace=True
            )
    except FileNotFoundError:
        raise MedaugError(f"labels {file}: no such file; expected a CSV with the columns file and label") from None
    except pd.errors.EmptyDataError:
        table = pd.DataFrame()
    except (OSError, ValueError, pa.ArrowException):  # UnicodeDecodeError and the parsers' errors are ValueErrors
        raise MedaugError(f"labels {file}: not readable as UTF-8 text; expected a CSV or Parquet") from None
    table = table.rename(columns=lambda name: str(name).strip())
    return pd.DataFrame(
        {name: ["" if pd.isna(one) else _plain(one) for one in table[name]] for name in table.columns}, dtype=object
    )


def two_labels(one: Label, other: Label) -> str:
    """How a message goes on about what has two rows that differ."""
    if one.name != other.name:
        return f"has two labels, {one.name!r} and {other.name!r}"
    return "has two rows that differ in patient or split; keep one"


def _plain(value: Any) -> str:
    """A cell as text; whole numbers of a float column (one with gaps) without their point."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()


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
