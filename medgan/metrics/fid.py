"""Fréchet distance between two sets of feature vectors (FID when the features are Inception's).

    d² = |μ₁ − μ₂|² + tr Σ₁ + tr Σ₂ − 2 tr (Σ₁Σ₂)^½

Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium", eq. 6; Dowson
and Landau 1982 for Gaussians.

The usual matrix square root of the unsymmetric Σ₁Σ₂ turns complex or NaN when a covariance is singular. It is not
needed: with any factor Σ₁ = FᵀF the nonzero eigenvalues of Σ₁Σ₂ are those of the symmetric FΣ₂Fᵀ, so tr (Σ₁Σ₂)^½ is the
sum of their roots: real, and exact whatever the rank. With no more vectors than dimensions the centred vectors
themselves are the factor, else Cholesky's is.

FID is biased upwards at small n (Bińkowski et al. 2018): a value means little without its n and a real-against-real
floor at the same n.
"""

from __future__ import annotations

import torch

from medgan.metrics.features import Features, as_pair
from medgan.metrics.moments import Moments, Statistics, from_moments, load_statistics

__all__ = ["Statistics", "distance", "frechet_distance", "from_moments", "load_statistics", "statistics"]

EXACT_RANK = 512
"""Up to this rank singular values are always taken directly (see :func:`frechet_distance`)."""

RELATIVE = 1e-7
"""Error of a distance that the faster way may cause, as a share of it."""

ROUNDING = 16 * torch.finfo(torch.float64).eps
"""Error of the eigenvalues of FΣ₂Fᵀ, as a share of the product of the covariances' largest."""


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

    The eigenvalues' roots are the singular values of F₁F₂ᵀ, which take several times longer but keep all digits where
    they are small: eigenvalues count only where they cost at most :data:`RELATIVE`.
    """
    shift = float((first.mean - second.mean).square().sum())
    without_root = shift + first.trace + second.trace
    if min(first.largest_rank, second.largest_rank) > EXACT_RANK:
        trace, error = _trace_of_root(first, second)
        distance = without_root - 2.0 * trace
        if 2.0 * error <= RELATIVE * distance:
            return distance
    return max(without_root - 2.0 * float(torch.linalg.svdvals(first.factor @ second.factor.T).sum()), 0.0)


def _trace_of_root(first: Statistics, second: Statistics) -> tuple[float, float]:
    """The trace of (Σ₁Σ₂)^½ from eigenvalues, and a bound of its error.

    An error e of an eigenvalue λ is one of e / 2√λ of its root, and of √e where λ is nearly zero.
    """
    # only one needs a factor: the one of fewer vectors, or of which the vectors are there
    one, other = sorted((first, second), key=lambda each: (each.largest_rank, each.centred is None))
    values = torch.linalg.eigvalsh(other.along(one.factor)).clamp(min=0.0)
    roots, error = values.sqrt(), ROUNDING * one.largest_eigenvalue() * other.largest_eigenvalue()
    return float(roots.sum()), float((error / (2.0 * roots)).clamp(max=error**0.5).sum())


def distance(real: Features, synthetic: Features) -> float:
    """Fréchet distance between real [N, D] and synthetic [M, D] feature vectors; 0 for equal sets.

    Raises:
        MedaugError: fewer than two vectors in a set, dimensions that differ, or values that are not finite.
    """
    x, y = as_pair(real, synthetic)
    return frechet_distance(statistics(x), statistics(y))
