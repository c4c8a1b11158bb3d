"""CPU time of a step by phase, this code beside the plain formulation, in interleaved rounds of one process.

``python -m tests.benchmarks.paired [PRESET:SIZE:BATCH ...]``, on the CPU, with one thread. Where other work shares the
machine, rates of separate processes do not compare; here every phase of every variant runs once a round, and what is
compared is CPU time. The floor is the FLOPs of the variant's own phases, in convolutions and matrix products, over the
largest rate of 3x3 convolutions of three sizes in any round, in the precision in which the phase runs. The plain
formulation has more FLOPs than the others, as it fuses nothing. Of a lazy phase a step bears its share. R1 at every
step, inside the discriminator's phase, counts as if it ran in bfloat16.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from medgan.contract import Batch
from medgan.convolution import conv2d
from medgan.optimise import average
from medgan.train import Trainer
from tests.benchmarks import plain
from tests.benchmarks.bench_gan import COMPILED, VARIANTS, CountedFlops, configuration, images

DEFAULT = ["stylegan2:32:32", "pggan:32:32", "dcgan:32:32", "stylegan2:64:16"]
IN_FLOAT32 = ("r1", "path_length")


def clocked(action: Callable[[], Any]) -> float:
    """CPU seconds of all threads."""
    started = time.process_time()
    action()
    return time.process_time() - started


def peak(dtype: torch.dtype) -> float:
    """FLOPs a second of CPU time: the best of convolutions in this code's layout, 128 to 128 maps of 8x8 to 32x32."""
    w = torch.randn(128, 128, 3, 3).to(dtype, memory_format=torch.channels_last)
    rates = []
    for size in (8, 16, 32):
        x = torch.randn(16, 128, size, size).to(dtype, memory_format=torch.channels_last)
        with torch.no_grad():
            seconds = min(clocked(lambda x=x: conv2d(x, w, padding=1)) for _ in range(3))
        rates.append(2 * x.numel() * 128 * 9 / seconds)
    return max(rates)


def compare(
    preset: str,
    size: int,
    batch: int,
    rounds: int,
    widths: tuple[int, int] | None = None,
    variants: Sequence[str] = VARIANTS,
) -> dict[str, Any]:
    """Every variant's CPU milliseconds by phase, medians of the rounds, and the ratio of whole steps."""
    case = {"preset": preset, "size": size, "batch": batch, "precision": "auto", "widths": widths}
    trainers: dict[str, Trainer] = {}
    with tempfile.TemporaryDirectory() as folder:
        data = images(size, Path(folder))
        for variant in variants:
            config = configuration({**case, "variant": variant})
            trainers[variant] = Trainer(config, data, 0, torch.device("cpu"), lambda values, step: None)
        plain.use(trainers["plain"].architecture)
        every = {phase.name: phase.every for phase in trainers["fast"].phases} | {"average": 1}
        spent: dict[str, dict[str, list[float]]] = {variant: {name: [] for name in every} for variant in variants}
        peaks: dict[torch.dtype, list[float]] = {torch.float32: [], torch.bfloat16: []}
        flops: dict[str, dict[str, int]] = {variant: {} for variant in variants}
        for count in range(rounds + 1):  # the first warms up, and counts
            for dtype, rates in peaks.items():
                rates.append(peak(dtype))
            for variant, trainer in trainers.items():
                real, labels = trainer.images.draw(count * batch, batch)
                shown = Batch(real, labels, trainer.architecture.stage_at(0), trainer.rng)
                for phase in trainer.phases:
                    run = lambda t=trainer, p=phase, b=shown: t.run_phase(p, b)  # noqa: E731
                    if count == 0 and variant == COMPILED:
                        run()
                        flops[variant][phase.name] = flops["fast"][phase.name]  # as many; its code hides them
                    elif count == 0:
                        with CountedFlops() as counter:
                            run()
                        flops[variant][phase.name] = counter.total
                    else:
                        spent[variant][phase.name].append(clocked(run))
                seconds = clocked(lambda t=trainer: average(t.averaged, t.architecture.generator, 0.999))
                if count:
                    spent[variant]["average"].append(seconds)
    rows = {}
    for variant, phases in spent.items():
        steps = [sum(phases[name][r] / every[name] for name in every) for r in range(rounds)]
        floor = 0.0
        for name, count in flops[variant].items():
            dtype = torch.bfloat16 if variant in ("fast", COMPILED) and name not in IN_FLOAT32 else torch.float32
            floor += count / every[name] / max(peaks[dtype])
        reference = [sum(spent["plain"][name][r] / every[name] for name in every) for r in range(rounds)]
        ratios = [slow / own for slow, own in zip(reference, steps, strict=True)]
        rows[variant] = {
            "images_per_cpu_second": batch / statistics.median(steps),
            "ratio_to_plain": statistics.median(ratios),
            "ratio_range": [min(ratios), max(ratios)],
            "gflops_by_phase": {name: count / 1e9 for name, count in flops[variant].items()},
            "cpu_milliseconds": {name: 1e3 * statistics.median(times) for name, times in phases.items()},
            "floor_milliseconds": 1e3 * floor,
            "share_of_peak": floor / statistics.median(steps),
            "passes": trainers[variant].now.passes,
        }
    rates = {str(dtype).removeprefix("torch."): max(values) / 1e9 for dtype, values in peaks.items()}
    return {**case, "rounds": rounds, "peak_gflops_per_second": rates, "variants": rows}


def main(arguments: list[str] | None = None) -> int:
    """Prints a line a variant, writes JSON."""
    parser = argparse.ArgumentParser(prog="paired", description=__doc__.split("\n")[0])
    parser.add_argument("cases", nargs="*", default=DEFAULT, metavar="PRESET:SIZE:BATCH")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, default=Path("bench_gan_paired.json"))
    parser.add_argument("--compiled", action="store_true", help="this code through torch.compile, too")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    variants = [*VARIANTS, COMPILED] if options.compiled else VARIANTS
    report = []
    for text in options.cases:
        preset, size, batch = text.split(":")
        report.append(compare(preset, int(size), int(batch), options.rounds, variants=variants))
        print(text, json.dumps({k: v for k, v in report[-1].items() if k != "variants"}))  # noqa: T201
        for variant, row in report[-1]["variants"].items():
            print(f"  {variant:8}", json.dumps(row))  # noqa: T201
        sys.stdout.flush()
        options.json.write_text(json.dumps(report, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
