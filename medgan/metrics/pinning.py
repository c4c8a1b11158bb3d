"""Detail pinned to places: whether fine detail moves with the coarse structure along a latent walk.

Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN", section 4 and figure 6: with progressive
growing "details like teeth or eyes should move smoothly over the image but may instead remain stuck in place". Two
nearby images of a walk are compared:

1. The motion of the structure (low-pass, wavelengths of an eighth of the image and more) is an affine field
   d(x) = A·x + b, found by Gauss and Newton's method together with a change of brightness and contrast (Lucas & Kanade
   1981; Baker & Matthews 2004).
2. Detail is a band-pass of a few pixels' wavelength. Outlines of the structure have such wavelengths, too, and move
   with it by definition, so places where the low-pass is steep are left out; and the band is divided by its local
   strength.
3. The second image's detail is warped back by s·d(x) and correlated with the first one's: the slope s at which the
   correlation is highest is how far detail moves for each pixel that the structure moves. 1: along with it; 0: pinned.

Correlations of all pairs are averaged before the maximum is taken. Pairs whose structure hardly moves, or changes
otherwise than by moving, say nothing and are left out. Noise inputs are left out, too (zero): they are pinned to the
grid by construction in every generator that has them, and are stochastic detail, not what the claim is about.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from medgan.explore import Space, in_z
from medgan.metrics.drawing import Picture, batches, classes_in_turn, points, tiled
from medgan.metrics.intervals import percentiles, resamples
from medgan.metrics.measured import Measured, TooFewImagesError
from medgan.sample import LoadedGenerator, slerp
from medgan.seeds import seed_of, seeded
from medgan.styles import StyleGenerator

SLOPES = tuple(-0.5 + 0.125 * step for step in range(17))
"""Where correlations are taken: −0.5 to 1.5."""
MOVED = 0.25
"""Pixels (root mean square over the image) by which structure must move at least."""
EXPLAINED = 0.5
"""Share of the structure's change that its motion must explain."""
MIN_PAIRS = 20


@dataclass(frozen=True)
class Motion:
    """What pairs of images show; float64.

    Attributes:
        correlation: of detail with detail warped by each of :data:`SLOPES` times the structure's motion [P, slopes].
        moved: root mean square motion of the structure, in pixels [P].
        explained: share of its change that the motion explains [P].
    """

    correlation: Tensor
    moved: Tensor
    explained: Tensor

    @property
    def telling(self) -> Tensor:
        """Which pairs say something, bool [P]."""
        return (self.moved >= MOVED) & (self.explained >= EXPLAINED)


def compare(first: Tensor, second: Tensor) -> Motion:
    """Of pairs of images [P, C, H, W] of any floating type; channels are averaged."""
    first, second = (images.double().mean(dim=1, keepdim=True) for images in (first, second))
    side = min(first.shape[2:])
    field = torch.zeros(len(first), 2, *first.shape[2:], dtype=torch.float64)
    affine = torch.zeros(len(first), 2, 3, dtype=torch.float64)
    explained = torch.zeros(len(first), dtype=torch.float64)
    for sigma in (side / 16, side / 32):  # coarse to fine: the coarse one finds the way from further off
        affine, field, explained = _register(_blur(first, sigma), _blur(second, sigma), affine)
    details = [_detail(images, side) for images in (first, second)]
    inside = _off_outlines(first, side)
    correlation = [_correlation(inside * details[0], inside * _warp(details[1], s * field)) for s in SLOPES]
    return Motion(torch.stack(correlation, dim=1), field.square().sum(dim=1).mean(dim=(1, 2)).sqrt(), explained)


def _register(first: Tensor, second: Tensor, affine: Tensor, steps: int = 10) -> tuple[Tensor, Tensor, Tensor]:
    """The affine motion that takes the first images to the second: second(x + d(x)) ≈ gain·first(x) + offset.

    Args:
        first: [P, 1, H, W].
        second: [P, 1, H, W].
        affine: where to begin, [P, 2, 3]: rows give d's x and y in pixels, columns belong to 1, x and y, the latter
            running from -1 to 1.
        steps: of Gauss and Newton.

    Returns:
        The affine motion, the field d [P, 2, H, W], and the share of the squared change that d explains beyond gain and
        offset [P].
    """
    basis = _basis(first)  # [3, HW]
    still = _residual(first, second)
    target = first.flatten(1)
    for _ in range(steps):
        warped = _warp(second, _field(affine, basis, first))
        gx, gy = (gradient.flatten(1) for gradient in _gradients(warped))  # [P, HW]
        columns = [gx[:, None] * basis, gy[:, None] * basis, -target[:, None], -torch.ones_like(target)[:, None]]
        jacobian = torch.cat(columns, dim=1)  # of the residual: [P, 3 + 3 + 2, HW]
        normal = jacobian @ jacobian.transpose(1, 2)
        ridge = 1e-4 * normal.diagonal(dim1=1, dim2=2)[:, :6].mean(dim=1) + 1e-9  # flat images: no motion, no failure
        normal = normal + torch.diag_embed(ridge[:, None] * torch.tensor([1.0] * 6 + [1e-6] * 2, dtype=torch.float64))
        move = torch.linalg.solve(normal, -(jacobian @ warped.flatten(1)[:, :, None]))[:, :6, 0]
        affine = affine + move.unflatten(1, (2, 3)).clamp(-2.0, 2.0)
    field = _field(affine, basis, first)
    explained = 1 - _residual(first, _warp(second, field)) / still.clamp(min=1e-12)
    return affine, field, explained


