"""How fast GANs train: images a second, milliseconds by phase, memory, FLOPs, and the ratio to a plain formulation.

``python -m tests.benchmarks.bench_gan [PRESET:SIZE[:BATCH] ...]`` prints a table and writes JSON. Every case runs in a
process of its own, so that peak memory is its own and no case warms another one up. Times are whole cycles of steps, in
which every lazy phase has its share; average and optimiser are included; the fastest cycle counts. "plain" is the same
trainer with the networks of :mod:`tests.benchmarks.plain` in float32 and NCHW; "float32" is this code without bfloat16;
"compiled" (asked for by ``--variants``) is this code through ``torch.compile``.
"ratio" is images a second over plain's; "cpu" the same of CPU time, which tells more where other work shares the
machine. "peak" is the share of what a large matrix product reaches on the same machine in the same precision.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import math
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import conv_flop_count, flop_registry

from medgan import GanConfig, registry
from medgan.train import Trainer
from pipeline.codes import encode
from pipeline.config import expand_preset, merge, preset_names
from pipeline.dataset import ScanDataset, dataset_meta, write_index
from pipeline.device import autocast, choose_device
from pipeline.records import ImageSpec, ValueRange
from pipeline.store import Recipe, Store
from tests.benchmarks import plain

DEFAULT = ["dcgan:32:32", "pggan:32:32", "stylegan:32:32", "stylegan2:32:32", "stylegan2_ada:32:32", "stylegan2:64:16"]
WIDTHS = {32: (4096, 128), 64: (8192, 256), 128: (16384, 512), 256: (16384, 512)}
"""Base and most channels by size: those of the targets."""
VARIANTS = ("fast", "float32", "plain")
COMPILED = "compiled"
"""One more variant, where asked for: it takes a minute or more until it runs."""


def images(size: int, folder: Path) -> ScanDataset:
    """256 images of noise in 2 classes: speed does not depend on what they show."""
    codes = encode(np.random.default_rng(0).uniform(-1, 1, (256, 1, size, size)))
    labels = np.arange(256) % 2

    def build(draft: Any) -> None:
        np.save(draft.folder / "images.npy", codes)
        write_index(draft.folder, codes, labels, [0] * 256, range(256))
        spec = ImageSpec(1, size, size, ("a", "b"))
        draft.meta.update(dataset_meta(spec, ValueRange(-1000.0, 400.0, "HU"), False))

    recipe = Recipe("dataset", "bench", {}, {"size": size}, "bench")
    return ScanDataset(Store(folder).get_or_create(recipe, build).path, "train")


def configuration(case: dict[str, Any]) -> GanConfig:
    """A preset at a size, all of it grown already."""
    preset, size = case["preset"], case["size"]
    data = expand_preset("gan", preset, None, preset)
    base, most = case.get("widths") or WIDTHS.get(size, (16384, 512))
    options = registry.architecture_class(data["network"]).Options.__dataclass_fields__
    wanted = {"base_channels": base, "max_channels": most, "growth_share": 0.0}
    architecture = {key: value for key, value in wanted.items() if key in options}
    compiled = case["variant"] == COMPILED
    precision = case["precision"] if compiled or case["variant"] == "fast" else "float32"
    over: dict[str, Any] = {"batch": case["batch"], "precision": precision, "architecture": architecture}
    if compiled:
        over["compile"] = "default"
    if "augmentation" in data:
        over["augmentation"] = {"probability": 0.5}  # as busy as it gets in a training that goes well
    return GanConfig.from_dict(merge(data, over))


def measure(case: dict[str, Any]) -> dict[str, Any]:
    """One case in this process."""
    device = choose_device(case["device"])
    if case["threads"]:
        torch.set_num_threads(case["threads"])
    config = configuration(case)
    with tempfile.TemporaryDirectory() as folder:
        data = images(case["size"], Path(folder))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        trainer = Trainer(config, data, 0, device, lambda values, step: None)
        if case["variant"] == "plain":
            plain.use(trainer.architecture)
        cycle = math.lcm(*(phase.every for phase in trainer.phases))

        def settle() -> float:
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            return time.perf_counter()

        def steps(count: int) -> tuple[float, float]:
            started, busy = settle(), time.process_time()
            for _ in range(count):
                trainer.step()
            trainer.pending = {}
            return settle() - started, time.process_time() - busy

        trainer.now.step = 0
        steps(1)  # every phase runs at step 0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        trainer.now.step = 0
        rounds = [steps(cycle)]
        while sum(wall for wall, _ in rounds) < case["seconds"]:
            rounds.append(steps(cycle))
        best, busy = (min(times) / cycle for times in zip(*rounds, strict=True))
        if device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(device)
        else:
            peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
        phases = by_phase(trainer, settle, cycle)
        ran = copy.deepcopy(trainer.now.passes)
        for one in trainer.architecture.passes.values():
            one.mode = "off"  # compiled code calls no operation that could be counted
        trainer.now.step = 0
        with CountedFlops() as counter:
            for _ in range(cycle):
                trainer.step()
    flops = counter.total / cycle
    return {
        **{key: case[key] for key in ("preset", "size", "batch", "variant")},
        "precision": "bfloat16" if autocast(device, config.precision)._enabled else "float32",
        "images_per_second": config.batch / best,
        "images_per_second_of_rounds": [config.batch * cycle / seconds for seconds, _ in rounds],
        "cpu_seconds_per_image": busy / config.batch,
        "step_milliseconds": best * 1e3,
        "phase_milliseconds": phases,
        "steps": len(rounds) * cycle,
        "peak_bytes": peak,
        "flops_per_image": flops / config.batch,
        "flops_per_second": flops / best,
        "parameters": {
            name: sum(p.numel() for p in getattr(trainer.architecture, name).parameters())
            for name in ("generator", "discriminator")
        },
        "skipped": float(trainer.skipped),
        "passes": ran,
    }


class CountedFlops(TorchDispatchMode):
    """Adds up the FLOPs of convolutions and matrix products, forward and backward.

    torch's own mode also attributes them to modules, which does not go with ``autograd.grad`` inside a step.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the operation and counts it."""
        out = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        if func is torch.ops.aten.convolution_backward.default:
            # As many products for each gradient as forward; torch's own count forgets the weight's groups.
            y, x, w, *_, transposed, _, _, mask = args
            self.total += sum(mask[:2]) * conv_flop_count(list(x.shape), list(w.shape), list(y.shape), transposed)
        elif count is not None:
            self.total += count(*args, **(kwargs or {}), out_val=out)
        return out


