"""Zip and tar archives, read where they lie: nothing is unpacked to disk. Light, since worker processes import it.

What an archive says of itself is not believed: a member yields no more than the size it declares, one that declares a
size out of proportion is not opened, and names serve for labels alone.
"""

from __future__ import annotations

import bz2
import errno
import gzip
import lzma
import os
import posixpath
import stat
import tarfile
import threading
import zipfile
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, cast

from pipeline.files import NOT_ORDINARY, Entry, Refusal, Unreadable, is_litter, told_apart
from pipeline.records import MedaugError

BOMB_RATIO = 200
"""Bytes to one byte of archive; images reach perhaps 20, black ones 100."""

BOMB_MEMBER = 64 * 2**20
"""Members of a zip below this are harmless at any ratio."""

BOMB_TAR = 2**30
"""The same for the whole stream of a compressed tar, which has to be read to be listed."""

CHUNK = 2**20
MOST_HEADER = 16 * 2**20
ENCRYPTED = 0x1 | 0x40 | 0x2000  # flag bits: a password, strong encryption, a masked directory (APPNOTE 4.4.4)
DAMAGED = "damaged in the archive"
COMPRESSIONS: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}

Stamp = tuple[int, int, int]


def safe_name(name: str) -> str:
    """A member's name as a path that starts at the archive and stays in it: ``../../x/./1.dcm`` is ``x/1.dcm``."""
    return posixpath.normpath("/" + name.replace("\\", "/")).strip("/") or "unnamed"


