"""Which file has which label: by name, by an identity in its header, by its folder or by a DICOM tag."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pipeline.files import Entry
from pipeline.labels import Label, LabelConfig, LabelTable, first_five, read_labels, two_labels
from pipeline.records import MedaugError
from pipeline.scans import Found
from pipeline.sources import Source
from pipeline.store import file_sha256

IDENTITIES = {
    "SOPInstanceUID": "instance",
    "SeriesInstanceUID": "series",
    "StudyInstanceUID": "study",
    "PatientID": "patient_id",
}
"""Key of a labels' table → attribute of :class:`pipeline.scans.Header`."""


@dataclass(frozen=True)
class Labelling:
    """Where the labels of a source come from; found out before a file is read.

    Attributes:
        by: "file", "identity" (a table that goes by what headers hold), "tag", "folders", or "own" (an npz).
        known: labels by file name, where the names suffice.
        table: where headers are needed.
        tag: keyword of the DICOM attribute that holds the label, or None.
        mapping: label as found → class; None to take labels as they are.
        fingerprint: changes when the labels' file does.
    """

    by: Literal["file", "identity", "tag", "folders", "own"]
    known: Mapping[str, Label]
    table: LabelTable | None
    tag: str | None
    mapping: Mapping[str, str] | None
    fingerprint: str

    def assign(self, entries: Sequence[Entry], found: Sequence[Found]) -> dict[str, Label]:
        """Classes by file name; files without one are absent.

        Args:
            entries: the source's files.
            found: the header pass over them.

        Raises:
            MedaugError: a table that fits none of the headers.
        """
        headers = {entry.name: one.header for entry, one in zip(entries, found, strict=True) if one.header}
        named = self.known
        if self.table is not None:
            attribute = IDENTITIES[self.table.key]
            named = match_identities(self.table, {name: getattr(one, attribute) for name, one in headers.items()})
        elif self.tag is not None:
            named = {name: Label(one.tag) for name, one in headers.items()}
        classes = {name: self.class_of(one.name) for name, one in named.items()}
        return {name: replace(one, name=classes[name]) for name, one in named.items() if classes[name]}

    def class_of(self, label: str) -> str:
        """The class of a label as found, or ""."""
        return label if self.mapping is None else self.mapping.get(label, "")


def open_labels(config: LabelConfig, source: Source, base: Path | None) -> Labelling:
    """Reads the labels, or finds out where they will come from.

    Args:
        config: where the labels are.
        source: whose files they are of.
        base: relative paths start here; None for the current folder.

    Raises:
        MedaugError: there are none, or they do not fit the files.
    """
    if source.kind == "npz":
        if config.by in ("file", "tag", "folders") or config.file:
            raise MedaugError(f"data {source.path}: an npz brings its own labels; leave labels.by and labels.file out")
        return Labelling("own", {}, None, None, config.mapping, "")
    names = [entry.name for entry in source.entries]
    file = source.labels_file
    if config.file is not None:
        given = config.file.expanduser()
        file = given if given.is_absolute() or base is None else base / given
    by = config.by if config.by != "auto" else "file" if file else "tag" if config.tag else "folders"
    if by == "file":
        if file is None:
            raise MedaugError("labels.file: not given; name the CSV with the columns file and label (--labels FILE)")
        table = read_labels(file, config.columns)
        if table.key != "file" and source.kind != "dicom":
            raise MedaugError(f"labels {file}: goes by {table.key}, which images have not; expected the column file")
        fingerprint = file_sha256(file)
        if table.key == "file":
            return Labelling("file", match_files(table, names), None, None, config.mapping, fingerprint)
        return Labelling("identity", {}, table, None, config.mapping, fingerprint)
    if by == "tag":
        if not config.tag or source.kind != "dicom":
            raise MedaugError("labels.tag: expected the keyword of a DICOM attribute, and DICOM files to read it from")
        return Labelling("tag", {}, None, config.tag, config.mapping, "")
    folders = {name: Label(name.split("/")[0]) for name in names if "/" in name}
    if not folders:
        raise MedaugError(f"data {source.path}: no labels; expected a folder for each class, or a CSV (--labels FILE)")
    return Labelling("folders", folders, None, None, config.mapping, "")


def match_files(table: LabelTable, names: Sequence[str]) -> dict[str, Label]:
    """A table that goes by file, by the names of the source's files.

    A row names a file by its path relative to the source. Where there is no such file, one path may be the end of the
    other: the bare file name, or a path that starts above the source.

    Args:
        table: of labels.
        names: the source's files.

    Raises:
        MedaugError: rows that name no file, or several; a file with two labels.
    """
    known = set(names)
    by_base: dict[str, list[str]] = {}
    for name in names:
        by_base.setdefault(name.rsplit("/", 1)[-1], []).append(name)
    matched: dict[str, Label] = {}
    missing = []
    for given, entry in table.rows.items():
        name = given.replace("\\", "/").removeprefix("./")
        alike = [name] if name in known else by_base.get(name.rsplit("/", 1)[-1], [])
        candidates = [one for one in alike if f"/{one}".endswith(f"/{name}") or f"/{name}".endswith(f"/{one}")]
        if not candidates:
            missing.append(given)
            continue
        if len(candidates) > 1:
            raise MedaugError(
                f"labels {table.file}: {given} fits {len(candidates)} files; give paths relative to the data folder"
            )
        if matched.setdefault(candidates[0], entry) != entry:
            raise MedaugError(f"labels {table.file}: {given} {two_labels(matched[candidates[0]], entry)}")
    if missing:
        raise MedaugError(
            f"labels {table.file}: {len(missing)} file(s) named there are not in the data: {first_five(missing)}; "
            "correct the names or remove the rows"
        )
    return matched


def match_identities(table: LabelTable, found: Mapping[str, str]) -> dict[str, Label]:
    """A table that goes by a UID or PatientID, by the names of the source's files.

    Args:
        table: of labels.
        found: file name → the identity that its header holds.

    Raises:
        MedaugError: not one row names what a file holds. Rows that do not are no fault by themselves: such tables cover
            whole archives, and a damaged file does not tell who it is.
    """
    matched = {name: table.rows[value] for name, value in found.items() if value in table.rows}
    if not matched:
        raise MedaugError(
            f"labels {table.file}: none of its {len(table.rows)} {table.key}(s) is in the data; check the column, or "
            "give the labels by file"
        )
    return matched
