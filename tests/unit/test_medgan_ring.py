"""Every preset finds the modes of a known distribution: 8 places on a ring, every second one of the other class.

The ring of Gaussians by which mode collapse is shown (Metz et al., "Unrolled Generative Adversarial Networks", ICLR 2017,
section 3.1), rendered: a blob at one of 8 places of a 16x16 image.
"""

import math

import numpy as np
import pytest
import torch

from medgan.train import train
from pipeline.codes import encode
from pipeline.dataset import ScanDataset, dataset_meta, write_index
from pipeline.store import Recipe, Store
from tests.unit.medgan_toys import RANGE, ignore, spec, tiny

PLACES, SIZE, RADIUS, SIGMA = 8, 16, 5.0, 1.5
DRAWN = 200  # of each class


def blobs(places, rng=None, jitter=0.0, noise=0.0):
    """Blobs at given places, float64 [N, 1, 16, 16] from -0.9 to 0.9."""
    angles = 2 * math.pi * np.asarray(places) / PLACES
    centres = (SIZE - 1) / 2 + RADIUS * np.stack([np.sin(angles), np.cos(angles)], axis=1)
    if rng is not None:
        centres = centres + rng.normal(0.0, jitter, centres.shape)
    pixels = np.arange(SIZE)
    down, across = ((pixels - centres[:, axis : axis + 1]) ** 2 for axis in (0, 1))  # [N, 16]
    images = 1.8 * np.exp(-(down[:, :, None] + across[:, None, :]) / (2 * SIGMA**2)) - 0.9
    if rng is not None:
        images = images + rng.normal(0.0, noise, images.shape)
    return images[:, None]


def ring(root, count=800):
    """The training split of a dataset artifact; an image's class is its place modulo 2."""
    rng = np.random.default_rng(0)
    places = np.arange(count) % PLACES
    codes = encode(np.clip(blobs(places, rng, jitter=0.3, noise=0.03), -1.0, 1.0))

    def build(draft):
        np.save(draft.folder / "images.npy", codes)
        write_index(draft.folder, codes, places % 2, [0] * count, range(count))
        draft.meta.update(dataset_meta(spec(), RANGE, False))

    return ScanDataset(Store(root).get_or_create(Recipe("dataset", "ring", {}, {}, "test"), build).path, "train")


def judge(images, labels):
    """Modes found, accuracy and quality of drawn images [N, 1, 16, 16] with their labels [N].

    An image is of the place whose clean blob is nearest, and sharp if it is nearer to it than half a step to the next
    place. A place is found if at least a quarter of its fair share of images lies there, sharp; for labelled images,
    those of its own class.

    Returns:
        recall (share of the 8 places found), accuracy (share of sharp images whose place is of their class), and the
        share of sharp images.
    """
    templates = torch.from_numpy(blobs(range(PLACES))).float().flatten(1)
    apart = torch.cdist(images.flatten(1), templates)
    nearest, place = apart.min(dim=1)
    sharp = nearest < torch.dist(templates[0], templates[1]) / 2
    right = place % 2 == labels
    counts = place[sharp & right].bincount(minlength=PLACES)
    recall = (counts >= len(images) / PLACES / 4).float().mean().item()
    accuracy = (right & sharp).sum().item() / max(int(sharp.sum()), 1)
    return recall, accuracy, sharp.float().mean().item()