def list_zip(path: Path) -> list[Entry]:
    """The members of a zip, by name.

    Raises:
        MedaugError: its directory is damaged.
        OSError: the drive fails.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = list(enumerate(archive.infolist()))
    except Exception as error:
        _unless_damage(error)
        raise MedaugError(f"data {path}: not a readable zip (its directory is damaged); make it again") from None
    entries = (
        Entry(safe_name(info.filename), path, info.filename, info.file_size, info.CRC, "zip", number, _refusal(info))
        for number, info in members
        if not info.is_dir()
    )
    return sorted(told_apart(entry for entry in entries if not is_litter(entry.name)), key=lambda entry: entry.name)


def _refusal(info: zipfile.ZipInfo) -> Refusal | None:
    if stat.S_ISLNK(info.external_attr >> 16):
        return "set aside", NOT_ORDINARY
    if info.flag_bits & ENCRYPTED:
        return "unreadable", "encrypted in the archive"
    if info.file_size > BOMB_MEMBER and info.file_size > BOMB_RATIO * info.compress_size:
        return "unreadable", "expands beyond reason"
    return None


def is_tar(path: Path) -> bool:
    """Whether a file begins as a tar does, compressed or not.

    Not ``tarfile.is_tarfile``: that reads a header of any size into memory.

    Raises:
        OSError: the drive fails.
    """
    try:
        with _uncompressed(path) as stream:
            tarfile.open(fileobj=cast(IO[bytes], _Bounded(stream, BOMB_TAR)), mode="r:").close()
    except _BeyondReasonError:
        return True
    except Exception as error:
        _unless_damage(error)
        return False
    return True


def list_tar(path: Path) -> list[Entry]:
    """The members of a tar: by name, or by place where it is compressed.

    A tar has no directory: a compressed one is decompressed once, from end to end, which also checks its checksum.

    Raises:
        MedaugError: damaged or cut short, so that nobody knows what it held, or a bomb.
        OSError: the drive fails.
    """
    status = path.stat()
    entries: list[Entry] = []
    try:
        with _uncompressed(path) as stream:
            bounded = _Bounded(stream, max(BOMB_RATIO * status.st_size, BOMB_TAR))
            with tarfile.open(fileobj=cast(IO[bytes], bounded), mode="r:") as archive:
                while (info := archive.next()) is not None:
                    cast(Any, archive).members.clear()  # or a million of them would stay in memory
                    if not info.isdir():
                        entries.append(_tar_entry(path, info, status.st_mtime_ns))
            # A damaged header ends tarfile's list as silently as the blocks of zeros that should.
            if bounded.last.strip(b"\0"):
                raise tarfile.ReadError
            compressed = isinstance(stream, gzip.GzipFile | bz2.BZ2File | lzma.LZMAFile)
            while compressed and bounded.read(CHUNK):
                pass
    except _BeyondReasonError:
        raise MedaugError(f"data {path}: a tar that expands beyond reason; unpack it, and give the folder") from None
    except Exception as error:
        _unless_damage(error)
        raise MedaugError(f"data {path}: a damaged or incomplete tar; make it again, or give its folder") from None
    named = told_apart(entry for entry in entries if not is_litter(entry.name))
    return list(named) if compressed else sorted(named, key=lambda entry: entry.name)


def _tar_entry(path: Path, info: tarfile.TarInfo, modified: int) -> Entry:
    refusal: Refusal | None = None
    if not info.isreg():  # a link might lead anywhere
        refusal = "set aside", NOT_ORDINARY
    elif info.issparse():
        refusal = "unreadable", "stored with holes in the archive"
    return Entry(safe_name(info.name), path, info.name, info.size, modified, "tar", info.offset_data, refusal)


class _BeyondReasonError(Exception):
    pass


def _unless_damage(error: Exception) -> None:
    """Raises what is no fault of the data: the zip and tar modules and the decompressors raise whatever they like.

    Damage comes as an ``OSError`` too, without a number or with that of a seek before the start of the file.
    """
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)):
        raise error


class _Bounded:
    """What tarfile needs of a stream, up to a limit; remembers the last piece read."""

    def __init__(self, stream: IO[bytes], limit: int) -> None:
        self.stream, self.limit, self.last = stream, limit, b""

    def read(self, size: int) -> bytes:
        if size > MOST_HEADER or self.stream.tell() > self.limit:  # a list is made of headers alone
            raise _BeyondReasonError
        self.last = self.stream.read(size)
        return self.last

    def seek(self, place: int) -> int:
        if place > self.limit:
            raise _BeyondReasonError
        return self.stream.seek(place)

    def tell(self) -> int:
        return self.stream.tell()


def _uncompressed(path: Path) -> IO[bytes]:
    with path.open("rb") as stream:
        head = stream.read(6)
    for magic, opener in COMPRESSIONS.items():
        if head.startswith(magic):
            return cast(IO[bytes], opener(path))
    return path.open("rb")


def read_member(entry: Entry) -> bytes:
    """The bytes of a member.

    Raises:
        Unreadable: this member is damaged.
        OSError: the drive fails, or the archive is no longer the one that was listed.
    """
    status = entry.path.stat()
    stamp = (status.st_mtime_ns, status.st_ino, status.st_size)
    try:
        data = (_read_zip if entry.archive == "zip" else _read_tar)(entry, stamp)
    except Exception as error:
        _unless_damage(error)
        if isinstance(error, NotImplementedError):
            raise Unreadable("compressed by a method that cannot be read here") from None
        raise Unreadable(DAMAGED) from None
    if len(data) != entry.size:
        raise Unreadable(DAMAGED)
    return data


def _read_zip(entry: Entry, stamp: Stamp) -> bytes:
    archive = _open_zip(entry.path, stamp, os.getpid())
    members = archive.infolist()
    info = members[entry.offset] if entry.offset < len(members) else None
    if info is None or (info.filename, info.file_size, info.CRC) != (entry.member, entry.size, entry.modified):
        raise _changed(entry.path)
    data = bytearray()
    with archive.open(info) as stream:  # in pieces: asked for everything, zipfile inflates everything there is
        while piece := stream.read(CHUNK):
            data += piece
    return bytes(data)


def _read_tar(entry: Entry, stamp: Stamp) -> bytes:
    if stamp[0] != entry.modified:
        raise _changed(entry.path)
    stream, lock = _open_tar(entry.path, stamp, os.getpid())
    try:
        with lock:
            stream.seek(entry.offset)
            return stream.read(entry.size)
    except Exception:
        _open_tar.cache_clear()  # a decompressor that failed once stays where it is
        raise


def _changed(path: Path) -> OSError:
    # Not a fault of the member: the ingest has to begin anew, with a new list.
    return OSError(errno.ESTALE, "the archive changed while it was read", str(path))


# One open archive a process: the process is part of the key, since a fork would share the place in the file, and the
# stamp, since a process that lives for days meets another archive under the same name.


@lru_cache(maxsize=4)
def _open_zip(path: Path, stamp: Stamp, process: int) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


@lru_cache(maxsize=4)
def _open_tar(path: Path, stamp: Stamp, process: int) -> tuple[IO[bytes], threading.Lock]:
    return _uncompressed(path), threading.Lock()
