"""What each arm trains on, and what it refuses."""

import numpy as np
import pytest
import torch

from classifiers import build_arm, train_classifier
from classifiers.arms import added_counts
from pipeline.dataset import ScanDataset
from pipeline.records import MedaugError, ValueRange
from tests.unit.classifier_scans import QUICK, artifact, draw, real_artifact


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    return real_artifact(tmp_path_factory.mktemp("real"))


@pytest.fixture(scope="module")
def train(real):
    return ScanDataset(real.path, "train")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory, real):
    labels = [0, 1, 2] * 40
    folder = tmp_path_factory.mktemp("synthetic")
    made = artifact(folder, labels, [0] * 120, synthetic=True, seed=1, source=real.digest)
    return ScanDataset(made.path)


def test_arms_hold_what_their_names_say(train, drawn):
    arms = {name: build_arm(name, train, drawn, ratio=0.5) for name in "ABCDE"}
    assert [arms[name].classical for name in "ABCDE"] == [False, True, True, True, False]
    assert arms["A"].real == (30, 12, 6)
    assert arms["A"].added == (0, 0, 0)
    assert arms["C"].added == arms["D"].added == arms["E"].added == (15, 6, 3)
    for name, n in zip("ABCDE", (48, 48, 72, 72, 24), strict=True):
        assert len(arms[name].rows) == len(arms[name].labels) == n
    # C: the extra rows are real images of the right class; D's and E's are not among the real ones.
    real_images = {image.numpy().tobytes() for image in train.tensor()}
    for name, expected in (("C", True), ("D", False)):
        arm = arms[name]
        extra = arm.images[torch.from_numpy(arm.rows[48:])]
        assert {image.numpy().tobytes() in real_images for image in extra} == {expected}
        assert np.bincount(arm.labels[48:]).tolist() == [15, 6, 3]
    assert torch.equal(arms["E"].images, arms["D"].images[48:])


def test_every_row_keeps_the_label_of_its_image(train, drawn):
    label_of = {
        image.numpy().tobytes(): int(label)
        for data in (train, drawn)
        for image, label in zip(data.tensor(), data.labels, strict=True)
    }
    for name in "ABCDE":
        arm = build_arm(name, train, drawn, ratio=1.0, balance="balance")
        for row, label in zip(arm.rows, arm.labels, strict=True):
            assert label_of[arm.images[row].numpy().tobytes()] == label


def test_added_counts_by_hand():
    assert added_counts([30, 12, 6], 0.5, "uniform").tolist() == [15, 6, 3]
    # 24 images into 12 and 6: 12 → 21, 6 → 21
    assert added_counts([30, 12, 6], 0.5, "balance").tolist() == [0, 9, 15]
    # 96 images: all reach 48
    assert added_counts([30, 12, 6], 2.0, "balance").tolist() == [18, 36, 42]
    # 5 images into 6 reach 11: the next class begins at 12
    assert added_counts([30, 12, 6], 5 / 48, "balance").tolist() == [0, 0, 5]


@pytest.mark.parametrize("ratio", [0.1, 0.25, 0.77, 1.0, 1.9])
def test_balancing_adds_the_whole_ratio_and_never_widens_a_gap(ratio):
    counts = np.array([41, 7, 19, 19])
    added = added_counts(counts, ratio, "balance")
    assert added.sum() == round(ratio * counts.sum())
    levels = (counts + added)[added > 0]
    assert levels.max() - levels.min() <= 1
    assert all((counts + added)[added == 0] >= levels.min())


def test_a_smaller_ratio_takes_part_of_a_larger_ones_images(train, drawn):
    small, large = (build_arm("D", train, drawn, ratio=ratio) for ratio in (0.5, 1.0))
    few, many = ({image.numpy().tobytes() for image in arm.images} for arm in (small, large))
    assert few < many
    other = build_arm("D", train, drawn, ratio=0.5, seed=1)
    assert {image.numpy().tobytes() for image in other.images} != few


def test_duplicates_are_spread_evenly(train):
    arm = build_arm("C", train, ratio=1.5)
    times = np.bincount(arm.rows)
    assert set(times.tolist()) <= {2, 3}


def misfit(tmp_path, **options):
    labels = options.pop("labels", [0, 1, 2] * 40)
    return ScanDataset(artifact(tmp_path, labels, [0] * len(labels), seed=1, **options).path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": ("dark", "bright", "spotted")}, "classes"),
        ({"size": 32}, "size 32x32, but the real data"),
        ({"value_range": ValueRange(-1000.0, 1000.0, "1")}, "unit 1"),
        ({"value_range": ValueRange(-500.0, 1000.0, "HU")}, "value range"),
        ({"labels": [0] * 60 + [1] * 3 + [2] * 10}, "3 images of class bright, expected at least 12"),
        ({"synthetic": False}, "holds real images"),
    ],
)
def test_synthetic_data_that_does_not_fit_is_refused(tmp_path, train, options, message):
    with pytest.raises(MedaugError) as caught:
        build_arm("D", train, misfit(tmp_path, **{"synthetic": True, "source": train.artifact.digest, **options}))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_sealed_test_image_among_the_synthetic_ones_is_refused(tmp_path, real, train):
    test = ScanDataset(real.path, "test")
    codes = np.concatenate([draw(np.array([0, 1, 2] * 20), 5), test.codes[test.rows[:1]]])
    labels = [0, 1, 2] * 20 + [0]
    leaked = artifact(tmp_path, labels, [0] * 61, synthetic=True, codes=codes, source=real.digest)
    with pytest.raises(MedaugError, match="sealed test set"):
        build_arm("D", train, ScanDataset(leaked.path), ratio=0.1)


@pytest.mark.parametrize("source", ["another dataset's digest", None])
def test_images_of_a_generator_that_learnt_from_other_patients_are_refused(tmp_path, train, source):
    foreign = misfit(tmp_path, synthetic=True, source=source)
    for arm in "DE":
        with pytest.raises(MedaugError, match=r"may have seen its test patients") as caught:
            build_arm(arm, train, foreign)
        assert train.artifact.digest[:12] in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"arm": "F"}, "unknown, expected one of A, B, C, D, E"),
        ({"arm": "D"}, "no synthetic images given"),
        ({"arm": "C", "ratio": 0.0}, "expected a number above 0"),
        ({"arm": "C", "ratio": -1.0}, "expected a number above 0"),
        ({"arm": "C", "ratio": 0.001}, "adds none"),
        ({"arm": "C", "balance": "some"}, "expected one of uniform, balance"),
    ],
)
def test_wrong_arms_are_refused(train, arguments, message):
    with pytest.raises(MedaugError, match=message):
        build_arm(real=train, **arguments)


def test_arms_and_training_refuse_the_wrong_split(real, train):
    for split in ("test", None):
        with pytest.raises(MedaugError, match="expected the training split"):
            build_arm("A", ScanDataset(real.path, split))
        with pytest.raises(MedaugError, match="expected the validation split"):
            train_classifier(QUICK, build_arm("A", train), ScanDataset(real.path, split), 0)


def test_a_class_without_training_images_is_named(tmp_path):
    lacking = artifact(tmp_path, [0, 0, 1, 1, 2, 2], [0, 0, 0, 0, 1, 2])
    with pytest.raises(MedaugError, match="no training image of class striped"):
        build_arm("A", ScanDataset(lacking.path, "train"))
