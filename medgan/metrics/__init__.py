"""Fidelity of synthetic images as result rows: one metric a file, gathered here overall and for each class.

``fidelity`` compares synthetic with real features; ``floor`` compares real with real, which is what a perfect generator
would score at that n. Nothing here knows networks or images: the extractor is a name, part of the metric's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medgan.metrics import fid, kid, precision_recall
from medgan.metrics.features import Z95, Features, as_features, as_pair, is_constant, split, standard_errors
from pipeline.records import MedaugError, ResultRow

__all__ = ["MIN_IMAGES", "fid", "fidelity", "floor", "kid", "precision_recall"]

MIN_IMAGES = 2 * (precision_recall.NEIGHBOURS + 1)
"""Fewest real and fewest synthetic images (of a class, or overall) for any figure: half of them still need k others."""

UNBIASED_FROM = 2048
"""Real images from which FID's bias is commonly neglected."""

Labels = NDArray[np.integer[Any]] | torch.Tensor


def fidelity(
    real: Features,
    synthetic: Features,
    real_labels: Labels,
    synthetic_labels: Labels,
    classes: Sequence[str],
    extractor: str = "domain",
    seed: int = 0,
    repeats: int = 20,
) -> list[ResultRow]:
    """``fid``, ``kid``, ``precision``, ``recall``, ``density`` and ``coverage``, overall and for each class.

    Beside FID stands ``floor_ratio.fid.<extractor>``: the mean FID of random halves of the real images against as many
    synthetic ones, over the mean FID of those halves against the other real half. Both are taken at one n, so that the
    bias cancels, and a perfect generator scores 1. Intervals are normal 95 % ones with delete-half standard errors; the
    overall ones are wider, for random halves vary in their mix of classes.

    Args:
        real: [N, D] features of real training images.
        synthetic: [M, D] features from the same extractor.
        real_labels: class index [N].
        synthetic_labels: class index [M].
        classes: names in label order.
        extractor: name of what the features come from, part of the metrics' names.
        seed: of the random halves and subsets.
        repeats: random halves, at least 2.

    Returns:
        Rows with ``stage="score"``, ``n_real`` and ``n_synthetic``. A class with fewer than :data:`MIN_IMAGES` images
        on a side gets no figure; the note of the overall FID names it.

    Raises:
        MedaugError: fewer than :data:`MIN_IMAGES` images overall, features that are not finite or differ in their
            dimension, labels that do not fit, or real features that are all equal.
    """
    x, y = as_pair(real, synthetic, MIN_IMAGES)
    x_labels, y_labels = _labels(real_labels, x, classes, "real"), _labels(synthetic_labels, y, classes, "synthetic")
    _refuse_constant(x)
    rows: list[ResultRow] = []
    too_few: list[str] = []
    for index, name in enumerate(classes):
        own_x, own_y = x[x_labels == index], y[y_labels == index]
        if min(len(own_x), len(own_y)) < MIN_IMAGES:
            too_few.append(f"{name} ({len(own_x)} real, {len(own_y)} synthetic)")
        else:
            rows += _compare(own_x, own_y, extractor, f".{name}", seed, repeats)
    note = f"no figures for {', '.join(too_few)}: fewer than {MIN_IMAGES} images" if too_few else ""
    return _compare(x, y, extractor, "", seed, repeats, note) + rows


def floor(
    real: Features,
    real_labels: Labels,
    classes: Sequence[str],
    extractor: str = "domain",
    seed: int = 0,
    repeats: int = 20,
) -> list[ResultRow]:
    """The same metrics between random halves of the real images, as ``floor.<metric>``.

    Args:
        real: [N, D] features of real images.
        real_labels: class index [N].
        classes: names in label order.
        extractor: as in :func:`fidelity`.
        seed: of the splits.
        repeats: splits, at least 2.

    Returns:
        Rows whose value is the mean over the splits and whose interval is their range; a class appears from twice
        :data:`MIN_IMAGES` images on.

    Raises:
        MedaugError: fewer than twice :data:`MIN_IMAGES` images, labels that do not fit, features that are all equal.
    """
    x = as_features(real, "real features", 2 * MIN_IMAGES)
    labels = _labels(real_labels, x, classes, "real")
    _refuse_constant(x)
    rows = _floor(x, extractor, "", seed, repeats)
    for index, name in enumerate(classes):
        own = x[labels == index]
        if len(own) >= 2 * MIN_IMAGES:
            rows += _floor(own, extractor, f".{name}", seed, repeats)
    return rows


