"""Attributes that any image has: what probes of a latent space look for where nobody has labelled anything.

StyleGAN's own 40 attributes (section 4.2) come from classifiers of labelled faces. These are measured from the image
itself, so that they mean the same for every generator and every data set: they are crude, but nobody can doubt them.
They are chosen to depend little on each other; any callable of images can stand beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from medgan.metrics.drawing import of_images, points
from medgan.sample import LoadedGenerator

Attribute = Callable[[Tensor], Tensor]
"""Images float32 [N, C, H, W] in [-1, 1] to a score for each, [N]."""

DARK = -0.5
"""What is brighter counts as body: a quarter of the range above its lowest value."""


def area(images: Tensor) -> Tensor:
    """Share of the image that is body."""
    return _body(_grey(images)).mean(dim=(1, 2))


def intensity(images: Tensor) -> Tensor:
    """Mean of the body, whatever its size."""
    return _moments(images)[0]


def contrast(images: Tensor) -> Tensor:
    """Standard deviation within the body."""
    return _moments(images)[1]


def centre_x(images: Tensor) -> Tensor:
    """Horizontal centre of mass, the mass being the value above -1: -1 at the left border, +1 at the right one."""
    return _centre(images, 2)


def centre_y(images: Tensor) -> Tensor:
    """Vertical centre of mass: -1 at the upper border, +1 at the lower one."""
    return _centre(images, 1)


def asymmetry(images: Tensor) -> Tensor:
    """Mean difference between the image and its mirror image, left to right, whichever side is brighter."""
    grey = _grey(images)
    return (grey - grey.flip(2)).abs().mean(dim=(1, 2)) / 2


ATTRIBUTES: Mapping[str, Attribute] = {
    "area": area,
    "intensity": intensity,
    "contrast": contrast,
    "centre_x": centre_x,
    "centre_y": centre_y,
}
"""What probes ask for by default. Asymmetry is left out: it has no sign, so that no direction of a space is its own."""

PLAIN: Mapping[str, str] = {
    "area": "area of the body",
    "intensity": "its mean brightness",
    "contrast": "its contrast",
    "centre_x": "place from left to right",
    "centre_y": "place from top to bottom",
}
"""The same in plain words."""


def scores(
    generator: LoadedGenerator, labels: Tensor, attributes: Mapping[str, Attribute] = ATTRIBUTES, seed: int = 0
) -> dict[str, Tensor]:
    """Scores of the images at :func:`medgan.metrics.drawing.points` of the same labels and seed.

    Args:
        generator: any.
        labels: class of each image, int64 [N].
        attributes: by name.
        seed: of the series, and of the noise, which is the same for all.

    Returns:
        float64 [N] for each attribute.
    """
    at = points(generator, labels, seed, "z")
    table = of_images(lambda images: measure(images, attributes), generator, at, labels, seed, "z")
    return dict(zip(attributes, table.T, strict=True))


def measure(images: Tensor, attributes: Mapping[str, Attribute]) -> Tensor:
    """All scores, float64 [N, attributes]."""
    return torch.stack([attribute(images).double().cpu() for attribute in attributes.values()], dim=1)


def _grey(images: Tensor) -> Tensor:
    """[N, C, H, W] -> float64 [N, H, W]."""
    return images.double().mean(dim=1)


def _body(grey: Tensor) -> Tensor:
    """Near 1 where there is body, near 0 elsewhere: [N, H, W].

    Soft, so that a score neither jumps nor stands still where all of an image is bright, or none.
    """
    return torch.sigmoid((grey - DARK) / 0.1)


def _moments(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the body, 2 of [N]."""
    grey = _grey(images)
    body = _body(grey)
    weight = body / body.sum(dim=(1, 2), keepdim=True)
    mean = (grey * weight).sum(dim=(1, 2))
    return mean, ((grey - mean[:, None, None]).square() * weight).sum(dim=(1, 2)).sqrt()


def _centre(images: Tensor, axis: int) -> Tensor:
    mass = _grey(images) + 1
    side = mass.shape[axis]
    place = (torch.arange(side, dtype=torch.float64, device=mass.device) * 2 + 1) / side - 1  # pixel centres
    line = mass.sum(dim=3 - axis)  # [N, H, W] -> [N, side]
    return (line @ place) / line.sum(dim=1).clamp(min=1e-9)
