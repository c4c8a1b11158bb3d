"""Linear separability: whether a plane among latents tells images with an attribute from those without.

    exp( Σᵢ H(Yᵢ | Xᵢ) )                                                        (StyleGAN, section 4.2)

X is the side of the plane on which a point lies, Y whether its image has attribute i, H the conditional entropy in nats
(the authors write the same with 2 and bits). 1 is perfect, 2^(number of attributes) is chance.

As in the paper the half of the images with the most pronounced scores is kept: here a quarter from either end, so that
either answer is as frequent. Deviations: scores come from attributes measured in the image (see
:mod:`medgan.metrics.attributes`); ranks are taken, and points centred, within each class, for what the class alone
explains says nothing about a space; the plane is that of a logistic regression instead of a support vector machine; and
a point is judged by a plane that was fitted without it (cross-validation), since the authors' 100,000 points for 512
dimensions are not to be had, and 500 points in 512 dimensions are always separable.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from medgan.directions import plane
from medgan.metrics.intervals import percentiles, resamples
from medgan.metrics.measured import Measured, TooFewImagesError
from medgan.seeds import seeded
from pipeline.records import MedaugError

MIN_IMAGES = 200
"""Half of them are kept, and four fifths of those fit a plane."""
MIN_POINTS_PER_DIMENSION = 4
"""Kept points for each dimension of the space. With fewer the figure tells how many points there are, not how straight
the space is: one with few directions of large variance passes for straighter than one of as many equal ones."""
FOLDS = 5


@dataclass(frozen=True)
class Separated:
    """One attribute's images on both sides of a plane.

    Attributes:
        kept: positions of the confident half, int64 [K].
        truth: whether each has the attribute, bool [K].
        predicted: whether its point lies on that side of a plane fitted without it, bool [K].
    """

    kept: Tensor
    truth: Tensor
    predicted: Tensor


def separate(at: Tensor, scores: Tensor, labels: Tensor, seed: int = 0) -> Separated:
    """Fits planes for one attribute and says on which side each point lies.

    Args:
        at: points [N, width] of either space.
        scores: the attribute's scores of their images [N].
        labels: class of each, int64 [N].
        seed: of the folds.

    Raises:
        TooFewImagesError: fewer than :data:`MIN_IMAGES` images, or than the space's width asks for.
        MedaugError: scores that do not vary within a class.
    """
    if len(at) < MIN_IMAGES:
        raise TooFewImagesError(f"separability: {len(at)} images, expected at least {MIN_IMAGES}")
    require_points("separability", len(at), at.shape[1])
    kept, truth = confident_half(scores, labels)
    centred = within_class(at, labels)[kept]
    fold = torch.randperm(len(kept), generator=seeded(seed, "folds")) % FOLDS
    predicted = torch.zeros_like(truth)
    for number in range(FOLDS):
        out = fold == number
        normal, offset = plane(centred[~out], truth[~out])
        predicted[out] = centred[out] @ normal > offset
    return Separated(kept, truth, predicted)


def require_points(probe: str, images: int, width: int) -> None:
    """Refuses a plane in a space that is too wide for so many images.

    Args:
        probe: its name.
        images: before half of them are kept.
        width: of the space.

    Raises:
        TooFewImagesError: fewer than :data:`MIN_POINTS_PER_DIMENSION` kept points for each dimension.
    """
    needed = 2 * MIN_POINTS_PER_DIMENSION * width
    if images < needed:
        raise TooFewImagesError(
            f"{probe}: {images} images for {width} dimensions, expected {needed} or more "
            f"({MIN_POINTS_PER_DIMENSION} kept for each); raise scorecard.draws"
        )


def confident_half(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Positions of the lowest and of the highest quarter of each class, and whether each is of the highest.

    Raises:
        MedaugError: an attribute that does not vary.
    """
    kept, truth = [], []
    for label in labels.unique().tolist():
        own = (labels == label).nonzero()[:, 0]
        order = own[scores[own].argsort(stable=True)]
        quarter = len(own) // 4
        if quarter == 0 or float(scores[order[quarter - 1]]) >= float(scores[order[-quarter]]):
            raise MedaugError(
                f"attribute: no difference between its lowest and its highest quarter among {len(own)} images of class "
                f"{label}; expected images that vary"
            )
        kept += [order[:quarter], order[-quarter:]]
        truth += [torch.zeros(quarter, dtype=torch.bool), torch.ones(quarter, dtype=torch.bool)]
    return torch.cat(kept), torch.cat(truth)


def within_class(at: Tensor, labels: Tensor) -> Tensor:
    """Points less the mean of their class, float64 [N, width]."""
    centred = at.double().clone()
    for label in labels.unique().tolist():
        centred[labels == label] -= centred[labels == label].mean(dim=0)
    return centred


def conditional_entropy(table: Tensor) -> Tensor:
    """H(Y | X) in nats of counts [..., x, y]: −Σ p(x, y) log(p(x, y) / p(x)), an empty cell counting 0."""
    joint = table.double() / table.double().sum(dim=(-2, -1), keepdim=True)
    return -(torch.xlogy(joint, joint) - torch.xlogy(joint, joint.sum(dim=-1, keepdim=True))).sum(dim=(-2, -1))


def separability(separated: Mapping[str, Separated], images: int, seed: int = 0) -> Measured:
    """The exponential of the summed conditional entropies; bootstrap over images.

    The interval holds the planes fixed: it does not contain what other images would have fitted.

    Args:
        separated: :func:`separate`'s answer for each attribute.
        images: how many were drawn for them.
        seed: of the bootstrap.
    """
    drawn = torch.cat([torch.arange(images)[None], resamples(images, seed)])  # the sample itself first
    total = torch.zeros(len(drawn), dtype=torch.float64)
    entropies = {}
    for name, one in separated.items():
        cell = torch.full((images,), 4)  # 2·predicted + truth; 4 for images that were not kept
        cell[one.kept] = 2 * one.predicted.long() + one.truth.long()
        of_drawn = cell[drawn]
        table = torch.stack([(of_drawn == number).sum(dim=1) for number in range(4)], dim=1).unflatten(1, (2, 2))
        entropy = conditional_entropy(table)
        entropies[name] = float(entropy[0])
        total += entropy
    low, high = percentiles(total[1:].exp())
    each = ", ".join(f"{name} {math.exp(entropy):.2f}" for name, entropy in entropies.items())
    return Measured(
        float(total[0].exp()),
        low,
        high,
        n_synthetic=images,
        note=f"1 perfect, {2 ** len(separated)} chance; {each}; {FOLDS}-fold; bootstrap over "
        "images, the fitted planes held fixed",
    )