def by_phase(trainer: Trainer, settle: Any, cycle: int) -> dict[str, float]:
    """Milliseconds of one run of each phase, and of the rest of a step (data, average), each waited for."""
    spent: dict[str, list[float]] = {}
    run = trainer.run_phase

    def timed(phase: Any, batch: Any) -> None:
        started = settle()
        run(phase, batch)
        spent.setdefault(phase.name, []).append(settle() - started)

    trainer.run_phase = timed  # type: ignore[method-assign]
    trainer.now.step = 0
    started = settle()
    for _ in range(cycle):
        trainer.step()
    whole = settle() - started
    trainer.run_phase = run  # type: ignore[method-assign]
    rest = (whole - sum(sum(times) for times in spent.values())) / cycle
    return {**{name: 1e3 * sum(times) / len(times) for name, times in spent.items()}, "rest": 1e3 * rest}


def peak_rate(device: torch.device, precision: str) -> float:
    """FLOPs a second of a large matrix product: what this machine does now, not what its maker says."""
    size = 8192 if device.type == "cuda" else 1536
    dtype = torch.bfloat16 if autocast(device, precision)._enabled else torch.float32
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    times = []
    for _ in range(6):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        started = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return 2 * size**3 / min(times)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="bench_gan", description=__doc__.split("\n")[0])
    parser.add_argument("cases", nargs="*", default=DEFAULT, metavar="PRESET:SIZE[:BATCH]")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=[*VARIANTS, COMPILED])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto", choices=("auto", "float32", "bfloat16"))
    parser.add_argument("--widths", type=int, nargs=2, metavar=("BASE", "MOST"), help="channels; else by size")
    parser.add_argument("--seconds", type=float, default=10.0, help="at least so long for each case, in whole cycles")
    parser.add_argument("--threads", type=int, default=0, help="of the CPU; 0 as torch has it")
    parser.add_argument("--json", type=Path, default=Path("bench_gan.json"))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def wanted(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One mapping for each case and variant.

    Raises:
        SystemExit: a case that is not PRESET:SIZE[:BATCH]; one line, status 2.
    """
    for text in options.cases:
        preset, *numbers = text.split(":")
        if preset not in preset_names("gan") or len(numbers) not in (1, 2) or not all(n.isdigit() for n in numbers):
            known = ", ".join(preset_names("gan"))
            print(f"case {text!r}: expected PRESET:SIZE[:BATCH], PRESET one of {known}", file=sys.stderr)  # noqa: T201
            raise SystemExit(2)
        for variant in options.variants:
            if variant == "plain" and preset in ("gan", "cgan"):
                continue  # fully connected: there is nothing to lay out or to fuse
            yield {
                **{"preset": preset, "size": int(numbers[0]), "batch": int(numbers[1]) if len(numbers) == 2 else 32},
                **{"variant": variant, "device": options.device, "precision": options.precision},
                **{"seconds": options.seconds, "threads": options.threads, "widths": options.widths},
            }


def main(arguments: list[str] | None = None) -> int:
    """Measures, prints a table, writes JSON."""
    options = parse(arguments)
    if options.one is not None:
        print(json.dumps(measure(json.loads(options.one))))  # noqa: T201
        return 0
    device = choose_device(options.device)
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU"
    with contextlib.suppress(OSError, StopIteration):
        if device.type == "cpu":
            lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            machine = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    if options.threads:
        torch.set_num_threads(options.threads)
    peak = {precision: peak_rate(device, precision) for precision in {options.precision, "float32"}}
    report: dict[str, Any] = {
        "device": machine,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "matmul_flops_per_second": peak,
        "cases": [],
    }
    head = f"{'preset':14} {'size':>4} {'batch':>5} {'variant':8} {'images/s':>9} {'ratio':>6} {'cpu':>6} {'peak':>6}"
    head += f" {'MiB':>6}  ms by phase"
    print(f"{machine}, {report['threads']} threads, torch {torch.__version__}\n{head}")  # noqa: T201
    slow: dict[tuple[str, int, int], dict[str, float]] = {}
    for case in sorted(wanted(options), key=lambda case: case["variant"] != "plain"):  # the divisor first
        command = [sys.executable, "-m", "tests.benchmarks.bench_gan", "--one", json.dumps(case)]
        child = subprocess.run(command, capture_output=True, text=True, check=False)
        if child.returncode != 0:
            print(f"{case['preset']}:{case['size']} {case['variant']}: {child.stderr.strip()[-300:]}", file=sys.stderr)  # noqa: T201
            return 1
        row = json.loads(child.stdout.splitlines()[-1])
        key = (case["preset"], case["size"], case["batch"])
        if case["variant"] == "plain":
            slow[key] = row
        reference = slow.get(key)
        row["ratio_to_plain"] = row["images_per_second"] / reference["images_per_second"] if reference else None
        row["cpu_ratio_to_plain"] = (
            reference["cpu_seconds_per_image"] / row["cpu_seconds_per_image"] if reference else None
        )
        best = peak[options.precision if row["variant"] in ("fast", COMPILED) else "float32"]
        row["share_of_matmul"] = row["flops_per_second"] / best
        report["cases"].append(row)
        ratio = " ".join(
            f"{row[name]:6.2f}" if row[name] else "     -" for name in ("ratio_to_plain", "cpu_ratio_to_plain")
        )
        phases = "  ".join(f"{name} {value:.0f}" for name, value in row["phase_milliseconds"].items())
        names = f"{row['preset']:14} {row['size']:4} {row['batch']:5} {row['variant']:8}"
        figures = (
            f"{row['images_per_second']:9.1f} {ratio} {row['share_of_matmul']:6.1%} {row['peak_bytes'] / 2**20:6.0f}"
        )
        print(f"{names} {figures}  {phases}", flush=True)  # noqa: T201
        options.json.write_text(json.dumps(report, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
