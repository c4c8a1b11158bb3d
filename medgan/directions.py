"""Attributes as directions among a generator's points: sums of points, separating planes, edits along them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from medgan.explore import Space, images, in_z
from medgan.sample import LoadedGenerator
from pipeline.records import MedaugError


def arithmetic(
    generator: LoadedGenerator,
    label: int,
    terms: Sequence[tuple[float, Tensor]],
    seed: int = 0,
    space: Space = "z",
) -> tuple[Tensor, Tensor]:
    """Sums of averaged points, as in "smiling woman − neutral woman + neutral man" (DCGAN, section 6.3.2).

    Args:
        generator: any.
        label: class of the result.
        terms: a factor, and the points [K, width] of the images that show the concept (the paper averages three).
        seed: of the noise.
        space: DCGAN's is z; a result there is brought to the length of a normal latent.

    Returns:
        the image [1, C, H, W], and its point [1, width].
    """
    total = torch.stack([factor * at.mean(dim=0) for factor, at in terms]).sum(dim=0, keepdim=True)
    if in_z(generator, space):
        # A mean of K latents is √K shorter than a latent, and the generator has only ever seen those.
        total = total / total.norm().clamp(min=1e-8) * math.sqrt(total.shape[1])
    return images(generator, total, [label], seed, space), total


def direction(at: Tensor, shows: Sequence[bool] | Tensor, steps: int = 200, decay: float = 1e-2) -> Tensor:
    """The direction in which an attribute comes into sight: the normal of the plane that separates its points.

    See :func:`plane`.

    Returns:
        [width], length 1, from without to with.
    """
    return plane(at, shows, steps, decay)[0]


def plane(at: Tensor, shows: Sequence[bool] | Tensor, steps: int = 200, decay: float = 1e-2) -> tuple[Tensor, float]:
    """The plane that separates points with an attribute from those without.

    Logistic regression with weight decay on standardised points, by Newton's method in float64 (Shen et al.,
    "Interpreting the Latent Space of GANs for Semantic Face Editing", CVPR 2020, have a linear support vector machine).

    Args:
        at: points [N, width].
        shows: whether each image has the attribute: the classes themselves, or what a classifier says.
        steps: of Newton's method, at most.
        decay: of the squared weights.

    Returns:
        The normal [width], of length 1, from without to with; and how far along it the plane lies: ``at @ normal`` is
        above that where the attribute is more likely than not.

    Raises:
        MedaugError: all images have the attribute, or none has.
    """
    truth = torch.as_tensor(shows).reshape(-1).to(at.device, torch.float64)
    if not 0 < truth.sum() < len(truth):
        raise MedaugError(
            f"attribute: {int(truth.sum())} of {len(truth)} images have it; expected some with and without"
        )
    x = at.double()
    scale = x.std(dim=0).clamp(min=1e-12)
    x = torch.cat([(x - x.mean(dim=0)) / scale, torch.ones_like(x[:, :1])], dim=1)  # and a constant
    weight = torch.zeros(x.shape[1], dtype=torch.float64, device=x.device)
    penalty = torch.full_like(weight, decay)
    penalty[-1] = 1e-8
    for _ in range(steps):
        chance = torch.sigmoid(x @ weight)
        gradient = x.T @ (chance - truth) / len(x) + penalty * weight
        curvature = (x.T * (chance * (1 - chance))) @ x / len(x) + torch.diag(penalty)
        move = torch.linalg.solve(curvature, gradient)
        weight = weight - move
        if float(move.abs().max()) < 1e-9:
            break
    normal = weight[:-1] / scale  # logit = normal·(at − mean) + constant
    offset = float(normal @ at.double().mean(dim=0) - weight[-1]) / float(normal.norm())
    return (normal / normal.norm()).to(at.dtype), offset


def edit(
    generator: LoadedGenerator,
    at: Tensor,
    labels: Sequence[int],
    along: Tensor,
    strengths: Sequence[float],
    seed: int = 0,
    space: Space = "auto",
) -> Tensor:
    """Images moved along a direction.

    Args:
        generator: any.
        at: points [N, width].
        labels: class of each.
        along: [width], see :func:`direction`.
        strengths: how far, in units of ``along``.
        seed: of the noise.
        space: of the points.

    Returns:
        [len(strengths), N, C, H, W].
    """
    return torch.stack([images(generator, at + strength * along, labels, seed, space) for strength in strengths])
