"""PGGAN: Karras, Aila, Laine & Lehtinen, "Progressive Growing of GANs for Improved Quality, Stability, and Variation".

ICLR 2018. Networks of their table 2: equalised learning rate, pixel norm in the generator, minibatch stddev in the
discriminator, grown from 4x4 by fading.

The class enters beside z (Mirza & Osindero 2014) and by projection (Miyato & Koyama 2018).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from medgan.architecture import Architecture
from medgan.config import GanConfig
from medgan.contract import Batch, Generator, NoiseSource
from medgan.growing import GrowingDiscriminator, Growth, fade_images
from medgan.layers import (
    HE_GAIN,
    ClassEmbedding,
    DoublingConv2d,
    EqualConv2d,
    Equalised,
    channels_at,
    exact,
    leaky_relu,
    pixel_norm,
    without_equalised_rate,
)
from medgan.options import require
from medgan.sizes import Pyramid, Stage
from pipeline.records import ImageSpec


@dataclass(frozen=True)
class Options:
    """PGGAN's own options.

    Attributes:
        latent: length of z.
        label_width: length of the class embedding beside z.
        base_channels: see :func:`medgan.layers.channels_at`.
        max_channels: upper bound of feature maps.
        equalised: equalised learning rate; see :class:`medgan.layers.Equalised`.
        pixel_norm: normalise after every convolution of the generator.
        stddev_group: images in a group of minibatch stddev; 0 leaves it out.
        jitter: strength of the discriminator's multiplicative noise, by which the authors kept least squares from
            spiralling (appendix B: 0.2); 0 leaves it out.
        growth_start: see :class:`Growth`.
        growth_share: see :class:`Growth`.
        growth_fade: see :class:`Growth`.
    """

    latent: int = 512
    label_width: int = 512
    base_channels: int = 16384
    max_channels: int = 512
    equalised: bool = True
    pixel_norm: bool = True
    stddev_group: int = 4
    jitter: float = 0.0
    growth_start: int = 4
    growth_share: float = 0.7
    growth_fade: float = 0.5

    def __post_init__(self) -> None:
        for key in ("latent", "label_width", "base_channels", "max_channels"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "1 or more")
        group = self.stddev_group
        require(group == 0 or group >= 2, "stddev_group", group, "0 (off) or 2 or more")
        require(self.jitter >= 0, "jitter", self.jitter, "0 (off) or more")
        _ = self.growth

    @property
    def growth(self) -> Growth:
        """When to grow."""
        return Growth(self.growth_start, self.growth_share, self.growth_fade)


class FirstConv(Equalised):
    """The 4x4 convolution of a 1x1 map that makes the smallest size, equalised: [N, I] -> [N, O, h, w].

    Its fan-in is that of a convolution, h·w·I, though only I of the inputs are no padding: He's constant is √2/(4√I) at
    4x4, as published.
    """

    def __init__(self, inputs: int, outputs: int, height: int, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(inputs, height * width * outputs))
        self.bias = nn.Parameter(torch.empty(outputs))
        self.scale = HE_GAIN / (inputs * height * width) ** 0.5
        self.shape = (height, width, outputs)

    def draw_weights(self, rng: torch.Generator) -> None:
        """N(0, 1), biases 0."""
        with torch.no_grad():
            self.weight.normal_(generator=rng).mul_(self.start)
            self.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """Projects."""
        x = (x @ (self.weight * self.scale)).reshape(-1, *self.shape)  # [N, I] -> [N, h, w, O]
        return (x + self.bias.to(x.dtype)).permute(0, 3, 1, 2)  # -> [N, O, h, w], channels last


class PgganGenerator(Generator):
    """z and class -> 4x4 -> doublings, each read out by its own 1x1 convolution (table 2, left)."""

    def __init__(self, options: Options, spec: ImageSpec, pyramid: Pyramid, condition: str):
        super().__init__()
        self.latent = options.latent
        self.normalise = options.pixel_norm
        widths = [channels_at(k, options.base_channels, options.max_channels) for k in range(pyramid.levels + 1)]
        self.embedding = ClassEmbedding(len(spec.classes) if condition == "embedding" else 1, options.label_width)
        self.first = FirstConv(self.latent + self.embedding.width, widths[0], pyramid.height, pyramid.width)
        # conv0[l] leads from level l to level l + 1
        self.conv0 = nn.ModuleList(
            DoublingConv2d(widths[k], widths[k + 1], 3, gain=HE_GAIN) for k in range(pyramid.levels)
        )
        self.conv1 = nn.ModuleList(EqualConv2d(width, width, 3, gain=HE_GAIN) for width in widths)
        self.to_rgb = nn.ModuleList(EqualConv2d(width, spec.channels, 1) for width in widths)

    def forward(self, z: Tensor, labels: Tensor, stage: Stage, noise: NoiseSource | None) -> Tensor:
        """See :meth:`Generator.forward`."""
        x = self.embedding(pixel_norm(z), labels, stage.label)  # on the hypersphere, like everything after it
        x = self._activate(self.first(x))  # [N, latent + width] -> [N, F, h, w]
        x = self._activate(self.conv1[0](x))
        below = x
        for level in range(1, stage.level + 1):
            below = x
            x = self._activate(self.conv0[level - 1](x))  # [N, F, h, w] -> [N, F/2, 2h, 2w]
            x = self._activate(self.conv1[level](x))
        image: Tensor = self.to_rgb[stage.level](x)  # linear: no tanh
        if stage.alpha < 1:
            image = fade_images(self.to_rgb[stage.level - 1](below), image, stage.alpha)
        return exact(image)

    def _activate(self, x: Tensor) -> Tensor:
        x = leaky_relu(x)
        return pixel_norm(x) if self.normalise else x


class Pggan(Architecture):
    """PGGAN with any loss; the paper's are WGAN-GP and least squares."""

    Options: ClassVar[type[Any]] = Options
    discriminator: GrowingDiscriminator

    def __init__(self, config: GanConfig, spec: ImageSpec):
        super().__init__(config, spec)
        options = self.options
        self.generator = PgganGenerator(options, spec, self.pyramid, config.conditioning.generator)
        self.discriminator = GrowingDiscriminator(
            spec,
            self.pyramid,
            options.base_channels,
            options.max_channels,
            options.stddev_group,
            (),
            config.conditioning.discriminator,
            options.jitter,
        )
        if not options.equalised:
            without_equalised_rate(self)

    def size_at(self, images_seen: int) -> Stage:
        """Grows by the options' schedule."""
        stage: Stage = self.options.growth.stage_at(images_seen, self.config.images, self.pyramid.levels)
        return stage

    def discriminator_loss(self, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The common one, after which the discriminator knows how sure it is."""
        loss, curves = super().discriminator_loss(batch)
        if self.options.jitter > 0:
            self.discriminator.track(curves["logit.real"].detach())
        return loss, curves
