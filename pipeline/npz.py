"""MedMNIST's npz files: images, labels and splits in one."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.records import MedaugError


@dataclass(frozen=True)
class NpzImages:
    """A MedMNIST file (train_images, train_labels, val_..., test_...), opened.

    Attributes:
        images: uint8 [n, H, W] or [n, H, W, 3] of each split in the order of :data:`pipeline.records.SPLITS`.
        labels: int64 [n] of each split.
    """

    images: tuple[NDArray[np.integer], ...]
    labels: tuple[NDArray[np.int64], ...]


def open_npz(path: Path) -> NpzImages:
    """Reads a MedMNIST npz; labels may have shape (N,) or (N, 1).

    Raises:
        MedaugError: damaged, an array is missing, or shapes that do not fit.
    """
    images, labels = [], []
    try:
        with np.load(path, allow_pickle=False) as arrays:
            for part in ("train", "val", "test"):
                picture, label = arrays[f"{part}_images"], arrays[f"{part}_labels"]
                flat = label.reshape(len(label), int(np.prod(label.shape[1:])))  # not -1: a split may be empty
                if flat.shape[1] != 1 or not np.issubdtype(label.dtype, np.integer):
                    raise MedaugError(
                        f"data {path}: {part}_labels has shape {label.shape}, expected one integer an image"
                    )
                grey = picture.ndim == 3 or (picture.ndim == 4 and picture.shape[3] == 3)
                if not grey or len(picture) != len(label) or picture.dtype not in (np.uint8, np.uint16):
                    raise MedaugError(
                        f"data {path}: {part}_images is {picture.dtype} {picture.shape}, "
                        "expected uint8 or uint16 [N, H, W] or [N, H, W, 3] with as many labels"
                    )
                images.append(picture)
                labels.append(flat[:, 0].astype(np.int64))
    except KeyError as error:
        raise MedaugError(
            f"data {path}: {str(error.args[0])[:60]}; expected MedMNIST's arrays (train_images, ...)"
        ) from None
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        if isinstance(error, MedaugError):
            raise
        raise MedaugError(f"data {path}: not a readable npz") from None
    return NpzImages(tuple(images), tuple(labels))
