"""A real image's point: what a generator would have to be given to draw it (Karras et al. 2020, appendix D).

The distance to training images, and to images it never saw, says whether a generator has learned them by heart.

Deviations. The image distance is the mean squared difference at all sizes of a pyramid, since a pretrained network for
a perceptual one is a download that many networks forbid; any other can be given. Noise maps are held at zero instead of
being optimised with a regulariser: what is found is w alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from medgan.layers import halve
from medgan.sample import LoadedGenerator
from medgan.seeds import seeded
from medgan.styles import StyleGenerator
from pipeline.records import MedaugError

Distance = Callable[[Tensor, Tensor], Tensor]
"""Two batches of images [N, C, H, W] to their distances [N], differentiable."""

CANDIDATES = 256
RATE, RAMP_UP, RAMP_DOWN = 0.1, 0.05, 0.25
NOISE, NOISE_SHARE = 0.05, 0.75


@dataclass(frozen=True)
class Projection:
    """What was found.

    Attributes:
        point: [N, width], or styles [N, layers, width] where every layer has its own.
        images: float32 [N, C, H, W] in [-1, 1], on the CPU.
        distances: [steps + 1, N], the last for ``images``.
    """

    point: Tensor
    images: Tensor
    distances: Tensor


def pyramid_distance(a: Tensor, b: Tensor) -> Tensor:
    """Mean over a pyramid's sizes of the mean squared difference, [N, C, H, W] twice -> [N]."""
    levels = []
    while True:
        levels.append((a - b).square().mean(dim=(1, 2, 3)))
        if a.shape[2] % 2 or a.shape[3] % 2 or min(a.shape[2:]) < 8:
            return torch.stack(levels).mean(dim=0)
        a, b = halve(a), halve(b)


def project(
    generator: LoadedGenerator,
    targets: Tensor,
    labels: list[int] | Tensor,
    steps: int = 500,
    seed: int = 0,
    distance: Distance = pyramid_distance,
    each_layer: bool = False,
) -> Projection:
    """Searches the points of given images by gradient descent.

    In w the search starts at the class's mean, with noise added that fades over the first three quarters: σ_w·0.05·t²,
    t from 1 to 0; the rate ramps up over 5 % and down over the last 25 % of steps. In z (generators without w) it
    starts at the best of some random latents, and stays on the sphere where they lie.

    Args:
        generator: who should draw them.
        targets: float32 [N, C, H, W] in [-1, 1].
        labels: classes to draw them in.
        steps: of Adam.
        seed: of the starting points and the noise.
        distance: between images.
        each_layer: in w, a style for each layer instead of one for all: closer, and further from what the generator
            draws by itself.

    Raises:
        MedaugError: images of another size, a label out of range, or ``each_layer`` without w.
    """
    spec, device = generator.spec, generator.device
    if targets.shape[1:] != (spec.channels, spec.height, spec.width):
        raise MedaugError(
            f"targets {list(targets.shape)}: expected [N, {spec.channels}, {spec.height}, {spec.width}]; resize them"
        )
    classes = generator.check_labels(labels)
    if len(classes) != len(targets):
        raise MedaugError(f"{len(targets)} targets with {len(classes)} labels: expected one label for each")
    network = generator.network
    styled = isinstance(network, StyleGenerator)
    if each_layer and not styled:
        raise MedaugError(f"each_layer: {generator.config.network} has no w; expected False")
    targets, rng = targets.to(device), seeded(seed, "project")
    still = [torch.zeros(len(targets), 1, h, w, device=device) for h, w in network.noise_layers(generator.stage)]

    def render(at: Tensor) -> Tensor:
        if isinstance(network, StyleGenerator):
            count = network.style_layers(generator.stage)
            return generator.render(at if at.dim() == 3 else at.unsqueeze(1).repeat(1, count, 1), still).float()
        return generator.render_z(at / at.square().mean(dim=1, keepdim=True).sqrt(), classes, still).float()

    with torch.no_grad():
        if isinstance(network, StyleGenerator):
            z = torch.randn(CANDIDATES, network.latent, generator=rng).to(device)
            one = classes[torch.arange(CANDIDATES, device=device) % len(classes)]
            spread = network.mapping(z, one, generator.stage.label).std(dim=0)
            at = network.w_average[classes]
            if each_layer:
                at = at.unsqueeze(1).repeat(1, network.style_layers(generator.stage), 1)
        else:
            spread = torch.zeros(network.latent, device=device)
            at = _best_of(generator, render, targets, classes, distance, rng)
    at = at.clone().requires_grad_(True)
    optimiser = torch.optim.Adam([at], lr=RATE, betas=(0.9, 0.999))
    course = []
    for step in range(steps):
        t = step / steps
        ramp = min(1.0, (1 - t) / RAMP_DOWN)
        optimiser.param_groups[0]["lr"] = (
            RATE * (0.5 - 0.5 * math.cos(math.pi * ramp)) * min(1.0, (t + 1 / steps) / RAMP_UP)
        )
        strength = NOISE * max(0.0, 1 - t / NOISE_SHARE) ** 2
        disturbed = at + strength * spread * torch.randn(at.shape, generator=rng).to(device)
        found = distance(render(disturbed), targets)
        course.append(found.detach())
        optimiser.zero_grad()
        found.sum().backward()  # each image's distance depends on its own point alone
        optimiser.step()
    with torch.no_grad():
        last = render(at)
        course.append(distance(last, targets))
    point = at.detach() if styled else (at / at.square().mean(dim=1, keepdim=True).sqrt()).detach()
    return Projection(point, last.clamp(-1.0, 1.0).cpu(), torch.stack(course).cpu())


def _best_of(
    generator: LoadedGenerator,
    render: Callable[[Tensor], Tensor],
    targets: Tensor,
    classes: Tensor,
    distance: Distance,
    rng: torch.Generator,
) -> Tensor:
    """The nearest of some random latents to each target, [N, latent]."""
    best = torch.full((len(targets),), math.inf, device=generator.device)
    chosen = torch.zeros(len(targets), generator.network.latent, device=generator.device)
    for _ in range(CANDIDATES // 8):
        z = torch.randn(chosen.shape, generator=rng).to(generator.device)
        found = distance(render(z), targets)
        better = found < best
        best, chosen = torch.where(better, found, best), torch.where(better[:, None], z, chosen)
    return chosen
