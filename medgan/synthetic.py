"""Synthetic images as a torch ``Dataset``, read from an artifact or drawn when asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Subset

from medgan.sample import LoadedGenerator, fetch, load, resolve, trained_on
from pipeline.codes import decode, encode
from pipeline.dataset import ScanDataset
from pipeline.fit import require_fit
from pipeline.records import ImageSpec, MedaugError, ValueRange
from pipeline.store import MANIFEST, Artifact


class SyntheticDataset(Dataset[dict[str, Any]]):
    """Synthetic scans in the form of :class:`pipeline.dataset.ScanDataset`.

    Each item is ``{"image": float32 [C, H, W] in [-1, 1], "label": int, "synthetic": True}``.

    A generator's images are drawn when first asked for, in batches that depend on their place alone, and kept as the
    16-bit codes of an artifact: image i is the same to the bit whether it is asked for alone, in a batch, in whatever
    order, or in a worker process. Each worker process draws for itself; after :meth:`draw` all of them share.

    Args:
        path: a synthetic artifact (read from disk); or a generator artifact; or an MLflow URI of either
            (``models:/name/version``, ``models:/name@alias``, ``runs:/id/path``).
        labels: one class index for each image to draw; only for a generator, and needed there.
        seed: of the series; only for a generator.
        truncation: see :meth:`LoadedGenerator.sample`; only for a generator.
        transform: applied to the dictionary.
        device: where a generator runs: "cpu", "cuda", "auto", ...
        real: the data that the images will stand beside; classes, size and unit have to be the same, and the generator
            has to be trained on this very dataset, since one trained on another split may have seen test patients.
            Without it nothing of this is checked: only ``real`` refuses a leak.

    Raises:
        MedaugError: neither kind of artifact, labels missing or out of place, or not fit to stand beside ``real``.
    """

    def __init__(
        self,
        path: Path | str,
        labels: Sequence[int] | NDArray[np.integer[Any]] | None = None,
        *,
        seed: int = 0,
        truncation: float = 1.0,
        transform: Callable[[dict[str, Any]], Any] | None = None,
        device: str = "cpu",
        real: ScanDataset | None = None,
    ):
        self.seed = seed
        self.truncation = truncation
        self.transform = transform
        self.device = device
        self.folder = fetch(path)
        self._drawn: dict[
            int, Tensor
        ] = {}  # as tensors, which spawned workers share; int16, since uint16 does not pickle
        self._chunk = 1
        self._process = os.getpid()  # that loaded the generator
        self._generator: LoadedGenerator | None = None
        self._scans: ScanDataset | None = None
        if (self.folder / MANIFEST).is_file() and Artifact.open(self.folder).kind in ("synthetic", "dataset"):
            self._scans = ScanDataset(self.folder)
            if not self._scans.synthetic:
                raise MedaugError(
                    f"{path}: holds real images, expected synthetic ones; read it by pipeline.ScanDataset"
                )
            if labels is not None:
                raise MedaugError(f"{path}: labels given, but a synthetic artifact has its own; expected none")
            self.labels: NDArray[np.int64] = self._scans.labels
            self.trained_on = self._scans.trained_on
        else:
            self.folder = resolve(self.folder)
            if labels is None:
                raise MedaugError(f"{path}: a generator draws what it is asked for; expected one label for each image")
            generator = self._loaded()
            self.labels = generator.check_labels(torch.as_tensor(labels)).cpu().numpy()
            generator.sample([], seed, truncation)  # refuses a truncation now rather than in a worker
            self._chunk = generator.batch  # images drawn together, here and in every worker
            self.trained_on = trained_on(self.folder)
        if real is not None:
            require_fit(str(path), real, self if self._scans is None else self._scans)

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

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return Subset(self, range(len(self))[index])
        place = range(len(self))[index]  # negative indices, IndexError
        image = torch.from_numpy(decode(self._codes(place)))
        item = {"image": image, "label": int(self.labels[place]), "synthetic": True}
        return self.transform(item) if self.transform else item

    def draw(self) -> SyntheticDataset:
        """Draws all images now, so that worker processes share them.

        Returns:
            self.
        """
        if self._scans is None:
            for place in range(0, len(self), self._chunk):
                self._codes(place)
        return self

    def tensor(self) -> Tensor:
        """All images at once: float32 [N, C, H, W] in [-1, 1]."""
        if self._scans is not None:
            return self._scans.tensor()
        spec = self.draw().spec
        codes = [self._drawn[chunk].numpy().view(np.uint16) for chunk in sorted(self._drawn)]
        empty = np.empty((0, spec.channels, spec.height, spec.width), np.uint16)
        return torch.from_numpy(decode(np.concatenate([empty, *codes])))

    def weights(
        self, labels: Sequence[int] | NDArray[np.integer[Any]], share: float = 0.5, *, balance: bool = False
    ) -> Tensor:
        """Weights for a ``WeightedRandomSampler`` over ``ConcatDataset([real, synthetic])``, in this order.

        Args:
            labels: class indices of the real data, e.g. ``ScanDataset.labels``.
            share: how many of the images drawn are synthetic, 0 to 1.
            balance: draw every class that a side has equally often there; otherwise every image of a side.

        Returns:
            float64 [real + synthetic], summing to 1.

        Raises:
            MedaugError: a share out of range, a label that is no class, or a side without images that has a share.
        """
        if not 0 <= share <= 1:
            raise MedaugError(f"share {share}: expected 0 to 1, the part of the images drawn that is synthetic")
        classes = len(self.spec.classes)
        given = np.asarray(labels)
        if len(given) and not np.issubdtype(given.dtype, np.integer):
            raise MedaugError(f"labels of type {given.dtype}: expected whole numbers, the classes' indices")
        sides = [(given.astype(np.int64), 1.0 - share), (self.labels, share)]
        weights = []
        for name, (side, part) in zip(("real", "synthetic"), sides, strict=True):
            if len(side) and not 0 <= side.min() <= side.max() < classes:
                raise MedaugError(
                    f"labels {side.min()} to {side.max()}: expected 0 to {classes - 1}, as the generator's"
                )
            if part > 0 and not len(side):
                raise MedaugError(f"share {share}: asks for {name} images, but there are none")
            counts = np.bincount(side, minlength=classes) if balance else np.full(classes, len(side))
            groups = np.count_nonzero(counts) if balance else 1
            weights.append(part / (counts[side] * groups))
        return torch.from_numpy(np.concatenate(weights))

    @property
    def _source(self) -> ScanDataset | LoadedGenerator:
        return self._scans if self._scans is not None else self._loaded()

    def _loaded(self) -> LoadedGenerator:
        """The generator; a spawned process loads it again."""
        if self._generator is None:
            self._generator = load(self.folder, device=self.device)
            self._process = os.getpid()
        return self._generator

    def _codes(self, place: int) -> NDArray[np.uint16]:
        """Stored codes of one image, uint16 [C, H, W]."""
        if self._scans is not None:
            codes: NDArray[np.uint16] = self._scans.codes[self._scans.rows[place]]
            return codes
        chunk, row = divmod(place, self._chunk)
        if chunk not in self._drawn:
            generator = self._loaded()
            if generator.device.type == "cuda" and self._process != os.getpid():
                raise MedaugError(
                    f"{self.folder}: a forked worker process cannot use the GPU; call draw() before the loader starts, "
                    "or give the DataLoader multiprocessing_context='spawn'"
                )
            begin = chunk * self._chunk
            labels = self.labels[begin : begin + self._chunk].tolist()
            images = generator.sample(labels, self.seed, self.truncation, start=begin)
            self._drawn[chunk] = torch.from_numpy(encode(images.numpy()).view(np.int16))
        drawn: NDArray[np.uint16] = self._drawn[chunk][row].numpy().view(np.uint16)
        return drawn

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_generator": None}
