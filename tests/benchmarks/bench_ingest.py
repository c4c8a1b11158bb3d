"""Files per second from DICOM to prepared images, against MONAI's own loader on the same files in the same run.

    python -m tests.benchmarks.bench_ingest DIR [--json FILE] [--files 600] [--repeats 5] [--size 64]

DIR holds uncompressed CT slices. They are read as they are and as copies compressed without loss (RLE, JPEG-LS,
JPEG 2000), in one process and in two. Both sides run with started workers; what starting takes is told apart. Where
sizes are whole multiples, the arrays of both sides must agree to 1e-5: the run fails otherwise.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from monai.data import PydicomReader
from monai.transforms import Compose, EnsureChannelFirst, LoadImage, Resize, ScaleIntensityRange
from pydicom import dcmread
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from pipeline.codes import decode
from pipeline.files import list_entries
from pipeline.geometry import Geometry
from pipeline.preprocess import Preparation, Window
from pipeline.reading import look, prepare
from pipeline.scans import Rules
from pipeline.workers import Bounds, Workers

WINDOW = (-200.0, 400.0)
COMPRESSED = {"RLE": RLELossless, "JPEG-LS": JPEGLSLossless, "JPEG 2000": JPEG2000Lossless}
TOLERANCE = 2e-5
"""1e-5 of the arrays, and half a step of the 16-bit codes that ours are stored in (1 / 65535)."""


def ours(folder: Path, count: int, size: int, workers: Workers, spools: Path) -> np.ndarray:
    """Both passes over the folder's files, repeated to ``count``; returns the last images, [count, size, size]."""
    rules = Rules("dicom", Preparation(Window.parse(WINDOW), Geometry(size, size)))
    entries = list(itertools.islice(itertools.cycle(list_entries(folder)), count))
    found = [seen for _, seen in workers.map(partial(look, rules=rules), entries)]
    tasks = list(zip(entries, found, strict=True))
    prepared = [one for _, one in workers.map(partial(prepare, rules=rules, spools=spools), tasks)]
    assert all(one.status == "image" for one in prepared), {one.reason for one in prepared}
    spooled = {one.spool: np.memmap(spools / one.spool, "<u2", mode="r").reshape(-1, size, size) for one in prepared}
    return np.stack([spooled[one.spool][one.position] for one in prepared])


def loader(size: int) -> Callable[[str], Any]:
    """MONAI's transforms."""
    torch.set_num_threads(1)
    return Compose(
        [
            LoadImage(reader=PydicomReader(), image_only=True),
            EnsureChannelFirst(),
            ScaleIntensityRange(*WINDOW, -1.0, 1.0, clip=True),
            Resize((size, size), mode="area"),
        ]
    )


_monai: Callable[[str], Any] | None = None


def _start_monai(size: int) -> None:
    global _monai
    warnings.simplefilter("ignore")
    _monai = loader(size)


def _load(file: str) -> np.ndarray:
    assert _monai is not None
    return np.asarray(_monai(file))[0].T  # MONAI's first axis is x


def monai(files: Sequence[str], pool: Any) -> np.ndarray:
    """The same by MONAI, in this process or in a pool."""
    return np.stack(list(map(_load, files)) if pool is None else pool.map(_load, files, chunksize=8))


def timed(function: Callable[[], np.ndarray], repeats: int) -> tuple[list[float], np.ndarray]:
    """Seconds of each repeat after one that is not counted, and the last result."""
    result, seconds = function(), []
    for _ in range(repeats):
        started = time.perf_counter()
        result = function()
        seconds.append(time.perf_counter() - started)
    return seconds, result


def compare(name: str, folder: Path, options: argparse.Namespace, processes: int) -> dict[str, Any]:
    """One row of the table."""
    files = [str(entry.path) for entry in list_entries(folder)]
    few = list(itertools.islice(itertools.cycle(files), min(options.files, 2 * len(files))))
    with tempfile.TemporaryDirectory() as spools:
        started = time.perf_counter()
        with Workers(processes, Bounds()) as workers:
            list(workers.map(abs, range(200)))
            start = time.perf_counter() - started

            def run() -> np.ndarray:
                return ours(folder, options.files, options.size, workers, Path(tempfile.mkdtemp(dir=spools)))

            mine, codes = timed(run, options.repeats)
    pool = multiprocessing.get_context("spawn").Pool(2, _start_monai, (options.size,)) if processes > 1 else None
    try:
        theirs, images = timed(lambda: monai(few, pool), max(1, options.repeats - 2))
    finally:
        if pool is not None:
            pool.terminate()
    difference = float(np.abs(decode(codes[: len(few)]) - images).max())
    rate, other = options.files / statistics.median(mine), len(few) / statistics.median(theirs)
    return {
        "files": name,
        "processes": processes,
        "files_per_second": round(rate, 1),
        "spread": [round(options.files / max(mine), 1), round(options.files / min(mine), 1)],
        "monai_files_per_second": round(other, 1),
        "monai_spread": [round(len(few) / max(theirs), 1), round(len(few) / min(theirs), 1)],
        "ratio": round(rate / other, 2),
        "largest_difference": difference,
        "worker_start_seconds": round(start, 2),
    }


def compressed(folder: Path, syntax: str, target: Path) -> Path:
    """Copies of a folder's files, compressed without loss."""
    target.mkdir()
    for file in sorted(folder.iterdir()):
        ds = dcmread(file)
        ds.compress(syntax, generate_instance_uid=False)
        ds.save_as(target / file.name)
    return target


def main() -> int:
    """Runs the comparison; exit code 1 where arrays differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--files", type=int, default=600)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--uncompressed", action="store_true", help="the files as they are alone")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    _start_monai(options.size)
    rows = []
    with tempfile.TemporaryDirectory() as work:
        folders = {"as they are": options.folder}
        for name, syntax in () if options.uncompressed else COMPRESSED.items():
            folders[name] = compressed(options.folder, syntax, Path(work) / name.replace(" ", ""))
        for name, folder in folders.items():
            for processes in (1, 2):
                rows.append(compare(name, folder, options, processes))
                row = rows[-1]
                sys.stdout.write(
                    f"{name:<12} {processes} process(es): {row['files_per_second']:7.1f} files/s "
                    f"{row['spread']}, MONAI {row['monai_files_per_second']:6.1f} {row['monai_spread']}, "
                    f"ratio {row['ratio']:5.2f}, largest difference {row['largest_difference']:.1e}\n"
                )
                sys.stdout.flush()
    if options.json:
        machine = {"machine": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
        options.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1), encoding="utf-8")
    return 1 if any(row["largest_difference"] > TOLERANCE for row in rows) else 0


if __name__ == "__main__":
    raise SystemExit(main())
