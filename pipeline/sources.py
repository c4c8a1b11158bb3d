"""Where scans come from: folders, archives, lists, discs, npz files, DICOMweb servers, phantoms."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from pipeline.dicom.web import DicomWebConfig, mirror
from pipeline.files import GONE, OF_THE_FILE, Entry, entry_of, list_entries
from pipeline.phantom import write_phantoms
from pipeline.records import MedaugError, Progress
from pipeline.store import canonical_json
from pipeline.versions import code_version

Kind = Literal["dicom", "images", "npz"]
PICTURES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"}
LABELS = ("labels.csv", "labels.parquet")
"""Labels' files that are found by themselves; the first that is there counts."""


class PhantomOptions(BaseModel):
    """What phantoms to make."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    patients: int = Field(default=90, ge=9, description="shared evenly among the classes")
    size: int = Field(default=128, ge=32, le=1024, description="pixels a side")
    seed: int = Field(default=0, ge=0)


class SourceConfig(BaseModel):
    """Where the scans are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Path | None = Field(
        default=None,
        description="folder, zip, tar, list of files (.txt), DICOMDIR or npz; not for a server or phantoms",
    )
    kind: Literal["auto", "dicom", "dicomdir", "images", "npz", "dicomweb", "phantom"] = Field(
        default="auto",
        description="auto looks at the files; dicomdir takes only those that the folder's DICOMDIR lists",
    )
    dicomweb: DicomWebConfig | None = Field(default=None, description="a server to mirror, in place of a path")
    phantom: PhantomOptions = PhantomOptions()


@dataclass(frozen=True)
class Source:
    """A source that has been looked at, no pixel of it read.

    Attributes:
        kind: how to read it.
        path: folder, archive, list, DICOMDIR or npz; the mirror of a server.
        entries: its files, in the order in which they are best read; for an npz none.
        fingerprint: changes when any file does; a hash, from which no name can be read.
        labels_file: the labels that came with the source, or None. Such a file is no entry.
    """

    kind: Kind
    path: Path
    entries: tuple[Entry, ...]
    fingerprint: str
    labels_file: Path | None


def open_source(config: SourceConfig, work: Path, private: Path, base: Path | None, progress: Progress) -> Source:
    """Lists a source.

    Args:
        config: where the scans are.
        work: phantoms are made in a folder under it.
        private: a server's files are kept in a folder under it.
        base: relative paths start here; None for the current folder.
        progress: told how many of a server's files are there.

    Raises:
        MedaugError: there is nothing to read, or it cannot be read.
        OSError: the drive or the machine fails.
    """
    if config.kind == "phantom":
        folder = _make_phantoms(config.phantom, work)
        return _source("dicom", folder / "dicom", list_entries(folder / "dicom"), folder / "labels.csv")
    if config.kind == "dicomweb" or (config.kind == "auto" and config.dicomweb is not None):
        return _open_server(config, private, progress)
    if config.dicomweb is not None:
        raise MedaugError(
            f"source.dicomweb: given, but source.kind is {config.kind}; set it to dicomweb, or leave it out"
        )
    if config.path is None:
        raise MedaugError("source.path: not given; name the folder with the scans (--data DIR)")
    path = config.path.expanduser()
    path = path if path.is_absolute() or base is None else base / path
    try:
        path.stat()
        return _open_path(path, config.kind)
    except OSError as error:
        if error.errno not in OF_THE_FILE:
            raise
        if error.errno in GONE:
            raise MedaugError(
                f"data {path}: no such file or folder; give the folder with the scans (--data DIR)"
            ) from None
        raise MedaugError(f"data {path}: cannot be read ({error.strerror})") from None


def _open_path(path: Path, kind: str) -> Source:
    if path.suffix.lower() == ".npz" and kind in ("auto", "npz"):
        return Source("npz", path, (), _fingerprint([entry_of(path.name, path)]), None)
    if kind == "npz":
        raise MedaugError(f"data {path}: expected a file that ends in .npz")
    if kind == "dicomdir":
        from pipeline.dicom.directory import find_directory, list_directory

        file = find_directory(path) if path.is_dir() else path
        if file is None:
            raise MedaugError(f"data {path}: holds no DICOMDIR; give its folder, or set source.kind: dicom")
        return _source("dicom", file, list_directory(file), None)
    there = [path / name for name in LABELS if path.is_dir() and (path / name).is_file()]
    labels = there[0] if there else None
    entries = [entry for entry in list_entries(path) if entry.path != labels]
    if kind == "auto":
        pictures = sum(Path(entry.name).suffix.lower() in PICTURES for entry in entries)
        kind = "images" if 2 * pictures > len(entries) else "dicom"
    return _source("images" if kind == "images" else "dicom", path, entries, labels)


def _open_server(config: SourceConfig, private: Path, progress: Progress) -> Source:
    if config.dicomweb is None:
        raise MedaugError("source.dicomweb: not given; name the server (source.dicomweb.url)")
    if config.path is not None:
        raise MedaugError(f"source: path {config.path} and dicomweb are both given; keep one of them")
    folder, entries = mirror(config.dicomweb, private, progress)
    if not entries:
        raise MedaugError(
            f"dicomweb {config.dicomweb.url}: lists no instance; check source.dicomweb: filters, study, series"
        )
    return _source("dicom", folder, entries, None)


def _make_phantoms(options: PhantomOptions, work: Path) -> Path:
    made_from = {**options.model_dump(), "code": code_version("pipeline.phantom", "pipeline.dicom.write")}
    name = hashlib.sha256(canonical_json(made_from).encode()).hexdigest()[:16]
    return write_phantoms(work / f"phantoms-{name}", options.patients, options.size, options.seed)


def _source(kind: Kind, path: Path, entries: list[Entry], labels: Path | None) -> Source:
    if not entries:
        raise MedaugError(f"data {path}: holds no file; expected DICOM files or images")
    return Source(kind, path, tuple(entries), _fingerprint(entries), labels)


def _fingerprint(entries: Iterable[Entry]) -> str:
    # repr() and not the texts themselves: a name may hold any character that could stand between two of them.
    digest = hashlib.sha256()
    for entry in entries:
        digest.update(repr((entry.name, entry.size, entry.modified, entry.offset, entry.refusal)).encode())
    return digest.hexdigest()[:32]
