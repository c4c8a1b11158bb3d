"""DeLong's variance of a difference of AUROCs: a closed form to hold the bootstrap against.

DeLong, DeLong and Clarke-Pearson 1988, "Comparing the Areas under Two or More Correlated Receiver Operating
Characteristic Curves", eq. 4-6. With ψ(x, y) = 1 for x > y, 1/2 for x = y and 0 otherwise, a positive i of m and a
negative j of n have the structural components

    V10(i) = 1/n · Σ_j ψ(x_i, y_j)        V01(j) = 1/m · Σ_i ψ(x_i, y_j)

and var(AUC) = S10/m + S01/n with the components' sample variances. AUROC is linear in them, so that a mean over runs,
a mean over classes and a difference between arms all have the components' mean and difference as theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, rankdata

from classifiers.evaluate import Predictions, macro_auroc

Floats = NDArray[np.float64]


class DeLong(NamedTuple):
    """A difference of macro AUROCs with its standard error over patients alone, and the two-sided normal p."""

    value: float
    se: float
    p: float


def delong(treatment: Sequence[Predictions], control: Sequence[Predictions]) -> DeLong | None:
    """Treatment minus control, each the mean of its runs; None where a patient has more than one scan.

    Args:
        treatment: runs on one test set.
        control: runs on the same one.
    """
    labels, patients = treatment[0].labels, treatment[0].patients
    if len(np.unique(patients)) < len(patients) or np.bincount(labels)[np.unique(labels)].min() < 2:
        return None
    difference = _mean_components(treatment) - _mean_components(control)
    value = _mean_auroc(treatment) - _mean_auroc(control)
    # Patients of different classes are independent draws: variances add up class by class.
    variance = sum(
        float(np.sum(labels == k)) * float(np.var(difference[labels == k], ddof=1)) for k in np.unique(labels)
    )
    se = float(np.sqrt(variance))
    p = float(2.0 * norm.sf(abs(value) / se)) if se > 0.0 else 1.0
    return DeLong(value, se, p)


def _mean_auroc(runs: Sequence[Predictions]) -> float:
    return float(np.mean([macro_auroc(run.labels, run.probabilities) for run in runs]))


def _mean_components(runs: Sequence[Predictions]) -> Floats:
    """What each scan adds to the runs' mean macro AUROC: V10/m or V01/n, averaged over runs and classes, [N]."""
    classes = np.unique(runs[0].labels)
    shares = [_components(run.probabilities[:, k], run.labels == k) for run in runs for k in classes]
    mean: Floats = np.mean(shares, axis=0)
    return mean


def _components(scores: Floats, positive: NDArray[np.bool_]) -> Floats:
    """V10(i)/m for positives and V01(j)/n for negatives, [N], by midranks (Sun and Xu 2014)."""
    m, n = int(positive.sum()), int((~positive).sum())
    among_all = rankdata(scores)
    share = np.empty(len(scores))
    share[positive] = (among_all[positive] - rankdata(scores[positive])) / n / m
    share[~positive] = (1.0 - (among_all[~positive] - rankdata(scores[~positive])) / m) / n
    return share
