"""A dataset with a fraction of its training patients: what everything would be if there were fewer of them.

The result is a dataset artifact in its own right, so that whatever learns from it (extractor, GAN, classifier) can see
no other training patient. Validation and test patients stay as they are, so that fractions compare.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.dataset import IMAGES, INDEX, ScanDataset, write_index
from pipeline.records import SPLITS, MedaugError
from pipeline.store import Artifact, Draft, Recipe, Store
from pipeline.versions import code_version

CODE = ("pipeline.fraction",)
TABLE = "slices.parquet"


def patient_strata(labels: NDArray[np.int64], patients: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """The class that a patient stands for when patients are drawn: among their scans' the one fewest patients have.

    Args:
        labels: class of each scan [N].
        patients: patient of each scan [N].

    Returns:
        The stratum of each distinct patient, in ascending order of patient number, [P]; and each scan's place in that
        order, [N].
    """
    unique, owner = np.unique(patients, return_inverse=True)
    has = np.zeros((len(unique), int(labels.max()) + 1), bool)
    has[owner, labels] = True
    return np.where(has, has.sum(axis=0), len(unique) + 1).argmin(axis=1), owner


def nested_patients(
    labels: NDArray[np.int64], patients: NDArray[np.int64], fraction: float, seed: int
) -> NDArray[np.bool_]:
    """Which scans belong to the fraction: whole patients, from each class in proportion, at least one of each.

    Patients of a class are put into an order that depends on the seed alone and the first ones are taken, so that the
    patients of a smaller fraction are among those of a larger one.

    Args:
        labels: class of each training scan [N].
        patients: patient of each training scan [N].
        fraction: above 0, at most 1.
        seed: of the order.

    Returns:
        bool [N].
    """
    stratum, owner = patient_strata(labels, patients)
    chosen = np.zeros(len(stratum), bool)
    for label in np.unique(stratum):
        members = np.random.default_rng([seed, int(label)]).permutation(np.flatnonzero(stratum == label))
        chosen[members[: max(1, round(fraction * len(members)))]] = True
    return chosen[owner]


def refuse_absent_classes(fraction: float, counts: Mapping[str, int]) -> None:
    """Refuses a fraction that leaves a class without a training scan.

    Args:
        fraction: of the training patients.
        counts: class → training scans in it.

    Raises:
        MedaugError: names the classes.
    """
    absent = [name for name, count in counts.items() if count == 0]
    if absent:
        raise MedaugError(f"fraction {fraction:g}: no training scan of class {', '.join(absent)}; take a larger one")


def take_fraction(dataset: Path, fraction: float, seed: int, store: Store) -> Artifact:
    """The dataset with a fraction of its training patients, made or found.

    Args:
        dataset: a dataset artifact's folder.
        fraction: of the training patients, above 0 and below 1.
        seed: which patients.
        store: where it goes.

    Raises:
        MedaugError: a fraction out of range, or one that leaves a class without a training scan.
    """
    if not 0.0 < fraction < 1.0:
        raise MedaugError(f"fraction {fraction:g}: expected above 0 and below 1, such as 0.25")
    whole = Artifact.open(dataset)
    name = f"{whole.manifest['recipe']['name']}-{fraction * 100:g}pct"
    settings = {"fraction": fraction, "seed": seed}
    recipe = Recipe("dataset", name, {"dataset": whole.digest}, settings, code_version(*CODE))
    return store.get_or_create(recipe, lambda draft: _write(ScanDataset(dataset), fraction, seed, draft))


def _write(whole: ScanDataset, fraction: float, seed: int, draft: Draft) -> None:
    with np.load(whole.artifact.path / INDEX) as index:
        splits = index["split"]
    keep = np.ones(len(whole), bool)
    training = splits == SPLITS.index("train")
    keep[training] = nested_patients(whole.labels[training], whole.patients[training], fraction, seed)
    labels, patients = whole.labels[keep & training], whole.patients[keep & training]
    counts = {
        name: {"slices": int(np.sum(labels == k)), "patients": len(np.unique(patients[labels == k]))}
        for k, name in enumerate(whole.spec.classes)
    }
    refuse_absent_classes(fraction, {name: count["slices"] for name, count in counts.items()})
    codes = np.ascontiguousarray(whole.codes[keep])
    np.save(draft.folder / IMAGES, codes)
    write_index(draft.folder, codes, whole.labels[keep].tolist(), splits[keep].tolist(), whole.patients[keep].tolist())
    if (whole.artifact.path / TABLE).is_file():
        pd.read_parquet(whole.artifact.path / TABLE)[keep].to_parquet(draft.folder / TABLE, index=False)
    meta: Mapping[str, Any] = whole.meta
    draft.meta = {**meta, "counts": {**meta.get("counts", {}), "train": counts}, "fraction": fraction}
