"""Train, validation and test by patient. Pure functions of arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold

from pipeline.records import SPLITS, MedaugError


class SplitConfig(BaseModel):
    """Which patients are trained on, which choose, and which are tested."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    by: Literal["shares", "folds", "given"] = Field(
        default="shares",
        description="shares: of the patients, or the source's own sides where it has them; folds: one of k, for "
        "cross-validation; given: the column split of the labels' file",
    )
    train: float = Field(default=0.6, gt=0, lt=1, description="share of the slices, by patient")
    validation: float = Field(default=0.15, gt=0, lt=1, description="share of the slices, by patient")
    test: float = Field(default=0.25, gt=0, lt=1, description="share of the slices, by patient; sealed")
    folds: int | None = Field(default=None, ge=3, le=20, description="with by: folds, how many; 3 to 20")
    fold: int = Field(default=0, ge=0, description="with by: folds, which one is tested, from 0 on; the next validates")
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _whole(self) -> SplitConfig:
        if not math.isclose(sum(self.fractions), 1.0, abs_tol=1e-6):
            raise ValueError(f"train, validation and test add up to {sum(self.fractions):g}, expected 1")
        if self.by == "folds" and self.folds is None:
            raise ValueError("by: folds needs their number; set folds, 3 to 20")
        if self.by != "folds" and (self.folds is not None or self.fold):
            raise ValueError(f"folds and fold are for by: folds, which is {self.by}; set by: folds or leave them out")
        if self.folds is not None and self.fold >= self.folds:
            raise ValueError(f"fold {self.fold}: expected 0 to {self.folds - 1}, one of {self.folds}")
        return self

    @property
    def fractions(self) -> tuple[float, float, float]:
        """In the order of :data:`pipeline.records.SPLITS`."""
        return self.train, self.validation, self.test


