"""How fast each decoder reads the same CT slices in each compressed transfer syntax, and whether the pixels are equal.

    python -m tests.benchmarks.bench_decoders DIR --json decoders.json

Slices are compressed in memory. Figures are medians over repeats, for which decoders take turns: the time of a frame on
the clock, and of the processors, which is what counts where workers fill the cores and hardly minds other programs.
The difference is the largest one to the original pixels or, where compression loses something, to the first decoder's:
used decoders must agree, to a rounding where it is lossy, or the run fails. Decoders that the pipeline never asks are
measured too ("not used").
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.pixels import get_decoder, get_encoder
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from pipeline.dicom.codecs import Stored, describe, locate, pixel_options, stored_frames
from pipeline.dicom.decoders import PREFERRED, decode_with

SYNTAXES = (
    ExplicitVRLittleEndian,
    RLELossless,
    JPEGLSLossless,
    JPEGLSNearLossless,
    JPEG2000Lossless,
    HTJ2KLossless,
    JPEGLosslessSV1,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
)

LOSSY = (JPEGLSNearLossless, JPEGBaseline8Bit, JPEGExtended12Bit)

Frame = tuple[Stored, NDArray[Any]]

RAW: dict[UID, dict[str, Callable[[bytes], Any]]] = {
    RLELossless: {"imagecodecs.dicomrle": lambda code: np.frombuffer(imagecodecs.dicomrle_decode(code, "<u2"), "<u2")},
    JPEGLSLossless: {"imagecodecs.jpegls": imagecodecs.jpegls_decode},
    JPEG2000Lossless: {"imagecodecs.jpeg2k": imagecodecs.jpeg2k_decode},
    JPEGLosslessSV1: {
        "imagecodecs.ljpeg": imagecodecs.ljpeg_decode,
        "imagecodecs.jpegsof3": imagecodecs.jpegsof3_decode,
    },
    HTJ2KLossless: {"imagecodecs.htj2k": imagecodecs.htj2k_decode, "imagecodecs.jpeg2k": imagecodecs.jpeg2k_decode},
}
"""Candidates outside the pipeline: bare, without what turns their result into stored values."""


def read(folder: Path, count: int) -> Iterator[Frame]:
    """Uncompressed one-sample slices of a folder, evenly drawn."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in paths[:: max(1, len(paths) // count)][:count]:
        data = path.read_bytes()
        stream = io.BytesIO(data)
        stored = describe(dcmread(stream, stop_before_pixels=True), *locate(stream))
        if stored.samples == 1 and stored.allocated == 16:
            for values in stored_frames(stored, data):
                yield stored, np.ascontiguousarray(values, f"<{'i' if stored.signed else 'u'}2")


def compress(syntax: UID, frame: Frame) -> tuple[Frame, bytes]:
    """The slice as this syntax takes it, and its codestream."""
    stored, values = frame
    stored = replace(stored, syntax=str(syntax))
    if syntax == ExplicitVRLittleEndian:
        return (replace(stored, offset=0, length=values.nbytes, frames=1), values), values.tobytes()
    if syntax in (JPEGBaseline8Bit, JPEGExtended12Bit):  # 8 or 12 bits without a sign
        bits = 8 if syntax == JPEGBaseline8Bit else 12
        low, high = int(values.min()), max(int(values.max()), int(values.min()) + 1)
        scaled = (values.astype(np.float64) - low) * (2**bits - 1) / (high - low)
        kind = "u1" if bits == 8 else "<u2"
        stored = replace(stored, signed=False, bits=bits, allocated=int(kind[-1]) * 8)
        values = scaled.round().astype(kind)
        return (stored, values), bytes(imagecodecs.jpeg8_encode(values, 95, bitspersample=bits))
    if syntax == JPEGLosslessSV1:
        unsigned = values.view("<u2")
        code = imagecodecs.jpeg8_encode(unsigned, lossless=True, predictor=1, bitspersample=stored.bits)
        return (stored, values), bytes(code)
    if syntax == HTJ2KLossless:
        return (stored, values), bytes(imagecodecs.htj2k_encode(values, reversible=True))
    extra = {"jls_error": 2} if syntax == JPEGLSNearLossless else {}
    encoder = get_encoder(syntax)
    plugin = "pylibjpeg" if "pylibjpeg" in encoder.available_plugins else ""
    return (stored, values), encoder.encode(values, encoding_plugin=plugin, **pixel_options(stored), **extra)


