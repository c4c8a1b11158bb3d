"""Stored pixels of a DICOM dataset, frame by frame, under limits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels import get_decoder
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from pipeline.dicom.elements import numbers, text

MAX_FRAME_SAMPLES = 2**26
MAX_FRAMES = 4096
MAX_SAMPLES = 2**31

COLOUR = ("RGB", "PALETTE COLOR", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT")
GREY = ("MONOCHROME1", "MONOCHROME2")
TO_RGB = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")

DEFLATED_FRAMES = "1.2.840.10008.1.2.8.1"  # Deflated Image Frame Compression, newer than pydicom 3.0's dictionary
NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)


class DecodeError(Exception):
    """Pixels that cannot be had; the text is a reason without patient data."""


def check_size(rows: int, columns: int, samples: int, frames: int) -> None:
    """Refuses what would take absurd memory before anything is decoded.

    Raises:
        DecodeError: a size that is missing (0), not positive, or beyond the limits.
    """
    if min(rows, columns, samples, frames) < 1:
        raise DecodeError("image size missing or not positive")
    frame = rows * columns * samples
    if frame > MAX_FRAME_SAMPLES or frames > MAX_FRAMES or frame * frames > MAX_SAMPLES:
        raise DecodeError(f"image size beyond the limits ({rows} x {columns} x {samples}, {frames} frames)")


def _whole(ds: Dataset, keyword: str, absent: int = 0) -> int:
    """A whole number of the Image Pixel Module.

    Raises:
        DecodeError: anything else stands there.
    """
    try:
        values = numbers(ds, keyword)
        if values is None and not text(ds, keyword):
            return absent
    except Exception:  # values are converted when they are asked for
        values = None
    if values is None or len(values) != 1 or not values[0].is_integer():
        raise DecodeError("a malformed value in the Image Pixel Module")
    return int(values[0])


UNDEFINED = 0xFFFFFFFF


@dataclass(frozen=True)
class Stored:
    """How and where a file holds its pixels (Image Pixel Module, PS3.3 C.7.6.3); all that decoding needs.

    Attributes:
        syntax: transfer syntax UID.
        rows: of a frame.
        columns: of a frame.
        samples: per pixel, 1 or 3.
        frames: of the file.
        photometric: photometric interpretation.
        allocated: Bits Allocated: 1, 8, 16, 32 or 64.
        bits: Bits Stored.
        signed: whether Pixel Representation is 1.
        planar: Planar Configuration; 0 where there is one sample.
        keyword: "PixelData", "FloatPixelData" or "DoubleFloatPixelData".
        offset: of the element's value in the file (deflated files: in the inflated one), in bytes.
        length: of the value in bytes; :data:`UNDEFINED` for encapsulated pixels.
        extended: extended offset table and lengths (C.7.6.3.1.8), or None.
    """

    syntax: str
    rows: int
    columns: int
    samples: int
    frames: int
    photometric: str
    allocated: int
    bits: int
    signed: bool
    planar: int
    keyword: str
    offset: int
    length: int
    extended: tuple[bytes, bytes] | None = None


_ELEMENTS = {  # tags as they stand in the file, little and big endian
    b"\xe0\x7f\x10\x00": "PixelData",
    b"\xe0\x7f\x08\x00": "FloatPixelData",
    b"\xe0\x7f\x09\x00": "DoubleFloatPixelData",
    b"\x7f\xe0\x00\x10": "PixelData",
    b"\x7f\xe0\x00\x08": "FloatPixelData",
    b"\x7f\xe0\x00\x09": "DoubleFloatPixelData",
}
_LONG_VRS = (b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"UN")


def locate(fp: BinaryIO) -> tuple[int, int]:
    """Where the pixels lie, right after ``dcmread(fp, stop_before_pixels=True)``.

    The stream then stands at the pixel data element. Its header takes 12 bytes with an explicit VR (tag, VR, two
    reserved, length) and 8 with an implicit one (PS3.5 7.1); the VR's letters tell which, and the tag the byte order.

    Args:
        fp: the stream; it is left where the value begins.

    Returns:
        Offset of the value in bytes, and its length (:data:`UNDEFINED` for encapsulated pixels).

    Raises:
        DecodeError: it stands at no pixel data element.
    """
    start, head = fp.tell(), fp.read(12)
    if len(head) < 8 or head[:4] not in _ELEMENTS:
        raise DecodeError("no pixel data where they should be")
    explicit = head[4:6] in _LONG_VRS and head[6:8] == bytes(2)
    if explicit and len(head) < 12:
        raise DecodeError("the file ends within the header of its pixel data")
    length = int.from_bytes(head[8:12] if explicit else head[4:8], "big" if head[0] == 0x7F else "little")
    offset = start + (12 if explicit else 8)
    fp.seek(offset)
    return offset, length


def describe(ds: Dataset, offset: int, length: int) -> Stored:
    """All that decoding needs to know of a file, checked.

    Args:
        ds: a dataset with an Image Pixel Module (C.7.6.3), with or without the pixels themselves.
        offset: of the pixels, from :func:`locate`.
        length: of the pixels, from :func:`locate`.

    Raises:
        DecodeError: attributes that are missing, contradict each other or are beyond the limits.
    """
    rows, columns = _whole(ds, "Rows"), _whole(ds, "Columns")
    samples, frames = _whole(ds, "SamplesPerPixel", 1), _whole(ds, "NumberOfFrames", 1) or 1
    check_size(rows, columns, samples, frames)
    syntax = str(getattr(ds, "file_meta", {}).get("TransferSyntaxUID") or "")
    if not syntax:
        raise DecodeError("transfer syntax missing")
    allocated, signed = _whole(ds, "BitsAllocated"), _whole(ds, "PixelRepresentation", -1)
    if samples not in (1, 3):
        raise DecodeError(f"expected 1 or 3 samples per pixel, found {samples}")
    if allocated not in ((1, 8, 16, 32, 64) if samples == 1 else (8, 16, 32)):
        raise DecodeError(f"{allocated} bits allocated to each of {samples} samples")
    keyword, bits = "PixelData", _whole(ds, "BitsStored")
    if bits == 0 and signed == -1 and allocated in (32, 64):  # not among floats' (C.7.6.24, .25)
        keyword, bits, signed = {32: "FloatPixelData", 64: "DoubleFloatPixelData"}[allocated], allocated, 0
    if not 1 <= bits <= allocated:
        raise DecodeError(f"{bits} bits stored in {allocated} allocated")
    if signed not in (0, 1):
        raise DecodeError("Pixel Representation missing or unknown")
    if keyword == "PixelData" and _whole(ds, "HighBit", bits - 1) != bits - 1:  # retired: bits that do not start at 0
        raise DecodeError("High Bit is not the last of Bits Stored")
    planar = 0
    if samples == 3 and syntax in (*NATIVE, DEFLATED_FRAMES):  # other frames say it themselves
        planar = _whole(ds, "PlanarConfiguration", -1)
        if planar not in (0, 1):
            raise DecodeError("Planar Configuration missing or unknown")
    offsets, lengths = ds.get("ExtendedOffsetTable"), ds.get("ExtendedOffsetTableLengths")
    return Stored(
        syntax,
        rows,
        columns,
        samples,
        frames,
        text(ds, "PhotometricInterpretation"),
        allocated,
        bits,
        bool(signed),
        planar,
        keyword,
        offset,
        length,
        (offsets, lengths) if isinstance(offsets, bytes) and isinstance(lengths, bytes) else None,
    )


def stored_frames(stored: Stored, data: bytes | memoryview) -> Iterator[NDArray[Any]]:
    """Decoded frames, one at a time, as many as the header says.

    Uncompressed frames are read-only views of ``data`` where they need no work, in the file's byte order.

    Args:
        stored: how and where, from :func:`describe`.
        data: the whole file; of a deflated dataset the inflated one.

    Yields:
        [H, W] stored values (PALETTE COLOR: indices), or [H, W, 3] RGB, YBR converted. Bits above Bits Stored are
        masked or the sign's (PS3.5 8.1.1).

    Raises:
        DecodeError: pixels that are cut off, damaged, or that no decoder reads.
    """
    if (stored.samples == 3) != (stored.photometric in TO_RGB):
        raise DecodeError(f"{stored.samples} samples per pixel under another photometric interpretation")
    if stored.syntax in NATIVE:
        yield from _native_frames(stored, data)
        return
    from pipeline.dicom.decoders import compressed_frames  # here, as it builds upon this module

    yield from compressed_frames(stored, data)


def _native_frames(stored: Stored, data: bytes | memoryview) -> Iterator[NDArray[Any]]:
    """Frames of uncompressed pixels (PS3.5 8.1 and Annex D): one row of bits, without gaps between frames."""
    size = frame_values(stored)
    keyword, vr = _element(data, stored.offset)
    if keyword not in ("", stored.keyword):
        raise DecodeError(f"expected {stored.keyword}, found {keyword}")
    if stored.length == UNDEFINED:
        raise DecodeError("pixel data of undefined length under an uncompressed transfer syntax")
    swapped = stored.syntax == ExplicitVRBigEndian and stored.allocated == 8 and vr == b"OW"
    expected = -(-size * stored.frames * stored.allocated // 8)
    expected += expected % 2 if swapped else 0
    found = max(0, min(stored.length, len(data) - stored.offset))
    if found < expected:
        raise DecodeError(f"pixel data cut off: expected {expected} bytes, found {found}")
    if stored.photometric == "YBR_FULL_422" and found >= expected * 3 // 2:
        raise DecodeError("pixel data as long as YBR_FULL under YBR_FULL_422")
    if stored.allocated == 1:
        packed = np.frombuffer(data, "u1", expected, stored.offset)
        for first in range(0, size * stored.frames, size):
            bits = np.unpackbits(packed[first // 8 : -(-(first + size) // 8)], bitorder="little")
            yield arranged(stored, bits[first % 8 : first % 8 + size])
        return
    if swapped:  # bytes in words: pairwise in the other order, across frames too
        values = np.frombuffer(data, "u2", expected // 2, stored.offset).byteswap().view(_dtype(stored))
    else:
        values = np.frombuffer(data, _dtype(stored), size * stored.frames, stored.offset)
    for first in range(0, size * stored.frames, size):
        yield arranged(stored, values[first : first + size])


def frame_values(stored: Stored) -> int:
    """How many values an uncompressed frame has; in YBR_FULL_422 two pixels share their chroma (C.7.6.3.1.2)."""
    values = stored.rows * stored.columns * stored.samples
    return values // 3 * 2 if stored.photometric == "YBR_FULL_422" else values


def arranged(stored: Stored, values: NDArray[Any]) -> NDArray[Any]:
    """One uncompressed frame's values in a row to [H, W], or [H, W, 3] RGB.

    Args:
        stored: how.
        values: [H·W·samples] ([H·W·2] for YBR_FULL_422) as the file has them.

    Raises:
        DecodeError: YBR of other than 8 bits.
    """
    values = significant(stored, values)
    if stored.samples == 1:
        return values.reshape(stored.rows, stored.columns)
    if not stored.photometric.startswith("YBR_FULL"):  # YBR_ICT and _RCT are left by decompression to RGB
        if stored.planar:
            return values.reshape(3, stored.rows, stored.columns).transpose(1, 2, 0)
        return values.reshape(stored.rows, stored.columns, 3)
    options = pixel_options(stored)
    if stored.photometric == "YBR_FULL_422":
        options["planar_configuration"] = 0  # the only order it has
    try:
        rgb, _ = get_decoder(ExplicitVRLittleEndian).as_array(values.tobytes(), validate=False, **options)
    except Exception as error:
        raise DecodeError(f"{stored.photometric} does not convert ({type(error).__name__})") from None
    return rgb


def significant(stored: Stored, values: NDArray[Any]) -> NDArray[Any]:
    """Stored values without what lies above Bits Stored (PS3.5 8.1.1: overlays and worse).

    Args:
        stored: how.
        values: integers of Bits Allocated.

    Returns:
        The same array where all bits are stored, else a copy: unsigned values masked, signed ones sign-extended.
    """
    spare = stored.allocated - stored.bits
    if not spare or stored.keyword != "PixelData":
        return values
    if not stored.signed:
        return np.bitwise_and(values, values.dtype.type(2**stored.bits - 1))
    shifted = np.left_shift(values, spare)
    return np.right_shift(shifted, spare, out=shifted)


def pixel_options(stored: Stored) -> dict[str, Any]:
    """One frame as pydicom's decoders want it described."""
    return {
        "rows": stored.rows,
        "columns": stored.columns,
        "samples_per_pixel": stored.samples,
        "number_of_frames": 1,
        "photometric_interpretation": stored.photometric,
        "planar_configuration": stored.planar,
        "bits_allocated": stored.allocated,
        "bits_stored": stored.bits,
        "pixel_representation": int(stored.signed),
        "pixel_keyword": stored.keyword,
    }


def _dtype(stored: Stored) -> str:
    kind = "f" if stored.keyword != "PixelData" else "i" if stored.signed else "u"
    return f"{'>' if stored.syntax == ExplicitVRBigEndian else '<'}{kind}{stored.allocated // 8}"


def _element(data: bytes | memoryview, offset: int) -> tuple[str, bytes]:
    """Keyword and VR of the element whose value begins here; empty where its header does not precede it."""
    head = bytes(data[max(0, offset - 12) : offset])
    if len(head) == 12 and head[:4] in _ELEMENTS and head[4:6] in _LONG_VRS:
        return _ELEMENTS[head[:4]], head[4:6]
    return _ELEMENTS.get(head[-8:-4], ""), b""