def _residual(first: Tensor, second: Tensor) -> Tensor:
    """Squared difference that no gain and offset of the first image removes [P]."""
    a, b = (images.flatten(1) - images.flatten(1).mean(dim=1, keepdim=True) for images in (first, second))
    gain = (a * b).sum(dim=1) / a.square().sum(dim=1).clamp(min=1e-12)
    return (b - gain[:, None] * a).square().sum(dim=1)


def _basis(like: Tensor) -> Tensor:
    """1, x and y at each pixel, the latter from -1 to 1: float64 [3, HW]."""
    H, W = like.shape[2:]
    y, x = torch.meshgrid(*(torch.linspace(-1, 1, n, dtype=torch.float64) for n in (H, W)), indexing="ij")
    return torch.stack([torch.ones_like(x), x, y]).flatten(1)


def _field(affine: Tensor, basis: Tensor, like: Tensor) -> Tensor:
    """[P, 2, 3] · [3, HW] -> [P, 2, H, W]."""
    return (affine @ basis).unflatten(2, like.shape[2:])


def _gradients(images: Tensor) -> tuple[Tensor, Tensor]:
    """Central differences along x and y, per pixel: 2 of [P, 1, H, W]."""
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    return (padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]) / 2, (
        padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]
    ) / 2


def _warp(images: Tensor, field: Tensor) -> Tensor:
    """images(x + d(x)), bicubic: [P, 1, H, W], field [P, 2, H, W] in pixels."""
    H, W = images.shape[2:]
    grid = _basis(images)[1:].unflatten(1, (H, W)) + field / torch.tensor([(W - 1) / 2, (H - 1) / 2])[:, None, None]
    return F.grid_sample(images, grid.permute(0, 2, 3, 1), "bicubic", "border", align_corners=True)


def _blur(images: Tensor, sigma: float) -> Tensor:
    """Gaussian, borders replicated: [P, 1, H, W]."""
    reach = math.ceil(3 * sigma)
    line = torch.exp(-torch.arange(-reach, reach + 1, dtype=torch.float64).square() / (2 * sigma**2))
    line = line / line.sum()
    padded = F.pad(images, (reach, reach, reach, reach), mode="replicate")
    return F.conv2d(F.conv2d(padded, line[None, None, :, None]), line[None, None, None, :])


def _detail(images: Tensor, side: int) -> Tensor:
    """Band-pass of wavelengths around 6 pixels, divided by its local strength: [P, 1, H, W]."""
    band = _blur(images, 0.7) - _blur(images, 1.5)
    strength = _blur(band.square(), max(side / 16, 3.0)).sqrt()
    floor = 0.5 * band.square().mean(dim=(2, 3), keepdim=True).sqrt()  # where nothing is, nothing is blown up
    return band / (strength + floor).clamp(min=1e-12)


def _off_outlines(images: Tensor, side: int) -> Tensor:
    """1 where the low-pass is flat, a half where its squared slope is half the image's mean, 0 where it is steep.

    Returns:
        [P, 1, H, W].
    """
    gx, gy = _gradients(_blur(images, side / 32))
    steepness = gx.square() + gy.square()
    return 1 / (1 + (2 * steepness / steepness.mean(dim=(2, 3), keepdim=True).clamp(min=1e-12)).square())


def _correlation(first: Tensor, second: Tensor) -> Tensor:
    """Σ ab / √(Σ a² Σ b²) of each pair [P]."""
    a, b = first.flatten(1), second.flatten(1)
    return (a * b).sum(dim=1) / (a.square().sum(dim=1) * b.square().sum(dim=1)).sqrt().clamp(min=1e-12)


