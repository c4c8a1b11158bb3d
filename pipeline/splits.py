"""Train, validation and test by patient. Pure functions of arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pipeline.records import SPLITS, MedaugError


class SplitConfig(BaseModel):
    """Shares of the patients, and the seed of their assignment."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    train: float = Field(default=0.6, gt=0, lt=1, description="share of the slices, by patient")
    validation: float = Field(default=0.15, gt=0, lt=1, description="share of the slices, by patient")
    test: float = Field(default=0.25, gt=0, lt=1, description="share of the slices, by patient; sealed")
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _whole(self) -> SplitConfig:
        if not math.isclose(sum(self.fractions), 1.0, abs_tol=1e-6):
            raise ValueError(f"train, validation and test add up to {sum(self.fractions):g}, expected 1")
        return self

    @property
    def fractions(self) -> tuple[float, float, float]:
        """In the order of :data:`pipeline.records.SPLITS`."""
        return self.train, self.validation, self.test


def join_groups(patients: Sequence[str], hashes: Sequence[bytes]) -> NDArray[np.int64]:
    """Patients that share an identical image become one group (connected components).

    Args:
        patients: identity of each image's patient, [N].
        hashes: :func:`pipeline.dataset.image_hash` of each image, [N].

    Returns:
        Group number of each image, int64 [N], numbered by first appearance.
    """
    if not patients:
        return np.zeros(0, np.int64)
    _, patient = np.unique(np.asarray(patients), return_inverse=True)
    _, image = np.unique(np.asarray(hashes), return_inverse=True)
    offset = int(patient.max()) + 1
    nodes = offset + int(image.max()) + 1
    edges = coo_array((np.ones(len(patient), np.int8), (patient, offset + image)), shape=(nodes, nodes))
    _, component = connected_components(edges, directed=False)
    _, first, group = np.unique(component[patient], return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return np.asarray(rank[group], np.int64)


def assign_splits(
    groups: NDArray[np.int64], labels: NDArray[np.int64], classes: Sequence[str], config: SplitConfig
) -> NDArray[np.uint8]:
    """Assigns whole groups to splits, stratified by class as far as the groups allow.

    scikit-learn's StratifiedGroupKFold does this for equal folds only. Here: each split first gets one group of each
    class, the rarest class first; the others follow, those that hold most of a class first, each to where the classes'
    shares come nearest to the wanted ones; then single groups move where that helps. Repeated from several shuffles;
    the best is kept. A group may hold several labels; its slices and its being a patient weigh alike.

    Args:
        groups: group number of each image, [N], from 0 on without gaps.
        labels: class index of each image, [N].
        classes: class names.
        config: shares and seed.

    Returns:
        Index into :data:`pipeline.records.SPLITS` of each image, uint8 [N].

    Raises:
        MedaugError: a class has fewer patients than there are splits, or no assignment puts each class on every side.
    """
    count = np.zeros((int(groups.max()) + 1, len(classes)))
    np.add.at(count, (groups, labels), 1)
    for index, name in enumerate(classes):
        have = int((count[:, index] > 0).sum())
        if have < len(SPLITS):
            raise MedaugError(
                f"class {name!r}: {have} patient(s), expected at least {len(SPLITS)}, one for each of "
                f"{', '.join(SPLITS)} (identical slices join patients); add patients or leave the class out"
            )
    # Of each class, what each group holds: of its slices, and of its patients.
    share = np.hstack([count / count.sum(axis=0), (count > 0) / (count > 0).sum(axis=0)])
    rng = np.random.default_rng(config.seed)
    best: tuple[tuple[int, float], NDArray[np.int64]] | None = None
    for _ in range(int(np.clip(4000 // len(share), 2, 40))):
        side = _attempt(share, count > 0, np.asarray(config.fractions), rng)
        reached = np.stack([share[side == split].sum(axis=0) for split in range(len(SPLITS))])
        lacking = sum(int((~(count[side == split] > 0).any(axis=0)).sum()) for split in range(len(SPLITS)))
        merit = (lacking, float(((reached - np.asarray(config.fractions)[:, None]) ** 2).sum()))
        if best is None or merit < best[0]:
            best = (merit, side)
    assert best is not None
    if best[0][0]:
        raise MedaugError(
            "split: found no assignment of patients that puts every class into train, validation and test; "
            "add patients, or change the shares"
        )
    return best[1][groups].astype(np.uint8)


def _attempt(
    share: NDArray[np.float64], holds: NDArray[np.bool_], fractions: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """One assignment, int64 [G], from the groups' shares [G, features] and the classes that they hold [G, classes]."""
    wanted = fractions[:, None]
    side = np.full(len(share), -1)
    present = np.zeros((len(fractions), holds.shape[1]), bool)
    reached = np.zeros((len(fractions), share.shape[1]))

    def place(group: int, split: int) -> None:
        side[group] = split
        reached[split] += share[group]
        present[split] |= holds[group]

    for label in np.argsort(holds.sum(axis=0), kind="stable"):
        for split in rng.permutation(len(fractions)):
            free = np.flatnonzero(holds[:, label] & (side < 0))
            if not present[split, label] and len(free):
                free = rng.permutation(free)  # the smallest does least harm; chance breaks ties
                place(int(free[np.argmin(share[free].sum(axis=1))]), int(split))
    order = rng.permutation(np.flatnonzero(side < 0))
    for group in order[np.argsort(-share[order].max(axis=1), kind="stable")]:
        gain = ((reached + share[group] - wanted) ** 2 - (reached - wanted) ** 2).sum(axis=1)
        place(int(group), int(np.argmin(gain)))
    for group in rng.permutation(len(share)):
        here = side[group]
        left = reached[here] - share[group]
        worth = ((left - fractions[here]) ** 2 - (reached[here] - fractions[here]) ** 2).sum()
        cost = ((reached + share[group] - wanted) ** 2 - (reached - wanted) ** 2).sum(axis=1)
        cost[here] = -worth
        there = int(np.argmin(cost))
        if cost[there] + worth > -1e-12:
            continue
        others = holds[(side == here) & (np.arange(len(side)) != group)]
        if (others.any(axis=0) | ~holds[group]).all():  # else the split would lack a class
            reached[here] = left
            reached[there] += share[group]
            side[group] = there
    return side


def class_shares(
    labels: NDArray[np.int64], splits: NDArray[np.uint8], classes: Sequence[str]
) -> dict[str, dict[str, float]]:
    """How far stratification got: split → class → its share of the split's slices; "all" for comparison."""
    sides = [("all", np.ones(len(labels), bool)), *((name, splits == index) for index, name in enumerate(SPLITS))]
    return {
        name: {title: round(float((labels[chosen] == index).mean()), 4) for index, title in enumerate(classes)}
        for name, chosen in sides
        if chosen.any()
    }


def prefer_copy(hashes: Sequence[bytes], splits: NDArray[np.uint8] | None) -> NDArray[np.bool_]:
    """Which image of each set of identical ones stays: the first, in an official split the test set's.

    Args:
        hashes: of each image, [N].
        splits: the source's own split of each image, or None.

    Returns:
        bool [N]: true for images that stay.
    """
    order = np.arange(len(hashes)) if splits is None else np.argsort(-splits.astype(np.int64), kind="stable")
    _, first = np.unique(np.asarray(hashes)[order], return_index=True)
    stays = np.zeros(len(hashes), bool)
    stays[order[first]] = True
    return stays
