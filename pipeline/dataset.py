"""Dataset and synthetic artifacts as a torch ``Dataset``; needs numpy and torch alone.

Layout of such an artifact::

    images.npy      uint16 [N, C, H, W], memory-mapped; 0 stands for value_range.low, 65535 for value_range.high
    index.npz       label int64 [N], split uint8 [N] (0 train, 1 validation, 2 test), patient int64 [N],
                    hash bytes [N]: :func:`image_hash` of each image
    slices.parquet  one row a scan with everything else, for people
    manifest.json   hashes of the files; in ``meta`` the classes, value range, counts, sealed test hashes, warnings
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from pipeline.codes import decode, image_hash
from pipeline.records import SPLITS, ImageSpec, MedaugError, ValueRange
from pipeline.store import Artifact

IMAGES = "images.npy"
INDEX = "index.npz"


def to_physical(unit: NDArray[np.floating[Any]], value_range: ValueRange) -> NDArray[np.float32]:
    """[-1, 1] floats to the source's physical values (HU for CT)."""
    half = (value_range.high - value_range.low) / 2
    return (np.asarray(unit, np.float32) + 1.0) * np.float32(half) + np.float32(value_range.low)


def write_index(
    folder: Path, codes: NDArray[np.uint16], labels: Sequence[int], splits: Sequence[int], patients: Sequence[int]
) -> None:
    """Writes ``index.npz`` beside ``images.npy``.

    Args:
        folder: the artifact's draft folder.
        codes: uint16 [N, C, H, W].
        labels: class index of each image.
        splits: index into :data:`pipeline.records.SPLITS` of each image.
        patients: patient number of each image; -1 for synthetic ones.
    """
    np.savez(
        folder / INDEX,
        label=np.asarray(labels, np.int64),
        split=np.asarray(splits, np.uint8),
        patient=np.asarray(patients, np.int64),
        hash=np.array([image_hash(image) for image in codes], "S32"),
    )


def dataset_meta(spec: ImageSpec, value_range: ValueRange, synthetic: bool, **extra: Any) -> dict[str, Any]:
    """The ``meta`` entries that every dataset and synthetic artifact carries, plus ``extra``."""
    return {
        **asdict(spec),
        "classes": list(spec.classes),
        "value_range": asdict(value_range),
        "synthetic": synthetic,
        **extra,
    }


class ScanDataset(Dataset[dict[str, Any]]):
    """Scans of a dataset or synthetic artifact as MONAI-style dictionaries.

    Each item is ``{"image": float32 [C, H, W] in [-1, 1], "label": int, "synthetic": bool}``.

    Args:
        path: the artifact's folder.
        split: "train", "validation", "test", or None for all.
        transform: applied to the dictionary.

    Raises:
        MedaugError: no such artifact or split, or the artifact's training side holds an image of its sealed test set.
    """

    def __init__(
        self,
        path: Path | str,
        split: str | None = None,
        transform: Callable[[dict[str, Any]], Any] | None = None,
    ):
        self.artifact = Artifact.open(path)
        if self.artifact.kind not in ("dataset", "synthetic"):
            raise MedaugError(f"{path}: is a {self.artifact.kind} artifact, expected a dataset or synthetic one")
        if split is not None and split not in SPLITS:
            raise MedaugError(f"split {split!r}: unknown; expected one of {', '.join(SPLITS)}")
        self.transform = transform
        self.split = split
        with np.load(self.artifact.path / INDEX) as index:
            columns: dict[str, NDArray[Any]] = {name: index[name] for name in ("label", "split", "patient", "hash")}
        refuse_test_images(self.artifact.meta, columns["hash"][columns["split"] != SPLITS.index("test")], str(path))
        rows = np.arange(len(columns["label"]))
        self.rows = rows if split is None else rows[columns["split"] == SPLITS.index(split)]
        self.labels: NDArray[np.int64] = columns["label"][self.rows]
        self.patients: NDArray[np.int64] = columns["patient"][self.rows]
        self.hashes: NDArray[np.bytes_] = columns["hash"][self.rows]
        self._images: NDArray[np.uint16] | None = None

    @property
    def meta(self) -> Mapping[str, Any]:
        """The manifest's meta: classes, counts, value range, warnings."""
        return self.artifact.meta

    @property
    def spec(self) -> ImageSpec:
        """Channels, size and classes."""
        meta = self.meta
        return ImageSpec(meta["channels"], meta["height"], meta["width"], tuple(meta["classes"]))

    @property
    def value_range(self) -> ValueRange:
        """The physical values of -1 and +1."""
        return ValueRange(**self.meta["value_range"])

    @property
    def synthetic(self) -> bool:
        """Whether a generator drew these images."""
        return bool(self.meta["synthetic"])

    @property
    def trained_on(self) -> str:
        """Of synthetic images: digest of the dataset artifact their generator was trained on; "" where unknown."""
        return str(self.meta.get("dataset") or "")

    @property
    def codes(self) -> NDArray[np.uint16]:
        """The memory-mapped uint16 [N, C, H, W] of the whole artifact (all splits); see :attr:`rows`."""
        if self._images is None:  # opened late, so that spawned workers map the file themselves
            self._images = np.load(self.artifact.path / IMAGES, mmap_mode="r")
        return self._images

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        image = torch.from_numpy(decode(self.codes[self.rows[index]]))
        item = {"image": image, "label": int(self.labels[index]), "synthetic": self.synthetic}
        return self.transform(item) if self.transform else item

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_images": None}

    def tensor(self) -> torch.Tensor:
        """All images of the split at once: float32 [N, C, H, W] in [-1, 1]."""
        return torch.from_numpy(decode(self.codes[self.rows]))


def refuse_test_images(meta: Mapping[str, Any], training_hashes: NDArray[np.bytes_], where: str) -> None:
    """Refuses training data that meets a sealed test set.

    Args:
        meta: manifest meta with ``test_hashes`` (absent or empty: nothing is sealed).
        training_hashes: hashes of all images on the training side.
        where: named in the message.

    Raises:
        MedaugError: at least one hash is in both.
    """
    sealed = {str(value) for value in meta.get("test_hashes", ())}
    met = sorted(sealed.intersection(value.decode() for value in training_hashes))
    if met:
        raise MedaugError(
            f"{where}: {len(met)} image(s) of the sealed test set are on the training side (first: {met[0]}); "
            "expected none; ingest the data again with a split by patient"
        )
