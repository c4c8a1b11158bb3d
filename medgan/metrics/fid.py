"""Fréchet distance between two sets of feature vectors (FID when the features are Inception's).

    d² = |μ₁ − μ₂|² + tr Σ₁ + tr Σ₂ − 2 tr (Σ₁Σ₂)^½

Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium", eq. 6; Dowson
and Landau 1982 for Gaussians.

The usual matrix square root of the unsymmetric Σ₁Σ₂ turns complex or NaN when a covariance is singular. It is not
needed: with any factors Σᵢ = FᵢᵀFᵢ the nonzero eigenvalues of Σ₁Σ₂ are the squared singular values of F₁F₂ᵀ, so
tr (Σ₁Σ₂)^½ is the sum of those singular values: real, and exact whatever the rank. With fewer vectors than dimensions
the centred vectors themselves are the factor, and F₁F₂ᵀ is their Gram matrix.

FID is biased upwards at small n (Bińkowski et al. 2018): a value means little without its n and a real-against-real
floor at the same n.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from medgan.metrics.features import Features, as_features, as_pair
from pipeline.records import MedaugError

EXACT_RANK = 512
"""Up to this rank singular values are taken directly; above, from the Gram matrix (see :func:`nuclear_norm`)."""


@dataclass(frozen=True)
class Statistics:
    """Mean and covariance of a set of feature vectors.

    Attributes:
        mean: float64 [D].
        factor: float64 [R, D]; the covariance is ``factorᵀ factor``.
    """

    mean: torch.Tensor
    factor: torch.Tensor

    @property
    def covariance(self) -> torch.Tensor:
        """float64 [D, D]."""
        return self.factor.T @ self.factor


def statistics(features: Features, name: str = "features") -> Statistics:
    """Mean and unbiased covariance (divisor N − 1) of feature vectors [N, D].

    Raises:
        MedaugError: fewer than two vectors, another shape, or values that are not finite.
    """
    x = as_features(features, name)
    mean = x.mean(dim=0)
    centred = (x - mean) / math.sqrt(len(x) - 1)
    if len(x) <= x.shape[1]:
        return Statistics(mean, centred)
    return Statistics(mean, _factor(centred.T @ centred))


def from_moments(mean: torch.Tensor, covariance: torch.Tensor) -> Statistics:
    """Statistics from a mean [D] and a symmetric positive semidefinite covariance [D, D].

    Raises:
        MedaugError: shapes that do not fit, a covariance that is not symmetric, or one with a negative eigenvalue.
    """
    mean, covariance = mean.to(torch.float64), covariance.to(torch.float64)
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise MedaugError(
            f"moments: mean {tuple(mean.shape)} and covariance {tuple(covariance.shape)}, expected [D] and [D, D]"
        )
    if not torch.allclose(covariance, covariance.T, rtol=1e-6, atol=1e-10):
        raise MedaugError("moments: the covariance is not symmetric; compute it from features in float64")
    return Statistics(mean, _factor(covariance))


def _factor(covariance: torch.Tensor) -> torch.Tensor:
    """F with FᵀF = covariance, one row for each eigenvalue that stands above rounding."""
    values, vectors = torch.linalg.eigh((covariance + covariance.T) / 2)
    largest = float(values[-1].clamp(min=0.0))
    if float(values[0]) < -1e-6 * largest:
        raise MedaugError("moments: the covariance has a negative eigenvalue; compute it from features in float64")
    kept = values > largest * len(values) * torch.finfo(torch.float64).eps
    # legend: vectors [D, R] → rows [R, D], each scaled by the root of its eigenvalue
    return vectors[:, kept].T * values[kept].sqrt()[:, None]


def nuclear_norm(matrix: torch.Tensor) -> torch.Tensor:
    """Sum of the singular values of [R, S].

    Above :data:`EXACT_RANK` they are roots of the Gram matrix's eigenvalues, several times faster; rounding then costs
    at most 1.5e-8 of the largest singular value for each one that is zero.
    """
    if min(matrix.shape) <= EXACT_RANK:
        return torch.linalg.svdvals(matrix).sum() if matrix.numel() else matrix.new_zeros(())
    gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    return torch.linalg.eigvalsh(gram).clamp(min=0.0).sqrt().sum()


def frechet_distance(first: Statistics, second: Statistics) -> float:
    """Squared Fréchet distance between two Gaussians with these moments; never negative."""
    shift = (first.mean - second.mean).square().sum()
    # tr Σ = sum of the factor's squared entries
    spread = first.factor.square().sum() + second.factor.square().sum()
    return max(float(shift + spread - 2.0 * nuclear_norm(first.factor @ second.factor.T)), 0.0)


def distance(real: Features, synthetic: Features) -> float:
    """Fréchet distance between real [N, D] and synthetic [M, D] feature vectors; 0 for equal sets.

    Raises:
        MedaugError: fewer than two vectors in a set, dimensions that differ, or values that are not finite.
    """
    x, y = as_pair(real, synthetic)
    return frechet_distance(statistics(x), statistics(y))
