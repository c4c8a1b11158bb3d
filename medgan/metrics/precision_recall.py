"""Precision, recall, density and coverage from k nearest neighbours.

With r_k(x) the distance from x to its k-th nearest neighbour in its own set, and 1[.] an indicator:

    precision = mean over y of 1[y lies within r_k(x) of some real x]
    recall    = mean over x of 1[x lies within r_k(y) of some synthetic y]
    density   = 1/k · mean over y of the number of real x with y within r_k(x)
    coverage  = mean over x of 1[some synthetic y lies within r_k(x)]

Precision and recall: Kynkäänniemi et al. 2019, "Improved Precision and Recall Metric for Assessing Generative
Models", eq. 1-2. Density and coverage: Naeem et al. 2020, "Reliable Fidelity and Diversity Metrics for Generative
Models", eq. 4-5; k = 5 throughout, as there. Density may exceed 1. Distances are taken block by block: no N×M matrix
is kept.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from medgan.metrics.features import Features, as_pair

NEIGHBOURS = 5
BLOCK = 1024
"""Rows of a distance matrix held at a time: 80 MB against 10,000 vectors."""


class Manifold(NamedTuple):
    """The four figures; all at least 0, and at most 1 except density."""

    precision: float
    recall: float
    density: float
    coverage: float


def radii(features: torch.Tensor, k: int = NEIGHBOURS) -> torch.Tensor:
    """Distance from each vector to its k-th nearest other one.

    Args:
        features: float64 [N, D], N above k.
        k: neighbours.

    Returns:
        float64 [N].
    """
    found = []
    for rows in features.split(BLOCK):
        # the nearest is the vector itself, at distance 0
        found.append(torch.cdist(rows, features).kthvalue(k + 1, dim=1).values)
    return torch.cat(found)


def manifold(real: Features, synthetic: Features, k: int = NEIGHBOURS) -> Manifold:
    """Precision, recall, density and coverage of synthetic [M, D] against real [N, D] feature vectors.

    Raises:
        MedaugError: a set has no more than k vectors, dimensions differ, or values are not finite.
    """
    x, y = as_pair(real, synthetic, minimum=k + 1)
    centre = x.mean(dim=0)  # distances by matrix products lose digits far from the origin
    x, y = x - centre, y - centre
    real_radii, synthetic_radii = radii(x, k), radii(y, k)
    balls_around = torch.zeros(len(y), dtype=torch.float64, device=x.device)  # real balls that hold each synthetic
    recalled, covered = [], []
    for rows, radius in zip(x.split(BLOCK), real_radii.split(BLOCK), strict=True):
        distance = torch.cdist(rows, y)  # [block, M]
        in_real_ball = distance <= radius[:, None]
        balls_around += in_real_ball.sum(dim=0)
        covered.append(in_real_ball.any(dim=1))
        recalled.append((distance <= synthetic_radii[None, :]).any(dim=1))
    return Manifold(
        precision=float((balls_around > 0).double().mean()),
        recall=float(torch.cat(recalled).double().mean()),
        density=float(balls_around.mean() / k),
        coverage=float(torch.cat(covered).double().mean()),
    )
