"""Fidelity of synthetic images as result rows: one metric a file, gathered here overall and for each class.

``fidelity`` compares synthetic with real features; ``floor`` compares halves of the real patients with each other,
which is what images of as many new patients would score at that n. Nothing here knows networks or images: the
extractor is a name, part of the metric's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medgan.metrics import fid, floors, kid, precision_recall, sampling
from medgan.metrics.features import (
    DOMAIN,
    Z95,
    Features,
    as_features,
    as_pair,
    is_constant,
    share_interval,
    standard_errors,
)
from medgan.metrics.measured import TooFewImagesError
from medgan.metrics.sampling import class_mix, split_patients, unsplittable
from pipeline.records import MedaugError, ResultRow

__all__ = ["MIN_IMAGES", "fid", "fidelity", "floor", "kid", "precision_recall", "sampling"]

MIN_IMAGES = 2 * (precision_recall.NEIGHBOURS + 1)
"""Fewest real and fewest synthetic images (of a class, or overall) for any figure: half of them still need k others."""

UNBIASED_FROM = 2048
"""Real images from which FID's bias is commonly neglected."""

AT_ONE_N = ("fid", "recall", "coverage")
"""What is compared with the real images' own at one n, as ``floor_ratio.<metric>``."""

Labels = NDArray[np.integer[Any]] | torch.Tensor


