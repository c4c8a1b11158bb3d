"""Progressive growing: networks that start small and fade in one doubling after the other (PGGAN, sections 2 and A)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medgan.contract import Discriminator
from medgan.layers import (
    HE_GAIN,
    Blur,
    EqualConv2d,
    EqualLinear,
    HalvingConv2d,
    channels_at,
    double,
    halve,
    leaky_relu,
    minibatch_stddev,
)
from medgan.options import require
from medgan.ranks import mean, normal
from medgan.sizes import Pyramid, Stage
from pipeline.records import ImageSpec


@dataclass(frozen=True)
class Growth:
    """When to grow, in shares of the training, so that a schedule fits any length and any size.

    Attributes:
        start: size of the first stage, in the nominal size that is 4 at level 0: 4 (PGGAN) or 8 (StyleGAN).
        share: share of the training's images by which the last size is wholly there; 0 does not grow at all.
        fade: share of each doubling's images during which the new level fades in; the rest before it is stable. With 0
            new levels are there at once.
    """

    start: int
    share: float
    fade: float

    def __post_init__(self) -> None:
        require(self.start in (4, 8, 16), "growth_start", self.start, "4, 8 or 16")
        require(0 <= self.share < 1, "growth_share", self.share, "at least 0, below 1")
        require(0 <= self.fade <= 1, "growth_fade", self.fade, "0 (no fading) to 1")

    def stage_at(self, images_seen: int, images: int, levels: int) -> Stage:
        """Size and fade after ``images_seen`` of ``images``."""
        first = min(self.start.bit_length() - 3, levels)  # 4 -> level 0, 8 -> level 1
        if self.share == 0 or first == levels:
            return Stage(levels)
        each = self.share * images / (levels - first)  # images for one doubling: stable, then fading
        doubling, within = divmod(images_seen, each)
        level = first + int(doubling)
        if level >= levels:
            return Stage(levels)
        if self.fade == 0:
            return Stage(level)
        alpha = (within / each - (1 - self.fade)) / self.fade
        return Stage(level) if alpha <= 0 else Stage(level + 1, alpha)


def fade_images(below: Tensor, newest: Tensor, alpha: float) -> Tensor:
    """(1 − α)·doubled smaller image + α·newest (PGGAN, figure 2). [N, C, h, w], [N, C, 2h, 2w] -> [N, C, 2h, 2w]."""
    return torch.lerp(double(below), newest, alpha)


Jitter = Callable[[Tensor], Tensor]
"""What is done to the input of every convolution larger than 1x1: [N, C, H, W] to the same."""

JITTER_DECAY = 0.9


class DiscriminatorBlock(nn.Module):
    """Two convolutions and a halving at one level: [N, I, H, W] -> [N, O, H/2, W/2].

    Without ``taps`` as PGGAN has it (table 2): averages after the second activation. With them as StyleGAN has it:
    a lowpass before the halving (section 2), and activation after it.
    """

    def __init__(self, inputs: int, outputs: int, taps: tuple[float, ...]):
        super().__init__()
        self.conv0 = EqualConv2d(inputs, inputs, 3, gain=HE_GAIN)
        self.conv1 = (HalvingConv2d if taps else EqualConv2d)(inputs, outputs, 3, gain=HE_GAIN)
        self.blur = Blur(taps, padding=len(taps) // 2) if taps else None

    def forward(self, x: Tensor, jitter: Jitter) -> Tensor:
        """Halves; ``jitter`` is done to each convolution's input."""
        x = leaky_relu(self.conv0(jitter(x)))
        if self.blur is None:
            return halve(leaky_relu(self.conv1(jitter(x))))
        return leaky_relu(self.conv1(self.blur(jitter(x))))


