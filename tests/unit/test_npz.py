import numpy as np
import pytest

from pipeline.npz import open_npz
from pipeline.records import MedaugError


class TestNpz:
    def arrays(self, **changes):
        made = {}
        for part, count in (("train", 6), ("val", 3), ("test", 3)):
            made[f"{part}_images"] = np.zeros((count, 28, 28), np.uint8)
            made[f"{part}_labels"] = np.arange(count, dtype=np.uint8) % 2
        return {**made, **changes}

    @pytest.mark.parametrize("shape", [(6,), (6, 1)])
    def test_labels_of_either_shape(self, tmp_path, shape):
        labels = (np.arange(6) % 2).astype(np.uint8).reshape(shape)
        np.savez(tmp_path / "x.npz", **self.arrays(train_labels=labels))
        assert open_npz(tmp_path / "x.npz").labels[0].tolist() == [0, 1, 0, 1, 0, 1]

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"train_labels": np.zeros((6, 14), np.uint8)}, "expected one integer an image"),
            ({"val_images": np.zeros((2, 28, 28), np.uint8)}, "with as many labels"),
            ({"val_images": np.zeros((3, 28, 28))}, "expected uint8"),
            ({"test_labels": np.array([None, 1, 2])}, "not a readable npz"),
        ],
    )
    def test_arrays_that_do_not_fit(self, tmp_path, changes, message):
        np.savez(tmp_path / "x.npz", **self.arrays(**changes))
        with pytest.raises(MedaugError, match=message):
            open_npz(tmp_path / "x.npz")

    def test_missing_arrays_and_damaged_files(self, tmp_path):
        np.savez(tmp_path / "x.npz", train_images=np.zeros(3))
        with pytest.raises(MedaugError, match="expected MedMNIST's arrays"):
            open_npz(tmp_path / "x.npz")
        (tmp_path / "y.npz").write_bytes(b"nothing")
        with pytest.raises(MedaugError, match="not a readable npz"):
            open_npz(tmp_path / "y.npz")
