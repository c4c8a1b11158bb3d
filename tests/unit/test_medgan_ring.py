"""Presets find the modes of a known distribution: 8 places on a ring, every second one of the other class.

The ring of Gaussians by which mode collapse is shown (Metz et al., "Unrolled Generative Adversarial Networks", ICLR
2017, section 3.1), rendered: a blob at one of 8 places of a 16x16 image. Networks are scaled down and rates raised, so
that a training takes about a CPU minute.
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


def judge(images, labels=None):
    """Modes found, accuracy and quality of drawn images [N, 1, 16, 16] with their labels [N], if they have any.

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
    right = place % 2 == labels if labels is not None else torch.ones_like(sharp)
    counts = place[sharp & right].bincount(minlength=PLACES)
    recall = (counts >= len(images) / PLACES / 4).float().mean().item()
    accuracy = (right & sharp).sum().item() / max(int(sharp.sum()), 1)
    return recall, accuracy, sharp.float().mean().item()


MLP = {"hidden": 128, "units": 64, "label_hidden": 32, "label_units": 16, "pieces": 5, "latent": 16}
DCGAN = {"base_channels": 256, "max_channels": 64, "latent": 16}
GROWING = {"base_channels": 128, "max_channels": 32, "latent": 16}
STYLE = {**GROWING, "width": 16, "mapping_layers": 4}


def rates(rate):
    return {"generator_rate": rate, "discriminator_rate": rate}


# Preset: its settings, and the recall and accuracy that it must reach; measured with one seed each.
PRESETS = {
    "gan": ({"images": 120_000, "batch": 32, "architecture": MLP, "optimiser": rates(1e-3)}, 0.75, None),
    "cgan": ({"images": 120_000, "batch": 32, "architecture": MLP, "optimiser": rates(1e-3)}, 0.75, 0.95),
    "dcgan": ({"images": 60_000, "batch": 64, "architecture": {**DCGAN, "base_channels": 512}}, 0.5, 0.95),
    # measured: recall 0.875, accuracy 0.994, with 43 % of the images sharp
    "wgan": ({"images": 100_000, "batch": 32, "architecture": DCGAN, "optimiser": rates(5e-4)}, 0.75, 0.95),
    "wgan_gp": ({"images": 100_000, "batch": 32, "architecture": DCGAN, "optimiser": rates(5e-4)}, 0.75, 0.95),
    "pggan": ({"images": 40_000, "batch": 16, "architecture": GROWING, "optimiser": rates(3e-3)}, 0.875, 0.95),
    # Not grown, which takes it longer than the other loss: 0.625 measured; grown 0.125 to 0.5 at rates of 1e-3 to 3e-3.
    "pggan_lsgan": (
        {
            **{"images": 40_000, "batch": 16, "architecture": {**GROWING, "growth_share": 0.0}},
            "optimiser": rates(2e-3),
        },
        *(0.5, 0.95),
    ),
    "stylegan": (
        {
            **{"images": 30_000, "batch": 16, "architecture": STYLE, "optimiser": rates(3e-3)},
            "regularisation": {"r1": 1.0},
        },
        *(0.75, 0.9),
    ),
    "stylegan2": (
        {
            **{"images": 30_000, "batch": 16, "architecture": STYLE, "optimiser": rates(3e-3)},
            "regularisation": {"r1": 1.0},
        },
        *(0.625, 0.95),  # measured: 0.75, 0.991; on another processor it may be a place less
    ),
    # Only what leaves a blob in its place: 0.875 and 0.986 measured; with all of the preset's transforms 0.75 and 1.0.
    "stylegan2_ada": (
        {
            **{"images": 30_000, "batch": 16, "architecture": STYLE, "optimiser": rates(3e-3)},
            "regularisation": {"r1": 1.0},
            "augmentation": {"transforms": ["brightness", "contrast"], "ramp": 10_000},
        },
        *(0.75, 0.95),
    ),
}


def drawn(preset, settings, data, folder):
    """A trained generator's images and the labels they were asked for."""
    labels, images = torch.arange(2 * DRAWN) % 2, []

    def look(images_seen, generator):
        images.append(generator.sample(labels, seed=1))
        return {}

    config = tiny(preset, snapshots=1, **settings)
    for name in ("scratch", "out"):
        (folder / name).mkdir()
    scratch, output = folder / "scratch", folder / "out"
    result = train(config, data, 0, scratch, output, device="cpu", log=ignore, progress=ignore, on_snapshot=look)
    assert result.status == "done"
    return images[-1], labels


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return ring(tmp_path_factory.mktemp("data"))


def test_the_judge_knows_right_from_wrong():
    """Real images are perfect; a class that is missing, a wrong class, one image a class and blur are all seen."""
    places = np.arange(400) % PLACES
    images = torch.from_numpy(blobs(places, np.random.default_rng(1), jitter=0.3, noise=0.03)).float()
    labels = torch.from_numpy(places) % 2
    assert judge(images, labels) == (1.0, 1.0, 1.0)
    assert judge(images, 1 - labels)[:2] == (0.0, 0.0)
    assert judge(images)[0] == 1.0  # without labels every place counts
    collapsed = torch.from_numpy(blobs(places % 2)).float()
    assert judge(collapsed, labels) == (0.25, 1.0, 1.0)
    mean = images.mean(dim=0, keepdim=True).expand_as(images)
    assert judge(mean, labels) == (0.0, 0.0, 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_finds_the_modes_of_both_classes(preset, data, tmp_path):
    settings, least_recall, least_accuracy = PRESETS[preset]
    images, labels = drawn(preset, settings, data, tmp_path)
    recall, accuracy, _ = judge(images, labels if least_accuracy is not None else None)
    assert recall >= least_recall
    assert least_accuracy is None or accuracy >= least_accuracy


@pytest.mark.slow
def test_bce_collapses_where_the_gradient_penalty_does_not(data, tmp_path):
    """The same generator at the same rate, batch and length: under BCE a place or two of each class remain."""
    settings, least, _ = PRESETS["wgan_gp"]
    images, labels = drawn("dcgan", {**settings, "images": 60_000}, data, tmp_path)
    assert judge(images, labels)[0] <= 0.5 < least


@pytest.mark.slow
def test_least_squares_find_a_place_of_each_class_at_most(data, tmp_path):
    """As DCGAN under BCE in a longer training; 0.125 and 0.25 at rates of 2e-4 and 1e-3, 0.25 with 100,000 images."""
    architecture = {**DCGAN, "base_channels": 512}
    settings = {"images": 60_000, "batch": 64, "architecture": architecture, "optimiser": rates(5e-4)}
    recall, accuracy, _ = judge(*drawn("lsgan", settings, data, tmp_path))
    assert recall <= 0.25
    assert accuracy >= 0.95