class GrowingDiscriminator(Discriminator):
    """PGGAN's discriminator (table 2), which StyleGAN kept.

    Args:
        spec: what the images are.
        pyramid: their sizes.
        base: see :func:`channels_at`.
        maximum: see :func:`channels_at`.
        stddev_group: images in a group of minibatch stddev; 0 leaves it out.
        taps: of the lowpass before each halving; () for none.
        condition: see :class:`Discriminator`.
        jitter: strength of multiplicative noise on the convolutions' inputs; 0 leaves it out.

    Attributes:
        mean_logit: running mean d̂ of the logits of real images.
    """

    mean_logit: Tensor

    def __init__(
        self,
        spec: ImageSpec,
        pyramid: Pyramid,
        base: int,
        maximum: int,
        stddev_group: int,
        taps: tuple[float, ...],
        condition: str,
        jitter: float = 0.0,
    ):
        super().__init__(len(spec.classes), condition)
        widths = [channels_at(level, base, maximum) for level in range(pyramid.levels + 1)]
        self.stddev_group = stddev_group
        self.jitter = jitter
        self.draws = jitter > 0
        self.register_buffer("mean_logit", torch.zeros(()))
        self.from_rgb = nn.ModuleList(EqualConv2d(spec.channels, width, 1, gain=HE_GAIN) for width in widths)
        # blocks[l] leads from level l + 1 to level l
        self.blocks = nn.ModuleList(
            DiscriminatorBlock(widths[level + 1], widths[level], taps) for level in range(pyramid.levels)
        )
        self.conv = EqualConv2d(widths[0] + (stddev_group > 0), widths[0], 3, gain=HE_GAIN)
        self.dense = EqualLinear(widths[0] * pyramid.height * pyramid.width, widths[0], gain=HE_GAIN)
        self.last = EqualLinear(widths[0], self.outputs)

    def score(self, images: Tensor, labels: Tensor, stage: Stage, rng: torch.Generator | None) -> Tensor:
        """See :meth:`Discriminator.score`."""
        images = images.contiguous(memory_format=torch.channels_last)
        jitter = self._jitter(rng)
        x = self._read(images, stage.level)  # [N, C, h, w] -> [N, F, h, w]
        for level in reversed(range(stage.level)):
            x = self.blocks[level](x, jitter)  # [N, F, h, w] -> [N, 2F, h/2, w/2]
            if level == stage.level - 1 and stage.alpha < 1:
                x = torch.lerp(self._read(halve(images), level), x, stage.alpha)
        if self.stddev_group:
            x = minibatch_stddev(x, self.stddev_group)
        x = leaky_relu(self.conv(jitter(x)))
        x = jitter(x).flatten(1)  # for the 4x4 convolution: [N, F, h, w] -> [N, F·h·w]
        x = leaky_relu(self.dense(x))  # -> [N, F]
        scores: Tensor = self.last(x)
        return scores

    @torch.no_grad()
    def track(self, logit: Tensor) -> None:
        """Moves the running mean: d̂ ← 0.9·d̂ + 0.1·d (PGGAN, appendix B)."""
        moved = torch.lerp(mean(logit), self.mean_logit, JITTER_DECAY)
        self.mean_logit.copy_(torch.where(torch.isfinite(moved), moved, self.mean_logit))

    def _jitter(self, rng: torch.Generator | None) -> Jitter:
        """Noise of strength 0.2·max(0, d̂ − ½)² (PGGAN, appendix B): more of it, the surer the discriminator is.

        The formula as it stands, with a number for every value and no bound. The authors' first code differs from it in
        three ways that go together: d is clipped to [0, 1], the strength is multiplied by the root of the number of
        maps, and one number serves a whole map. Clipped alone, it would end at 0.05, and convolutions average that out.
        """
        if self.jitter == 0 or rng is None:
            return lambda x: x
        strength = self.jitter * F.relu(self.mean_logit - 0.5).square()

        def multiply(x: Tensor) -> Tensor:
            noise = normal(x.shape, rng)
            return x * (1 + strength * noise).to(x.dtype)

        return multiply

    def _read(self, images: Tensor, level: int) -> Tensor:
        return leaky_relu(self.from_rgb[level](images))
