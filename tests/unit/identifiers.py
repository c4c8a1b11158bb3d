"""Planted identifiers, and a search for them in everything that a program leaves behind.

Every planted text begins with :data:`STEM`, every planted UID with :data:`UID_ROOT`, and planted dates lie on days that
nothing else names, so that the search needs no list of what was planted and a new field cannot be forgotten.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import io
import json
import re
import sqlite3
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

STEM = "ZQMARK"
UID_ROOT = "1.2.826.0.1.3680043.9137731"
DATES = ("19370711", "20370713")
ENCODINGS = ("utf-8", "utf-16-le", "utf-16-be")
"""Latin-1 and UTF-8 write the planted texts, which are ASCII, alike; so do JSON, HTML and URLs."""

_WORDS = [STEM.lower(), UID_ROOT.split(".", 4)[4].lower()]
_NUMBERS = [form for date in DATES for form in (date, f"{date[:4]}-{date[4:6]}-{date[6:]}")]
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{16,}={0,2}")
_LIMIT = 2**25


def marker(field: str, number: int | str = "") -> str:
    """A text that stands nowhere unless it was copied from where it was planted."""
    return f"{STEM}{field}{number}"


def uid(*numbers: int) -> str:
    """A planted UID."""
    return ".".join([UID_ROOT, *map(str, numbers)])


def found(data: bytes) -> list[str]:
    """Planted identifiers in these very bytes, each with its surroundings."""
    hits = []
    lowered = data.lower()  # of UTF-16, too, this lowers exactly the ASCII letters
    for encoding in ENCODINGS:
        for word in _WORDS:
            needle = word.encode(encoding)
            start = lowered.find(needle)
            if start >= 0:
                hits.append(_around(data, start, needle))
        for number in _NUMBERS:
            needle = number.encode(encoding)
            for match in re.finditer(re.escape(needle), data):
                # Eight digits in a row turn up in long decimal fractions; a date is a number of its own.
                before, after = data[max(match.start() - 2, 0) : match.start()], data[match.end() : match.end() + 2]
                if not re.search(rb"[0-9.]\x00?$", before) and not re.match(rb"\x00?[0-9]", after):
                    hits.append(_around(data, match.start(), needle))
                    break
    return hits


def search(name: str, data: bytes, depth: int = 0) -> Iterator[str]:
    """Planted identifiers in a file: in its bytes, and in what it holds packed.

    Args:
        name: of the file, for the message.
        data: its bytes.
        depth: how many wrappings it was taken out of.

    Yields:
        "file: surroundings" of each hit.
    """
    for hit in found(data):
        yield f"{name}: {hit}"
    if depth < 4:
        for inner, content in _unpacked(name, data):
            yield from search(f"{name} > {inner}", content, depth + 1)


def search_folder(root: Path, *, without: Path | None = None) -> list[str]:
    """Planted identifiers in all files below a folder, and in the files' and folders' names."""
    hits = []
    for path in sorted(root.rglob("*")):
        if without is not None and (path == without or without in path.parents):
            continue
        relative = path.relative_to(root).as_posix()
        hits += [f"the name {relative}: {hit}" for hit in found(relative.encode("utf-8", "surrogateescape"))]
        if path.is_symlink():
            hits += [f"the link {relative}: {hit}" for hit in found(str(path.readlink()).encode())]
        elif path.is_file():
            hits += search(relative, path.read_bytes())
    return hits


def _unpacked(name: str, data: bytes) -> Iterator[tuple[str, bytes]]:
    if zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            yield "names", "\n".join(archive.namelist()).encode()
            for item in archive.namelist():
                yield item, archive.read(item)
    elif data[:2] == b"\x1f\x8b":
        yield "gunzipped", gzip.decompress(data)
    elif data[:4] == b"PAR1":
        yield "table", _table(data)
    elif data[:15] == b"SQLite format 3":
        yield "dump", _dump(data)
    elif data[:6] == b"\x93NUMPY":
        yield "array", _array(data)
    elif data[:8] == b"\x89PNG\r\n\x1a\n":
        yield from _png_texts(data)
    if len(data) < _LIMIT and b"\x00" not in data[:1024]:
        for number, match in enumerate(_BASE64.finditer(data)):
            decoded = _decoded(match[0])
            if decoded:
                yield f"base64 {number}", decoded
        try:
            text = json.dumps(json.loads(data), ensure_ascii=False)  # \u005a and the like
        except (ValueError, RecursionError):
            return
        if text.encode() != data:
            yield "json", text.encode("utf-8", "surrogatepass")


def _decoded(text: bytes) -> bytes:
    plain = text.translate(bytes.maketrans(b"-_", b"+/")).rstrip(b"=")
    try:
        return base64.b64decode(plain + b"=" * (-len(plain) % 4))
    except binascii.Error:
        return b""


def _table(data: bytes) -> bytes:
    frame = pd.read_parquet(io.BytesIO(data))
    values = [str(value) for column in frame for value in frame[column]]
    return "\n".join([*map(str, frame.columns), *map(str, frame.index), str(frame.attrs), *values]).encode()


def _array(data: bytes) -> bytes:
    values = np.load(io.BytesIO(data), allow_pickle=False)
    return "\n".join(map(str, values.ravel())).encode() if values.dtype.kind in "USO" else b""


def _png_texts(data: bytes) -> Iterator[tuple[str, bytes]]:
    place = 8
    while place + 8 <= len(data):
        length, kind = int.from_bytes(data[place : place + 4], "big"), data[place + 4 : place + 8]
        content = data[place + 8 : place + 8 + length]
        if kind in (b"zTXt", b"iTXt"):
            packed = content.split(b"\0", 1)[1][1:]
            with_text = packed.rsplit(b"\0", 1)[-1] if kind == b"iTXt" else packed
            try:
                yield "png text", zlib.decompress(with_text)
            except zlib.error:
                yield "png text", content
        place += 12 + length


def _dump(data: bytes) -> bytes:
    """Rows as text: a long value is spread over pages in the file."""
    with tempfile.NamedTemporaryFile(suffix=".db") as copy:
        copy.write(data)
        copy.flush()
        connection = sqlite3.connect(copy.name)
        connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
        try:
            tables = [name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")]
            lines = []
            for table in tables:
                for row in connection.execute(f'select * from "{table}"'):
                    values = [value.decode("latin-1") if isinstance(value, bytes) else str(value) for value in row]
                    lines.append("\n".join(values))
        finally:
            connection.close()
    return "\n".join(lines).encode("utf-8", "surrogateescape")


def _around(data: bytes, start: int, needle: bytes) -> str:
    return repr(data[max(start - 60, 0) : start + len(needle) + 60])
