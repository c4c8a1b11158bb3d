"""Compressed frames of DICOM files to arrays: which decoder reads which transfer syntax, and what it may not swallow.

A frame is a codestream in the items of the pixel data element (PS3.5 A.4). Decoders differ in speed and in honesty:
some turn half a codestream into half an image without a word. So the codestream's own header and end are looked at
before any decoder sees it, and decoders that hide damage are not asked where one that notices is at hand.
"""

from __future__ import annotations

import logging
import os
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom.pixels import convert_color_space, get_decoder
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
    UID_dictionary,
)

from pipeline.dicom.codecs import (
    DEFLATED_FRAMES,
    UNDEFINED,
    DecodeError,
    Stored,
    arranged,
    frame_values,
    pixel_options,
    significant,
)

JPEG = (JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1, JPEGLSLossless, JPEGLSNearLossless)
WAVELET = (JPEG2000Lossless, JPEG2000, HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K)

PREFERRED: dict[str, tuple[str, ...]] = {
    JPEGBaseline8Bit: ("turbo", "gdcm", "pylibjpeg"),
    JPEGExtended12Bit: ("turbo", "gdcm", "pylibjpeg"),
    JPEGLossless: ("turbo", "gdcm", "pylibjpeg"),
    JPEGLosslessSV1: ("turbo", "gdcm", "pylibjpeg"),
    JPEGLSLossless: ("pyjpegls", "gdcm"),
    JPEGLSNearLossless: ("pyjpegls", "gdcm"),
    JPEG2000Lossless: ("openjpeg", "pylibjpeg", "gdcm"),
    JPEG2000: ("openjpeg", "pylibjpeg", "gdcm"),
    HTJ2KLossless: ("openjpeg", "pylibjpeg"),
    HTJ2KLosslessRPCL: ("openjpeg", "pylibjpeg"),
    HTJ2K: ("openjpeg", "pylibjpeg"),
    RLELossless: ("packbits",),
}
"""Decoders of each transfer syntax in the order they are tried, by speed (`tests/benchmarks/bench_decoders.py`).

"turbo", "openjpeg" and "packbits" are imagecodecs', the other names pydicom's plugins. Plugins that are not named here
come last, if they are not refused. OpenJPH, the fastest for HTJ2K, is left out: it fills in what is missing.
"""

OF_ONE_SAMPLE = ("turbo", "openjpeg")
"""Decoders for grey images alone: colour goes to pydicom's plugins, which know all about it."""

REFUSED: dict[str, frozenset[str]] = {
    # turns damaged codestreams, which CharLS recognises, into images
    JPEGLSLossless: frozenset({"pylibjpeg"}),
    JPEGLSNearLossless: frozenset({"pylibjpeg"}),
    # offsets signed codestreams in unsigned files by half the range, and is OpenJPEG as are the others
    JPEG2000Lossless: frozenset({"pillow"}),
    JPEG2000: frozenset({"pillow"}),
    # one panics on damaged segments (no Exception, and prints), the other takes them for padding
    RLELossless: frozenset({"pylibjpeg", "pydicom"}),
}

THREADS = 2
"""Of OpenJPEG for a frame: they help a file that is read alone and cost nothing where workers fill the cores."""

RLE_PADDING = 64
"""Bytes that a run length encoded segment may hold beyond its pixels: some writers pad."""

ITEM, DELIMITER = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
END, TILE_PART, COMMENT = b"\xff\xd9", b"\xff\x90", b"\xff\x64"


def compressed_frames(stored: Stored, data: bytes | memoryview) -> Iterator[NDArray[Any]]:
    """Decoded frames of a file with encapsulated pixels, one at a time.

    Args:
        stored: how and where.
        data: the whole file.

    Yields:
        As :func:`pipeline.dicom.codecs.stored_frames`.

    Raises:
        DecodeError: no decoder reads them.
    """
    if stored.syntax not in (*PREFERRED, DEFLATED_FRAMES):
        raise DecodeError(f"no decoder for {_name(stored)}")
    for code in encoded_frames(stored, data):
        yield decode(stored, code)


