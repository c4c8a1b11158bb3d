"""Images for the tests of probes: phantoms whose patients and classes are known, and MedNIST where it is."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pipeline.phantom import CLASSES, draw_patient


@functools.cache
def phantoms(
    patients: int, size: int = 32, seed: int = 0, slices: int = 2
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images [N, 1, size, size] in [-1, 1], labels [N] and patient numbers [N]; classes take turns."""
    images, labels, owners = [], [], []
    for patient in range(patients):
        rng = np.random.default_rng([seed, patient])
        label = patient % len(CLASSES)
        for drawn in draw_patient(CLASSES[label], slices, size, patient // len(CLASSES) % 2 == 1, rng):
            images.append(np.clip((drawn.hu + 1000) / 1400 * 2 - 1, -1, 1))
            labels.append(label)
            owners.append(patient)
    return torch.tensor(np.stack(images))[:, None].float(), torch.tensor(labels), torch.tensor(owners)


def mednist(folder: Path, name: str, count: int) -> torch.Tensor:
    """The first images of a class of MedNIST, [count, 1, 64, 64] in [-1, 1]."""
    files = sorted((folder / "mednist6000" / name).iterdir())[:count]
    pixels = np.stack([np.asarray(Image.open(file).convert("L"), np.float32) for file in files])
    return torch.from_numpy(pixels)[:, None] / 127.5 - 1


def small(images: torch.Tensor, side: int = 8) -> torch.Tensor:
    """Plain features: images averaged down and flattened, float64 [N, side²]."""
    return torch.nn.functional.adaptive_avg_pool2d(images.double(), side).flatten(1)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
