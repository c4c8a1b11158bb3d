"""All cells of an experiment: which training sets, which synthetic sets, which seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch

from classifiers.arms import added_counts
from classifiers.config import ClassifierConfig
from classifiers.networks import build_network
from classifiers.transforms import build_transforms
from classifiers.weights import load_weights
from flows.classify import Cell
from flows.configuration import ExperimentConfig, Filter
from flows.filters import share_kept, share_of
from pipeline.dataset import ScanDataset
from pipeline.fraction import nested_patients, refuse_absent_classes
from pipeline.records import MedaugError

Drawn = tuple[str, int, Filter]
"""GAN, its seed, and the filter of its images."""


@dataclass(frozen=True)
class Ground:
    """A fraction of the training patients, and what the GANs that learnt from it have drawn.

    Attributes:
        fraction: None for all training patients.
        dataset: dataset artifact with these training patients.
        synthetic: the synthetic artifacts, by GAN, seed and filter.
    """

    fraction: float | None
    dataset: Path
    synthetic: Mapping[Drawn, Path]


def grid(config: ExperimentConfig, grounds: Sequence[Ground]) -> list[tuple[Path, Cell]]:
    """All cells whose synthetic set is there, each with its dataset; real-only ones first."""
    settings = config.classification
    return [
        (ground.dataset, cell)
        for ground, classifier, seed in product(grounds, config.classifiers, settings.seeds)
        for cell in _cells(config, ground, classifier, seed)
    ]


def _cells(config: ExperimentConfig, ground: Ground, classifier: ClassifierConfig, seed: int) -> Iterator[Cell]:
    settings, fraction = config.classification, ground.fraction
    for arm in settings.arms:
        if arm in ("A", "B"):
            yield Cell(arm, classifier, seed, fraction=fraction)
    sizes = list(product(settings.ratios, settings.balance))
    if "C" in settings.arms:
        for ratio, balance in sizes:
            yield Cell("C", classifier, seed, ratio, balance, fraction=fraction)
    for (gan, gan_seed, kind), path in ground.synthetic.items():
        if "D" in settings.arms:
            for ratio, balance in sizes:
                yield Cell("D", classifier, seed, ratio, balance, gan, gan_seed, kind, path, fraction)
        if "E" in settings.arms and kind == "none":
            yield Cell("E", classifier, seed, None, "uniform", gan, gan_seed, kind, path, fraction)


def check_classifiers(config: ExperimentConfig, train: ScanDataset) -> None:
    """Every classifier can be built for these images, from its weights and with its transforms: found out beforehand.

    Args:
        config: the experiment.
        train: the training split of the whole dataset.

    Raises:
        MedaugError: images too small, weights that do not fit, or transforms that MONAI refuses.
    """
    for classifier in (config.extractor, *config.classifiers):
        network = build_network(classifier, train.spec, torch.Generator().manual_seed(0))
        if classifier.weights is not None:
            load_weights(network, classifier.weights)
        build_transforms(classifier.augmentation.transforms, 0)


def check_fractions(config: ExperimentConfig, train: ScanDataset) -> None:
    """Each fraction of the training patients will do, and enough is drawn: found out before the first training.

    Args:
        config: the experiment.
        train: the training split of the whole dataset.

    Raises:
        MedaugError: a fraction without a class, an arm that would add no image, or too few synthetic images; names the
            number that would do.
    """
    settings = config.classification
    counts = {}
    for fraction in settings.fractions:
        chosen = nested_patients(train.labels, train.patients, fraction, config.seed)
        counts[fraction] = np.bincount(train.labels[chosen], minlength=len(train.spec.classes))
        if fraction < 1.0:
            found = zip(train.spec.classes, counts[fraction].tolist(), strict=True)
            refuse_absent_classes(fraction, dict(found))
    if not config.classifiers or not {"C", "D", "E"} & set(settings.arms):
        return
    sizes = list(product(settings.ratios, settings.balance)) if {"C", "D"} & set(settings.arms) else []
    used = 0  # of one class, by the largest arm D
    for (fraction, of), (ratio, balance) in product(counts.items(), sizes):
        added = added_counts(of, ratio, balance)
        if added.sum() == 0:
            raise MedaugError(
                f"classification.ratios: {ratio:g} of the {of.sum()} training scans of fraction {fraction:g} adds no "
                "image; set a larger ratio or fraction"
            )
        used = max(used, int(added.max())) if "D" in settings.arms else 0
    share = min(share_kept(kind, settings.keep) for kind in settings.filters)
    need = used
    while used and share_of(need, share) < used:
        need = max(need + 1, int(used / share))
    if "E" in settings.arms:  # of unfiltered images
        need = max(need, *(int(added_counts(of, 1.0, "uniform").max()) for of in counts.values()))
    if need > config.synthesis.per_class:
        kept = f", of which filters keep {share:g}" if share < 1.0 else ""
        raise MedaugError(
            f"synthesis.per_class: {config.synthesis.per_class} images of each class{kept} are too few for the arms of "
            f"{len(train)} training scans; set at least {need}"
        )
