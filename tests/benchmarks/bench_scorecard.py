"""CPU seconds of the scorecard's probes beside those of the quickstart's trainings.

    python -m tests.benchmarks.bench_scorecard --images 2000 --size 64 --json bench-scorecard.json

Phantoms as training scans, half as many for validation, and as many synthetic scans of the quickstart's stylegan
after a few steps: a probe's time does not depend on how good they are, unless it refuses them ("refused": counted is
the time until then). The trainings are not run: of each GAN of the quickstart so many steps are timed at five points
of its course (growing networks are quicker at first), after one step at each, and the mean is taken times the steps of
the whole. Evaluation at snapshots is left out of these. One thread by default; processor time.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from classifiers.arms import build_arm
from classifiers.train import train_classifier
from flows.configuration import ExperimentConfig, load_experiment
from flows.probes import RUN
from flows.scorecard import examine
from flows.subject import Subject
from medgan.config import GanConfig
from medgan.limitations import PROBES
from medgan.sample import load, synthesize
from medgan.train import Trainer, train
from medgan.verdicts import flatten, meets
from pipeline.codes import encode
from pipeline.config import preset_folders
from pipeline.dataset import ScanDataset
from pipeline.phantom import CLASSES
from pipeline.records import MedaugError
from pipeline.store import Draft, Recipe, Store
from tests.unit.classifier_scans import artifact
from tests.unit.medgan_toys import ignore
from tests.unit.probe_images import phantoms

EXAMINED = "stylegan"
POINTS = 5


def dataset(folder: Path, count: int, size: int) -> Path:
    """So many training scans, and half as many validation scans; two of each patient."""
    (x, labels, _), (held, held_labels, _) = phantoms(count // 2, size, 1), phantoms(count // 4, size, 2)
    both = torch.cat([labels, held_labels]).numpy()
    codes = encode(torch.cat([x, held]).numpy())
    split = [0] * len(x) + [1] * len(held)
    return artifact(folder, both, split, classes=CLASSES, size=size, codes=codes).path


def subject(config: ExperimentConfig, folder: Path, data: Path) -> Subject:
    """What the probes look at: an extractor and a generator of a few steps, and what the latter draws."""
    real = ScanDataset(data, "train")
    arm = build_arm("B", real, seed=0)
    extractor = folder / "extractor"
    extractor.mkdir()
    few = replace(config.extractor, steps=10, evaluate_every=10)
    train_classifier(few, arm, ScanDataset(data, "validation"), 0, device="cpu").save(extractor)
    gan = next(one for one in config.gans if one.name == EXAMINED)
    short = replace(gan, images=8 * gan.batch, snapshots=1)
    store = Store(folder / "artifacts")

    def learn(draft: Draft) -> None:
        train(short, real, 0, folder / "scratch", draft.folder, device="cpu", log=ignore, progress=ignore)

    generator = store.get_or_create(Recipe("generator", "bench", {}, {}, ""), learn).path

    def draw(draft: Draft) -> None:
        counts = dict.fromkeys(CLASSES, math.ceil(config.scorecard.images / len(CLASSES)))
        draft.meta.update(synthesize(load(generator, device="cpu"), counts, draft.folder, 0, 1.0, ignore))

    synthetic = store.get_or_create(Recipe("synthetic", "bench", {}, {}, ""), draw).path
    return examine(config, data, extractor, generator, synthetic, "cpu")


def time_probes(config: ExperimentConfig, looked_at: Subject) -> list[dict[str, Any]]:
    """One row for each probe that concerns the generator; the first that needs shared features bears their time."""
    gan = next(one for one in config.model_dump()["gans"] if one["name"] == EXAMINED)
    rows = []
    for name, run in RUN.items():
        if not meets(flatten(gan), PROBES[name].concerns):
            continue
        started, refused = time.process_time(), ""
        try:
            run(looked_at)
        except MedaugError as error:
            refused = str(error)
        rows.append({"probe": name, "cpu_seconds": time.process_time() - started, "refused": refused})
    return rows


def time_training(gan: GanConfig, data: ScanDataset, steps: int) -> dict[str, Any]:
    """CPU seconds of a whole training, from a few steps at points of its course."""
    trainer = Trainer(gan, data, 0, torch.device("cpu"), ignore)
    cycle = math.lcm(*(phase.every for phase in trainer.phases))
    timed = max(1, round(steps / cycle)) * cycle  # every lazy phase in its share
    each = []
    for point in range(POINTS):
        trainer.now.step, trainer.now.images_seen = 0, int((point + 0.5) / POINTS * gan.images)
        trainer.step()  # every phase once: what is made at first use is there
        trainer.now.step = 0
        started = time.process_time()
        for _ in range(timed):
            trainer.step()
        each.append((time.process_time() - started) / timed)
    whole = math.ceil(gan.images / gan.batch)
    mean = sum(each) / len(each)
    return {"gan": gan.name, "steps": whole, "cpu_seconds_of_a_step": each, "cpu_seconds": whole * mean}


def main() -> int:
    """Prints both tables, writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000, help="real, and synthetic (default: 2000)")
    parser.add_argument("--size", type=int, default=64, help="of the scans (default: 64)")
    parser.add_argument("--draws", type=int, default=500, help="scorecard.draws (default: 500)")
    parser.add_argument("--steps", type=int, default=16, help="timed at each point, in whole cycles (default: 16)")
    parser.add_argument("--threads", type=int, default=1, help="(default: 1)")
    parser.add_argument("--json", type=Path, help="where the figures go")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    size = options.size
    changes = [f"data.size=[{size},{size}]", f"scorecard.images={options.images}", f"scorecard.draws={options.draws}"]
    config = load_experiment(preset_folders(None)[0] / "experiment" / "quickstart.yaml", changes)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = dataset(folder / "data", options.images, size)
        probes = time_probes(config, subject(config, folder, data))
        trainings = [time_training(gan, ScanDataset(data, "train"), options.steps) for gan in config.gans]
    sys.stdout.write("| probe | CPU s | |\n|---|---|---|\n")
    for row in sorted(probes, key=lambda row: -row["cpu_seconds"]):
        remark = "refused" if row["refused"] else ""
        sys.stdout.write(f"| {row['probe']} | {row['cpu_seconds']:.2f} | {remark} |\n")
    total, slowest = sum(row["cpu_seconds"] for row in probes), max(row["cpu_seconds"] for row in trainings)
    sys.stdout.write(f"| all | {total:.1f} | |\n\n| training | steps | CPU s, extrapolated |\n|---|---|---|\n")
    for row in trainings:
        sys.stdout.write(f"| {row['gan']} | {row['steps']} | {row['cpu_seconds']:.0f} |\n")
    sys.stdout.write(f"\nscorecard / slowest training: {total / slowest:.2f}\n")
    if options.json:
        settings = {key: value for key, value in vars(options).items() if key != "json"}
        told = {**settings, "probes": probes, "trainings": trainings, "share_of_slowest_training": total / slowest}
        options.json.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
