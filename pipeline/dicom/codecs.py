"""Stored pixels of a DICOM dataset, frame by frame, under limits."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut, iter_pixels
from pydicom.uid import UID

from pipeline.scans import MAX_BYTES, SetAside

MAX_FRAME_SAMPLES = 2**26
MAX_FRAMES = 4096
MAX_SAMPLES = 2**31

COLOUR = ("RGB", "PALETTE COLOR", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT")
GREY = ("MONOCHROME1", "MONOCHROME2")


class DecodeError(Exception):
    """Pixels that cannot be had; the text is a reason without patient data."""


def check_size(ds: Dataset) -> int:
    """Refuses what would take absurd memory before anything is decoded.

    Args:
        ds: a dataset with an Image Pixel Module.

    Returns:
        The number of frames.

    Raises:
        DecodeError: a size that is missing, not positive, or beyond the limits.
    """
    rows, columns = _count(ds.get("Rows")), _count(ds.get("Columns"))
    samples, frames = _count(ds.get("SamplesPerPixel", 1)), _count(ds.get("NumberOfFrames") or 1)
    if min(rows, columns, samples, frames) < 1:
        raise DecodeError("image size missing or not positive")
    frame = rows * columns * samples
    if frame > MAX_FRAME_SAMPLES or frames > MAX_FRAMES or frame * frames > MAX_SAMPLES:
        raise DecodeError(f"image size beyond the limits ({rows} x {columns} x {samples}, {frames} frames)")
    return frames


def frames(ds: Dataset) -> Iterator[NDArray[Any]]:
    """Decoded frames: [H, W] stored values, or [H, W, 3] RGB for colour.

    Raises:
        DecodeError: no decoder reads them.
    """
    photometric = str(ds.PhotometricInterpretation)
    count = 0
    try:
        for stored in iter_pixels(ds):
            count += 1
            yield apply_color_lut(stored, ds) if photometric == "PALETTE COLOR" else stored
    except GeneratorExit:
        raise
    except Exception as error:
        syntax = UID(str(ds.file_meta.get("TransferSyntaxUID", "")))
        name = syntax.name if syntax.name != str(syntax) else "unknown transfer syntax"
        raise DecodeError(f"pixels do not decode ({name}; {type(error).__name__})") from None
    if count == 0:
        raise DecodeError("no frame in the pixel data")


def stored_range(ds: Dataset) -> tuple[int, int]:
    """The smallest and largest value that the stored bits can hold (PS3.3 C.7.6.3.1.1)."""
    bits = int(ds.get("BitsStored") or ds.BitsAllocated)
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if ds.PixelRepresentation else (0, 2**bits - 1)


def check_deflated(data: bytes, start: int) -> None:
    """Refuses a deflated dataset (PS3.5 A.5) that would unpack to more than a file may hold.

    Args:
        data: the whole file.
        start: where the deflated part begins.

    Raises:
        SetAside: it is larger than the limit.
    """
    stream, left, piece = zlib.decompressobj(-zlib.MAX_WBITS), MAX_BYTES, data[start:]
    while piece and not stream.eof:
        out = stream.decompress(piece, 2**24)
        left -= len(out)
        if left < 0:
            raise SetAside(f"unpacks to more than {MAX_BYTES // 2**20} MiB")
        piece = stream.unconsumed_tail


def padding_mask(ds: Dataset, stored: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Where the scanner filled in rather than measured (PS3.3 C.7.5.1.1.2), or None where the file names no such value.

    Both attributes are compared with stored values. Their value representation depends on Pixel Representation, and
    writers get it wrong (63536 for -2000 in signed data): values out of reach are taken modulo 2^16.

    Args:
        ds: may hold PixelPaddingValue (0028,0120) and PixelPaddingRangeLimit (0028,0121).
        stored: values before the Modality LUT.
    """
    limits = [ds.get("PixelPaddingValue"), ds.get("PixelPaddingRangeLimit")]
    if limits[0] is None:
        return None
    signed = bool(ds.get("PixelRepresentation", 0))
    reach = [_reinterpret(int(limit), signed) for limit in limits if limit is not None]
    return (stored >= min(reach)) & (stored <= max(reach))


def _reinterpret(value: int, signed: bool) -> int:
    if signed and value > 2**15 - 1:
        return value - 2**16
    return value + 2**16 if not signed and value < 0 else value


def _count(value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        return 0


UNDEFINED = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
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
