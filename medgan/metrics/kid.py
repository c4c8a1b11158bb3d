"""Kernel distance: unbiased squared maximum mean discrepancy under a cubic kernel (KID with Inception's features).

    k(x, y) = (xᵀy / D + 1)³

    MMD²ᵤ = Σ_{i≠j} k(xᵢ, xⱼ) / m(m−1) + Σ_{i≠j} k(yᵢ, yⱼ) / m(m−1) − 2 Σ_{i,j} k(xᵢ, yⱼ) / m²

Bińkowski et al. 2018, "Demystifying MMD GANs", section 4 and eq. 3-4; Gretton et al. 2012, lemma 6. Being unbiased
it has expectation 0 for equal distributions at every n, single values may be negative, and it is the figure to lead
with where fewer than 2,048 real images make FID biased. Where patients have several images, which resemble each other,
that holds only if pairs within a patient are left out as pairs i = j are; so they are, wherever patients are given.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from medgan.metrics.features import Features, as_pair
from medgan.metrics.sampling import split, split_patients

LARGEST_SUBSET = 1000
"""The subset size of the paper and of torch-fidelity, where there are images enough."""


@dataclass(frozen=True)
class KernelDistance:
    """KID over random subsets.

    Attributes:
        value: mean over the subsets.
        standard_error: of the estimate on the whole sets (see :func:`distance`).
        subset_size: vectors of each set in a subset.
        subsets: how many were drawn.
    """

    value: float
    standard_error: float
    subset_size: int
    subsets: int


def mmd2(
    x: torch.Tensor,
    y: torch.Tensor,
    x_patients: torch.Tensor | None = None,
    y_patients: torch.Tensor | None = None,
) -> float:
    """Unbiased MMD² between float64 [m, D] and [n, D].

    Args:
        x: float64 [m, D].
        y: float64 [n, D].
        x_patients: patient number of each vector, int64 [m], at least two different ones; without, each is its own.
        y_patients: the same for ``y``.
    """
    xy = (x @ y.T / x.shape[1] + 1.0) ** 3
    return float(_within(x, x_patients) + _within(y, y_patients) - 2.0 * xy.mean())


def _within(x: torch.Tensor, patients: torch.Tensor | None) -> torch.Tensor:
    """Mean kernel over pairs of different vectors, of different patients where these are given."""
    kernel = (x @ x.T / x.shape[1] + 1.0) ** 3
    if patients is None:
        return (kernel.sum() - kernel.diagonal().sum()) / (len(x) * (len(x) - 1))
    return kernel[patients[:, None] != patients[None, :]].mean()


def distance(
    real: Features, synthetic: Features, subsets: int = 50, seed: int = 0, patients: torch.Tensor | None = None
) -> KernelDistance:
    """Kernel distance between real [N, D] and synthetic [M, D] feature vectors.

    The subsets hold half of the smaller set, at most :data:`LARGEST_SUBSET`. Subsets of m out of n drawn without
    replacement scatter with variance σ²/m − σ²/n; scaled by m / (n − m) that is σ²/n, the variance of the estimate
    on the whole set. What is told is a mean over subsets, whose own scatter is added. (The spread over subsets that
    other tools print is not an error of anything once subsets overlap.)

    Args:
        real: [N, D], N at least 4.
        synthetic: [M, D], M at least 4.
        subsets: how many, at least 2.
        seed: of the draw.
        patients: patient number of each real vector, int64 [N], at least four different ones: the real subsets are
            then of whole patients. Without, each vector is its own patient.

    Raises:
        MedaugError: too few vectors, dimensions that differ, or values that are not finite.
    """
    assert subsets > 1, "a spread needs at least two subsets"
    x, y = as_pair(real, synthetic, minimum=4)
    smaller = min(len(x), len(y))
    size = min(smaller // 2, LARGEST_SUBSET)
    generator = torch.Generator().manual_seed(seed)
    values = torch.empty(subsets, dtype=torch.float64)
    for index in range(subsets):
        if patients is None:
            values[index] = mmd2(split(x, size, generator)[0], split(y, size, generator)[0])
        else:
            chosen, _ = split_patients(patients, size, generator)
            values[index] = mmd2(x[chosen], split(y, size, generator)[0], patients[chosen])
    error = float(values.std()) * math.sqrt(size / (smaller - size) + 1 / subsets)
    return KernelDistance(float(values.mean()), error, size, subsets)