def frames(generator: LoadedGenerator, labels: Tensor, shares: Tensor, space: Space, seed: int, start: int) -> Tensor:
    """Images without noise on paths between random points of one class.

    Args:
        generator: any.
        labels: class of each path, int64 [N].
        shares: where on each path, [N, K].
        space: where the paths run: straight in w, on great circles in z.
        seed: of the points.
        start: where in the series of paths to begin.

    Returns:
        float32 [N, K, C, H, W] in [-1, 1], on the CPU.
    """
    plain_z = in_z(generator, space)
    a, b = (points(generator, labels, seed_of(seed, end), space, start) for end in ("from", "to"))
    classes = generator.check_labels(labels)
    drawn = []
    for share in shares.T:
        t = share[:, None]
        at = (slerp(a, b, t) if plain_z else torch.lerp(a, b, t)).to(generator.device)
        zeros = [
            torch.zeros(len(at), 1, *size, device=generator.device)
            for size in generator.network.noise_layers(generator.stage)
        ]
        with torch.inference_mode():
            if isinstance(generator.network, StyleGenerator) and not plain_z:
                images = generator.render(generator.network.truncate(at, classes, generator.stage, 1.0), zeros)
            else:
                images = generator.render_z(at, classes, zeros)
        drawn.append(images.float().clamp(-1.0, 1.0).cpu())
    return torch.stack(drawn, dim=1)


def observe(
    generator: LoadedGenerator, pairs: int = 200, step: float = 0.1, space: Space = "auto", seed: int = 0
) -> Motion:
    """Draws pairs of nearby images and compares them.

    Args:
        generator: any.
        pairs: how many, classes in turn.
        step: from one image of a pair to the other, as a share of the path between two random points.
        space: where the paths run; "auto" is w where there is one, else z.
        seed: everything follows from it.
    """
    labels = classes_in_turn(generator, pairs)
    found = []
    for part in batches(generator, pairs):
        own = labels[part]
        t = torch.stack([torch.rand((), generator=seeded(seed, "t", part.start + i)) for i in range(len(own))])
        t = t * (1 - step)
        both = frames(generator, own, torch.stack([t, t + step], dim=1), space, seed, part.start)
        found.append(compare(both[:, 0], both[:, 1]))
    return Motion(
        torch.cat([one.correlation for one in found]),
        torch.cat([one.moved for one in found]),
        torch.cat([one.explained for one in found]),
    )


def pinning(motion: Motion, seed: int = 0) -> Measured:
    """The slope of detail's motion on the structure's: 1 along with it, 0 pinned; bootstrap over pairs.

    Raises:
        TooFewImagesError: fewer than :data:`MIN_PAIRS` pairs whose structure moves.
    """
    telling = motion.correlation[motion.telling]
    pairs = len(motion.moved)
    if len(telling) < MIN_PAIRS:
        raise TooFewImagesError(
            f"pinning: in {len(telling)} of {pairs} pairs the structure moves by {MOVED} pixels or more (median "
            f"{float(motion.moved.median()):.2f}), and that explains {EXPLAINED:.0%} of its change or more (median "
            f"{float(motion.explained.median()):.0%}); expected {MIN_PAIRS} such pairs; take more, or a longer step"
        )
    curves = telling[resamples(len(telling), seed)].mean(dim=1)
    low, high = percentiles(_highest(curves))
    return Measured(
        float(_highest(telling.mean(dim=0, keepdim=True))[0]),
        low,
        high,
        n_synthetic=2 * len(telling),
        note=f"1 moves along, 0 pinned; {len(telling)} of {pairs} pairs, whose structure moves by "
        f"{float(motion.moved[motion.telling].median()):.2f} pixels (median); no noise; bootstrap over pairs",
    )


def _highest(curves: Tensor) -> Tensor:
    """Where correlations [B, slopes] are highest, by a parabola through the highest value and its neighbours [B]."""
    best = curves.argmax(dim=1).clamp(1, curves.shape[1] - 2)
    left, middle, right = (curves.gather(1, (best + shift)[:, None])[:, 0] for shift in (-1, 0, 1))
    bend = (left - 2 * middle + right).clamp(max=-1e-12)
    shift = ((left - right) / (2 * bend)).clamp(-1.0, 1.0)
    return SLOPES[0] + (SLOPES[1] - SLOPES[0]) * (best + shift)


def curve(motion: Motion) -> tuple[list[float], list[float]]:
    """Slopes and the mean correlation of detail at each, for a figure: its peak is the answer."""
    correlations: list[float] = motion.correlation[motion.telling].mean(dim=0).tolist()
    return list(SLOPES), correlations


def picture(
    generator: LoadedGenerator, label: int = 0, steps: int = 32, space: Space = "auto", seed: int = 0
) -> Picture:
    """The middle row of pixels along a walk, one frame a row of the picture: pinned detail makes upright streaks."""
    shares = torch.linspace(0, 1, steps)[:, None]
    first = torch.tensor([label])
    row = generator.spec.height // 2
    lines = [frames(generator, first, share[None], space, seed, 0)[0, 0, :, row] for share in shares]  # [C, W] each
    sheet = torch.stack(lines, dim=1)  # [C, steps, W]
    return tiled(sheet[None, None])
