"""Artifacts with scans that anyone can tell apart, for the classifiers' tests."""

import dataclasses

import numpy as np

from classifiers import ClassifierConfig
from pipeline.codes import encode, image_hash
from pipeline.dataset import dataset_meta, write_index
from pipeline.records import ImageSpec, ValueRange
from pipeline.store import Recipe, Store

CLASSES = ("dark", "bright", "striped")
HU = ValueRange(-1000.0, 1000.0, "HU")
QUICK = ClassifierConfig(steps=30, batch=12, evaluate_every=10, planes=(8, 8, 8, 8), precision="float32")


def draw(labels, seed, size=16):
    """uint16 [N, 1, size, size]; the noise makes each image different."""
    rng = np.random.default_rng(seed)
    images = rng.normal(0.0, 0.25, (len(labels), 1, size, size))
    images += np.array([-0.4, 0.4, 0.0])[labels][:, None, None, None]
    images[labels == 2, :, ::2] += 0.4
    return encode(images)


def artifact(
    root, labels, splits, *, synthetic=False, classes=CLASSES, value_range=HU, size=16, seed=0, codes=None, source=None
):
    """A dataset or synthetic artifact; two images a patient, and the test images sealed.

    ``source`` is the digest of the dataset that a synthetic one's generator was trained on.
    """
    labels = np.asarray(labels)
    codes = draw(labels, seed, size) if codes is None else codes

    def build(draft):
        np.save(draft.folder / "images.npy", codes)
        write_index(draft.folder, codes, labels, splits, np.arange(len(labels)) // 2)
        sealed = sorted({image_hash(codes[i]).decode() for i in range(len(codes)) if splits[i] == 2})
        spec = ImageSpec(1, size, size, classes)
        draft.meta.update(dataset_meta(spec, value_range, synthetic, test_hashes=sealed))
        if source is not None:
            draft.meta["dataset"] = source

    kind = "synthetic" if synthetic else "dataset"
    config = {"seed": seed, "labels": labels.tolist(), "value_range": dataclasses.asdict(value_range)}
    return Store(root).get_or_create(Recipe(kind, "scans", {}, config, "test"), build)


def real_artifact(root):
    """30 dark, 12 bright and 6 striped scans for training; 4 of each for validation and for testing."""
    labels = [0] * 30 + [1] * 12 + [2] * 6 + [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2] * 2
    return artifact(root, labels, [0] * 48 + [1] * 12 + [2] * 12)
