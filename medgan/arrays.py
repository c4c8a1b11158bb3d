"""Real and synthetic images as plain arrays, as scikit-learn takes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medgan.sample import fetch
from pipeline.dataset import ScanDataset
from pipeline.fit import require_fit


class Arrays(NamedTuple):
    """What :func:`load_arrays` returns.

    Attributes:
        X: float32 [N, C·H·W] in [-1, 1], each row an image, channel by channel and row by row.
        y: int64 [N], class indices.
        groups: int64 [N], patient numbers, for ``GroupKFold`` and its like. A synthetic image has -1 minus its place:
            a group of its own that is no patient's.
    """

    X: NDArray[np.floating[Any]]
    y: NDArray[np.int64]
    groups: NDArray[np.int64]


def load_arrays(path: Path | str, split: str | None = None, *, real: ScanDataset | None = None) -> Arrays:
    """Images, labels and patients of a dataset or synthetic artifact.

    Synthetic rows belong on the training side alone: split the real rows by ``groups`` first, then add them.

    Args:
        path: the artifact's folder, or an MLflow URI of one.
        split: "train", "validation", "test", or None for all.
        real: for a synthetic artifact, the data that its rows will stand beside; see :class:`SyntheticDataset`.
            Without it nothing is checked: only ``real`` refuses a leak.

    Raises:
        MedaugError: no such artifact or split, or not fit to stand beside ``real``.
    """
    data = ScanDataset(fetch(path), split)
    if real is not None:
        require_fit(str(path), real, data)
    groups = -1 - np.arange(len(data)) if data.synthetic else data.patients
    return Arrays(data.tensor().flatten(1).numpy(), data.labels, groups)
