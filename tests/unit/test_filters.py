"""Filters of synthetic images keep what they say."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import flows.filters
from classifiers import build_arm, train_classifier
from flows.configuration import ClassificationConfig
from flows.filters import best_of_each_class, confidence, copied, depth, filter_synthetic
from medgan.metrics.precision_recall import NEIGHBOURS
from pipeline.dataset import ScanDataset
from pipeline.records import MedaugError
from pipeline.store import Recipe, Store
from tests.unit.classifier_scans import QUICK, artifact, draw, real_artifact

LABELS = np.array([0, 1, 2] * 20)


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    return real_artifact(tmp_path_factory.mktemp("real"))


@pytest.fixture(scope="module")
def network(real):
    torch.set_num_threads(1)
    train, validation = ScanDataset(real.path, "train"), ScanDataset(real.path, "validation")
    return train_classifier(dataclasses.replace(QUICK, steps=60), build_arm("B", train), validation, 0, device="cpu")


def test_the_best_of_each_class_are_kept():
    score = np.array([0.1, 0.9, 0.5, 0.7, 0.2, 0.3])
    labels = np.array([0, 0, 0, 0, 1, 1])
    assert np.flatnonzero(best_of_each_class(score, labels, 0.5)).tolist() == [1, 3, 5]
    assert np.flatnonzero(best_of_each_class(score, labels, 0.1)).tolist() == [1, 5]


def test_images_under_a_wrong_label_are_the_least_confident(network):
    images = torch.from_numpy(draw(LABELS, 5).astype(np.float32) / 32767.5 - 1.0)
    wrong = LABELS.copy()
    wrong[:6] = (LABELS[:6] + 1) % 3
    score = confidence(network, images, wrong)
    assert score[:6].mean() < 0.5 * score[6:].mean()


def test_depth_is_above_one_where_precision_counts_an_image(real, network, monkeypatch):
    rng = np.random.default_rng(0)
    points = {48: rng.normal(size=(48, 3)), 40: rng.normal(size=(40, 3)) * 1.5}  # real and synthetic, by their number
    monkeypatch.setattr(flows.filters, "features", lambda _, images: points[len(images)])
    score = depth(network, ScanDataset(real.path, "train"), torch.zeros(40, 1, 16, 16))
    x, y = torch.from_numpy(points[48]), torch.from_numpy(points[40])
    radius = torch.cdist(x, x).sort(dim=1).values[:, NEIGHBOURS]  # the nearest is the vector itself
    inner = radius <= radius.median()
    inside = (torch.cdist(y, x[inner]) <= radius[inner]).any(dim=1).numpy()
    assert np.array_equal(score >= 1.0, inside)
    assert 0 < inside.sum() < 40


def test_planted_copies_are_found(tmp_path, network):
    labels = [0, 1, 2] * 20 + [0, 1, 2] * 10 + [0, 1, 2]
    real = artifact(tmp_path / "real", labels, [0] * 60 + [1] * 30 + [2] * 3)
    train, validation = ScanDataset(real.path, "train"), ScanDataset(real.path, "validation")
    codes = np.concatenate([train.codes[train.rows[:6]], draw(LABELS, 9)])
    fake = artifact(tmp_path / "fake", [0, 1, 2] * 22, [0] * 66, synthetic=True, codes=codes, source=real.digest)
    mask = copied(network, train, validation, ScanDataset(fake.path))
    assert mask[:6].all()
    assert mask[6:].mean() < 0.2


@pytest.mark.parametrize("kind", ["confidence", "precision"])
def test_a_filtered_set_is_a_synthetic_artifact_that_an_arm_takes(tmp_path, real, network, kind):
    drawn = artifact(tmp_path / "drawn", LABELS, [0] * 60, synthetic=True, seed=3, source=real.digest)
    store = Store(tmp_path)
    extractor = store.get_or_create(Recipe("extractor", "x", {}, {}, "1"), lambda draft: network.save(draft.folder))
    context = SimpleNamespace(config=SimpleNamespace(classification=ClassificationConfig(keep=0.5)), store=store)
    path = filter_synthetic.fn(context, real.path, extractor.path, drawn.path, kind)
    kept = ScanDataset(path)
    assert np.bincount(kept.labels).tolist() == [10, 10, 10]
    assert set(kept.hashes) < set(ScanDataset(drawn.path).hashes)
    assert kept.meta["filter"] == kind
    assert build_arm("D", ScanDataset(real.path, "train"), kept, ratio=0.25).added == (8, 3, 2)
    with pytest.raises(MedaugError, match="10 images of class dark, expected at least 15"):
        build_arm("D", ScanDataset(real.path, "train"), kept, ratio=0.5)