def measure(syntax: UID, frames: list[Frame], repeats: int) -> list[dict[str, Any]]:
    """One row for each decoder."""
    pairs = [compress(syntax, frame) for frame in frames]
    used = PREFERRED.get(syntax, ("numpy",))
    names = dict.fromkeys([*used, *get_decoder(syntax).available_plugins, *RAW.get(syntax, {})])
    expected = [values for (_, values), _ in pairs]
    if syntax in LOSSY:
        expected = [_run(used[0], stored, code) for (stored, _), code in pairs]
    rows: dict[str, dict[str, Any]] = {}
    for name in names:
        use = "first" if name == used[0] else "then" if name in used else "not used"
        row = {
            "syntax": syntax.keyword,
            "decoder": name,
            "use": use,
            "lossy": syntax in LOSSY,
            "ms": None,
            "cpu_ms": None,
            "difference": None,
        }
        rows[name] = row
        try:
            got = [_run(name, stored, code) for (stored, _), code in pairs]
            row["difference"] = max(_difference(*both) for both in zip(got, expected, strict=True))
        except Exception as error:
            row["error"] = type(error).__name__
    times: dict[str, list[tuple[float, float]]] = {name: [] for name, row in rows.items() if "error" not in row}
    for _ in range(repeats):
        for name, taken in times.items():
            clock, processor = time.perf_counter(), time.process_time()
            for (stored, _values), code in pairs:
                _run(name, stored, code)
            taken.append((time.perf_counter() - clock, time.process_time() - processor))
    for name, taken in times.items():
        rows[name]["ms"], rows[name]["cpu_ms"] = (
            statistics.median(spent) / len(pairs) * 1000 for spent in zip(*taken, strict=True)
        )
    return sorted(rows.values(), key=lambda row: row["cpu_ms"] or np.inf)


def _run(name: str, stored: Stored, code: bytes) -> NDArray[Any]:
    if stored.syntax == ExplicitVRLittleEndian:
        return next(stored_frames(stored, code))
    raw = RAW.get(UID(stored.syntax), {}).get(name)
    return decode_with(name, stored, code) if raw is None else raw(code)


def _difference(got: NDArray[Any], expected: NDArray[Any]) -> int:
    if got.itemsize == expected.itemsize:  # what is bare may lack the sign
        got = got.view(expected.dtype)
    return int(np.abs(got.reshape(expected.shape).astype(np.int64) - expected).max())


def main() -> int:
    """Measures, prints the table and writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="uncompressed CT slices, 16 bits allocated")
    parser.add_argument("--files", type=int, default=20, help="slices drawn from it (default: 20)")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each decoder (default: 5)")
    parser.add_argument("--json", type=Path, help="where the figures go")
    options = parser.parse_args()
    frames = list(read(options.folder, options.files))
    if not frames:
        parser.error(f"no uncompressed 16-bit slice in {options.folder}")
    shape = " x ".join(map(str, frames[0][1].shape))
    sys.stdout.write(f"{len(frames)} frames of {shape}, median of {options.repeats}\n")
    sys.stdout.write(
        f"{'syntax':20} {'decoder':22} {'ms/frame':>9} {'cpu ms':>9} {'frames/s':>9} {'difference':>11}  use\n"
    )
    rows = []
    for syntax in SYNTAXES:
        for row in measure(syntax, frames, options.repeats):
            speed = (
                f"{row['ms']:9.2f} {row['cpu_ms']:9.2f} {1000 / row['ms']:9.0f}" if row["ms"] else f"{row['error']:>29}"
            )
            gap = "" if row["difference"] is None else row["difference"] or "equal"
            sys.stdout.write(f"{row['syntax']:20} {row['decoder']:22} {speed} {gap:>11}  {row['use']}\n")
            rows.append(row)
    if options.json:
        figures = {"frames": len(frames), "shape": frames[0][1].shape, "repeats": options.repeats, "rows": rows}
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    worst = {True: 4, False: 0}  # of 255 or 4095, from the roundings of inverse cosine transforms
    wrong = [row for row in rows if row["use"] != "not used" and (row["difference"] or 0) > worst[row["lossy"]]]
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
