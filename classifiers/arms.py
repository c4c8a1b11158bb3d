"""The training data of each arm: what is compared with what.

======  ==================================================================================
A       real
B       real + classical augmentation
C       real + classical + duplicated real images, as many of each class as D adds
D       real + classical + one GAN's images
E       synthetic alone, as many of each class as D adds
======  ==================================================================================

D has to beat B *and* C: C tells more images from more information.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from classifiers.config import Balance
from pipeline.codes import decode
from pipeline.dataset import ScanDataset
from pipeline.fit import require_fit
from pipeline.records import ImageSpec, MedaugError, ValueRange

Arm = Literal["A", "B", "C", "D", "E"]


@dataclass(frozen=True)
class ArmData:
    """What one classifier is trained on.

    Attributes:
        arm: "A" to "E".
        images: float32 [P, C, H, W] in [-1, 1]; every distinct image once.
        rows: int64 [M], indices into ``images``; a duplicated image appears more than once.
        labels: int64 [M], class of each row.
        classical: whether classical augmentation is applied, to real and synthetic images alike.
        spec: channels, size and classes.
        value_range: the physical values of -1 and +1.
        real: distinct real images of each class.
        added: duplicated or synthetic rows of each class.
    """

    arm: Arm
    images: torch.Tensor
    rows: NDArray[np.int64]
    labels: NDArray[np.int64]
    classical: bool
    spec: ImageSpec
    value_range: ValueRange
    real: tuple[int, ...]
    added: tuple[int, ...]


def build_arm(
    arm: Arm,
    real: ScanDataset,
    synthetic: ScanDataset | None = None,
    ratio: float = 1.0,
    balance: Balance = "uniform",
    seed: int = 0,
) -> ArmData:
    """Puts an arm's training data together.

    Images are drawn in an order that depends on the seed alone, so that a smaller ratio's images are among a larger's.

    Args:
        arm: "A" to "E".
        real: the training split of a dataset artifact.
        synthetic: one generator's artifact, for arms D and E (others ignore it).
        ratio: added to real images, for arms C, D and E.
        balance: "uniform" adds to every class in proportion; "balance" fills the rarest classes first.
        seed: of the choice of added images.

    Raises:
        MedaugError: an unknown arm or balance, a ratio of 0 or less, data that is not a training split, or synthetic
            data that is missing, too small, differs in classes, size, channels or value range, or comes from a
            generator that learnt from other training patients.
    """
    if arm not in get_args(Arm):
        raise MedaugError(f"arm {arm!r}: unknown, expected one of {', '.join(get_args(Arm))}")
    if balance not in get_args(Balance):
        raise MedaugError(f"arm {arm}: balance {balance!r} unknown, expected one of {', '.join(get_args(Balance))}")
    if arm in ("C", "D", "E") and not 0.0 < ratio < float("inf"):
        raise MedaugError(f"arm {arm}: ratio {ratio}, expected a number above 0, such as 0.5")
    if real.split != "train" or real.synthetic:
        kind = "synthetic images" if real.synthetic else f"split {real.split!r}"
        raise MedaugError(f"arm {arm}: real data is {kind}, expected the training split of a dataset artifact")

    counts = np.bincount(real.labels, minlength=len(real.spec.classes))
    absent = [name for name, count in zip(real.spec.classes, counts, strict=True) if count == 0]
    if absent:
        raise MedaugError(f"arm {arm}: no training image of class {', '.join(absent)}; ingest more, or drop the class")
    added = added_counts(counts, ratio, balance) if arm in ("C", "D", "E") else np.zeros_like(counts)
    if arm in ("C", "D", "E") and added.sum() == 0:
        raise MedaugError(f"arm {arm}: ratio {ratio} of {counts.sum()} images adds none; expected a larger ratio")

    images, labels = [real.tensor()], [real.labels]
    rows = [np.arange(len(real))]
    if arm == "C":
        rows.append(_draw(real.labels, added, seed, repeat=True))
        labels.append(real.labels[rows[1]])
    elif arm in ("D", "E"):
        if synthetic is None:
            raise MedaugError(f"arm {arm}: no synthetic images given; expected a generator's synthetic artifact")
        _require_enough_that_fit(arm, real, synthetic, added)
        chosen = _draw(synthetic.labels, added, seed, repeat=False)
        images.append(torch.from_numpy(decode(synthetic.codes[synthetic.rows[chosen]])))
        labels.append(synthetic.labels[chosen])
        rows.append(np.arange(len(chosen)) + len(real))
        if arm == "E":
            images, labels, rows = images[1:], labels[1:], [np.arange(len(chosen))]
    return ArmData(
        arm=arm,
        images=torch.cat(images),
        rows=np.concatenate(rows),
        labels=np.concatenate(labels),
        classical=arm in ("B", "C", "D"),
        spec=real.spec,
        value_range=real.value_range,
        real=tuple(np.zeros_like(counts).tolist() if arm == "E" else counts.tolist()),
        added=tuple(added.tolist()),
    )


def added_counts(counts: Sequence[int] | NDArray[np.int64], ratio: float, balance: Balance) -> NDArray[np.int64]:
    """How many images of each class arms C, D and E add.

    Args:
        counts: real training images of each class [K].
        ratio: added to real images.
        balance: "uniform": ``ratio`` times each class. "balance": as many in all, each given to the class that is the
            smallest by then, so that classes level up as far as they go.

    Returns:
        int64 [K].
    """
    counts = np.asarray(counts, np.int64)
    if balance == "uniform":
        return np.rint(ratio * counts).astype(np.int64)
    total = round(ratio * int(counts.sum()))
    # Fill like water: the highest level that the total reaches, then one more for the first classes below it.
    levels = range(int(counts.min()), int(counts.max()) + total + 1)
    low, high = levels[0], levels[-1]
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if np.clip(middle - counts, 0, None).sum() <= total else (low, middle - 1)
    added = np.clip(low - counts, 0, None)
    for index in np.flatnonzero(counts + added == low)[: total - int(added.sum())]:
        added[index] += 1
    return added


def _draw(labels: NDArray[np.int64], wanted: NDArray[np.int64], seed: int, *, repeat: bool) -> NDArray[np.int64]:
    """Indices of ``wanted[k]`` random images of each class k; repeated evenly where ``repeat`` allows it."""
    drawn = []
    for label, count in enumerate(wanted.tolist()):
        order = np.random.default_rng([seed, label]).permutation(np.flatnonzero(labels == label))
        drawn.append(np.resize(order, count) if repeat else order[:count])
    return np.concatenate(drawn).astype(np.int64)


def _require_enough_that_fit(arm: str, real: ScanDataset, synthetic: ScanDataset, wanted: NDArray[np.int64]) -> None:
    where = f"arm {arm}: synthetic data {synthetic.artifact.path}"
    require_fit(where, real, synthetic)
    available = np.bincount(synthetic.labels, minlength=len(real.spec.classes))
    for name, have, want in zip(real.spec.classes, available.tolist(), wanted.tolist(), strict=True):
        if have < want:
            raise MedaugError(f"{where} has {have} images of class {name}, expected at least {want}; synthesize more")
