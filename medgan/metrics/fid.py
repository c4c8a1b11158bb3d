"""Fréchet distance between two sets of feature vectors (FID when the features are Inception's).

    d² = |μ₁ − μ₂|² + tr Σ₁ + tr Σ₂ − 2 tr (Σ₁Σ₂)^½

Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium", eq. 6; Dowson
and Landau 1982 for Gaussians.

The usual matrix square root of the unsymmetric Σ₁Σ₂ turns complex or NaN when a covariance is singular. It is not
needed: with any factors Σᵢ = FᵢᵀFᵢ the nonzero eigenvalues of Σ₁Σ₂ are the squared singular values of F₁F₂ᵀ, so
tr (Σ₁Σ₂)^½ is the sum of those singular values: real, and exact whatever the rank. With no more vectors than
dimensions the centred vectors themselves are the factor, and F₁F₂ᵀ is their Gram matrix; else Cholesky's factor is.

FID is biased upwards at small n (Bińkowski et al. 2018): a value means little without its n and a real-against-real
floor at the same n.
"""

from __future__ import annotations

import torch

from medgan.metrics.features import Features, as_pair
from medgan.metrics.moments import Moments, Statistics, from_moments, gram, load_statistics

__all__ = ["Statistics", "distance", "frechet_distance", "from_moments", "load_statistics", "statistics"]

EXACT_RANK = 512
"""Up to this rank singular values are always taken directly (see :func:`frechet_distance`)."""

RELATIVE = 1e-7
"""Error of a distance that the faster way may cause, as a share of it."""

ROUNDING = 16 * torch.finfo(torch.float64).eps
"""Error of a Gram matrix's eigenvalues, as a share of the largest."""


def statistics(features: Features, name: str = "features") -> Statistics:
    """Mean and unbiased covariance (divisor N − 1) of feature vectors [N, D].

    Raises:
        MedaugError: fewer than two vectors, another shape, or values that are not finite.
    """
    moments = Moments()
    moments.add(features, name)
    return moments.statistics(name)


def frechet_distance(first: Statistics, second: Statistics) -> float:
    """Squared Fréchet distance between two Gaussians with these moments; never negative.

    The singular values of F₁F₂ᵀ are the roots of its Gram matrix's eigenvalues too, which come several times faster but
    with half the digits where they are small: that way counts only where it costs at most :data:`RELATIVE`.
    """
    shift = (first.mean - second.mean).square().sum()
    # tr Σ = sum of the factor's squared entries
    without_root = float(shift + first.factor.square().sum() + second.factor.square().sum())
    product = first.factor @ second.factor.T
    if min(product.shape) > EXACT_RANK:
        trace, error = _nuclear_norm_by_gram(product)
        distance = without_root - 2.0 * trace
        if 2.0 * error <= RELATIVE * distance:
            return distance
    return max(without_root - 2.0 * float(torch.linalg.svdvals(product).sum()), 0.0)


def _nuclear_norm_by_gram(matrix: torch.Tensor) -> tuple[float, float]:
    """Sum of the singular values of [R, S], and a bound of its error.

    An error e of an eigenvalue σ² is one of e / 2σ of σ, and of √e where σ is nearly zero.
    """
    smaller = gram(matrix.T) if matrix.shape[0] <= matrix.shape[1] else gram(matrix)
    values = torch.linalg.eigvalsh(smaller).clamp(min=0.0)
    roots, error = values.sqrt(), ROUNDING * values[-1]
    return float(roots.sum()), float(torch.minimum(error / (2.0 * roots), error.sqrt()).sum())


def distance(real: Features, synthetic: Features) -> float:
    """Fréchet distance between real [N, D] and synthetic [M, D] feature vectors; 0 for equal sets.

    Raises:
        MedaugError: fewer than two vectors in a set, dimensions that differ, or values that are not finite.
    """
    x, y = as_pair(real, synthetic)
    return frechet_distance(statistics(x), statistics(y))
