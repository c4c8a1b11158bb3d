"""What can be done with a trained generator beside drawing from it.

A *point* is what an image is made from: w where there is one, else z. Points of images can be interpolated, mixed and
truncated, and with :mod:`medgan.directions` added up and moved; noise is held still meanwhile, so that what changes is
what was changed. Everything follows from its seed alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from medgan.sample import LoadedGenerator, slerp
from medgan.seeds import seeded
from medgan.styles import StyleGenerator
from pipeline.records import MedaugError

Space = Literal["auto", "z", "w"]


def points(
    generator: LoadedGenerator, labels: Sequence[int] | Tensor, seed: int = 0, space: Space = "auto", *, start: int = 0
) -> Tensor:
    """The points of the images that ``generator.sample(labels, seed, start=start)`` draws.

    Returns:
        float32 [N, width of the space], on the generator's device.

    Raises:
        MedaugError: a label out of range, or "w" of a generator without it.
    """
    classes = generator.check_labels(labels)
    z, _ = generator.draw_latents([seeded(seed, start + i) for i in range(len(classes))])
    if in_z(generator, space):
        return z
    assert isinstance(generator.network, StyleGenerator)
    with torch.inference_mode():
        return generator.network.mapping(z, classes, generator.stage.label).clone()


def images(
    generator: LoadedGenerator,
    at: Tensor,
    labels: Sequence[int] | Tensor,
    seed: int = 0,
    space: Space = "auto",
    truncation: float = 1.0,
    layers: int | None = None,
) -> Tensor:
    """Images at given points, all with the same noise.

    Args:
        generator: who draws.
        at: points [N, width], or in w styles [N, layers, width].
        labels: class of each.
        seed: of the noise.
        space: which one the points are of; "auto" is w where there is one, else z.
        truncation: ψ, any finite number; of points in w that are not styles yet.
        layers: how many layers truncation touches, from the coarsest; None as the network has it.

    Returns:
        float32 [N, C, H, W] in [-1, 1], on the CPU.

    Raises:
        MedaugError: a label out of range, or truncation without w.
    """
    classes, at = generator.check_labels(labels), at.to(generator.device)
    _, still = generator.draw_latents([seeded(seed, "noise")])
    plain_z = in_z(generator, space)
    if not math.isfinite(truncation):
        raise MedaugError(f"truncation {truncation}: expected a finite number")
    if truncation != 1.0 and not generator.has_w:
        raise MedaugError(f"truncation {truncation}: {generator.config.network} has no w to truncate; expected 1.0")
    drawn = []
    for begin in range(0, len(at), generator.batch):
        part, own = at[begin : begin + generator.batch], classes[begin : begin + generator.batch]
        noise = [layer.expand(len(part), -1, -1, -1) for layer in still]
        with torch.inference_mode():
            if not isinstance(generator.network, StyleGenerator):
                rendered = generator.render_z(part, own, noise)
            else:
                w = generator.network.mapping(part, own, generator.stage.label) if plain_z else part
                if w.dim() == 2:
                    w = generator.network.truncate(w, own, generator.stage, truncation, layers)
                rendered = generator.render(w, noise)
        drawn.append(rendered.float().clamp(-1.0, 1.0).cpu())
    return torch.cat(drawn)


def interpolate(generator: LoadedGenerator, start: Tensor, end: Tensor, steps: int, space: Space = "auto") -> Tensor:
    """Points from one to another, both included: a straight line in w, a great circle in z.

    Args:
        generator: whose points they are.
        start: [width].
        end: [width].
        steps: 2 or more.
        space: see :func:`images`.

    Returns:
        [steps, width].
    """
    shares = torch.linspace(0, 1, steps).tolist()
    if in_z(generator, space):
        return torch.cat([slerp(start[None], end[None], share) for share in shares])
    return torch.stack([torch.lerp(start, end, share) for share in shares])


def walk(generator: LoadedGenerator, label: int, frames: int, stops: int = 4, seed: int = 0) -> Tensor:
    """A closed walk through one class that passes ``stops`` points and ends where it began.

    Returns:
        images [frames, C, H, W], the last of which leads back to the first.
    """
    classes = [label] * stops
    anchors = points(generator, classes, seed)
    corners = [math.ceil(frames * k / stops) for k in range(stops + 1)]
    parts = []
    for k, (first, last) in enumerate(pairwise(corners)):
        if last > first:
            leg = interpolate(generator, anchors[k], anchors[(k + 1) % stops], last - first + 1)
            parts.append(leg[:-1])
    way = torch.cat(parts)
    return images(generator, way, [label] * len(way), seed)


def mixing_grid(
    generator: LoadedGenerator,
    coarse: Sequence[int],
    fine: Sequence[int],
    labels: tuple[int, int] = (0, 0),
    crossing: tuple[int, int] | None = None,
    seed: int = 0,
) -> Tensor:
    """Style mixing (StyleGAN, figure 3): what an image keeps when some of its layers take another one's style.

    Args:
        generator: one with w.
        coarse: positions in the series of images that give their styles to all layers but those of ``crossing``.
        fine: positions of those that give them to the layers of ``crossing``.
        labels: class of the first and of the second.
        crossing: first layer, and one past the last, that take the second's style; None for the finer half.
        seed: which series, and of the noise.

    Returns:
        [1 + len(coarse), 1 + len(fine), C, H, W]: the sources in the first column and the first row, a dark corner.

    Raises:
        MedaugError: no w, or layers that are not there.
    """
    network = style_network(generator)
    count = network.style_layers(generator.stage)
    first, last = crossing if crossing is not None else (count // 2, count)
    if not 0 <= first < last <= count:
        raise MedaugError(f"crossing {first} to {last}: expected layers within 0 to {count}, the first below the last")
    sources = []
    for positions, label in ((coarse, labels[0]), (fine, labels[1])):
        w = torch.cat([points(generator, [label], seed, start=position) for position in positions])
        sources.append(w.unsqueeze(1).repeat(1, count, 1))  # [R, W] -> [R, L, W]
    rows, columns = sources
    mixed = rows[:, None].repeat(1, len(columns), 1, 1)  # [R, L, W] -> [R, K, L, W]
    mixed[:, :, first:last] = columns[None, :, first:last]
    everything = torch.cat([columns, rows, mixed.flatten(0, 1)])
    drawn = images(generator, everything, [labels[0]] * len(everything), seed)
    grid = torch.full((1 + len(rows), 1 + len(columns), *drawn.shape[1:]), -1.0)
    grid[0, 1:] = drawn[: len(columns)]
    grid[1:, 0] = drawn[len(columns) : len(columns) + len(rows)]
    grid[1:, 1:] = drawn[len(columns) + len(rows) :].unflatten(0, (len(rows), len(columns)))
    return grid


def truncation_sweep(
    generator: LoadedGenerator,
    labels: Sequence[int],
    psis: Sequence[float] = (1.0, 0.7, 0.5, 0.0, -0.5, -1.0),
    layers: int | None = None,
    seed: int = 0,
) -> Tensor:
    """The same images at several ψ (StyleGAN, figure 8); 0 is each class's mean, below it lies the opposite.

    Returns:
        [len(psis), N, C, H, W].
    """
    style_network(generator)
    at = points(generator, labels, seed)
    return torch.stack([images(generator, at, labels, seed, truncation=psi, layers=layers) for psi in psis])


def in_z(generator: LoadedGenerator, space: Space) -> bool:
    """Whether points of a space are z.

    Raises:
        MedaugError: "w" of a generator without it.
    """
    if space == "w" or (space == "auto" and generator.has_w):
        style_network(generator)
        return False
    return True


def style_network(generator: LoadedGenerator) -> StyleGenerator:
    """The network, if it has w.

    Raises:
        MedaugError: it has none.
    """
    if not isinstance(generator.network, StyleGenerator):
        raise MedaugError(f"{generator.config.network} has no w; expected a generator of stylegan or stylegan2")
    return generator.network
