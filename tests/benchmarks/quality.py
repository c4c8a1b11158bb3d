"""Does bfloat16 cost quality? KID after the same images, bfloat16 beside float32, over seeds.

``python -m tests.benchmarks.quality [PRESET ...]`` trains small networks on images of noisy squares, of two classes, on
one CPU thread, and takes KID on fixed random convolution features. Both precisions start from the same seeds, so what
counts is the difference of each pair. The gate: the 95 % interval of the mean difference (Student's t) lies wholly
below a margin, stated before, as a share of float32's mean KID: bfloat16 is then no worse by more than that. Few seeds
make the interval wide, and a gate that is not passed proves no loss.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from medgan.config import GanConfig
from medgan.metrics import kid
from medgan.train import Trainer
from pipeline.config import expand_preset, merge
from tests.unit.medgan_toys import scans

T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""97.5 % quantile of Student's t by the number of seeds."""
MARGIN = 0.2
"""Largest loss that would be accepted, in float32's mean KID."""
SIZE, CLASSES = 16, 2


def features(images: torch.Tensor) -> torch.Tensor:
    """Two random strided convolutions and the mean over each quarter: [N, 1, 16, 16] -> [N, 128]."""
    rng = torch.Generator().manual_seed(0)
    x = images.double()
    for inputs, outputs in ((1, 16), (16, 32)):
        weight = torch.randn(outputs, inputs, 3, 3, generator=rng, dtype=torch.float64) / (inputs * 9) ** 0.5
        x = F.relu(F.conv2d(x, weight, stride=2, padding=1))
    return F.avg_pool2d(x, 2).flatten(1)


def one(preset: str, precision: str, seed: int, images: int, folder: Path) -> float:
    """KID of one training's averaged generator against its training images."""
    data = scans(folder, SIZE, SIZE, count=512)
    channels = {"base_channels": 512, "max_channels": 32}
    over: dict[str, Any] = {"images": images, "batch": 16, "precision": precision, "architecture": channels}
    config = GanConfig.from_dict(merge(expand_preset("gan", preset, None, preset), over))
    trainer = Trainer(config, data, seed, torch.device("cpu"), lambda values, step: None)
    for _ in range(images // config.batch):
        trainer.step()
        trainer.pending = {}
    real, _ = trainer.images.draw(0, 512)
    drawn = trainer.loaded().sample(torch.from_numpy(np.arange(512) % CLASSES), seed=0)
    return kid.distance(features(real), features(drawn)).value


def judge(float32: list[float], bfloat16: list[float]) -> dict[str, Any]:
    """Interval of the mean paired difference, the margin, and whether the interval lies below it."""
    differences = [low - high for low, high in zip(bfloat16, float32, strict=True)]
    middle = statistics.mean(differences)
    half = T95[len(differences)] * statistics.stdev(differences) / len(differences) ** 0.5
    margin = MARGIN * statistics.mean(float32)
    return {
        "differences": differences,
        "difference_interval": [middle - half, middle + half],
        "margin": margin,
        "within": middle + half < margin,
    }


def main(arguments: list[str] | None = None) -> int:
    """Prints and writes the figures of each seed, and the gate."""
    parser = argparse.ArgumentParser(prog="quality", description=__doc__.split("\n")[0])
    parser.add_argument("presets", nargs="*", default=["stylegan2", "pggan"])
    parser.add_argument("--seeds", type=int, default=3, choices=sorted(T95))
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--json", type=Path, default=Path("bench_gan_quality.json"))
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    report = []
    with tempfile.TemporaryDirectory() as folder:
        for preset in options.presets:
            row: dict[str, Any] = {"preset": preset, "images": options.images}
            for precision in ("float32", "bfloat16"):
                row[precision] = [
                    one(preset, precision, seed, options.images, Path(folder)) for seed in range(options.seeds)
                ]
            row |= judge(row["float32"], row["bfloat16"])
            report.append(row)
            print(json.dumps(row))  # noqa: T201
            sys.stdout.flush()
            options.json.write_text(json.dumps(report, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
