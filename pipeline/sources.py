"""Where scans and their labels come from: a DICOM folder or zip, an image folder, an npz file, phantoms."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from pipeline.labels import LabelConfig, match_labels, read_labels
from pipeline.phantom import write_phantoms
from pipeline.records import MedaugError
from pipeline.scans import Entry
from pipeline.store import canonical_json, code_version, file_sha256

Kind = Literal["dicom", "images", "npz"]
PICTURES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"}
NOISE = {".ds_store", "thumbs.db", "desktop.ini"}


class PhantomOptions(BaseModel):
    """What phantoms to make."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    patients: int = Field(default=90, ge=9, description="shared evenly among the classes")
    size: int = Field(default=128, ge=32, le=1024, description="pixels a side")
    seed: int = Field(default=0, ge=0)


class SourceConfig(BaseModel):
    """Where the scans are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Path | None = Field(default=None, description="folder, zip or npz; not for phantoms")
    kind: Literal["auto", "dicom", "images", "npz", "phantom"] = "auto"
    phantom: PhantomOptions = PhantomOptions()


@dataclass(frozen=True)
class Source:
    """A source that has been looked at, no pixel of it read.

    Attributes:
        kind: how to read it.
        path: folder, zip or npz.
        entries: its files by name; for an npz none.
        labels_by: "file", "tag", "folders" or "own" (an npz brings its labels).
        labels: file name → label as found, for "file" and "folders".
        fingerprint: changes when any file does.
        labels_fingerprint: changes when the labels' file does.
    """

    kind: Kind
    path: Path
    entries: tuple[Entry, ...]
    labels_by: Literal["file", "tag", "folders", "own"]
    labels: dict[str, str]
    fingerprint: str
    labels_fingerprint: str


def open_source(config: SourceConfig, labels: LabelConfig, work: Path, base: Path | None) -> Source:
    """Lists a source and reads its labels.

    Args:
        config: where the scans are.
        labels: where their labels are.
        work: phantoms are made in a folder under it.
        base: relative paths start here; None for the current folder.

    Raises:
        MedaugError: there is nothing to read, or the labels do not fit.
    """
    label_file = labels.file
    if config.kind == "phantom":
        options = config.phantom
        made_from = {**options.model_dump(), "code": code_version("pipeline.phantom", "pipeline.dicom.write")}
        name = hashlib.sha256(canonical_json(made_from).encode()).hexdigest()[:16]
        folder = write_phantoms(work / f"phantoms-{name}", options.patients, options.size, options.seed)
        path, kind, label_file = folder / "dicom", "dicom", label_file or folder / "labels.csv"
    else:
        if config.path is None:
            raise MedaugError("source.path: not given; name the folder with the scans (--data DIR)")
        path, kind = _resolve(config.path, base), config.kind
    if not path.exists():
        raise MedaugError(f"data {path}: no such file or folder; give the folder with the scans (--data DIR)")
    if path.suffix.lower() == ".npz" and kind in ("auto", "npz"):
        stat = path.stat()
        if labels.by in ("file", "tag", "folders") or label_file:
            raise MedaugError(f"data {path}: an npz brings its own labels; leave labels.by and labels.file out")
        own = _fingerprint([Entry(path.name, path, None, stat.st_size, stat.st_mtime_ns)])
        return Source("npz", path, (), "own", {}, own, "")
    if kind == "npz":
        raise MedaugError(f"data {path}: expected a file that ends in .npz")
    if label_file is None and labels.by in ("auto", "file") and path.is_dir() and (path / "labels.csv").is_file():
        label_file = path / "labels.csv"
    label_file = None if label_file is None else _resolve(label_file, base)
    entries = [entry for entry in list_entries(path) if entry.member is not None or not _same(entry.path, label_file)]
    if not entries:
        raise MedaugError(f"data {path}: holds no file; expected DICOM files or images")
    if kind == "auto":
        pictures = sum(Path(entry.name).suffix.lower() in PICTURES for entry in entries)
        kind = "images" if 2 * pictures > len(entries) else "dicom"
    by = labels.by if labels.by != "auto" else "file" if label_file else "tag" if labels.tag else "folders"
    found: dict[str, str] = {}
    labels_fingerprint = ""
    if by == "file":
        if label_file is None:
            raise MedaugError("labels.file: not given; name the CSV with the columns file and label (--labels FILE)")
        found = match_labels(read_labels(label_file), [entry.name for entry in entries], label_file)
        labels_fingerprint = file_sha256(label_file)
    elif by == "folders":
        found = {entry.name: entry.name.split("/")[0] for entry in entries if "/" in entry.name}
        if not found:
            raise MedaugError(f"data {path}: no labels; expected a folder for each class, or a CSV (--labels FILE)")
    elif not labels.tag or kind != "dicom":
        raise MedaugError("labels.tag: expected the keyword of a DICOM attribute, and DICOM files to read it from")
    return Source(
        "images" if kind == "images" else "dicom",
        path,
        tuple(entries),
        by,
        found,
        _fingerprint(entries),
        labels_fingerprint,
    )


def list_entries(path: Path) -> list[Entry]:
    """All files of a folder tree or zip, by name; the file system's own litter (.DS_Store and the like) left out.

    Raises:
        MedaugError: an ordinary file that is no zip, a damaged zip, or a folder that cannot be read.
    """
    entries: list[Entry] = []
    try:
        if path.is_dir():
            entries = [_entry(path, file) for file in _walk(path)]
        else:
            with zipfile.ZipFile(path) as archive:
                for item in archive.infolist():
                    if not item.is_dir():
                        entries.append(Entry(item.filename, path, item.filename, item.file_size, item.CRC))
    except zipfile.BadZipFile:
        raise MedaugError(f"data {path}: not a readable zip; expected a folder, a zip or an npz") from None
    except OSError as error:
        raise MedaugError(f"data {path}: cannot be read ({error.strerror})") from None
    return sorted((entry for entry in entries if not _litter(entry.name)), key=lambda entry: entry.name)


def _walk(root: Path) -> Iterator[Path]:
    """All files below a folder; linked folders are followed once. An unreadable folder is an error, not empty."""
    seen = set()
    for folder, below, files in os.walk(root, followlinks=True, onerror=_raise):
        real = os.path.realpath(folder)
        if real in seen:
            below.clear()
            continue
        seen.add(real)
        yield from (Path(folder) / file for file in files)


def _raise(error: OSError) -> None:
    raise error


def _entry(root: Path, file: Path) -> Entry:
    try:
        stat = file.stat()
        size, modified = stat.st_size, stat.st_mtime_ns
    except OSError:  # a broken link: the reader will say so
        size = modified = 0
    return Entry(file.relative_to(root).as_posix(), file, None, size, modified)


@dataclass(frozen=True)
class NpzImages:
    """A MedMNIST file (train_images, train_labels, val_..., test_...), opened.

    Attributes:
        images: uint8 [n, H, W] or [n, H, W, 3] of each split in the order of :data:`pipeline.records.SPLITS`.
        labels: int64 [n] of each split.
    """

    images: tuple[NDArray[np.integer], ...]
    labels: tuple[NDArray[np.int64], ...]


def open_npz(path: Path) -> NpzImages:
    """Reads a MedMNIST npz; labels may have shape (N,) or (N, 1).

    Raises:
        MedaugError: damaged, an array is missing, or shapes that do not fit.
    """
    images, labels = [], []
    try:
        with np.load(path, allow_pickle=False) as arrays:
            for part in ("train", "val", "test"):
                picture, label = arrays[f"{part}_images"], arrays[f"{part}_labels"]
                flat = label.reshape(len(label), -1)
                if flat.shape[1] != 1 or not np.issubdtype(label.dtype, np.integer):
                    raise MedaugError(
                        f"data {path}: {part}_labels has shape {label.shape}, expected one integer an image"
                    )
                grey = picture.ndim == 3 or (picture.ndim == 4 and picture.shape[3] == 3)
                if not grey or len(picture) != len(label) or picture.dtype not in (np.uint8, np.uint16):
                    raise MedaugError(
                        f"data {path}: {part}_images is {picture.dtype} {picture.shape}, "
                        "expected uint8 or uint16 [N, H, W] or [N, H, W, 3] with as many labels"
                    )
                images.append(picture)
                labels.append(flat[:, 0].astype(np.int64))
    except KeyError as error:
        raise MedaugError(
            f"data {path}: {str(error.args[0])[:60]}; expected MedMNIST's arrays (train_images, ...)"
        ) from None
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        if isinstance(error, MedaugError):
            raise
        raise MedaugError(f"data {path}: not a readable npz") from None
    return NpzImages(tuple(images), tuple(labels))


def _resolve(path: Path, base: Path | None) -> Path:
    path = path.expanduser()
    return path if path.is_absolute() or base is None else base / path


def _same(path: Path, other: Path | None) -> bool:
    return other is not None and path.name == other.name and path.resolve() == other.resolve()


def _litter(name: str) -> bool:
    last = name.rsplit("/", 1)[-1].lower()
    return last in NOISE or last.startswith("._") or name.startswith("__MACOSX/")


def _fingerprint(entries: Iterable[Entry]) -> str:
    lines = "\n".join(f"{entry.name}\0{entry.size}\0{entry.modified}" for entry in entries)
    return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()[:32]