def join_groups(*identities: Sequence[Any]) -> NDArray[np.int64]:
    """Images that share any identity become one group (connected components).

    Args:
        identities: columns of [N] texts, such as the patient, the pixels' hash, the SOPInstanceUID; "" joins nothing.

    Returns:
        Group number of each image, int64 [N], numbered by first appearance.
    """
    count = len(identities[0])
    images, nodes, total = [], [], count
    for column in identities:
        assert len(column) == count, "one identity an image"
        known = np.flatnonzero([value not in ("", b"") for value in column])
        values, node = np.unique(np.asarray(column, object)[known], return_inverse=True)
        images.append(known)
        nodes.append(total + node)
        total += len(values)
    ends = np.concatenate(images), np.concatenate(nodes)
    edges = coo_array((np.ones(len(ends[0]), np.int8), ends), shape=(total, total))
    component = connected_components(edges, directed=False)[1][:count] if total else np.zeros(0, np.int64)
    _, first, group = np.unique(component, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return np.asarray(rank[group], np.int64)


def split_by(
    config: SplitConfig,
    groups: NDArray[np.int64],
    labels: NDArray[np.int64],
    classes: Sequence[str],
    given: NDArray[np.uint8] | None,
) -> NDArray[np.uint8]:
    """The side of each image.

    Args:
        config: how to split.
        groups: group number of each image, [N], from 0 on without gaps; a group stays whole.
        labels: class index of each image, [N].
        classes: class names.
        given: the side that the source or a column gives each image, or None; folds are drawn in spite of it.

    Returns:
        Index into :data:`pipeline.records.SPLITS` of each image, uint8 [N].

    Raises:
        MedaugError: no such split is possible, or the given one puts a patient on several sides.
    """
    if config.folds is not None:
        return assign_folds(groups, labels, classes, config)
    if given is not None:
        check_given(given, groups, labels, classes)
        return given
    if config.by == "given":
        raise MedaugError(
            "split.by: given, but neither the source nor the labels' file gives sides; add a column split "
            f"({', '.join(SPLITS)}), or set split.by: shares"
        )
    return assign_splits(groups, labels, classes, config)


def check_given(
    splits: NDArray[np.uint8], groups: NDArray[np.int64], labels: NDArray[np.int64], classes: Sequence[str]
) -> None:
    """A split that somebody else made keeps patients whole and has every class on every side.

    Args:
        splits: index into :data:`pipeline.records.SPLITS` of each image, [N].
        groups: group number of each image, [N].
        labels: class index of each image, [N].
        classes: class names.

    Raises:
        MedaugError: it does not.
    """
    astray = int((splits >= len(SPLITS)).sum())
    if astray:
        raise MedaugError(f"split: {astray} image(s) have no side; expected one of {', '.join(SPLITS)} for each")
    sides = np.zeros((int(groups.max(initial=-1)) + 1, len(SPLITS)), bool)
    sides[groups, splits] = True
    torn = int((sides.sum(axis=1) > 1).sum())
    if torn:
        raise MedaugError(
            f"split: the given one puts {torn} patient(s) on several sides (identical slices join patients); "
            "expected each on one; correct it, or set split.by: shares"
        )
    for index, split in enumerate(SPLITS):
        lacking = _absent(labels[splits == index], classes)
        if lacking:
            raise MedaugError(
                f"split: the given one has no {lacking} in {split}; expected every class there; "
                "correct it, or set split.by: shares"
            )


def assign_folds(
    groups: NDArray[np.int64], labels: NDArray[np.int64], classes: Sequence[str], config: SplitConfig
) -> NDArray[np.uint8]:
    """One of k folds is tested, the next one validates, the others are trained on; stratified, groups whole.

    The folds depend on the seed alone, so that those of a cross-validation fit together: every image is tested once.

    Raises:
        MedaugError: a class has fewer patients than folds, or there is a fold without one.
    """
    assert config.folds is not None
    for index, name in enumerate(classes):
        have = len(np.unique(groups[labels == index]))
        if have < config.folds:
            raise MedaugError(
                f"class {name!r}: {have} patient(s), expected at least {config.folds}, one for each of split.folds "
                "(identical slices join patients); take fewer folds, or leave the class out"
            )
    cut = StratifiedGroupKFold(config.folds, shuffle=True, random_state=config.seed)
    fold = np.empty(len(labels), np.int64)
    for number, (_, chosen) in enumerate(cut.split(labels, labels, groups)):
        fold[chosen] = number
    for number in range(config.folds):  # all of them, lest a cross-validation fail at its last fold
        lacking = _absent(labels[fold == number], classes)
        if lacking:
            raise MedaugError(
                f"split: fold {number} has no {lacking}; expected every class in each of the {config.folds}; "
                "change split.seed, or take fewer folds"
            )
    splits = np.zeros(len(labels), np.uint8)
    splits[fold == config.fold] = SPLITS.index("test")
    splits[fold == (config.fold + 1) % config.folds] = SPLITS.index("validation")
    return splits


def _absent(labels: NDArray[np.int64], classes: Sequence[str]) -> str:
    """Classes that no image has, by name; "" where each has one."""
    return ", ".join(name for index, name in enumerate(classes) if not (labels == index).any())


def describe_split(config: SplitConfig, given: bool) -> str:
    """The split in words, for reports."""
    if config.folds is not None:
        last = config.folds - 1
        return f"by patient, fold {config.fold} of 0 to {last} tested, the next one validates, seed {config.seed}"
    if given:
        return "given by the labels' file" if config.by == "given" else "the source's own"
    shares = " / ".join(f"{share:.0%}" for share in config.fractions)
    return f"by patient, {' / '.join(SPLITS)} {shares}, seed {config.seed}"


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


def prefer_copy(copies: NDArray[np.int64], splits: NDArray[np.uint8] | None) -> NDArray[np.bool_]:
    """Which image of each set of copies stays: the first, in a given split the test set's.

    Args:
        copies: number of the set that each image is in, [N]; see :func:`join_groups`.
        splits: the given side of each image, or None.

    Returns:
        bool [N]: true for images that stay.
    """
    order = np.arange(len(copies)) if splits is None else np.argsort(-splits.astype(np.int64), kind="stable")
    _, first = np.unique(copies[order], return_index=True)
    stays = np.zeros(len(copies), bool)
    stays[order[first]] = True
    return stays
