"""Draws behind the metrics: random subsets, halves of whole patients, and subsets with a given mix of classes.

Slices of one patient resemble each other more than slices of two do. Halves that both hold slices of one patient are
therefore closer than halves of new patients would be, so the real side is only ever divided between patients.
"""

from __future__ import annotations

import torch

FEWEST_PATIENTS = 4
"""Two for each half."""


def split(features: torch.Tensor, size: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Two disjoint random subsets of [N, D]; the first has ``size`` vectors, the second the next (at most) ``size``."""
    order = torch.randperm(len(features), generator=generator).to(features.device)
    return features[order[:size]], features[order[size : 2 * size]]


def split_patients(
    patients: torch.Tensor, size: int, generator: torch.Generator, labels: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Two disjoint random sets of whole patients, each as near to ``size`` images as a random order of them allows.

    Args:
        patients: int64 [N], the patient of each image, of at least :data:`FEWEST_PATIENTS`.
        size: images wanted in each set, at most N // 2.
        generator: of the order.
        labels: class index [N]; with it both sets have nearly the mix of classes of the whole.

    Returns:
        Positions of the images of each set, int64; both hold at least two patients. With one image a patient both
        have exactly ``size`` images; in general each misses it by at most half of the largest patient, or holds just
        two patients.
    """
    _, owner, counts = patients.unique(return_inverse=True, return_counts=True)
    assert len(counts) >= FEWEST_PATIENTS, "too few patients for two halves"
    order = torch.randperm(len(counts), generator=generator).to(patients.device)
    if labels is not None:
        order = _evenly(order, owner, labels)
    ordered = counts[order]
    first = _nearest(ordered[: len(order) - 2], size)
    second = _nearest(ordered[first:], size)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    position = place[owner]  # of each image's patient in the random order
    return (position < first).nonzero()[:, 0], ((position >= first) & (position < first + second)).nonzero()[:, 0]


def _evenly(order: torch.Tensor, owner: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The random order with each class's patients spread evenly over it; one image names a patient's class."""
    label = torch.zeros_like(order)
    label[owner] = labels.to(label.dtype)
    place = torch.zeros(len(order), dtype=torch.float64, device=order.device)
    for own in label.unique():
        mine = label[order] == own
        place[mine] = (torch.arange(int(mine.sum()), device=order.device).double() + 0.5) / mine.sum()
    return order[place.argsort(stable=True)]


def _nearest(counts: torch.Tensor, size: int) -> int:
    """How many of the leading patients, at least two, hold nearly ``size`` images."""
    return int((counts.cumsum(0)[1:] - size).abs().argmin()) + 2


def pick_like(wanted: torch.Tensor, labels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Positions of random images [M] with as many of each class as ``wanted`` [N] has, or all that there are."""
    order = torch.randperm(len(labels), generator=generator).to(labels.device)
    return torch.cat([order[labels[order] == label][: int((wanted == label).sum())] for label in wanted.unique()])


def unsplittable(patients: torch.Tensor, fewest: int) -> str:
    """Why images [N] of these patients make no two halves of at least two patients and ``fewest`` images, or ""."""
    counts = patients.unique(return_counts=True)[1]
    if len(counts) < FEWEST_PATIENTS:
        return f"{len(counts)} real patient(s), fewer than {FEWEST_PATIENTS}"
    largest = int(counts.max())
    # a half is at least this large, wherever in the random order the largest patient comes
    smallest_half = len(patients) // 2 - largest // 2
    if smallest_half < fewest or smallest_half <= largest:
        return f"one patient has {largest} of {len(patients)} real images, too many to halve them by patient"
    return ""


def class_mix(real_labels: torch.Tensor, synthetic_labels: torch.Tensor, classes: int, seed: int) -> torch.Tensor:
    """Positions of as many synthetic images as can have the real images' class proportions.

    The numbers depend only on the real proportions and on how many synthetic images each class has; which images are
    taken depends on the seed as well. Remainders go to the classes with the largest ones.

    Args:
        real_labels: class index [N].
        synthetic_labels: class index [M].
        classes: how many classes there are.
        seed: of the draw.

    Returns:
        int64 positions in ``synthetic_labels``, ascending; empty where a real class has no synthetic image.
    """
    wanted = torch.bincount(real_labels, minlength=classes).tolist()
    held = torch.bincount(synthetic_labels, minlength=classes).tolist()
    real = len(real_labels)
    total = min(have * real // want for want, have in zip(wanted, held, strict=True) if want)
    taken = [total * want // real for want in wanted]
    by_remainder = sorted(range(classes), key=lambda index: (-(total * wanted[index] % real), index))
    for index in by_remainder[: total - sum(taken)]:
        taken[index] += 1
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    for index, count in enumerate(taken):
        own = (synthetic_labels == index).nonzero()[:, 0]
        drawn.append(own[torch.randperm(len(own), generator=generator)[:count].to(own.device)])
    return torch.cat(drawn).sort().values
