"""Precision, recall, density and coverage from k nearest neighbours.

With r_k(x) the distance from x to its k-th nearest neighbour in its own set, and 1[.] an indicator:

    precision = mean over y of 1[y lies within r_k(x) of some real x]
    recall    = mean over x of 1[x lies within r_k(y) of some synthetic y]
    density   = 1/k · mean over y of the number of real x with y within r_k(x)
    coverage  = mean over x of 1[some synthetic y lies within r_k(x)]

Precision and recall: Kynkäänniemi et al. 2019, "Improved Precision and Recall Metric for Assessing Generative
Models", eq. 1-2. Density and coverage: Naeem et al. 2020, "Reliable Fidelity and Diversity Metrics for Generative
Models", eq. 4-5; k = 5 throughout, as there. Density may exceed 1.

Squared distances are taken tile by tile, |x|² + |y|² − 2 xᵀy around the real mean: besides the features no more than a
tile is held, whatever their number. A vector on a ball's surface lies within it, also where rounding says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch

from medgan.metrics.features import Features, as_pair

NEIGHBOURS = 5
BLOCK = 1024
"""Vectors on each side of a tile of distances: 8 MB, and 17 MB for the vectors of a side at 2,048 features."""

SURFACE = 1e-12
"""Rounding of a squared distance, as a share of the largest squared norm."""


class Manifold(NamedTuple):
    """The four figures; all at least 0, and at most 1 except density."""

    precision: float
    recall: float
    density: float
    coverage: float


def manifold(real: Features, synthetic: Features, k: int = NEIGHBOURS) -> Manifold:
    """Precision, recall, density and coverage of synthetic [M, D] against real [N, D] feature vectors.

    Raises:
        MedaugError: a set has no more than k vectors, dimensions differ, or values are not finite.
    """
    x, y = as_pair(real, synthetic, minimum=k + 1)
    centre = x.mean(dim=0)  # distances by matrix products lose digits far from the origin
    x_squared, y_squared = squared_radii(x, centre, k), squared_radii(y, centre, k)
    surface = SURFACE * max(_largest_square(x, centre), _largest_square(y, centre))
    real_balls, synthetic_balls = x_squared + surface, y_squared + surface
    balls_around = torch.zeros(len(y), dtype=torch.int64, device=x.device)  # real balls that hold each synthetic
    recalled = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    covered = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    for rows, columns, squared in tiles(x, y, centre):
        in_real_ball = squared <= real_balls[rows, None]
        balls_around[columns] += in_real_ball.sum(dim=0)
        covered[rows] |= in_real_ball.any(dim=1)
        recalled[rows] |= (squared <= synthetic_balls[None, columns]).any(dim=1)
    return Manifold(
        precision=float((balls_around > 0).double().mean()),
        recall=float(recalled.double().mean()),
        density=float(balls_around.double().mean() / k),
        coverage=float(covered.double().mean()),
    )


def squared_radii(features: torch.Tensor, centre: torch.Tensor, k: int = NEIGHBOURS) -> torch.Tensor:
    """Squared distance from each vector to its k-th nearest other one.

    Args:
        features: float64 [N, D], N above k.
        centre: float64 [D], a point amid them.
        k: neighbours.

    Returns:
        float64 [N].
    """
    # the nearest is the vector itself, at distance 0
    nearest = features.new_full((len(features), k + 1), float("inf"))
    for rows, _, squared in tiles(features, features, centre):
        both = torch.cat([nearest[rows], squared], dim=1)
        nearest[rows] = both.topk(k + 1, dim=1, largest=False).values
    return nearest.amax(dim=1)


def tiles(x: torch.Tensor, y: torch.Tensor, centre: torch.Tensor) -> Iterator[tuple[slice, slice, torch.Tensor]]:
    """Squared distances between float64 [N, D] and [M, D], tile by tile.

    Yields:
        rows of x, rows of y, and their distances [rows, columns], squared, at least 0.
    """
    for row in range(0, len(x), BLOCK):
        rows = slice(row, min(row + BLOCK, len(x)))
        one = x[rows] - centre
        one_squared = one.square().sum(dim=1)
        for column in range(0, len(y), BLOCK):
            columns = slice(column, min(column + BLOCK, len(y)))
            two = y[columns] - centre
            squared = one_squared[:, None] + two.square().sum(dim=1)
            yield rows, columns, squared.addmm_(one, two.T, alpha=-2.0).clamp_(min=0.0)


def _largest_square(features: torch.Tensor, centre: torch.Tensor) -> float:
    return max(float((block - centre).square().sum(dim=1).max()) for block in features.split(BLOCK))
