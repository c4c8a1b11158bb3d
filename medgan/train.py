"""One trainer for every architecture: it decides when, the architecture's phases decide what."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medgan import registry
from medgan.architecture import Architecture
from medgan.checkpoint import latest_checkpoint, optimiser_tensors, restore_optimiser, save_checkpoint, write_state
from medgan.config import GanConfig
from medgan.contract import Batch, Phase
from medgan.data import ResidentImages
from medgan.optimise import GuardedBuffers, average, build_optimisers, ema_decay, guarded_step
from medgan.sample import LoadedGenerator
from medgan.seeds import seed_of, seeded
from pipeline.dataset import ScanDataset
from pipeline.device import autocast, choose_device, place
from pipeline.records import LogFunction, MedaugError, Progress

CURVE_POINTS = 200
GRID_COLUMNS = 8

Curves = dict[str, list[tuple[float, float]]]
SnapshotFunction = Callable[[int, LoadedGenerator], Mapping[str, float]]
GridFunction = Callable[[int, NDArray[np.uint8]], None]


@dataclass(frozen=True)
class TrainResult:
    """How a training ended.

    Attributes:
        status: "done", or "diverged".
        reason: the diagnosis of a divergence, one line; else "".
        images_seen: real images shown to the discriminator.
        seconds: wall time, all resumptions together.
        parameters: {"generator": n, "discriminator": n}.
        curves: metric → list of (images seen, value).
    """

    status: str
    reason: str
    images_seen: int
    seconds: float
    parameters: Mapping[str, int]
    curves: Mapping[str, list[tuple[float, float]]]


@dataclass
class Progression:
    """What changes while training and is not in a network: goes into the checkpoint's JSON."""

    step: int = 0
    images_seen: int = 0
    seconds: float = 0.0
    snapshots: int = 0
    curves: Curves = field(default_factory=dict)


def train(
    config: GanConfig,
    data: ScanDataset,
    seed: int,
    scratch: Path,
    output: Path,
    *,
    device: str = "auto",
    log: LogFunction,
    progress: Progress,
    on_snapshot: SnapshotFunction | None = None,
    on_grid: GridFunction | None = None,
) -> TrainResult:
    """Trains one GAN, from the newest whole checkpoint in ``scratch`` if there is one.

    Args:
        config: what to train.
        data: the training split.
        seed: of weights, order and latents.
        scratch: checkpoints; survives a kill.
        output: an artifact's draft folder; gets ``generator.safetensors``, ``generator.json``, ``curves.json`` and the
            full state in ``state/``; none of it depends on the clock or on interruptions.
        device: "auto", "cpu", "cuda", ...
        log: called with the curves' newest values and the images seen.
        progress: called with the images seen and the images in all.
        on_snapshot: at ``config.snapshots`` points: evaluates the averaged generator, returns metrics.
        on_grid: at the same points: gets a picture, uint8 [rows, columns] or [rows, columns, 3], one row a class.

    Raises:
        MedaugError: data that no training could use; before any training.
    """
    registry.check(config, data.spec)
    if len(data) == 0:
        raise MedaugError(f"{data.artifact.path}: no image to train on; expected at least one in its training split")
    trainer = Trainer(config, data, seed, choose_device(device), log)
    saved = latest_checkpoint(scratch)
    if saved is not None:
        trainer.restore(*saved)
    return trainer.run(scratch, output, progress, on_snapshot, on_grid)


