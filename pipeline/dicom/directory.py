"""The DICOMDIR of a disc or an export (PS3.3 F, PS3.10 8): which image files it lists."""

from __future__ import annotations

import os
import warnings
from functools import cache
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from pipeline.files import GONE, Entry, absent, entry_of, told_apart
from pipeline.records import MedaugError

INACTIVE = 0
"""Record In-use Flag of a record that was deleted without rewriting the file (PS3.3 F.3.2.2)."""


def list_directory(path: Path) -> list[Entry]:
    """The files that a DICOMDIR's IMAGE records name, by name.

    Discs are often copied with other cases than ISO 9660's upper one, and with its version numbers (``;1``): both are
    looked past where the exact name is not there.

    Args:
        path: the DICOMDIR; its file IDs start in its folder.

    Raises:
        MedaugError: no DICOMDIR, or a damaged one.
        OSError: the drive fails.
    """
    folder = path.parent
    inside = os.path.realpath(folder)
    on_disk = cache(_content)
    entries = []
    for parts in dict.fromkeys(_file_ids(path)):
        name = "/".join(part for part in parts if part not in ("", "..")).replace("\0", "") or "unnamed"
        if _leads_out(parts):
            entries.append(absent(name, folder / name, "listed outside the folder"))
            continue
        file: Path | None = folder
        for part in parts:
            file = None if file is None else on_disk(file).get(part) or on_disk(file).get(_folded(part))
        if file is None:
            entries.append(absent(name, folder / name, "listed in the DICOMDIR but not there"))
        elif not os.path.realpath(file).startswith(inside.rstrip("/") + "/"):
            entries.append(absent(name, folder / name, "listed outside the folder"))  # by a link
        else:
            entries.append(entry_of(file.relative_to(folder).as_posix(), file))
    unique = {entry.path: entry for entry in entries}  # two records of one file, in two cases
    return sorted(told_apart(unique.values()), key=lambda entry: entry.name)


def find_directory(folder: Path) -> Path | None:
    """The DICOMDIR at the top of a folder, in whatever case."""
    return _content(folder).get(_folded("DICOMDIR"))


def _file_ids(path: Path) -> list[tuple[str, ...]]:
    """Referenced File ID (0004,1500) of each IMAGE record, in parts."""
    problem = f"data {path}: no readable DICOMDIR; give the file named DICOMDIR, or its folder with source.kind: dicom"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's remarks quote values
            records: Any = dcmread(path).get("DirectoryRecordSequence")
            if records is None:
                raise MedaugError(problem)
            return [_parts(record) for record in records if _is_image(record)]
    except MemoryError:
        raise
    except Exception as error:  # pydicom raises whatever it likes, and its texts quote values
        if isinstance(error, MedaugError) or (isinstance(error, OSError) and error.errno is not None):
            raise
        raise MedaugError(problem) from None


def _is_image(record: Dataset) -> bool:
    return (
        str(record.get("DirectoryRecordType", "")).strip() == "IMAGE"
        and record.get("RecordInUseFlag") != INACTIVE
        and bool(record.get("ReferencedFileID"))
    )


def _parts(record: Dataset) -> tuple[str, ...]:
    """The parts of a file ID; some writers put a whole path with slashes into one. An absolute one begins with ""."""
    value = record.ReferencedFileID
    components = value if isinstance(value, MultiValue) else [value]
    parts = [part.strip() for component in components for part in str(component).split("/")]
    return (*parts[:1], *(part for part in parts[1:] if part not in ("", ".")))


def _leads_out(parts: tuple[str, ...]) -> bool:
    return parts[0] == "" or any(part == ".." or "\0" in part for part in parts)


def _content(folder: Path) -> dict[str, Path]:
    """Exact name → file, and folded name → file (the first of those that differ by case alone)."""
    try:
        with os.scandir(folder) as content:
            names = sorted(item.name for item in content)
    except OSError as error:
        if error.errno not in GONE:
            raise
        return {}
    folded: dict[str, Path] = {}
    for name in names:
        folded.setdefault(_folded(name), folder / name)
    return folded | {name: folder / name for name in names}


def _folded(name: str) -> str:
    # Upper case cannot clash with the exact names of other files: those win in the union above.
    return name.partition(";")[0].rstrip(".").upper()
