"""A figure of synthetic images as a share of what real images reach among themselves, both at one n.

Recall, coverage and FID depend on n, so that a ratio needs both at the same; and they depend on how alike the images
are: k-NN balls of a set that holds several images of a patient are as small as the patient's images are alike, which
takes recall between halves of real patients towards 0, while a perfect generator's images are all of "new patients". So
every draw here has **one** random image of each patient, and both sides are independent images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from medgan.metrics.features import Z95, share_interval
from medgan.metrics.sampling import pick_like, split_patients

Metric = Callable[[torch.Tensor, torch.Tensor], Sequence[float]]
"""Function of (real, synthetic) features that gives one figure or more."""


class FloorRatio(NamedTuple):
    """A figure over its floor.

    Attributes:
        value: mean figure over mean floor.
        low: lower end of the normal 95 % interval.
        high: upper end.
        figure: mean of synthetic against real.
        floor: mean of real against real.
    """

    value: float
    low: float
    high: float
    figure: float
    floor: float


def largest_half(patients: torch.Tensor) -> int:
    """Images of each set in a draw, where there are synthetic ones enough: half of the patients."""
    return len(patients.unique()) // 2


def at_one_n(
    metric: Metric,
    x: torch.Tensor,
    y: torch.Tensor,
    patients: torch.Tensor,
    labels: tuple[torch.Tensor, torch.Tensor],
    seed: int,
    repeats: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """A metric of half of the real patients by as many synthetic images, and by the other half; an image a patient.

    Args:
        metric: the metric.
        x: real features, float64 [N, D], of four patients or more.
        y: synthetic features, float64 [M, D].
        patients: patient number of each real image, int64 [N].
        labels: class of each real and of each synthetic image, [N] and [M]; both real halves have nearly the patients'
            mix of classes, and the synthetic draw has that of the other half.
        seed: of the draws.
        repeats: draws.

    Returns:
        By synthetic images and by real ones, float64 [repeats, figures] each.
    """
    generator = torch.Generator().manual_seed(seed)
    size = min(largest_half(patients), len(y))
    by_synthetic, by_real = [], []
    for _ in range(repeats):
        chosen = one_each(patients, generator)
        first, second = split_patients(patients[chosen], size, generator, labels[0][chosen])
        half, others = x[chosen[first]], x[chosen[second]]
        drawn = y[pick_like(labels[0][chosen[second]], labels[1], generator)]
        by_synthetic.append(list(metric(half, drawn)))
        by_real.append(list(metric(half, others)))
    return torch.tensor(by_synthetic, dtype=torch.float64), torch.tensor(by_real, dtype=torch.float64)


def one_each(patients: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Positions of one random image of each patient, int64 [patients]."""
    order = torch.randperm(len(patients), generator=generator).to(patients.device)
    _, owner = patients.unique(return_inverse=True)
    chosen = torch.empty(int(owner.max()) + 1, dtype=torch.int64, device=patients.device)
    chosen[owner[order]] = order  # of several images that are written to a place one stays
    return chosen


def over_floor(figures: torch.Tensor, floors: torch.Tensor, share_of: int = 0) -> FloorRatio | None:
    """Ratio of the means of two paired series; None where the floor is 0.

    Args:
        figures: float64 [repeats].
        floors: float64 [repeats], of the same draws.
        share_of: independent cases behind a share, whose ends are the exact ones where it does not scatter, at 0 and 1;
            0 for a figure that is no share.
    """
    mine, real = float(figures.mean()), float(floors.mean())
    if real <= 0.0:
        return None
    ratio = mine / real
    # error of a ratio of means (delta method): both scatter, and together, for they share a real half
    error = float((figures - ratio * floors).std() / real)
    low, high = max(ratio - Z95 * error, 0.0), ratio + Z95 * error
    if share_of and mine in (0.0, 1.0):
        exact = [end / real for end in share_interval(mine, 0.0, share_of)]
        low, high = min(low, exact[0]), max(high, exact[1])
    return FloorRatio(ratio, low, high, mine, real)
