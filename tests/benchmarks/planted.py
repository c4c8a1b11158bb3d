"""What the probes answer to planted defects: images with one defect each, and generators with one each.

    python -m tests.benchmarks.planted --json bench-planted.json

Images are phantoms of 64x64: 300 training images of 150 patients, 120 validation images of 60, and 240 images of other
patients in the part of the synthetic set, sound or with a defect planted. A row a defect, a column a probe: figure and
95 % interval, in bold where it is *shown*: the whole interval beyond the threshold of the table of claims, or of
:data:`OWN_LIMITS` where that table compares GANs only. Features and classes come from a classifier that is trained here
on the training images, as the scorecard's is. Then the generators of :mod:`tests.benchmarks.planted_generators`. The
slow tests in ``tests/benchmarks/test_planted.py`` hold both tables against what must be seen and what must stay quiet.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F

from classifiers.arms import build_arm
from classifiers.train import train_classifier
from classifiers.trained import TrainedClassifier, features, probabilities
from flows.configuration import load_experiment
from flows.probes import excess, worst_class
from medgan.limitations import CLAIMS
from medgan.metrics import fidelity
from medgan.metrics.conditional import conditional_accuracy, conditional_recall
from medgan.metrics.copies import copies
from medgan.metrics.duplicates import duplicates
from medgan.metrics.leak import leak
from medgan.metrics.measured import Measured, TooFewImagesError
from medgan.metrics.ms_ssim import intra_class
from medgan.metrics.ndb import ndb
from medgan.metrics.spectrum import spectrum
from medgan.metrics.swd import swd
from medgan.pooled import pool
from medgan.verdicts import SHOWN, decide
from pipeline.codes import encode
from pipeline.config import preset_folders
from pipeline.dataset import ScanDataset
from pipeline.phantom import CLASSES
from tests.benchmarks.planted_generators import Planted, generators
from tests.unit.classifier_scans import artifact
from tests.unit.probe_images import generator, phantoms

SIZE = 64
STEPS = 400
Set = tuple[torch.Tensor, torch.Tensor]
"""Images [N, 1, 64, 64] in [-1, 1] and labels [N]."""
OWN_LIMITS = {
    "spectrum.corner": ("above", 2.0),
    "floor_ratio.swd.64": ("above", 1.5),
    "leak.flip": ("above", 0.05),
}
LIMITS = OWN_LIMITS | {
    check.metric: (check.side, check.threshold)
    for claim in reversed(CLAIMS)  # of two claims on one figure the first counts: recall is low, not high
    for check in claim.checks
    if check.relation == "value" and check.metric not in OWN_LIMITS
}
"""Column -> the side on which a defect shows, and from where."""


def moved(images: torch.Tensor, pixels: int = 2) -> torch.Tensor:
    """Moved down and to the right, the edge repeated."""
    return F.pad(images, (pixels, 0, pixels, 0), mode="replicate")[:, :, :SIZE, :SIZE]


def low_pass(images: torch.Tensor) -> torch.Tensor:
    """Without frequencies above half of the highest along either axis."""
    kept = torch.fft.fftfreq(SIZE).abs() <= 0.25
    return torch.fft.ifft2(torch.fft.fft2(images.double()) * (kept[:, None] & kept)).real.float()


def plans() -> Iterator[tuple[str, Set]]:
    """Name of each defect and the set that holds it; the first is without one."""
    train, _, _ = phantoms(150, SIZE, 1)
    sound, labels, _ = phantoms(240, SIZE, 3, slices=1)
    rng = generator()

    def noise(count: int) -> torch.Tensor:
        return torch.randn(count, 1, SIZE, SIZE, generator=rng)

    half = len(sound) // 2
    yield "none: other patients", (sound, labels)
    yield (
        "half of the images repeated",
        (
            torch.cat([sound[:half], sound[:half] + 0.01 * noise(half)]),
            torch.cat([labels[:half], labels[:half]]),
        ),
    )
    lost = sound.clone()
    lost[labels == 0] = phantoms(240, SIZE, 4, slices=1)[0][labels == 1]
    yield "one class drawn as another", (lost, labels)
    yield "one class absent", (sound[labels != 0], labels[labels != 0])
    yield "labels shuffled", (sound, labels[torch.randperm(len(labels), generator=rng)])
    copied = sound.clone()
    copied[:12] = moved(train[:12])
    copied[12:24] = ((train[12:24] + 1) / 2) ** 1.4 * 1.6 - 0.9  # another window and gamma
    yield "10 % training images, moved or re-windowed", (copied, labels)
    yield "high frequencies removed", (low_pass(sound), labels)
    board = torch.ones(SIZE, SIZE)
    board[::2, ::2] = board[1::2, 1::2] = -1
    yield "checkerboard", (sound + 0.05 * board, labels)
    mirrored = sound.clone()
    mirrored[: 3 * len(sound) // 10] = sound[: 3 * len(sound) // 10].flip(3)
    yield "30 % mirrored", (mirrored, labels)
    collapsed = sound.clone()
    own = labels == 1
    collapsed[own] = sound[own][:1] + 0.02 * noise(int(own.sum()))
    yield "one class a single image", (collapsed, labels)


def trained() -> TrainedClassifier:
    """The quickstart's extractor, trained on the training images and their labels."""
    x, labels, _ = phantoms(150, SIZE, 1)
    held, held_labels, _ = phantoms(60, SIZE, 2)
    config = load_experiment(preset_folders(None)[0] / "experiment" / "quickstart.yaml").extractor
    with tempfile.TemporaryDirectory() as folder:
        data = artifact(
            Path(folder),
            torch.cat([labels, held_labels]).numpy(),
            [0] * len(x) + [1] * len(held),
            classes=CLASSES,
            size=SIZE,
            codes=encode(torch.cat([x, held]).numpy()),
        )
        arm = build_arm("B", ScanDataset(data.path, "train"), seed=0)
        validation = ScanDataset(data.path, "validation")
        return train_classifier(replace(config, steps=STEPS), arm, validation, 0, device="cpu")