class Trainer:
    """The state of a training and what one step does to it."""

    def __init__(self, config: GanConfig, data: ScanDataset, seed: int, device: torch.device, log: LogFunction):
        self.config = config
        self.seed = seed
        self.device = device
        self.log = log
        self.spec, self.value_range = data.spec, data.value_range
        self.images = ResidentImages(data, seed_of(seed, "order"), device)
        architecture = registry.build(config, data.spec)
        architecture.initialise(seeded(seed, "weights"))
        self.architecture: Architecture = place(architecture, device)
        self.averaged = copy.deepcopy(architecture.generator).eval().requires_grad_(False)
        self.phases = self.architecture.phases()
        self.statistics = GuardedBuffers(self.architecture)
        self.optimisers = build_optimisers(self.architecture, self.phases, config.optimiser)
        self.rng = seeded(seed, "steps", device=device)
        self.now = Progression()
        self.skipped = torch.zeros((), device=device)  # steps skipped so far
        self.in_a_row = {name: torch.zeros((), device=device) for name in self.optimisers}  # the newest run of them
        self.pending: dict[str, list[Tensor]] = {}  # curve values that no one has read yet

    # -- one step ------------------------------------------------------------------------------------------------------

    def step(self) -> None:
        """Shows one batch of real images to every phase that is due."""
        images, labels = self.images.draw(self.now.images_seen, self.config.batch)
        stage = self.architecture.stage_at(self.now.images_seen)
        batch = Batch(self.architecture.reals(images, stage), labels, stage, self.rng)
        for phase in self.phases:
            if self.now.step % phase.every == 0:
                self.run_phase(phase, batch)
        decay = ema_decay(self.config, self.now.images_seen)
        average(self.averaged, self.architecture.generator, decay)
        self.now.step += 1
        self.now.images_seen += self.config.batch

    def run_phase(self, phase: Phase, batch: Batch) -> None:
        """Descends one phase's loss; a step with a non-finite loss or gradient changes nothing in the networks."""
        network: nn.Module = getattr(self.architecture, phase.network)
        network.requires_grad_(True)
        with autocast(self.device, self.config.precision):
            loss, curves = phase.loss(batch)
        loss.backward()
        bad = guarded_step(self.optimisers[phase.network], loss)
        self.statistics.settle(bad)
        self.architecture.after_update(phase.network)
        network.requires_grad_(False)
        self.skipped += bad
        self.in_a_row[phase.network] = (self.in_a_row[phase.network] + bad) * bad
        for name, value in curves.items():
            self.pending.setdefault(name, []).append(value.detach().float())

    # -- the whole training --------------------------------------------------------------------------------------------

    def run(
        self,
        scratch: Path,
        output: Path,
        progress: Progress,
        on_snapshot: SnapshotFunction | None,
        on_grid: GridFunction | None,
    ) -> TrainResult:
        """Steps until the images are used up or the training has diverged, then writes the result."""
        config, now = self.config, self.now
        steps = math.ceil(config.images / config.batch)
        log_every = max(1, steps // CURVE_POINTS)
        self.architecture.train().requires_grad_(False)
        clock = saved = time.monotonic()

        def due() -> bool:
            return now.step % log_every == 0 or now.step == steps

        reason = self.diagnosis() if due() else ""  # only where an unbroken run has looked, too
        while now.step < steps and not reason:
            self.step()
            if due():
                self.flush_curves()
                reason = self.diagnosis()
            if now.step * config.snapshots >= (now.snapshots + 1) * steps and not reason:
                now.snapshots += 1
                self.snapshot(on_snapshot, on_grid)
            tick = time.monotonic()
            now.seconds, clock = now.seconds + tick - clock, tick
            if tick - saved >= config.checkpoint_seconds:
                save_checkpoint(scratch, now.step, *self.state())
                saved = time.monotonic()
            progress(min(now.images_seen, config.images), config.images)
        return self.finish(output, "diverged" if reason else "done", reason)

    def diagnosis(self) -> str:
        """Why the training cannot go on, or ""."""
        for name, count in self.in_a_row.items():
            if int(count) >= self.config.skip_limit:
                return (
                    f"non-finite losses or gradients in {int(count)} consecutive steps of the {name} "
                    f"({int(self.skipped)} of both networks in all), after {self.now.images_seen} images"
                )
        return ""

    def flush_curves(self) -> None:
        """Means since the last time, read from the device in one go, to the curves and the log."""
        names = list(self.pending)
        means = torch.stack([torch.stack(self.pending[name]).nanmean() for name in names])
        values = dict(zip([*names, "skipped"], torch.cat([means, self.skipped[None]]).tolist(), strict=True))
        stage = self.architecture.stage_at(self.now.images_seen)
        values |= {"stage.level": float(stage.level), "stage.alpha": stage.alpha}
        self.record(values)
        self.pending = {}

    def record(self, values: Mapping[str, float]) -> None:
        """Finite values to the curves and the log."""
        finite = {name: float(value) for name, value in values.items() if math.isfinite(value)}
        for name, value in finite.items():
            self.now.curves.setdefault(name, []).append((float(self.now.images_seen), value))
        self.log(finite, self.now.images_seen)

    def snapshot(self, on_snapshot: SnapshotFunction | None, on_grid: GridFunction | None) -> None:
        """Shows the averaged generator to whoever wants to judge it."""
        generator = self.loaded()
        if on_snapshot is not None:
            self.record(on_snapshot(self.now.images_seen, generator))
        if on_grid is not None:
            on_grid(self.now.images_seen, grid(generator, seed_of(self.seed, "grid")))

    def loaded(self) -> LoadedGenerator:
        """The averaged generator as users get it."""
        stage = self.architecture.stage_at(self.now.images_seen)
        return LoadedGenerator(self.config, self.spec, self.value_range, self.averaged, stage, self.device)

    def finish(self, output: Path, status: str, reason: str) -> TrainResult:
        """Writes generator, curves and full state; nothing of it depends on the clock or on interruptions."""
        now = self.now
        parameters = {
            name: sum(p.numel() for p in getattr(self.architecture, name).parameters())
            for name in ("generator", "discriminator")
        }
        result = TrainResult(status, reason, now.images_seen, now.seconds, parameters, now.curves)
        self.loaded().save(
            output, seed=self.seed, status=status, reason=reason, images_seen=now.images_seen, parameters=parameters
        )
        (output / "curves.json").write_text(json.dumps(now.curves, allow_nan=False, sort_keys=True), encoding="utf-8")
        tensors, state = self.state()
        del state["now"]["seconds"]  # equal trainings make equal artifacts
        write_state(output / "state", tensors, state)
        return result

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that a resumption needs: tensors, and JSON data."""
        tensors = {f"architecture.{name}": value for name, value in self.architecture.state_dict().items()}
        tensors |= {f"averaged.{name}": value for name, value in self.averaged.state_dict().items()}
        for name, optimiser in self.optimisers.items():
            tensors |= optimiser_tensors(optimiser, f"optimiser.{name}")
        tensors |= {f"pending.{name}": torch.stack(values) for name, values in self.pending.items()}
        tensors |= {f"in_a_row.{name}": count for name, count in self.in_a_row.items()}
        tensors |= {"rng": self.rng.get_state(), "skipped": self.skipped}
        now, config = dataclasses.asdict(self.now), dataclasses.asdict(self.config)
        return tensors, {"seed": self.seed, "now": now, "config": config}

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Goes on where :meth:`state` was taken.

        Raises:
            MedaugError: the checkpoint belongs to another configuration or seed.
        """
        mine = json.loads(json.dumps({"seed": self.seed, "config": dataclasses.asdict(self.config)}))
        if mine != {"seed": state["seed"], "config": state["config"]}:
            raise MedaugError(
                "checkpoint: made by another configuration or seed; expected this one's; empty the folder"
            )

        def part(prefix: str) -> dict[str, Tensor]:
            return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

        self.architecture.load_state_dict(part("architecture."))
        self.averaged.load_state_dict(part("averaged."))
        self.statistics.keep()
        for name, optimiser in self.optimisers.items():
            restore_optimiser(optimiser, f"optimiser.{name}", tensors)
        self.pending = {name: list(value.to(self.device)) for name, value in part("pending.").items()}
        self.rng.set_state(tensors["rng"])
        self.skipped = tensors["skipped"].to(self.device)
        self.in_a_row = {name: tensors[f"in_a_row.{name}"].to(self.device) for name in self.optimisers}
        curves = {name: [(x, y) for x, y in points] for name, points in state["now"]["curves"].items()}
        self.now = Progression(**{**state["now"], "curves": curves})


def grid(generator: LoadedGenerator, seed: int) -> NDArray[np.uint8]:
    """A picture of samples, one row a class: uint8 [rows, columns], or [rows, columns, 3] for 3 or more channels."""
    classes = len(generator.spec.classes)
    labels = [label for label in range(classes) for _ in range(GRID_COLUMNS)]
    images = generator.sample(labels, seed)
    images = images[:, :3] if images.shape[1] >= 3 else images[:, :1]
    C, H, W = images.shape[1:]
    tiles = images.reshape(classes, GRID_COLUMNS, C, H, W).permute(0, 3, 1, 4, 2)  # -> [classes, H, columns, W, C]
    pixels = ((tiles + 1) * 127.5).round().to(torch.uint8).reshape(classes * H, GRID_COLUMNS * W, C).numpy()
    return pixels if C == 3 else pixels[..., 0]
