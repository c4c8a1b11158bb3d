"""One trainer for every architecture: it decides when, the architecture's phases decide what."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medgan import ranks, registry
from medgan.architecture import Architecture
from medgan.checkpoint import (
    agreed_checkpoint,
    drop_checkpoints,
    drop_drafts,
    optimiser_tensors,
    restore_optimiser,
    save_checkpoint,
    write_state,
)
from medgan.config import GanConfig
from medgan.contract import Batch, Phase
from medgan.data import ResidentImages
from medgan.optimise import GuardedBuffers, SkipCounts, average, build_optimisers, ema_decay, guarded_step
from medgan.progression import Progression, TrainResult, grid
from medgan.sample import LoadedGenerator
from medgan.seeds import seed_of, seeded
from pipeline.dataset import ScanDataset
from pipeline.device import autocast, choose_device, has_bfloat16, place, resolve_precision
from pipeline.records import LogFunction, MedaugError, Progress

CURVE_POINTS = 200
"""At so many points of a training curves are read from the device, and whether it still goes well."""

GOOD_POINTS = 20
"""States to go back to, in a whole training."""

logger = logging.getLogger(__name__)

SnapshotFunction = Callable[[int, LoadedGenerator], Mapping[str, float]]
GridFunction = Callable[[int, NDArray[np.uint8]], None]


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

    Called in every process of a process group, they train one GAN together (:mod:`medgan.distributed`).

    Args:
        config: what to train.
        data: the training split.
        seed: of weights, order and latents.
        scratch: checkpoints, of this training alone; survives a kill.
        output: an artifact's draft folder; gets ``generator.safetensors``, ``generator.json``, ``curves.json`` and the
            full state in ``state/``; none of it depends on the clock or on interruptions.
        device: "auto", "cpu", "cuda", ...
        log: called with the curves' newest values and the images seen.
        progress: called with the images seen and the images in all; where it raises ``KeyboardInterrupt``, the state is
            saved first (an interrupt anywhere else costs what came after the last checkpoint).
        on_snapshot: at ``config.snapshots`` points: evaluates the averaged generator, returns metrics.
        on_grid: at the same points: gets a picture, uint8 [rows, columns] or [rows, columns, 3], one row a class.

    Raises:
        MedaugError: data that no training could use, a batch that the processes cannot share, or a checkpoint that
            belongs to another training or cannot be read.
    """
    registry.check(config, data.spec)
    ranks.check_shares(config)
    if len(data) == 0:
        raise MedaugError(f"{data.artifact.path}: no image to train on; expected at least one in its training split")
    trainer = Trainer(config, data, seed, choose_device(device), log)
    if ranks.first():
        drop_drafts(scratch)
    saved = agreed_checkpoint(scratch)
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
        self.dataset = data.artifact.digest
        self.precision = resolve_precision(device, config.precision)  # "auto" may mean another on the next machine
        self.images = ResidentImages(data, seed_of(seed, "order"), device)
        self.skipped = torch.zeros((), device=device)  # steps skipped so far, those of abandoned courses too
        self.start()

    def start(self) -> None:
        """The state of the first step."""
        config, device = self.config, self.device
        architecture = registry.build(config, self.spec)
        architecture.initialise(seeded(self.seed, "weights"))
        self.architecture: Architecture = place(architecture, device)
        self.averaged = copy.deepcopy(architecture.generator).eval().requires_grad_(False)
        self.architecture.train().requires_grad_(False)
        self.phases = self.architecture.phases()
        self.statistics = GuardedBuffers(self.architecture)
        self.optimisers = build_optimisers(self.architecture, self.phases, config.optimiser)
        self.rates = {name: float(optimiser.param_groups[0]["lr"]) for name, optimiser in self.optimisers.items()}
        self.rng = seeded(self.seed, "steps", device=device)
        self.now = Progression()
        self.note_passes()
        self.skips = {phase.name: SkipCounts(device) for phase in self.phases}
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
        if self.config.compile == "reduce-overhead" and self.device.type == "cuda":
            torch.compiler.cudagraph_mark_step_begin()  # nothing of the phase before is needed any more
        with autocast(self.device, self.precision):
            loss, curves = phase.loss(batch)
        loss.backward()
        loss, curves = ranks.share(network, loss, curves)
        bad = guarded_step(self.optimisers[phase.network], loss)
        self.statistics.settle(bad)
        self.architecture.after_update(phase.network)
        network.requires_grad_(False)
        self.skipped += bad
        self.skips[phase.name].note(bad)
        for name, value in curves.items():
            self.pending.setdefault(name, []).append(value.detach().float())

    def note_passes(self) -> None:
        """From now on the progression says how passes ran, those before an interruption too."""
        passes = self.architecture.passes
        self.now.passes = {name: self.now.passes.get(name, []) for name in passes}  # in this order, restored or not
        for name, one in passes.items():
            one.ran = self.now.passes[name]

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
        config = self.config
        steps = math.ceil(config.images / config.batch)
        log_every = max(1, steps // CURVE_POINTS)
        clock = saved = time.monotonic()

        def due() -> bool:
            return self.now.step % log_every == 0 or self.now.step == steps

        reason = self.look(scratch, steps) if due() else ""  # only where an unbroken run has looked, too
        while self.now.step < steps and not reason:
            self.step()
            if due():
                self.flush_curves()
                reason = self.look(scratch, steps)
            if self.now.step * config.snapshots >= (self.now.snapshots + 1) * steps and not reason:
                self.now.snapshots += 1
                self.snapshot(on_snapshot, on_grid)
            tick = time.monotonic()
            self.now.seconds, clock = self.now.seconds + tick - clock, tick
            if tick - saved >= config.checkpoint_seconds:
                self.save(scratch)
                saved = time.monotonic()
            try:
                progress(min(self.now.images_seen, config.images), config.images)
            except KeyboardInterrupt:
                self.save(scratch)
                raise
        return self.finish(output, "diverged" if reason else "done", reason)

    # -- when it does not go well --------------------------------------------------------------------------------------

    def look(self, scratch: Path, steps: int) -> str:
        """Keeps a good state or goes back to one; why the training cannot go on, or ""."""
        reason = self.diagnosis(last=self.now.step == steps)
        if reason and self.now.rollbacks < self.config.rollbacks:
            self.roll_back(scratch, reason)
            return ""
        if reason and self.now.rollbacks > 0:
            return f"{reason}; it had gone back {self.now.rollbacks} times and halved its learning rates each time"
        if reason:
            return reason
        made = [counts.looked(self.config.skip_limit) for counts in self.skips.values()]
        point = self.now.step * GOOD_POINTS // steps
        if self.now.good < point < GOOD_POINTS and all(made):
            self.now.good = point
            self.save(scratch, kind="good")
        return ""

    def roll_back(self, scratch: Path, reason: str) -> None:
        """Back to the newest good state (or to the start, if there is none), with half the learning rates.

        Good states are kept at steps that follow from the configuration alone, never by the clock, so that a training
        that went back is as reproducible as any other. What was skipped stays counted, and when it went back stays in
        the curves; the other points of the abandoned course go with it.
        """
        failed, skipped = self.now, self.skipped
        good = agreed_checkpoint(scratch, kind="good", last=failed.step)
        if good is None:
            self.start()
        else:
            self.restore(*good)
        count = failed.rollbacks + 1
        events = [*failed.curves.get("rollback", []), (float(failed.images_seen), float(count))]
        self.now.rollbacks, self.now.seconds, self.now.curves["rollback"] = count, failed.seconds, events
        self.skipped = skipped
        self.skips = {name: SkipCounts(self.device) for name in self.skips}
        self.set_rates()
        self.log({"rollback": float(count)}, failed.images_seen)
        logger.warning("%s; going back to %d images with half the learning rates", reason, self.now.images_seen)
        if ranks.first():
            drop_checkpoints(scratch, after=self.now.step)
        self.save(scratch)

    def set_rates(self) -> None:
        """Learning rates, halved as often as the training went back."""
        for name, optimiser in self.optimisers.items():
            for group in optimiser.param_groups:
                group["lr"] = self.rates[name] * 0.5**self.now.rollbacks

    def diagnosis(self, last: bool) -> str:
        """Why the training cannot go on, or ""; ``last``: it is at its end."""
        for name, counts in self.skips.items():
            found = counts.diagnosis(self.config.skip_limit, last)
            if found:
                return (
                    f"non-finite losses or gradients in {found} of the phase {name!r} "
                    f"({int(self.skipped)} of all phases in all), after {self.now.images_seen} images"
                )
        return ""

    def flush_curves(self) -> None:
        """Means since the last time, read from the device in one go, to the curves and the log."""
        names = list(self.pending)
        means = torch.stack([torch.stack(self.pending[name]).nanmean() for name in names])
        values = dict(zip([*names, "skipped"], torch.cat([means, self.skipped[None]]).tolist(), strict=True))
        stage = self.architecture.stage_at(self.now.images_seen)
        values |= {"stage.level": float(stage.level), "stage.alpha": stage.alpha}
        if self.config.conditioning.transitional:
            values["stage.label"] = stage.label
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
        if not ranks.first():
            return
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
        if not ranks.first():
            return result
        self.loaded().save(
            output,
            dataset=self.dataset,
            precision=self.precision,
            device=self.device.type,
            passes=now.passes,
            seed=self.seed,
            status=status,
            reason=reason,
            images_seen=now.images_seen,
            parameters=parameters,
        )
        (output / "curves.json").write_text(json.dumps(now.curves, allow_nan=False, sort_keys=True), encoding="utf-8")
        tensors, state = self.state()
        del state["now"]["seconds"]  # equal trainings make equal artifacts
        write_state(output / "state", tensors, state)
        return result

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def save(self, scratch: Path, kind: str = "step") -> None:
        """Writes a checkpoint; of several processes, all in the same state, the first does."""
        if ranks.first():
            save_checkpoint(scratch, self.now.step, *self.state(), kind=kind)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that a resumption needs: tensors, and JSON data."""
        tensors = {f"architecture.{name}": value for name, value in self.architecture.state_dict().items()}
        tensors |= {f"averaged.{name}": value for name, value in self.averaged.state_dict().items()}
        for name, optimiser in self.optimisers.items():
            tensors |= optimiser_tensors(optimiser, f"optimiser.{name}")
        tensors |= {f"pending.{name}": torch.stack(values) for name, values in self.pending.items()}
        tensors |= {f"skips.{name}": skips.counts for name, skips in self.skips.items()}
        tensors |= {"rng": self.rng.get_state(), "skipped": self.skipped}
        now, config = dataclasses.asdict(self.now), dataclasses.asdict(self.config)
        made = {"seed": self.seed, "dataset": self.dataset, "precision": self.precision, "device": self.device.type}
        return tensors, {**made, "now": now, "config": config}

    def keep_precision(self, begun: str) -> None:
        """Goes on in the precision that the training began in, whatever "auto" means on this machine."""
        if begun == self.precision:
            return
        if begun == "bfloat16" and not has_bfloat16(self.device.type):
            raise MedaugError(
                f"checkpoint: made in bfloat16, in which this machine's {self.device.type} does not compute; "
                "go on where it does, or begin anew in another scratch folder"
            )
        logger.warning("precision auto is %s here; goes on in %s, in which it began", self.precision, begun)
        self.precision = begun

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Goes on where :meth:`state` was taken.

        Raises:
            MedaugError: the checkpoint belongs to another dataset, configuration or seed, or was made in bfloat16,
                which this hardware lacks.
        """
        config = json.loads(json.dumps(dataclasses.asdict(self.config)))
        mine = {"dataset": self.dataset, "configuration": config, "seed": self.seed}
        theirs = {"dataset": state.get("dataset"), "configuration": state["config"], "seed": state["seed"]}
        other = [name for name, value in mine.items() if theirs[name] != value]
        if other:  # another split may train on patients that this one tests on
            raise MedaugError(
                f"checkpoint: made with another {' and '.join(other)}; expected this one's; "
                "choose another scratch folder, or empty it"
            )
        self.keep_precision(state["precision"])

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
        for name, skips in self.skips.items():
            skips.counts.copy_(tensors[f"skips.{name}"])
        curves = {name: [(x, y) for x, y in points] for name, points in state["now"]["curves"].items()}
        self.now = Progression(**{**state["now"], "curves": curves})
        self.note_passes()
        self.set_rates()