def probes() -> Callable[[Set], dict[str, Measured | None]]:
    """The columns, as a function of a synthetic set; None where there are too few images for a figure."""
    x, labels, patients = phantoms(150, SIZE, 1)
    held, held_labels, held_patients = phantoms(60, SIZE, 2)
    classifier = trained()

    def seen_by(function: Callable[..., object], images: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(function(classifier, images))

    known, logits = seen_by(features, x), seen_by(probabilities, held)

    def answers(drawn: Set) -> dict[str, Measured | None]:
        y, y_labels = drawn
        found = seen_by(features, y)
        copied, repeated = copies(x, held, y, held_patients), duplicates(x, y, patients)
        gap = spectrum(x, y, patients)[0]
        named = conditional_accuracy(logits, seen_by(probabilities, y), held_labels, y_labels, held_patients, CLASSES)
        recalled = conditional_recall(known, found, labels, y_labels, patients, CLASSES)
        try:
            rows = fidelity(known, found, labels, y_labels, patients, CLASSES)
        except TooFewImagesError:
            rows = []
        scored = {row.metric: Measured(row.value, row.low, row.high) for row in rows}
        return {
            "excess.copies": excess(copied.share, copied.expected, copied.calibrated),
            "excess.duplicates": excess(repeated.share, repeated.expected, repeated.calibrated),
            "excess.ms_ssim": intra_class(x, y, labels, y_labels, patients, CLASSES)["excess.ms_ssim"],
            "excess.ndb": ndb(known, found, patients)[0]["excess.ndb"],
            "floor_ratio.recall": scored.get("floor_ratio.recall"),
            "floor_ratio.coverage": scored.get("floor_ratio.coverage"),
            "worst.conditional_recall": worst_class(recalled).get("worst.conditional_recall"),
            "loss.conditional_accuracy": named["loss.conditional_accuracy"],
            "excess.spectrum": gap["excess.spectrum"],
            "spectrum.corner": gap["spectrum.corner"],
            "floor_ratio.swd.64": swd(x, y, patients)["floor_ratio.swd.64"],
            "leak.flip": leak(x, held, y, "flip", held_patients),
        }

    return answers


def is_shown(column: str, found: Measured | None) -> bool:
    """Whether the whole interval lies beyond the column's limit."""
    return found is not None and decide(pool([found.row(column)]), *LIMITS[column]) == SHOWN


def text(column: str, found: Measured | None) -> str:
    """``0.100 (0.065 to 0.145)``, in bold where it is shown; a dash where there is no figure."""
    if found is None:
        return "–"
    ends = "" if found.low is None or found.high is None else f" ({found.low:.3f} to {found.high:.3f})"
    told = f"{found.value:.3f}{ends}"
    return f"**{told}**" if is_shown(column, found) else told


def images_table() -> dict[str, dict[str, Measured | None]]:
    """Defect -> column -> answer; prints each row as it is there."""
    answers = probes()
    table: dict[str, dict[str, Measured | None]] = {}
    for name, drawn in plans():
        found = answers(drawn)
        if not table:
            sys.stdout.write("| planted | " + " | ".join(found) + " |\n|---" + "|---" * len(found) + "|\n")
        sys.stdout.write(f"| {name} | " + " | ".join(text(*item) for item in found.items()) + " |\n")
        sys.stdout.flush()
        table[name] = found
    return table


def generators_table() -> list[Planted]:
    """Its rows; prints each as it is there."""
    sys.stdout.write("\n| planted in a generator | probe | without | with |\n|---|---|---|---|\n")
    rows = []
    for row in generators():
        without, planted = (f"{one.value:.3f} ({one.low:.3f} to {one.high:.3f})" for one in (row.without, row.planted))
        planted = f"**{planted}**" if row.seen else planted
        sys.stdout.write(f"| {row.defect} | {row.probe} | {without} | {planted} |\n")
        sys.stdout.flush()
        rows.append(row)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    options = parser.parse_args()
    images, rows = images_table(), generators_table()
    if options.json is not None:
        told = {
            "images": {
                defect: {column: one and [one.value, one.low, one.high] for column, one in found.items()}
                for defect, found in images.items()
            },
            "generators": [
                {
                    **{"defect": row.defect, "probe": row.probe, "seen": row.seen},
                    **{
                        name: [one.value, one.low, one.high]
                        for name, one in (("without", row.without), ("planted", row.planted))
                    },
                }
                for row in rows
            ],
        }
        options.json.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
