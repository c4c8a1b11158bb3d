"""Synthetic images as a torch ``Dataset``, read from an artifact or drawn when asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from medgan.sample import LoadedGenerator, load
from pipeline.dataset import ScanDataset
from pipeline.records import ImageSpec, MedaugError, ValueRange
from pipeline.store import MANIFEST, Artifact


class SyntheticDataset(Dataset[dict[str, Any]]):
    """Synthetic scans in the form of :class:`pipeline.dataset.ScanDataset`.

    Each item is ``{"image": float32 [C, H, W] in [-1, 1], "label": int, "synthetic": True}``.

    Args:
        path: a synthetic artifact (read from disk); or a generator artifact or an MLflow URI (drawn lazily, item i from
            the seed and i).
        labels: one class index for each image to draw; only for a generator, and needed there.
        seed: of the series; only for a generator.
        truncation: see :meth:`LoadedGenerator.sample`; only for a generator.
        transform: applied to the dictionary.
        device: where a generator runs.

    Raises:
        MedaugError: neither kind of artifact, or labels missing or out of place.
    """

    def __init__(
        self,
        path: Path | str,
        labels: Sequence[int] | None = None,
        *,
        seed: int = 0,
        truncation: float = 1.0,
        transform: Callable[[dict[str, Any]], Any] | None = None,
        device: str = "cpu",
    ):
        self.path = str(path)
        self.seed = seed
        self.truncation = truncation
        self.transform = transform
        self.device = device
        self._generator: LoadedGenerator | None = None
        self._scans: ScanDataset | None = None
        if (Path(path) / MANIFEST).is_file() and Artifact.open(path).kind == "synthetic":
            if labels is not None:
                raise MedaugError(f"{path}: labels given, but a synthetic artifact has its own; expected none")
            self._scans = ScanDataset(path)
            self.labels: NDArray[np.int64] = self._scans.labels
        else:
            if labels is None:
                raise MedaugError(f"{path}: a generator draws what it is asked for; expected one label for each image")
            self.labels = np.asarray(labels, np.int64)
            self._generator = load(path, device=device)

    @property
    def _source(self) -> ScanDataset | LoadedGenerator:
        if self._scans is not None:
            return self._scans
        if self._generator is None:  # in a worker process
            self._generator = load(self.path, device=self.device)
        return self._generator

    @property
    def spec(self) -> ImageSpec:
        """Channels, size and classes."""
        return self._source.spec

    @property
    def value_range(self) -> ValueRange:
        """The physical values of -1 and +1."""
        return self._source.value_range

    @property
    def synthetic(self) -> bool:
        """True."""
        return True

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Any:
        place = range(len(self))[index]  # negative indices, IndexError
        item = {"image": self._image(place), "label": int(self.labels[place]), "synthetic": True}
        return self.transform(item) if self.transform else item

    def _image(self, index: int) -> torch.Tensor:
        source = self._source
        if isinstance(source, ScanDataset):
            image: torch.Tensor = source[index]["image"]
            return image
        return source.sample(self.labels[index : index + 1].tolist(), self.seed, self.truncation, start=index)[0]

    def tensor(self) -> torch.Tensor:
        """All images at once: float32 [N, C, H, W] in [-1, 1]."""
        source = self._source
        if isinstance(source, ScanDataset):
            return source.tensor()
        return source.sample(self.labels.tolist(), self.seed, self.truncation)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_generator": None}
