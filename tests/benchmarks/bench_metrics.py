"""How long the Fréchet distance takes beside MONAI and torch-fidelity, and what memory the k-NN metrics need.

    python -m tests.benchmarks.bench_metrics --json bench-metrics.json

Programs take turns on the same features; figures are medians over the turns, of processor time, which hardly minds
other work, and of the wall's: from features to distance, and from statistics to distance. Features are skewed and
correlated, with a spectrum over three decades, as those of a network with ReLU. Peak memory is that of a process of its
own, all of it: PyTorch, the features and the work. The run fails where distances differ by more than a thousandth, or
memory exceeds 1 GiB.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from threadpoolctl import threadpool_limits

from medgan.metrics import fid, precision_recall

DIMENSION = 2048
LARGEST_MEMORY = 2**30


def features(count: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    """float32 [count, 2048]."""
    mixing = torch.randn(DIMENSION, DIMENSION, generator=torch.Generator().manual_seed(99)) / DIMENSION**0.5
    noise = torch.randn(count, DIMENSION, generator=torch.Generator().manual_seed(seed))
    return torch.relu(noise * torch.logspace(0, -3, DIMENSION) @ mixing * 8.0 + 0.4 + shift)


class Program(NamedTuple):
    """How a program comes from vectors to a distance.

    Attributes:
        statistics: of float32 vectors [N, 2048], in the program's own form.
        distance: of two statistics.
    """

    statistics: Callable[[torch.Tensor], Any]
    distance: Callable[[Any, Any], float]


def programs() -> dict[str, Program]:
    """By name."""
    from monai.metrics.fid import _cov, compute_frechet_distance  # get_fid_score's two halves

    from tests.unit.peers import torch_fidelity

    theirs = torch_fidelity().metric_fid

    def by_torch_fidelity(real: Any, synthetic: Any) -> float:
        return float(theirs.fid_statistics_to_metric(real, synthetic, verbose=False)["frechet_inception_distance"])

    def monai_statistics(vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        doubles = vectors.double()
        return doubles.mean(dim=0), _cov(doubles, rowvar=False)

    return {
        "medgan": Program(fid.statistics, fid.frechet_distance),
        "torch-fidelity": Program(theirs.fid_features_to_statistics, by_torch_fidelity),
        "MONAI": Program(monai_statistics, lambda real, synthetic: float(compute_frechet_distance(*real, *synthetic))),
    }


def distances(count: int, repeats: int) -> list[dict[str, Any]]:
    """Two rows for each program: from vectors, and from statistics that are there already."""
    sets = features(count, 0), features(count, 1, 0.02)
    called = programs()
    taken: dict[tuple[str, str], list[tuple[float, float]]] = {}
    values: dict[str, float] = {}
    for _ in range(repeats):
        for name, program in called.items():
            start = clocks()
            statistics = [program.statistics(each) for each in sets]
            middle = clocks()
            values[name] = program.distance(*statistics)
            end = clocks()
            taken.setdefault((name, "vectors"), []).append((end[0] - start[0], end[1] - start[1]))
            taken.setdefault((name, "statistics"), []).append((end[0] - middle[0], end[1] - middle[1]))
    medians = {key: [median(each) for each in zip(*times, strict=True)] for key, times in taken.items()}
    return [
        {
            "vectors": count,
            "from": given,
            "program": name,
            "value": values[name],
            "cpu_seconds": cpu,
            "seconds": wall,
            "all": taken[name, given],
            "cpu_share": medians["medgan", given][0] / cpu,
            "share": medians["medgan", given][1] / wall,
        }
        for (name, given), (cpu, wall) in sorted(medians.items(), key=lambda item: item[0][1])
    ]


def clocks() -> tuple[float, float]:
    """Of the processors and of the wall, in seconds."""
    return time.process_time(), time.perf_counter()


def peak_memory() -> int:
    """Bytes; ``getrusage`` would count the parent's too, which a child inherits on Linux."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    assert found is not None, "the peak is read as Linux tells it"
    return int(found[1]) * 1024


def neighbours(count: int) -> dict[str, Any]:
    """Peak memory of precision, recall, density and coverage in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.bench_metrics", "--neighbours", str(count)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def measure_neighbours(count: int) -> None:
    """What :func:`neighbours` runs; prints JSON."""
    real, synthetic = features(count, 0), features(count, 1, 0.02)
    before = peak_memory()
    start = time.process_time()
    figures = precision_recall.manifold(real, synthetic)
    spent = time.process_time() - start
    told = {
        "vectors": count,
        "cpu_seconds": spent,
        "peak_bytes": peak_memory(),
        "peak_before": before,
        **figures._asdict(),
    }
    sys.stdout.write(json.dumps(told) + "\n")


def main() -> int:
    """Measures, prints the table and writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, nargs="+", default=[500, 1000, 10000], help="real and synthetic, each")
    parser.add_argument("--repeats", type=int, default=3, help="turns of each program (default: 3)")
    parser.add_argument("--threads", type=int, default=1, help="(default: 1)")
    parser.add_argument("--neighbours", type=int, help="only this: memory of the k-NN metrics, as JSON")
    parser.add_argument("--json", type=Path, help="where the figures go")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    threadpool_limits(options.threads)  # NumPy's and SciPy's
    if options.neighbours:
        measure_neighbours(options.neighbours)
        return 0
    rows = []
    sys.stdout.write(
        f"{'vectors':>8} {'from':11} {'program':16} {'FID':>14} {'cpu s':>9} {'ours / theirs':>14}"
        f" {'wall s':>9} {'ours / theirs':>14}\n"
    )
    for count in options.vectors:
        for row in distances(count, options.repeats):
            rows.append(row)
            sys.stdout.write(
                f"{count:8} {row['from']:11} {row['program']:16} {row['value']:14.6f}"
                f" {row['cpu_seconds']:9.2f} {row['cpu_share']:14.4f} {row['seconds']:9.2f} {row['share']:14.4f}\n"
            )
            sys.stdout.flush()
    memory = neighbours(max(options.vectors))
    sys.stdout.write(
        f"precision, recall, density, coverage of {memory['vectors']}: {memory['cpu_seconds']:.1f} cpu s, "
        f"peak {memory['peak_bytes'] / 2**20:.0f} MiB ({memory['peak_before'] / 2**20:.0f} MiB before)\n"
    )
    if options.json:
        options.json.write_text(json.dumps({"distances": rows, "neighbours": memory}, indent=1) + "\n")
    own = {row["vectors"]: row["value"] for row in rows if row["program"] == "medgan"}
    apart = [row for row in rows if abs(row["value"] / own[row["vectors"]] - 1.0) > 1e-3]
    return 1 if apart or memory["peak_bytes"] > LARGEST_MEMORY else 0


if __name__ == "__main__":
    sys.exit(main())
