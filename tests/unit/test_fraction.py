"""Fractions of the training patients: nested, stratified, by whole patients; the rest stays."""

import itertools

import numpy as np
import pytest

from pipeline.dataset import ScanDataset
from pipeline.fraction import nested_patients, patient_strata, take_fraction
from pipeline.records import MedaugError
from pipeline.store import Store
from tests.unit.classifier_scans import real_artifact


def test_the_stratum_is_the_class_that_fewest_patients_have():
    labels, patients = np.array([0, 0, 1, 0, 1, 0]), np.array([7, 7, 7, 8, 9, 10])
    strata, owner = patient_strata(labels, patients)
    assert strata.tolist() == [1, 0, 1, 0]  # patient 7 has both classes; class 1 has two patients, class 0 three
    assert owner.tolist() == [0, 0, 0, 1, 2, 3]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_fractions_are_nested_stratified_and_of_whole_patients(seed):
    rng = np.random.default_rng(seed)
    patients = np.repeat(np.arange(200), rng.integers(1, 5, 200))
    labels = (patients % 4 == 0).astype(np.int64)  # 50 patients of class 1
    chosen = [nested_patients(labels, patients, fraction, seed) for fraction in (0.1, 0.25, 0.5, 1.0)]
    for smaller, larger in itertools.pairwise(chosen):
        assert set(patients[smaller]) < set(patients[larger])
    assert chosen[-1].all()
    for mask, expected in zip(chosen, ((15, 5), (38, 12), (75, 25), (150, 50)), strict=True):
        assert tuple(len(np.unique(patients[mask & (labels == k)])) for k in (0, 1)) == expected
        assert not set(patients[mask]) & set(patients[~mask])
    assert not np.array_equal(chosen[0], nested_patients(labels, patients, 0.1, seed + 10))


def test_a_fraction_is_a_dataset_whose_validation_and_test_side_are_the_wholes(tmp_path):
    real = real_artifact(tmp_path)
    store = Store(tmp_path)
    small = take_fraction(real.path, 0.5, 0, store)
    assert take_fraction(real.path, 0.5, 0, store).path == small.path
    for split in ("validation", "test"):
        mine, whole = ScanDataset(small.path, split), ScanDataset(real.path, split)
        assert np.array_equal(mine.hashes, whole.hashes)
        assert np.array_equal(mine.patients, whole.patients)
    train, everyone = ScanDataset(small.path, "train"), ScanDataset(real.path, "train")
    assert set(train.hashes) < set(everyone.hashes)
    # Two scans a patient: of 15, 6 and 3 patients half, rounded to even.
    assert np.bincount(train.labels).tolist() == [16, 6, 4]
    assert small.meta["counts"]["train"]["dark"] == {"slices": 16, "patients": 8}
    assert small.meta["test_hashes"] == real.meta["test_hashes"]
    assert small.digest != real.digest


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5, 2.0, float("nan")])
def test_fractions_out_of_range_are_refused(tmp_path, fraction):
    with pytest.raises(MedaugError, match="expected above 0 and below 1"):
        take_fraction(real_artifact(tmp_path).path, fraction, 0, Store(tmp_path))
