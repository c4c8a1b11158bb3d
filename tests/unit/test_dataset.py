"""Dataset artifacts as torch datasets, and the seal of the test set."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from pipeline import ScanDataset
from pipeline.codes import decode, encode
from pipeline.dataset import refuse_test_images, to_physical
from pipeline.records import MedaugError, ValueRange
from tests.conftest import MakeDataset


def test_codes_keep_16_bits() -> None:
    values = np.linspace(-1, 1, 10_001)
    assert np.abs(decode(encode(values)) - values).max() <= 1 / 65535 + 1e-7
    assert encode(np.array([-1.0, 1.0, -7.0, 7.0])).tolist() == [0, 65535, 0, 65535]


def test_physical_values() -> None:
    low_middle_high = to_physical(np.array([-1.0, 0.0, 1.0]), ValueRange(-1000, 400, "HU"))
    assert low_middle_high.tolist() == [-1000.0, -300.0, 400.0]


def test_a_value_range_must_rise() -> None:
    with pytest.raises(ValueError, match="must exceed"):
        ValueRange(5, 5)


def test_items_are_monai_dictionaries(make_dataset: MakeDataset) -> None:
    data = ScanDataset(make_dataset(classes=3, size=16).path, "train")
    item = data[1]
    assert set(item) == {"image", "label", "synthetic"}
    assert item["image"].shape == (1, 16, 16)
    assert item["image"].dtype == torch.float32
    assert (item["label"], item["synthetic"]) == (1, False)
    assert torch.equal(data.tensor()[1], item["image"])


def test_splits_are_disjoint_and_complete(make_dataset: MakeDataset) -> None:
    path = make_dataset(per_split=(12, 6, 4)).path
    rows = [set(ScanDataset(path, split).rows.tolist()) for split in ("train", "validation", "test")]
    assert [len(r) for r in rows] == [12, 6, 4]
    assert set.union(*rows) == set(range(22))
    assert len(ScanDataset(path)) == 22


def test_it_works_in_spawned_workers(make_dataset: MakeDataset) -> None:
    data = ScanDataset(make_dataset().path, "train")
    data[0]  # the memory map is open and must not travel
    assert len(pickle.dumps(data)) < 10_000
    loader = DataLoader(data, batch_size=5, num_workers=1, multiprocessing_context="spawn")
    assert torch.equal(torch.cat([batch["image"] for batch in loader]), data.tensor())


def test_unknown_split(make_dataset: MakeDataset) -> None:
    with pytest.raises(MedaugError, match="split 'val': unknown; expected one of train, validation, test"):
        ScanDataset(make_dataset().path, "val")


def test_a_sealed_test_image_on_the_training_side_is_refused(make_dataset: MakeDataset) -> None:
    data = ScanDataset(make_dataset().path)
    hashes = data.hashes
    refuse_test_images({"test_hashes": ["0" * 32]}, hashes, "here")
    with pytest.raises(MedaugError, match=r"here: 1 image\(s\) of the sealed test set"):
        refuse_test_images({"test_hashes": [hashes[3].decode()]}, hashes, "here")