def _compare(
    x: torch.Tensor, y: torch.Tensor, extractor: str, suffix: str, seed: int, repeats: int, note: str = ""
) -> list[ResultRow]:
    """All rows of one class, or of the whole."""
    rows: list[ResultRow] = []
    collapsed = "all synthetic features are equal: the generator has collapsed" if is_constant(y) else ""

    def add(metric: str, value: float, error: float, highest: float | None, remark: str, lowest: float = 0.0) -> None:
        low, high = max(value - Z95 * error, lowest), value + Z95 * error
        rows.append(
            ResultRow(
                stage="score",
                metric=f"{metric}{suffix}",
                value=value,
                low=low,
                high=high if highest is None else min(high, highest),
                n_real=len(x),
                n_synthetic=len(y),
                note="; ".join(filter(None, [remark, collapsed, note])),
            )
        )

    (error,) = standard_errors(lambda a, b: [fid.distance(a, b)], x, y, repeats, seed)
    bias = f"biased upwards below {UNBIASED_FROM} real images" if len(x) < UNBIASED_FROM else ""
    add(f"fid.{extractor}", fid.distance(x, y), error, None, bias)

    size = min(len(x) // 2, len(y))
    against_synthetic, against_real = _fid_at(size, x, y, seed, repeats)
    if against_real.mean() > 0.0:
        both = f"FID {against_synthetic.mean():.4g} where real against real has {against_real.mean():.4g}"
        add(
            f"floor_ratio.fid.{extractor}",
            float(against_synthetic.mean() / against_real.mean()),
            float(against_synthetic.std(ddof=1) / against_real.mean()),
            None,
            f"{both}, both at n = {size}",
        )

    kernel = kid.distance(x, y, seed=seed)
    subsets = f"{kernel.subsets} subsets of {kernel.subset_size}"
    add(f"kid.{extractor}", kernel.value, kernel.standard_error, None, subsets, lowest=-float("inf"))

    manifold = precision_recall.manifold(x, y)
    errors = standard_errors(precision_recall.manifold, x, y, repeats, seed)
    for name, value, spread in zip(manifold._fields, manifold, errors, strict=True):
        add(name, value, spread, None if name == "density" else 1.0, f"k = {precision_recall.NEIGHBOURS}")
    return rows


def _fid_at(
    size: int, x: torch.Tensor, y: torch.Tensor, seed: int, repeats: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """FID of ``size`` random real images against as many synthetic ones, and against as many other real ones."""
    generator = torch.Generator().manual_seed(seed)
    against_synthetic, against_real = [], []
    for _ in range(repeats):
        first, second = split(x, size, generator)
        against_synthetic.append(fid.distance(first, split(y, size, generator)[0]))
        against_real.append(fid.distance(first, second))
    return np.array(against_synthetic), np.array(against_real)


def _floor(x: torch.Tensor, extractor: str, suffix: str, seed: int, repeats: int) -> list[ResultRow]:
    generator = torch.Generator().manual_seed(seed)
    halves = [split(x, len(x) // 2, generator) for _ in range(repeats)]
    manifolds = [precision_recall.manifold(first, second) for first, second in halves]
    drawn = {
        f"fid.{extractor}": [fid.distance(first, second) for first, second in halves],
        f"kid.{extractor}": [kid.mmd2(first, second) for first, second in halves],
        **{name: [getattr(each, name) for each in manifolds] for name in precision_recall.Manifold._fields},
    }
    return [
        ResultRow(
            stage="score",
            metric=f"floor.{name}{suffix}",
            value=float(np.mean(values)),
            low=min(values),
            high=max(values),
            n_real=len(x) // 2,
            n_synthetic=0,
            note=f"real against real: {repeats} half splits, their mean and range",
        )
        for name, values in drawn.items()
    ]


def _labels(labels: Labels, features: torch.Tensor, classes: Sequence[str], name: str) -> torch.Tensor:
    tensor = torch.as_tensor(labels).to(features.device)
    if tensor.shape != (len(features),):
        raise MedaugError(f"{name} labels: shape {tuple(tensor.shape)}, expected one label for {len(features)} images")
    low, high = int(tensor.min()), int(tensor.max())
    if low < 0 or high >= len(classes):
        raise MedaugError(f"{name} labels: from {low} to {high}, expected 0 to {len(classes) - 1}; check the classes")
    return tensor


def _refuse_constant(x: torch.Tensor) -> None:
    if is_constant(x):
        raise MedaugError("real features: all vectors are equal, expected variation; the extractor has learned nothing")
