"""What other programs give for the metrics that we share with them, on the same features or images.

    python -m tests.benchmarks.agreement --json bench-agreement.json

A row a metric and a program: their value, ours, and the relative difference. Each program is asked for the same thing:
KID of one subset that is all of the data, since subsets are drawn otherwise; k nearest neighbours with one k; MS-SSIM
of the same pairs with the same scales and weights. What is not installed is left out, and named. Features are those of
:mod:`tests.benchmarks.bench_metrics`, images are phantoms. The run fails where a figure differs by more than a
thousandth.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from medgan.metrics import fid, kid, ms_ssim, precision_recall
from tests.benchmarks.bench_metrics import features, programs
from tests.unit.peers import torch_fidelity
from tests.unit.probe_images import phantoms

NEIGHBOURS = precision_recall.NEIGHBOURS
LARGEST_DIFFERENCE = 1e-3


class Row(NamedTuple):
    """One figure of one program."""

    metric: str
    program: str
    theirs: float
    ours: float

    @property
    def difference(self) -> float:
        """Relative; of two zeros 0."""
        return abs(self.theirs - self.ours) / max(abs(self.theirs), abs(self.ours), 1e-300)


def installed(name: str) -> bool:
    """Whether a package is there; says so on stderr where it is not."""
    there = importlib.util.find_spec(name) is not None
    if not there:
        sys.stderr.write(f"{name} is not installed: its rows are left out\n")
    return there


def agreement(count: int, size: int = 176) -> Iterator[Row]:
    """All rows that the installed programs allow.

    Args:
        count: vectors of each set.
        size: side of the images; from 176 on MS-SSIM has all of its five scales.
    """
    real, synthetic = features(count, 0), features(count, 1, 0.02)
    ours = precision_recall.manifold(real, synthetic)
    if installed("torch_fidelity"):
        yield from _torch_fidelity(real, synthetic)
    if installed("prdc"):
        from prdc import compute_prdc

        with contextlib.redirect_stdout(io.StringIO()):  # it prints the numbers of vectors
            theirs = compute_prdc(real.double().numpy(), synthetic.double().numpy(), nearest_k=NEIGHBOURS)
        for name, value in ours._asdict().items():
            yield Row(f"{name}, k = {NEIGHBOURS}", "prdc", float(theirs[name]), value)
    if installed("monai"):
        yield from _monai(real, synthetic, size)


def _torch_fidelity(real: torch.Tensor, synthetic: torch.Tensor) -> Iterator[Row]:
    package, name = torch_fidelity(), "torch-fidelity"
    program = programs()[name]
    theirs = program.distance(*(program.statistics(each) for each in (real, synthetic)))
    yield Row("FID", name, theirs, fid.distance(real, synthetic))
    doubles = real.double(), synthetic.double()
    found = package.metric_kid.kid_features_to_metric(*doubles, kid_subsets=1, kid_subset_size=len(real), verbose=False)
    yield Row("KID, all in one subset", name, found["kernel_inception_distance_mean"], kid.mmd2(*doubles))
    # their first set is the synthetic one
    found = package.metric_prc.prc_features_to_metric(
        synthetic, real, prc_neighborhood=NEIGHBOURS, prc_batch_size=1000, save_cpu_ram=False, verbose=False
    )
    ours = precision_recall.manifold(real, synthetic)
    yield Row(f"precision, k = {NEIGHBOURS}", name, float(found["precision"]), ours.precision)
    yield Row(f"recall, k = {NEIGHBOURS}", name, float(found["recall"]), ours.recall)


def _monai(real: torch.Tensor, synthetic: torch.Tensor, size: int) -> Iterator[Row]:
    from monai.metrics import FIDMetric
    from monai.metrics.regression import MultiScaleSSIMMetric

    yield Row("FID", "MONAI", float(FIDMetric()(synthetic, real)), fid.distance(real, synthetic))
    images = phantoms(12, size, slices=1)[0].double()
    first, second = images[:6], images[6:]
    count = ms_ssim.scales(size, size)
    weights = torch.tensor(ms_ssim.WEIGHTS[:count]) / sum(ms_ssim.WEIGHTS[:count])
    metric = MultiScaleSSIMMetric(2, data_range=1.0, weights=weights.tolist())
    theirs = metric((first + 1) / 2, (second + 1) / 2)
    yield Row(
        f"MS-SSIM, {count} scales, mean of {len(first)} pairs",
        "MONAI",
        float(theirs.mean()),
        float(ms_ssim.similarity(first[:, 0], second[:, 0]).mean()),
    )


def main() -> int:
    """Prints the table, writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=1000, help="of each set, with 2,048 features (default: 1000)")
    parser.add_argument("--json", type=Path, help="where the figures go")
    options = parser.parse_args()
    sys.stdout.write("| metric | program | theirs | ours | relative difference |\n|---|---|---|---|---|\n")
    rows = []
    for row in agreement(options.vectors):
        rows.append(row)
        sys.stdout.write(
            f"| {row.metric} | {row.program} | {row.theirs:.9g} | {row.ours:.9g} | {row.difference:.1e} |\n"
        )
        sys.stdout.flush()
    if options.json:
        told = [{**row._asdict(), "difference": row.difference} for row in rows]
        options.json.write_text(json.dumps({"vectors": options.vectors, "rows": told}, indent=1) + "\n")
    return 1 if any(row.difference > LARGEST_DIFFERENCE for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
