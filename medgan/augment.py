"""Augmentation of all that the discriminator sees, real and generated, so that it cannot learn a small set by heart.

Adaptive discriminator augmentation: Karras et al., "Training Generative Adversarial Networks with Limited Data",
NeurIPS 2020. Each transform is applied to an image with probability p, which follows how sure the discriminator is of
its training images (section 3). As long as p stays well below 1, the generator learns the untransformed distribution
(section 2.2). DiffAugment, the simple alternative: Zhao et al., "Differentiable Augmentation for Data-Efficient GAN
Training", NeurIPS 2020; always on.

Everything is differentiable to any order, drawn from the step's generator, computed in float32 and without waiting for
the device.

Deviations. Images are resampled bilinearly instead of through a supersampled wavelet filter, so that a transformed
image is a little softer; both kinds of images are, and untransformed ones stay what they are. Image-space filtering,
hue and saturation are left out. Quarter turns of images that are not square are half turns. p is held at 1 at most.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medgan.layers import exact
from medgan.options import Augmentation
from medgan.ranks import count, normal, own, total, uniform


class Augment(nn.Module):
    """ADA's or DiffAugment's transforms, and the controller of p.

    Args:
        options: which transforms, and how often.

    Attributes:
        probability: p, float32 scalar on the device.
        signs: sum of signs of real logits since p was last moved.
        images: how many they were.
        batches: in how many batches.
    """

    probability: Tensor
    signs: Tensor
    images: Tensor
    batches: Tensor

    def __init__(self, options: Augmentation):
        super().__init__()
        self.options = options
        self.register_buffer("probability", torch.tensor(options.probability))
        for name in ("signs", "images", "batches"):
            self.register_buffer(name, torch.zeros(()))

    def forward(self, images: Tensor, rng: torch.Generator) -> Tensor:
        """Transforms images [N, C, H, W], each in its own way; with p = 0 they come back as they are, to the bit."""
        with torch.autocast(images.device.type, enabled=False):
            images = exact(images)
            if self.options.kind == "diffaugment":
                return diff_augment(images, self.options.transforms, rng)
            return augment(images, self.options.transforms, self.probability, rng)

    @torch.no_grad()
    def observe(self, real_logits: Tensor, boundary: float) -> Tensor:
        """Counts a batch of real logits [N], and after every few batches moves p (Karras 2020, section 3).

        r = E[sign(D(x) − boundary)] is 1 where the discriminator knows all its training images, 0 where it cannot tell
        them from generated ones. Above the target p rises, below it falls, by as much as takes it from 0 to 1 in
        ``ramp`` images.

        Returns:
            r of this batch.
        """
        signs = (real_logits.detach().float() - boundary).sign()
        if self.options.kind == "adaptive":
            self.signs += total(signs.sum())
            self.images += len(signs) * count()
            self.batches += 1
            due = (self.batches >= self.options.every).float()
            move = (self.signs / self.images - self.options.target).sign() * self.images / self.options.ramp
            self.probability.copy_((self.probability + due * move).clamp(0.0, 1.0))
            for counter in (self.signs, self.images, self.batches):
                counter.mul_(1 - due)
        return signs.mean()


def augment(images: Tensor, transforms: Sequence[str], probability: Tensor, rng: torch.Generator) -> Tensor:
    """ADA's transforms in the paper's order and with its distributions (appendix B).

    Args:
        images: float32 [N, C, H, W].
        transforms: names of :data:`medgan.options.TRANSFORMS`.
        probability: p, scalar on the images' device.
        rng: where the draws come from.
    """
    N, _, H, W = images.shape
    device = images.device

    def chosen(p: Tensor = probability) -> Tensor:
        return uniform((N,), rng) < p

    def between(low: float, high: float) -> Tensor:
        return low + (high - low) * uniform((N,), rng)

    def around_zero(deviation: float) -> Tensor:
        return deviation * normal((N,), rng)

    geometry = Geometry(N, device)
    if "flip" in transforms:
        sign = torch.where(chosen() & (between(0, 1) < 0.5), -1.0, 1.0)
        geometry.scale(sign, torch.ones_like(sign))
    if "rotate90" in transforms:
        turns = between(0, 4).long() if H == W else 2 * between(0, 2).long()
        turns = torch.where(chosen(), turns.clamp(max=3), 0)
        cosine, sine = (((turns == k).float() - (turns == k + 2).float()) for k in (0, 1))  # exact
        geometry.rotate(cosine, sine)
    if "translate" in transforms:
        mask = chosen()
        x, y = ((between(-0.125, 0.125) * size).round() for size in (W, H))
        geometry.translate(torch.where(mask, x, 0.0), torch.where(mask, y, 0.0))
    if "scale" in transforms:
        factor = torch.where(chosen(), around_zero(0.2 * math.log(2)).exp(), 1.0)
        geometry.scale(factor, factor)
    half = 1 - (1 - probability).clamp(min=0).sqrt()  # two rotations: at least one with probability p

    def rotate() -> None:
        angle = torch.where(chosen(half), between(-math.pi, math.pi), 0.0)
        geometry.rotate(angle.cos(), angle.sin())

    if "rotate" in transforms:
        rotate()
    if "stretch" in transforms:
        factor = torch.where(chosen(), around_zero(0.2 * math.log(2)).exp(), 1.0)
        geometry.scale(factor, 1 / factor)
    if "rotate" in transforms:
        rotate()
    if "shift" in transforms:
        mask = chosen()
        x, y = around_zero(0.125) * W, around_zero(0.125) * H
        geometry.translate(torch.where(mask, x, 0.0), torch.where(mask, y, 0.0))
    images = geometry.apply(images)

    if "brightness" in transforms:
        images = images + torch.where(chosen(), around_zero(0.2), 0.0).reshape(N, 1, 1, 1)
    if "contrast" in transforms:
        images = images * torch.where(chosen(), around_zero(0.5 * math.log(2)).exp(), 1.0).reshape(N, 1, 1, 1)
    if "luma_flip" in transforms:  # mirrored at the plane across the grey axis; of one channel: negative
        weight = torch.where(chosen() & (between(0, 1) < 0.5), 2.0, 0.0).reshape(N, 1, 1, 1)
        images = images - weight * images.mean(dim=1, keepdim=True)
    if "noise" in transforms:
        sigma = torch.where(chosen(), around_zero(0.1).abs(), 0.0).reshape(N, 1, 1, 1)
        images = images + sigma * normal(images.shape, rng)
    if "cutout" in transforms:
        images = cut_out(images, chosen(), rng)
    return images


def diff_augment(images: Tensor, transforms: Sequence[str], rng: torch.Generator) -> Tensor:
    """DiffAugment: every image is moved by up to an eighth, zeros around it, and loses a square of half its size."""
    N, _, H, W = images.shape
    if "translate" in transforms:
        geometry = Geometry(N, images.device)
        reach = [round(size / 8) for size in (W, H)]
        whole = (N * count(),)
        draws = [torch.randint(-r, r + 1, whole, device=images.device, generator=rng).float() for r in reach]
        geometry.translate(*map(own, draws))
        images = geometry.apply(images, zeros=True)
    if "cutout" in transforms:
        images = cut_out(images, torch.ones(N, dtype=torch.bool, device=images.device), rng)
    return images


def cut_out(images: Tensor, chosen: Tensor, rng: torch.Generator) -> Tensor:
    """Zeros in a rectangle of half the height and width around a random point, as far as it lies in the image.

    Args:
        images: [N, C, H, W].
        chosen: which of them, bool [N].
        rng: where the point comes from.
    """
    N, _, H, W = images.shape
    inside = chosen.reshape(N, 1, 1)
    for size, shape in ((H, (1, H, 1)), (W, (1, 1, W))):
        centre = uniform((N, 1, 1), rng) * size
        place = torch.arange(size, device=images.device).reshape(shape) + 0.5
        inside = inside & ((place - centre).abs() < size / 4)
    return torch.where(inside.unsqueeze(1), 0.0, images)


class Geometry:
    """One affine map an image, gathered from several, in pixels around the image's centre, x to the right and y down.

    What is kept is the inverse, from a pixel of the result to where it comes from: all maps, one resampling.
    """

    def __init__(self, count: int, device: torch.device):
        self.inverse = torch.eye(3, device=device).repeat(count, 1, 1)  # [N, 3, 3]
        self.touched = torch.zeros(count, dtype=torch.bool, device=device)

    def scale(self, x: Tensor, y: Tensor) -> None:
        """Larger by factors [N]."""
        zero, one = torch.zeros_like(x), torch.ones_like(x)
        self._then([[1 / x, zero, zero], [zero, 1 / y, zero], [zero, zero, one]], (x != 1) | (y != 1))

    def rotate(self, cosine: Tensor, sine: Tensor) -> None:
        """By an angle [N]."""
        zero, one = torch.zeros_like(sine), torch.ones_like(sine)
        self._then([[cosine, sine, zero], [-sine, cosine, zero], [zero, zero, one]], cosine != 1)

    def translate(self, x: Tensor, y: Tensor) -> None:
        """By pixels [N]."""
        zero, one = torch.zeros_like(x), torch.ones_like(x)
        self._then([[one, zero, -x], [zero, one, -y], [zero, zero, one]], (x != 0) | (y != 0))

    def _then(self, inverse: list[list[Tensor]], touched: Tensor) -> None:
        rows = torch.stack([torch.stack(row, dim=1) for row in inverse], dim=1)  # -> [N, 3, 3]
        # Written out instead of a matrix product: TF32 would round the offsets.
        self.inverse = (self.inverse.unsqueeze(3) * rows.unsqueeze(1)).sum(dim=2)
        self.touched = self.touched | touched

    def apply(self, images: Tensor, zeros: bool = False) -> Tensor:
        """Resamples bilinearly, [N, C, H, W] to the same; exact where all maps are flips, quarters and whole pixels.

        Gathering instead of ``grid_sample``: that one has no second derivative, and no deterministic first on a GPU.

        Args:
            images: what to move.
            zeros: zeros beyond the border instead of reflections.
        """
        N, C, H, W = images.shape
        across, down = (torch.arange(size, device=images.device) - (size - 1) / 2 for size in (W, H))
        matrix = self.inverse[:, :2, :, None, None]  # [N, 2, 3, 1, 1]
        source = matrix[:, :, 0] * across + matrix[:, :, 1] * down[:, None] + matrix[:, :, 2]  # [N, 2, H, W]
        sides = [_between(source[:, axis] + (size - 1) / 2, size) for axis, size in ((0, W), (1, H))]
        (left, right_share), (top, bottom_share) = sides
        flat = images.flatten(2)  # [N, C, H, W] -> [N, C, HW]

        def at(row: Tensor, column: Tensor) -> Tensor:
            index = (row * W + column).reshape(N, 1, H * W).expand(-1, C, -1)
            return flat.gather(2, index).unflatten(2, (H, W))

        x, y = right_share.unsqueeze(1).to(images.dtype), bottom_share.unsqueeze(1).to(images.dtype)
        upper = at(top, left) * (1 - x) + at(top, left + 1) * x
        lower = at(top + 1, left) * (1 - x) + at(top + 1, left + 1) * x
        moved = upper * (1 - y) + lower * y
        if zeros:
            inside = (source[:, :1].abs() < W / 2) & (source[:, 1:].abs() < H / 2)
            moved = torch.where(inside, moved, 0.0)
        return torch.where(self.touched.reshape(N, 1, 1, 1), moved, images)


def _between(place: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """A coordinate, reflected at the outermost pixels' centres: the pixel before it, and the share past that."""
    period = 2 * (size - 1)
    within = place.abs().remainder(period)
    within = torch.minimum(within, period - within)
    before = within.floor().clamp(max=size - 2)
    return before.long(), within - before
