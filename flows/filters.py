"""Which of a generator's images are worth training on: each choice is a synthetic set, and an arm, of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from prefect import task
from prefect.cache_policies import NO_CACHE

from classifiers.trained import TrainedClassifier, features, load_classifier, probabilities
from flows.configuration import Filter
from flows.context import Context
from medgan.metrics.copies import copies, copies_in_features
from medgan.metrics.precision_recall import NEIGHBOURS, squared_radii
from pipeline.dataset import IMAGES, ScanDataset, write_index
from pipeline.records import MedaugError
from pipeline.store import Artifact, Draft, Recipe
from pipeline.versions import code_version

COPIES_SPARED = 0.9
"""Share of each class that is counted on to be left without copies: two checks with 20 validation images, the fewest,
take a 21st each of what is no copy. Of a generator that copies more, less is left, and arms that need it fail."""
CODE = ("flows.filters",)


@task(name="filter", task_run_name="filter {synthetic.name} by {kind}", tags=["synthesize"], cache_policy=NO_CACHE)
def filter_synthetic(context: Context, dataset: Path, extractor: Path, synthetic: Path, kind: Filter) -> Path:
    """The images of a synthetic set that a filter keeps, as a synthetic artifact.

    Args:
        context: the experiment.
        dataset: the dataset artifact whose training patients the generator learnt from.
        extractor: a classifier of the same training patients; it knows no others.
        synthetic: the synthetic artifact.
        kind: which filter.

    Raises:
        MedaugError: nothing of a class is left.
    """
    drawn = Artifact.open(synthetic)
    keep = context.config.classification.keep if kind in ("confidence", "precision") else None
    inputs = {
        "synthetic": drawn.digest,
        "dataset": Artifact.open(dataset).digest,
        "extractor": Artifact.open(extractor).digest,
    }
    name = f"{drawn.manifest['recipe']['name']}-{kind}"
    recipe = Recipe("synthetic", name, inputs, {"filter": kind, "keep": keep}, code_version(*CODE))

    def build(draft: Draft) -> None:
        fake, network = ScanDataset(synthetic), load_classifier(extractor)
        real = ScanDataset(dataset, "train")
        if kind == "copies":
            kept = ~copied(network, real, ScanDataset(dataset, "validation"), fake)
        else:
            assert keep is not None
            images = fake.tensor()
            score = confidence(network, images, fake.labels) if kind == "confidence" else depth(network, real, images)
            kept = best_of_each_class(score, fake.labels, keep)
        counts = np.bincount(fake.labels[kept], minlength=len(fake.spec.classes))
        if (counts == 0).any():
            absent = ", ".join(np.array(fake.spec.classes)[counts == 0])
            raise MedaugError(f"filter {kind} of {synthetic.name}: no image of class {absent} is left")
        rows = fake.rows[kept]
        codes = np.ascontiguousarray(fake.codes[rows])
        np.save(draft.folder / IMAGES, codes)
        write_index(draft.folder, codes, fake.labels[kept].tolist(), [0] * len(rows), [-1] * len(rows))
        draft.meta.update({**drawn.meta, "filter": kind, "kept": counts.tolist(), "of": len(fake)})

    return context.store.get_or_create(recipe, build).path


def copied(
    network: TrainedClassifier, real: ScanDataset, validation: ScanDataset, fake: ScanDataset
) -> NDArray[np.bool_]:
    """Which synthetic images copy a training image, in pixels or in features, [N]."""
    train, held_out, drawn = (data.tensor() for data in (real, validation, fake))
    in_pixels = copies(train, held_out, drawn, validation.patients)
    points = [features(network, images) for images in (train, held_out, drawn)]
    in_features = copies_in_features(points[0], points[1], points[2], real.patients, validation.patients)
    mask: NDArray[np.bool_] = (in_pixels.mask | in_features.mask).cpu().numpy()
    return mask


def best_of_each_class(score: NDArray[np.float64], labels: NDArray[np.int64], share: float) -> NDArray[np.bool_]:
    """The given share of each class, highest scores first (rounded down, at least one image)."""
    kept = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        order = members[np.argsort(-score[members], kind="stable")]
        kept[order[: share_of(len(members), share)]] = True
    return kept


def share_kept(kind: Filter, keep: float) -> float:
    """The share of each class that is left by a filter; of "copies" a share to count on."""
    return {"none": 1.0, "copies": COPIES_SPARED}.get(kind, keep)


def share_of(count: int, share: float) -> int:
    """How many of so many images a share is: rounded down, at least one."""
    return max(1, int(share * count))


def confidence(network: TrainedClassifier, images: torch.Tensor, labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """The probability that the classifier gives to the class each image was drawn for, [N]."""
    answers: NDArray[np.float64] = probabilities(network, images)[np.arange(len(labels)), labels]
    return answers


def depth(network: TrainedClassifier, real: ScanDataset, images: torch.Tensor) -> NDArray[np.float64]:
    """How deep each image lies among the real ones: the realism score, [N].

    max over real x of r_k(x) / ‖y − x‖, above 1 where y counts for precision (Kynkäänniemi et al. 2019, "Improved
    Precision and Recall Metric for Assessing Generative Models", eq. 3; there over the half of the real images with the
    smaller radii, so that an outlier's wide ball does not decide; here too).
    """
    x = torch.from_numpy(features(network, real.tensor()))
    y = torch.from_numpy(features(network, images))
    radius = squared_radii(x, x.mean(dim=0), min(NEIGHBOURS, len(x) - 1)).sqrt()
    inner = radius <= radius.median()
    distance = torch.cdist(y, x[inner]).clamp_min(1e-12)
    score: NDArray[np.float64] = (radius[inner] / distance).amax(dim=1).numpy()
    return score