def encoded_frames(stored: Stored, data: bytes | memoryview) -> Iterator[bytes]:
    """Codestreams, one a frame, from the items of the pixel data element (PS3.5 A.4).

    Offset tables are believed only where they point at items: many writers leave them empty or get them wrong.

    Args:
        stored: how and where.
        data: the whole file.

    Yields:
        As many as the file has frames; items beyond these are left alone.

    Raises:
        DecodeError: items are damaged or too few.
    """
    view = memoryview(data)
    (first, last), *items = _items(view, stored)
    basic = np.frombuffer(view[first : last - (last - first) % 4], "<u4").tolist()
    extended = stored.extended[0] if stored.extended else b""
    tables = [np.frombuffer(extended[: len(extended) // 8 * 8], "<u8").tolist(), basic]
    numbers = {start - last - 8: number for number, (start, _) in enumerate(items)}  # by offset behind the first table
    for frame in _grouped(stored, view, items, [[numbers.get(offset, -1) for offset in table] for table in tables]):
        yield b"".join(view[start:end] for start, end in frame)


Item = tuple[int, int]


def _items(view: memoryview, stored: Stored) -> list[Item]:
    """Start and end of the value of every item that has one, behind those of the Basic Offset Table."""
    at, items = stored.offset, []
    stop = len(view) if stored.length == UNDEFINED else min(len(view), stored.offset + stored.length)
    while at + 8 <= stop and view[at : at + 4] != DELIMITER:  # without a delimiter whole items are still whole
        if view[at : at + 4] != ITEM:
            raise DecodeError("encapsulated pixel data without an item where one should be")
        length = int.from_bytes(view[at + 4 : at + 8], "little")
        if length > stop - at - 8:
            raise DecodeError(f"encapsulated pixel data cut off: expected {length} bytes, found {stop - at - 8}")
        items.append((at + 8, at + 8 + length))
        at += 8 + length
    if all(start == end for start, end in items[1:]):
        raise DecodeError("no frame in the pixel data")
    return [items[0], *((start, end) for start, end in items[1:] if end > start)]


def _grouped(stored: Stored, view: memoryview, items: list[Item], tables: list[list[int]]) -> list[list[Item]]:
    """The items of each frame.

    Args:
        stored: how many frames, and the syntax.
        view: the file.
        items: at least one.
        tables: the number of each frame's first item as each offset table has it; -1 where it points at none.
    """
    frames = stored.frames
    if len(items) < frames:
        raise DecodeError(f"expected {frames} frames, found {len(items)} fragments")
    if len(items) == frames:  # whatever the tables say, no frame is without a fragment
        return [[item] for item in items]
    if frames == 1:
        return [items]
    for table in tables:
        edges = [*table, len(items)]
        if len(table) == frames and table[0] == 0 and all(left < right for left, right in pairwise(edges)):
            return [items[left:right] for left, right in pairwise(edges)]
    if stored.syntax in (RLELossless, DEFLATED_FRAMES):  # never more than one fragment a frame (A.4.2)
        return [[item] for item in items[:frames]]
    groups: list[list[Item]] = [[]]
    for start, end in items:
        groups[-1].append((start, end))
        if END in bytes(view[max(start, end - 10) : end]):
            groups.append([])
    groups = [group for group in groups if group]
    if len(groups) < frames:
        raise DecodeError(f"expected {frames} frames, found {len(groups)} ends of codestreams")
    return groups[:frames]


def decode(stored: Stored, code: bytes) -> NDArray[Any]:
    """One frame by the first decoder that can.

    Args:
        stored: how.
        code: the frame's codestream.

    Returns:
        [H, W], or [H, W, 3] RGB.

    Raises:
        DecodeError: the codestream is damaged, contradicts the file's header, or no decoder reads it.
    """
    if stored.syntax == DEFLATED_FRAMES:
        return _inflated(stored, code)
    names, reason = decoders(stored), ""
    if stored.syntax in JPEG:
        head = _jpeg_header(code)
        _check(stored, head)
        if code.find(END, head.scan) < 0:  # cut off, or whole but for its end: gdcm alone can tell, and quickly
            names, reason = [name for name in names if name == "gdcm"], "codestream cut off: no end marker"
    elif stored.syntax in WAVELET:
        head = _wavelet_header(code)
        _check(stored, head)
        code = _whole_tiles(code, head.scan)
    for name in names:
        try:
            return decode_with(name, stored, code)
        except DecodeError as error:
            reason = reason or str(error)
        except Exception as error:  # decoders raise whatever they like, and their texts may quote the header
            reason = reason or type(error).__name__
    raise DecodeError(f"pixels do not decode ({_name(stored)}; {reason})")


def _name(stored: Stored) -> str:
    """The syntax in words, never in the file's own."""
    return UID_dictionary.get(stored.syntax, ("this transfer syntax",))[0]


def decoders(stored: Stored) -> list[str]:
    """Names for :func:`decode_with`, the fastest first."""
    first = [name for name in PREFERRED[stored.syntax] if name not in OF_ONE_SAMPLE or stored.samples == 1]
    refused = REFUSED.get(stored.syntax, frozenset())
    rest = [name for name in get_decoder(stored.syntax).available_plugins if name not in refused]
    return [*first, *(name for name in rest if name not in first)]


def decode_with(name: str, stored: Stored, code: bytes) -> NDArray[Any]:
    """One frame by this decoder.

    Args:
        name: "turbo", "openjpeg", "packbits" or a plugin of pydicom's.
        stored: how.
        code: the frame's codestream.

    Raises:
        Exception: whatever it raises.
    """
    if name == "turbo":
        return _turbo(stored, code)
    if name == "openjpeg":
        return _openjpeg(stored, code)
    if name == "packbits":
        return _packbits(stored, code)
    # As one frame of its own: iter_array carries what a plugin changed from one frame to the next and fails on the
    # read-only buffers of some; as_array decodes into memory of its own.
    item = b"".join((ITEM, bytes(4), ITEM, struct.pack("<I", len(code)), code))
    options = pixel_options(stored) | {"planar_configuration": 0, "validate": False, "decoding_plugin": name}
    with _quiet(), _muted() if name == "gdcm" else nullcontext():
        values, _ = get_decoder(stored.syntax).as_array(item, **options)
    return values


@contextmanager
def _quiet() -> Iterator[None]:
    """Neither pydicom's remarks nor its tracebacks: a decoder that fails is no news while another one follows."""
    logger = logging.getLogger("pydicom")
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            logger.setLevel(level)


@contextmanager
def _muted() -> Iterator[None]:
    """Standard error to nowhere: gdcm's libraries write what they dislike there, past Python."""
    with _STANDARD_ERROR:
        kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            os.close(nowhere)


_STANDARD_ERROR = threading.Lock()


def _turbo(stored: Stored, code: bytes) -> NDArray[Any]:
    """One-sample JPEG of any process and precision by libjpeg-turbo, as stored values of the file's type."""
    values = imagecodecs.jpeg8_decode(code).astype(f"u{stored.allocated // 8}", copy=False)
    if stored.syntax == JPEGExtended12Bit and not stored.signed:
        values = np.minimum(values, 2**stored.bits - 1)  # lossy overshoot, which masking would turn from white to black
    values = values.reshape(stored.rows, stored.columns)
    return significant(stored, values.view(f"i{stored.allocated // 8}") if stored.signed else values)


def _openjpeg(stored: Stored, code: bytes) -> NDArray[Any]:
    """One-sample JPEG 2000 of any kind by OpenJPEG, as stored values of the file's type.

    Where the codestream has a sign and the file none, or the reverse, its bits are taken as the file says.
    """
    precision = _wavelet_header(code).precision
    if max(precision, stored.allocated) > 16:
        raise NotImplementedError
    values = imagecodecs.jpeg2k_decode(code, numthreads=THREADS).reshape(stored.rows, stored.columns)
    kind, width = "i" if stored.signed else "u", max(1, stored.allocated // 8)
    as_told = values.view(f"{kind}{values.itemsize}").astype(f"{kind}{width}", copy=False)
    if values.dtype.kind == kind:
        return as_told
    spare = 8 * width - precision
    return np.right_shift(np.left_shift(as_told, spare), spare)


def _packbits(stored: Stored, code: bytes) -> NDArray[Any]:
    """A run length encoded frame (PS3.5 Annex G): a segment for each byte of each sample, the highest byte first."""
    if len(code) < 64:
        raise DecodeError("no frame header in the codestream")
    count, *starts = struct.unpack_from("<16I", code)
    width = max(1, stored.allocated // 8)
    pixels = stored.rows * stored.columns
    size = -(-pixels // 8) if stored.allocated == 1 else pixels
    if count != stored.samples * width:
        raise DecodeError(f"expected {stored.samples * width} segments, found {count}")
    planes = np.zeros((stored.samples, size), f"u{width}")
    for number, (start, end) in enumerate(pairwise([*starts[:count], len(code)])):
        # A byte makes 64 at most, so that what is decoded is bounded by what was read.
        segment = np.frombuffer(imagecodecs.packbits_decode(code[start:end]), "u1")
        if not size <= segment.size <= size + RLE_PADDING:
            raise DecodeError(f"expected {size} bytes in a segment, found {segment.size}")
        plane = planes[number // width]
        if width > 1:
            plane <<= 8
        plane |= segment[:size]
    if stored.allocated == 1:
        return np.unpackbits(planes[0], count=pixels, bitorder="little").reshape(stored.rows, stored.columns)
    signed = planes.view(f"i{width}") if stored.signed else planes
    frame = signed.reshape(stored.samples, stored.rows, stored.columns)
    values = significant(stored, frame[0] if stored.samples == 1 else frame.transpose(1, 2, 0))
    return convert_color_space(values, "YBR_FULL", "RGB") if stored.photometric.startswith("YBR_FULL") else values


def _inflated(stored: Stored, code: bytes) -> NDArray[Any]:
    """A frame of Deflated Image Frame Compression (PS3.5 A.4.13): raw deflate; some writers add zlib's header."""
    count = frame_values(stored)
    size = -(-count * stored.allocated // 8)
    for window in (-zlib.MAX_WBITS, zlib.MAX_WBITS):
        stream = zlib.decompressobj(window)
        try:
            raw = stream.decompress(code, size)
            more = stream.decompress(stream.unconsumed_tail, 2)
        except zlib.error:
            continue
        if len(more) > size % 2:  # a byte of padding at most
            raise DecodeError(f"a frame unpacks to more than its {size} bytes")
        if len(raw) < size or not stream.eof:
            raise DecodeError(f"a frame cut off: expected {size} bytes, found {len(raw)}")
        if stored.allocated == 1:
            return arranged(stored, np.unpackbits(np.frombuffer(raw, "u1"), count=count, bitorder="little"))
        return arranged(stored, np.frombuffer(raw, f"<{'i' if stored.signed else 'u'}{stored.allocated // 8}"))
    raise DecodeError("a frame that does not inflate")


@dataclass(frozen=True, slots=True)
class CodeHeader:
    """What a codestream says of itself: size, samples, bits a sample; where its first scan (JPEG 2000: it) begins."""

    rows: int
    columns: int
    samples: int
    precision: int
    scan: int


def _check(stored: Stored, head: CodeHeader) -> None:
    """Refuses a codestream of another size before a decoder makes room for it (or folds it into the file's shape)."""
    if (head.rows, head.columns, head.samples) != (stored.rows, stored.columns, stored.samples):
        raise DecodeError(
            f"expected {stored.rows} x {stored.columns} x {stored.samples}, "
            f"found {head.rows} x {head.columns} x {head.samples} in the codestream"
        )
    if head.precision > stored.allocated:
        raise DecodeError(f"expected {stored.allocated} bits, found {head.precision} in the codestream")


def _jpeg_header(code: bytes) -> CodeHeader:
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


def _wavelet_header(code: bytes) -> CodeHeader:
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


def _whole_tiles(code: bytes, start: int) -> bytes:
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
