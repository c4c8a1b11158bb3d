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
    DecodeError,
    Stored,
    arranged,
    frame_values,
    pixel_options,
    significant,
)
from pipeline.dicom.codestream import check_codestream, jpeg_header, wavelet_header, whole_tiles
from pipeline.dicom.fragments import END, ITEM, encoded_frames

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
    HTJ2KLossless: ("pylibjpeg",),
    HTJ2KLosslessRPCL: ("pylibjpeg",),
    HTJ2K: ("pylibjpeg",),
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
        head = jpeg_header(code)
        check_codestream(stored, head)
        if code.find(END, head.scan) < 0:  # cut off, or whole but for its end: gdcm alone can tell, and quickly
            names, reason = [name for name in names if name == "gdcm"], "codestream cut off: no end marker"
    elif stored.syntax in WAVELET:
        head = wavelet_header(code)
        check_codestream(stored, head)
        code = whole_tiles(code, head.scan)
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
    precision = wavelet_header(code).precision
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
