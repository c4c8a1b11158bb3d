"""What a JPEG, JPEG-LS or JPEG 2000 codestream says of itself, looked at before any decoder sees it."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from pipeline.dicom.codecs import DecodeError, Stored
from pipeline.dicom.fragments import END

TILE_PART, COMMENT = b"\xff\x90", b"\xff\x64"


@dataclass(frozen=True, slots=True)
class CodeHeader:
    """What a codestream says of itself: size, samples, bits a sample; where its first scan (JPEG 2000: it) begins."""

    rows: int
    columns: int
    samples: int
    precision: int
    scan: int


def check_codestream(stored: Stored, head: CodeHeader) -> None:
    """Refuses a codestream of another size before a decoder makes room for it (or folds it into the file's shape)."""
    if (head.rows, head.columns, head.samples) != (stored.rows, stored.columns, stored.samples):
        raise DecodeError(
            f"expected {stored.rows} x {stored.columns} x {stored.samples}, "
            f"found {head.rows} x {head.columns} x {head.samples} in the codestream"
        )
    if head.precision > stored.allocated:
        raise DecodeError(f"expected {stored.allocated} bits, found {head.precision} in the codestream")


def jpeg_header(code: bytes) -> CodeHeader:
    """From the frame header (ISO 10918-1 B.2.2; JPEG-LS: 14495-1 C.2.2)."""
    at, head = 2, None
    while code[:2] == b"\xff\xd8" and at + 4 <= len(code) and code[at] == 0xFF:
        marker, length = code[at + 1], int.from_bytes(code[at + 2 : at + 4], "big")
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if marker == 0xDA and head:
            return CodeHeader(*head, at)
        if (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)) or marker == 0xF7:
            precision, rows, columns, samples = struct.unpack_from(">BHHB", code.ljust(at + 10), at + 4)
            head = (rows, columns, samples, precision)
        at += 2 + length
    raise DecodeError("no frame header in the codestream")


def wavelet_header(code: bytes) -> CodeHeader:
    """From the image and tile size marker (ISO 15444-1 A.5.1), in a bare codestream or a JP2 file."""
    start = code.find(b"\xff\x4f\xff\x51") if code[4:8] == b"jP  " or code[:2] == b"\xff\x4f" else -1
    if start < 0 or len(code) < start + 43:
        raise DecodeError("no frame header in the codestream")
    columns, rows, left, top = struct.unpack_from(">4I", code, start + 8)
    return CodeHeader(
        rows - top,
        columns - left,
        int.from_bytes(code[start + 40 : start + 42], "big"),
        (code[start + 42] & 0x7F) + 1,
        start,
    )


def whole_tiles(code: bytes, start: int) -> bytes:
    """The codestream (from ``start`` on) with its end marker right behind its last tile part (ISO 15444-1 A.4.2).

    Some writers put a comment or nothing there, over which all decoders stumble.

    Raises:
        DecodeError: a tile part is longer than what is left.
    """
    at, parts = start + 2, 0
    while at <= len(code) - 4 and code[at] == 0xFF and code[at + 1] not in (0x90, 0xD9):  # the main header
        at += 2 + int.from_bytes(code[at + 2 : at + 4], "big")
    while code[at : at + 2] == TILE_PART:
        length = int.from_bytes(code[at + 6 : at + 10], "big")
        if length == 0:  # the last one, of unknown length
            if code.find(END, at) < 0:
                raise DecodeError("codestream cut off: no end marker")
            return code
        at, parts = at + max(length, 2), parts + 1
    if at > len(code):
        raise DecodeError(f"codestream cut off: expected {at + 2} bytes, found {len(code)}")
    end = at
    while code[end : end + 2] == COMMENT:
        end += 2 + int.from_bytes(code[end + 2 : end + 4], "big")
    ends = code[end : end + 2] == END if end > at else not code[at:].strip(b"\0\xff")
    return code[:at] + END if parts and ends else code
