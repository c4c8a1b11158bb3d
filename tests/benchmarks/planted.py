"""What each probe of images answers to each planted defect, on phantoms of 64x64.

    python -m tests.benchmarks.planted --json bench-planted.json

300 training images of 150 patients, 120 validation images of 60, and 240 images of other patients in the part of the
synthetic set, sound or with a defect planted. A row a defect, a column a probe: figure and 95 % interval. Features are
the images averaged to 8x8, so that nothing is learnt before; a classifier by least squares judges labels.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F

from medgan.metrics.conditional import conditional_accuracy, conditional_recall
from medgan.metrics.copies import copies
from medgan.metrics.duplicates import duplicates
from medgan.metrics.leak import leak
from medgan.metrics.measured import Measured
from medgan.metrics.ms_ssim import intra_class
from medgan.metrics.ndb import ndb
from medgan.metrics.spectrum import spectrum
from medgan.metrics.swd import swd
from pipeline.phantom import CLASSES
from tests.unit.probe_images import generator, phantoms, small

SIZE = 64
Set = tuple[torch.Tensor, torch.Tensor]
"""Images [N, 1, 64, 64] in [-1, 1] and labels [N]."""


def moved(images: torch.Tensor, pixels: int = 2) -> torch.Tensor:
    """Moved down and to the right, the edge repeated."""
    return F.pad(images, (pixels, 0, pixels, 0), mode="replicate")[:, :, :SIZE, :SIZE]


def low_pass(images: torch.Tensor) -> torch.Tensor:
    """Without frequencies above half of the highest along either axis."""
    kept = torch.fft.fftfreq(SIZE).abs() <= 0.25
    return torch.fft.ifft2(torch.fft.fft2(images.double()) * (kept[:, None] & kept)).real.float()


def plans(train: torch.Tensor, sound: torch.Tensor, labels: torch.Tensor) -> Iterator[tuple[str, Set]]:
    """Name of each defect and the set that holds it; the first is without one."""
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
    lost[labels == 2] = sound[labels == 0]
    yield "one class drawn as another", (lost, labels)
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


def probes() -> Callable[[Set], dict[str, Measured]]:
    """The columns, as a function of a synthetic set."""
    x, labels, patients = phantoms(150, SIZE, 1)
    held, held_labels, held_patients = phantoms(60, SIZE, 2)
    features = small(x)
    one_hot = F.one_hot(labels, len(CLASSES)).double()
    weights = torch.linalg.solve(features.T @ features + torch.eye(features.shape[1]).double(), features.T @ one_hot)

    def answers(drawn: Set) -> dict[str, Measured]:
        y, y_labels = drawn
        of_images = (x, y, labels, y_labels, patients, CLASSES)
        of_features = (features, small(y), labels, y_labels, patients, CLASSES)
        logits = small(held) @ weights, small(y) @ weights
        accuracy = conditional_accuracy(*logits, held_labels, y_labels, held_patients, CLASSES)
        return {
            "copies": copies(x, held, y, held_patients).share,
            "duplicates": duplicates(x, y, patients).share,
            "excess.ms_ssim": intra_class(*of_images)["excess.ms_ssim"],
            "excess.ndb": ndb(features, small(y), patients)[0]["excess.ndb"],
            "spectrum (dB)": spectrum(x, y, patients)[0]["spectrum"],
            "floor_ratio.swd.64": swd(x, y, patients)["floor_ratio.swd.64"],
            "leak.flip": leak(x, held, y, "flip", held_patients),
            "loss.conditional_accuracy": accuracy["loss.conditional_accuracy"],
            "conditional_recall": conditional_recall(*of_features)["conditional_recall"],
        }

    return answers


def text(found: Measured) -> str:
    """``0.100 (0.065 to 0.145)``."""
    if found.low is None or found.high is None:
        return f"{found.value:.3f}"
    return f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    options = parser.parse_args()
    answers = probes()
    train, _, _ = phantoms(150, SIZE, 1)
    sound, labels, _ = phantoms(240, SIZE, 3, slices=1)
    table = {}
    for name, drawn in plans(train, sound, labels):
        found = answers(drawn)
        if not table:
            sys.stdout.write("| planted | " + " | ".join(found) + " |\n|---" + "|---" * len(found) + "|\n")
        sys.stdout.write(f"| {name} | " + " | ".join(text(one) for one in found.values()) + " |\n")
        sys.stdout.flush()
        table[name] = {metric: [one.value, one.low, one.high] for metric, one in found.items()}
    if options.json is not None:
        options.json.write_text(json.dumps(table, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