def fidelity(
    real: Features,
    synthetic: Features,
    real_labels: Labels,
    synthetic_labels: Labels,
    real_patients: Labels,
    classes: Sequence[str],
    extractor: str = DOMAIN,
    seed: int = 0,
    repeats: int = 20,
    real_statistics: fid.Statistics | None = None,
    by_class: bool = True,
) -> list[ResultRow]:
    """``fid``, ``kid``, ``precision``, ``recall``, ``density`` and ``coverage``, overall and for each class.

    The overall rows compare like mixes: of the synthetic images as many are drawn as can have the real images' class
    proportions. All sets with equal numbers of images a class thus have one n.

    Beside FID stands ``floor_ratio.fid.<extractor>``: the mean FID of random halves of the real patients, one image of
    each, against as many synthetic images, over the mean FID of those halves against the other half. Both are taken
    at one n and of independent images, so that the bias cancels: synthetic images as good as those of new patients
    score about 1 (:mod:`medgan.metrics.floors`). Every draw behind the overall ratio has nearly the real class mix.
    With fewer than :data:`MIN_IMAGES` patients there is none.

    Recall and coverage depend on n as well: of N real images and M equally distributed synthetic ones about
    1 − (N/(N + M))^k are covered (Naeem et al. 2020, section 3.2, for large sets), so that they are to be compared
    at one n only. ``floor_ratio.recall`` and ``floor_ratio.coverage`` do, over the same draws as FID's; their plain
    figures stand at the n of their rows and are no shares of ``floor.recall`` or ``floor.coverage``.

    Intervals are normal 95 % ones with delete-half standard errors, the real halves being of whole patients; the
    overall ones, but for the ratios', are wider, for random halves vary in their mix of classes. At 0 and 1, where
    halves do not scatter, they are the exact ones of so many patients (for precision: synthetic images).

    Args:
        real: [N, D] features of real training images.
        synthetic: [M, D] features from the same extractor.
        real_labels: class index [N].
        synthetic_labels: class index [M].
        real_patients: patient number of each real image [N]; halves of the real images never share a patient.
        classes: names in label order.
        extractor: name of what the features come from, part of the metrics' names: ``fid.<extractor>`` and
            ``precision.<extractor>``; plain ``precision`` is the domain extractor's.
        seed: of the random halves and subsets.
        repeats: random halves, at least 2.
        real_statistics: of all real features, where they are known already.
        by_class: whether the labels of the synthetic images mean anything. Those of a generator that knows no classes
            do not: it gets the overall rows alone, from as many images as if they did, so that GANs have one n.

    Returns:
        Rows with ``stage="score"``, ``n_real`` and ``n_synthetic``. A class with fewer than :data:`MIN_IMAGES` images
        on a side, or whose real images cannot be halved by patient (fewer than 4 patients, or most images of one),
        gets no figure; the notes of the overall rows name it.

    Raises:
        TooFewImagesError: fewer than :data:`MIN_IMAGES` images overall or in the real class mix, or real images that
            cannot be halved by patient.
        MedaugError: features that are not finite or differ in their dimension, labels or patients that do not fit,
            real features that are all equal, or a class that has the extractor's name.
    """
    _refuse_ambiguous(extractor, classes)
    x, y = as_pair(real, synthetic, MIN_IMAGES)
    x_labels, y_labels = _labels(real_labels, x, classes, "real"), _labels(synthetic_labels, y, classes, "synthetic")
    patients = _patients(real_patients, x)
    _refuse_constant(x)
    mixed = class_mix(x_labels, y_labels, len(classes), seed)
    if len(mixed) < MIN_IMAGES:
        raise TooFewImagesError(
            f"synthetic images: {len(mixed)} in the real class proportions, expected at least {MIN_IMAGES}; "
            "synthesize more of every real class"
        )
    rows: list[ResultRow] = []
    too_few: list[str] = []
    unsplit: list[str] = []
    for index, name in enumerate(classes if by_class else ()):
        own_x, own_y, own_patients = x[x_labels == index], y[y_labels == index], patients[x_labels == index]
        if min(len(own_x), len(own_y)) < MIN_IMAGES:
            too_few.append(f"{name} ({len(own_x)} real, {len(own_y)} synthetic)")
        elif why := unsplittable(own_patients, MIN_IMAGES // 2):
            unsplit.append(f"no figures for {name}: {why}")
        else:
            own_labels = x_labels[x_labels == index], y_labels[y_labels == index]
            rows += _compare(own_x, own_y, own_patients, own_labels, extractor, f".{name}", seed, repeats, own_y)
    few = f"no figures for {', '.join(too_few)}: fewer than {MIN_IMAGES} images" if too_few else ""
    mix = f"{len(mixed)} of {len(y)} synthetic images, in the real class mix" if len(mixed) < len(y) else ""
    unknown = "" if by_class else "no figures of classes: the generator knows none"
    note = "; ".join(filter(None, [mix, few, unknown, *unsplit]))
    # an unknown class is one class: what such a generator draws is taken in its own mix
    labels = (x_labels, y_labels) if by_class else (torch.zeros_like(x_labels), torch.zeros_like(y_labels))
    return _compare(x, y[mixed], patients, labels, extractor, "", seed, repeats, y, note, real_statistics) + rows


def floor(
    real: Features,
    real_labels: Labels,
    real_patients: Labels,
    classes: Sequence[str],
    extractor: str = DOMAIN,
    seed: int = 0,
    repeats: int = 20,
) -> list[ResultRow]:
    """The same metrics between random halves of the real patients, as ``floor.<metric>``.

    Args:
        real: [N, D] features of real images.
        real_labels: class index [N].
        real_patients: patient number of each image [N]; no patient is in both halves.
        classes: names in label order.
        extractor: as in :func:`fidelity`.
        seed: of the splits.
        repeats: splits, at least 2.

    Returns:
        Rows whose value is the mean over the splits and whose interval is their range; a class appears from twice
        :data:`MIN_IMAGES` images on, where these can be halved by patient; the notes of the overall rows name a class
        that cannot.

    Raises:
        TooFewImagesError: fewer than twice :data:`MIN_IMAGES` images, or images that cannot be halved by patient.
        MedaugError: labels or patients that do not fit, features that are all equal, or a class that has the
            extractor's name.
    """
    _refuse_ambiguous(extractor, classes)
    x = as_features(real, "real features", 2 * MIN_IMAGES)
    labels = _labels(real_labels, x, classes, "real")
    patients = _patients(real_patients, x)
    _refuse_constant(x)
    rows: list[ResultRow] = []
    unsplit: list[str] = []
    for index, name in enumerate(classes):
        own, own_patients = x[labels == index], patients[labels == index]
        if len(own) < 2 * MIN_IMAGES:
            continue
        if why := unsplittable(own_patients, MIN_IMAGES // 2):
            unsplit.append(f"no figures for {name}: {why}")
        else:
            rows += _floor(own, own_patients, extractor, f".{name}", seed, repeats)
    return _floor(x, patients, extractor, "", seed, repeats, "; ".join(unsplit)) + rows


def _compare(
    x: torch.Tensor,
    y: torch.Tensor,
    patients: torch.Tensor,
    labels: tuple[torch.Tensor, torch.Tensor],
    extractor: str,
    suffix: str,
    seed: int,
    repeats: int,
    pool: torch.Tensor,
    note: str = "",
    real_statistics: fid.Statistics | None = None,
) -> list[ResultRow]:
    """All rows of one class, or of the whole; ratios to floors draw from all synthetic images, ``pool``."""
    rows: list[ResultRow] = []
    collapsed = "all synthetic features are equal: the generator has collapsed" if is_constant(y) else ""

    def add(metric: str, value: float, ends: tuple[float, float], remark: str) -> None:
        rows.append(
            ResultRow(
                stage="score",
                metric=f"{metric}{suffix}",
                value=value,
                low=ends[0],
                high=ends[1],
                n_real=len(x),
                n_synthetic=len(y),
                note="; ".join(filter(None, [remark, collapsed, note])),
            )
        )

    def normal(value: float, error: float, lowest: float = 0.0) -> tuple[float, float]:
        return max(value - Z95 * error, lowest), value + Z95 * error

    (error,) = standard_errors(lambda a, b: [fid.distance(a, b)], x, y, patients, repeats, seed)
    bias = f"biased upwards below {UNBIASED_FROM} real images" if len(x) < UNBIASED_FROM else ""
    distance = fid.frechet_distance(real_statistics or fid.statistics(x), fid.statistics(y))
    add(f"fid.{extractor}", distance, normal(distance, error), bias)

    size, independent = min(floors.largest_half(patients), len(y)), len(patients.unique())
    if size >= MIN_IMAGES // 2:
        by_synthetic, by_real = floors.at_one_n(_of_one_n, x, pool, patients, labels, seed, repeats)
        for column, name in enumerate(AT_ONE_N):
            share_of = independent if column else 0
            if ratio := floors.over_floor(by_synthetic[:, column], by_real[:, column], share_of):
                metric = _manifold_metric(name, extractor) if column else f"{name}.{extractor}"
                both = f"{name} {ratio.figure:.4g} where real against real has {ratio.floor:.4g}"
                remark = f"{both}, both at n = {size} or nearly, one image a patient"
                add(f"floor_ratio.{metric}", ratio.value, (ratio.low, ratio.high), remark)

    kernel = kid.distance(x, y, seed=seed, patients=patients)
    subsets = f"{kernel.subsets} subsets of {kernel.subset_size}"
    add(f"kid.{extractor}", kernel.value, normal(kernel.value, kernel.standard_error, -math.inf), subsets)

    manifold = precision_recall.manifold(x, y)
    errors = standard_errors(precision_recall.manifold, x, y, patients, repeats, seed)
    for name, value, error in zip(manifold._fields, manifold, errors, strict=True):
        cases = len(y) if name == "precision" else independent
        ends = normal(value, error) if name == "density" else share_interval(value, error, cases)
        add(_manifold_metric(name, extractor), value, ends, f"k = {precision_recall.NEIGHBOURS}")
    return rows


def _of_one_n(x: torch.Tensor, y: torch.Tensor) -> tuple[float, float, float]:
    """:data:`AT_ONE_N`."""
    manifold = precision_recall.manifold(x, y)
    return fid.distance(x, y), manifold.recall, manifold.coverage


def _floor(
    x: torch.Tensor, patients: torch.Tensor, extractor: str, suffix: str, seed: int, repeats: int, note: str = ""
) -> list[ResultRow]:
    generator = torch.Generator().manual_seed(seed)
    halves = [split_patients(patients, len(x) // 2, generator) for _ in range(repeats)]
    manifolds = [precision_recall.manifold(x[first], x[second]) for first, second in halves]
    drawn = {
        f"fid.{extractor}": [fid.distance(x[first], x[second]) for first, second in halves],
        f"kid.{extractor}": [
            kid.mmd2(x[first], x[second], patients[first], patients[second]) for first, second in halves
        ],
        **{
            _manifold_metric(name, extractor): [getattr(each, name) for each in manifolds]
            for name in precision_recall.Manifold._fields
        },
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
            note="; ".join(
                filter(None, [f"real against real: {repeats} half splits by patient, their mean and range", note])
            ),
        )
        for name, values in drawn.items()
    ]


def _manifold_metric(name: str, extractor: str) -> str:
    return name if extractor == DOMAIN else f"{name}.{extractor}"


def _refuse_ambiguous(extractor: str, classes: Sequence[str]) -> None:
    if extractor != DOMAIN and extractor in classes:
        raise MedaugError(f"extractor {extractor!r}: a class has this name too; give the extractor another name")


def _labels(labels: Labels, features: torch.Tensor, classes: Sequence[str], name: str) -> torch.Tensor:
    tensor = torch.as_tensor(labels).to(features.device)
    if tensor.shape != (len(features),):
        raise MedaugError(f"{name} labels: shape {tuple(tensor.shape)}, expected one label for {len(features)} images")
    low, high = int(tensor.min()), int(tensor.max())
    if low < 0 or high >= len(classes):
        raise MedaugError(f"{name} labels: from {low} to {high}, expected 0 to {len(classes) - 1}; check the classes")
    return tensor


def _patients(patients: Labels, features: torch.Tensor) -> torch.Tensor:
    tensor = torch.as_tensor(patients).to(features.device)
    if tensor.shape != (len(features),):
        raise MedaugError(f"patients: shape {tuple(tensor.shape)}, expected one number for {len(features)} real images")
    if why := unsplittable(tensor, MIN_IMAGES // 2):
        raise TooFewImagesError(f"real images: {why}; give images of more patients")
    return tensor


def _refuse_constant(x: torch.Tensor) -> None:
    if is_constant(x):
        raise MedaugError("real features: all vectors are equal, expected variation; the extractor has learned nothing")
