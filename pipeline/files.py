"""Files of a source: in folders, lists and archives, listed and read. Light, since worker processes import it.

Three things may be wrong with a file, and they are told apart here:

* it is in order but no image (a pipe, a broken link, far too large): :class:`SetAside`;
* it alone cannot be read (no permission, a bad checksum): :class:`Unreadable`, and the ingest goes on without it;
* the drive or the network fails: an ``OSError`` that ends the ingest, which is tried again. Were it taken for a fault
  of the file, a dropped network drive would quarantine everything behind it without a word.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import zipfile
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Literal

from pipeline.records import MedaugError

MAX_BYTES = 2**31
"""Files above this are refused unread."""

BUFFER = 2**16
"""Bytes fetched at once for a header: most fit, so that a file on a network drive costs one round trip."""

NOT_ORDINARY = "no ordinary file (a broken link, a pipe or a device)"
Refusal = tuple[Literal["set aside", "unreadable"], str]
"""What is known to be wrong with a file before it is opened, and the reason."""

LISTS = {".txt", ".lst"}
LITTER = {".ds_store", "thumbs.db", "desktop.ini"}

GONE = {errno.ENOENT, errno.ENOTDIR}
OF_THE_FILE = GONE | {
    *(errno.EACCES, errno.EPERM, errno.ELOOP, errno.EISDIR, errno.ENXIO),
    *(errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ),
}
"""Errors that speak of one file. All others (EIO, ESTALE, ETIMEDOUT, EMFILE, ...) speak of the machine or the drive."""


class SetAside(Exception):  # noqa: N818
    """A file that is in order but no image of the kind asked for; the text is the reason, without patient data."""


class Unreadable(Exception):  # noqa: N818
    """A file that cannot be read; the text is the reason, without patient data. It is quarantined."""


@dataclass(frozen=True)
class Entry:
    """A file of the source.

    Attributes:
        name: its path relative to the source, with "/" between the parts.
        path: the file itself, or the archive that holds it.
        member: its name in the archive, or None.
        size: bytes.
        modified: modification time in ns (in an archive: what changes with its content).
        archive: what kind of archive holds it, or "".
        offset: in a zip the member's number; in a tar where its data start in the uncompressed stream.
        refusal: what is known to be wrong with it before it is opened, and the reason.
    """

    name: str
    path: Path
    member: str | None
    size: int
    modified: int
    archive: Literal["", "zip", "tar"] = ""
    offset: int = 0
    refusal: Refusal | None = None

    def open(self) -> BinaryIO:
        """The file as a stream that can seek; for a look at the header, as an ordinary file is not read as a whole.

        Raises:
            SetAside: it is too large to be an image of one patient, or no ordinary file.
            Unreadable: this file cannot be read.
            OSError: the drive or the machine fails.
        """
        if self.refusal is not None:
            kind, reason = self.refusal
            raise SetAside(reason) if kind == "set aside" else Unreadable(reason)
        _admit(self.size)
        if self.archive:
            from pipeline.archives import read_member

            return io.BytesIO(read_member(self))
        with _told_apart(self.path):
            status = self.path.stat()
            if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
                raise SetAside(NOT_ORDINARY)
            _admit(status.st_size)
            return self.path.open("rb", buffering=BUFFER)

    def read(self) -> bytes:
        """The file's bytes.

        Raises:
            SetAside: it is too large to be an image of one patient, or no ordinary file.
            Unreadable: this file cannot be read.
            OSError: the drive or the machine fails.
        """
        with self.open() as stream:
            return stream.read()


def _admit(size: int) -> None:
    if size > MAX_BYTES:
        raise SetAside(f"larger than {MAX_BYTES // 2**20} MiB")


@contextmanager
def _told_apart(path: Path) -> Iterator[None]:
    """Faults of one file become :class:`SetAside` or :class:`Unreadable`; those of the drive stay what they are."""
    try:
        yield
    except OSError as error:
        if error.errno not in OF_THE_FILE:
            raise
        if error.errno == errno.ELOOP or (error.errno in GONE and path.is_symlink()):
            raise SetAside(NOT_ORDINARY) from None
        if error.errno in GONE:
            if not _has_content(path.parent):  # a drive that was unmounted leaves an empty folder, or none
                raise
            raise Unreadable("vanished since it was listed") from None
        raise Unreadable(os.strerror(error.errno).lower()) from None


def _has_content(folder: Path) -> bool:
    try:
        with os.scandir(folder) as content:
            return next(content, None) is not None
    except OSError:
        return False


def list_entries(path: Path) -> list[Entry]:
    """All files of a source, no one of them opened.

    The order is by name; in a compressed tar by place, since its stream can only be read forwards. The file system's
    own litter (.DS_Store and the like) is left out of folders and archives.

    Args:
        path: a folder, a zip, a tar (also compressed), a text file that lists files (.txt, .lst), or a DICOMDIR.

    Raises:
        MedaugError: none of these, damaged, or a folder that may not be read.
        OSError: the drive or the machine fails.
    """
    try:
        mode = path.stat().st_mode  # is_dir() and its like take a drive that fails for a no
        if stat.S_ISDIR(mode):
            entries = (entry_of(file.relative_to(path).as_posix(), file) for file in _walk(path))
            return sorted((entry for entry in entries if not is_litter(entry.name)), key=lambda entry: entry.name)
        if stat.S_ISREG(mode):
            if path.suffix.lower() in LISTS:
                return _named_in(path)
            from pipeline.archives import is_tar, list_tar, list_zip

            # A tar first: one that ends with a zip has the marks of both, and no zip has those of a tar.
            if is_tar(path):
                return list_tar(path)
            if zipfile.is_zipfile(path):
                return list_zip(path)
            with path.open("rb") as stream:
                if stream.read(132)[128:] == b"DICM":
                    from pipeline.dicom.directory import list_directory

                    return list_directory(path)
    except OSError as error:
        if error.errno not in OF_THE_FILE:
            raise
        raise MedaugError(f"data {path}: cannot be read ({error.strerror})") from None
    raise MedaugError(
        f"data {path}: not a readable zip or tar; expected a folder, an archive, a list of files (.txt), a DICOMDIR "
        "or an npz"
    )


def _walk(root: Path) -> Iterator[Path]:
    """All files below a folder; linked folders are followed once. An unreadable folder is an error, not empty."""
    seen = set()
    starts = deque([str(root)])
    while starts:  # links come last, so that a folder goes by its own name where it has one in the source
        for folder, below, files in os.walk(starts.popleft(), onerror=_raise):
            real = os.path.realpath(folder)
            if real in seen:
                below.clear()
                continue
            seen.add(real)
            below.sort()
            starts.extend(link for link in (os.path.join(folder, name) for name in below) if os.path.islink(link))  # noqa: PTH114, PTH118
            yield from (Path(folder) / file for file in files)


def _raise(error: OSError) -> None:
    raise error


def entry_of(name: str, file: Path) -> Entry:
    """The entry of a file on disk, whatever it turns out to be."""
    try:
        status = file.stat()
    except OSError as error:
        if error.errno not in OF_THE_FILE:
            raise
        return Entry(name, file, None, 0, 0)  # a broken link, or no permission: the reader will say so
    return Entry(name, file, None, status.st_size, status.st_mtime_ns)


def _named_in(path: Path) -> list[Entry]:
    """The files of a list: one path a line, relative to the list's folder; blank lines and those with # are skipped."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError:
        raise MedaugError(f"data {path}: not readable as UTF-8 text; expected one file's path a line") from None
    folder = Path(os.path.abspath(path.parent))  # noqa: PTH100  (resolve() would follow links, and change the names)
    wanted = (line.strip() for line in lines)
    files = dict.fromkeys(os.path.normpath(folder / line) for line in wanted if line and not line.startswith("#"))
    entries = []
    for file in map(Path, files):
        name = (file.relative_to(folder) if file.is_relative_to(folder) else file).as_posix().lstrip("/")
        entries.append(entry_of(name, file) if is_there(file) else absent(name, file, "listed but not there"))
    return sorted(told_apart(entries), key=lambda entry: entry.name)


def is_there(file: Path) -> bool:
    """Whether there is such a file, even a broken link; a drive that fails is an error and not a no."""
    try:
        file.lstat()
    except ValueError:  # a NUL in the name
        return False
    except OSError as error:
        if error.errno not in OF_THE_FILE:
            raise
        return error.errno not in GONE
    return True


def absent(name: str, file: Path, reason: str) -> Entry:
    """A file that is known of and cannot be had: it counts, and reads as unreadable."""
    return Entry(name, file, None, 0, 0, refusal=("unreadable", reason))


def told_apart(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Entries with names that occur once: the second of a name gets " (2)" behind it."""
    taken: dict[str, int] = {}
    for entry in entries:
        name, number = entry.name, taken.get(entry.name, 0)
        while name in taken:
            number += 1
            name = f"{entry.name} ({number})"
        taken[name] = 1
        taken[entry.name] = max(number, 1)
        yield entry if name == entry.name else replace(entry, name=name)


def is_litter(name: str) -> bool:
    """Whether a file is the file system's own."""
    last = name.rsplit("/", 1)[-1].lower()
    return last in LITTER or last.startswith("._") or name.startswith("__MACOSX/")
