"""StyleGAN: Karras, Laine & Aila, "A Style-Based Generator Architecture for Generative Adversarial Networks".

CVPR 2019. Their figure 1b: z goes through a mapping network to w, and the image grows out of a learned constant whose
feature maps are re-styled by w after every convolution (AdaIN) and get fresh noise before it. PGGAN's discriminator and
growing, from 8x8, with lowpass filters in all doublings and halvings (section 2); non-saturating loss with R1
(appendix C).
The class enters beside z (Mirza & Osindero 2014) and by projection (Miyato & Koyama 2018).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from medgan.config import GanConfig
from medgan.contract import NoiseSource
from medgan.growing import GrowingDiscriminator, Growth, fade_images
from medgan.layers import (
    HE_GAIN,
    Blur,
    DoublingConv2d,
    EqualConv2d,
    EqualLinear,
    channels_at,
    exact,
    leaky_relu,
    pixel_norm,
    without_equalised_rate,
)
from medgan.options import require
from medgan.sizes import Pyramid, Stage
from medgan.styles import StyleArchitecture, StyleGenerator, StyleOptions
from pipeline.records import ImageSpec

TAPS = (1.0, 2.0, 1.0)
COARSE_LEVELS = 4
"""Truncation touches the layers of 4x4 to 32x32 (appendix B)."""


@dataclass(frozen=True)
class Options(StyleOptions):
    """StyleGAN's own options, beside the common ones.

    With ``constant`` and ``adain`` go the steps from a traditional generator to the paper's (table 1): B has neither
    and no mapping network, C has AdaIN and still an input, D has the constant instead.

    Attributes:
        constant: the image grows out of a learned constant; without it out of a dense layer of w.
        adain: styles in every layer; without them pixel norm as in PGGAN, and w enters by the dense layer alone.
        growth_start: see :class:`Growth`.
        growth_share: see :class:`Growth`.
        growth_fade: see :class:`Growth`.
    """

    constant: bool = True
    adain: bool = True
    growth_start: int = 8
    growth_share: float = 0.35
    growth_fade: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.constant and not self.adain:
            raise ValueError(
                "constant: found true beside adain: false, expected false; without styles the constant would be all "
                "that the image is made from, and the latent would have no way in"
            )
        require(self.adain or self.mixing == 0, "mixing", self.mixing, "0, as without adain no layer has its own style")
        _ = self.growth

    @property
    def growth(self) -> Growth:
        """When to grow."""
        return Growth(self.growth_start, self.growth_share, self.growth_fade)


def adaptive_instance_norm(x: Tensor, scale: Tensor, bias: Tensor, epsilon: float = 1e-8) -> Tensor:
    """AdaIN(x, y) = y_s·(x − μ(x))/σ(x) + y_b, over height and width of each image and channel (equation 1).

    Centred first, and all in float32: where an image hardly varies (the learned constant does not at all), σ is tiny,
    and y_s·x/σ − y_s·μ/σ + y_b in bfloat16 would be the difference of two huge numbers with y_b lost in their rounding.
    The sums are matrix products with a row of ones, which stay fast when channels come last.

    Args:
        x: [N, C, H, W], any dtype.
        scale: y_s, float32 [N, C].
        bias: y_b, float32 [N, C].
        epsilon: beside the variance.

    Returns:
        [N, C, H, W], x's dtype, channels last.
    """
    N, C, H, W = x.shape
    rows = x.permute(0, 2, 3, 1).reshape(N, H * W, C)  # [N, C, H, W] -> [N, HW, C]
    with torch.autocast(x.device.type, enabled=False):
        precise = exact(rows)
        ones = torch.ones(N, 1, H * W, device=x.device, dtype=precise.dtype)
        centred = precise - torch.bmm(ones, precise) / (H * W)  # [N, 1, HW] · [N, HW, C] -> [N, 1, C]
        variance = torch.bmm(ones, centred.square()) / (H * W)
        factor = scale[:, None, :] * torch.rsqrt(variance + epsilon)
        styled = torch.addcmul(bias[:, None, :], centred, factor).to(x.dtype)
    return styled.reshape(N, H, W, C).permute(0, 3, 1, 2)  # [N, HW, C] -> [N, C, H, W]


class Epilogue(nn.Module):
    """What follows every convolution (figure 1b): noise scaled for each channel, bias, activation, AdaIN.

    Args:
        channels: feature maps.
        width: length of w.
        adain: see :class:`Options`.
    """

    def __init__(self, channels: int, width: int, adain: bool):
        super().__init__()
        self.noise_scale = nn.Parameter(torch.empty(1, channels, 1, 1))
        self.bias = nn.Parameter(torch.empty(1, channels, 1, 1))
        # "A": one affine of w gives y_s − 1 and y_b
        self.style = EqualLinear(width, 2 * channels) if adain else None

    def draw_weights(self, rng: torch.Generator) -> None:
        """Noise and bias start at 0."""
        with torch.no_grad():
            self.noise_scale.zero_()
            self.bias.zero_()

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None) -> Tensor:
        """X [N, C, H, W], w [N, width], noise [N, 1, H, W] -> [N, C, H, W]."""
        x = x + self.bias.to(x.dtype)
        if noise is not None:
            x = torch.addcmul(x, noise.to(x.dtype), self.noise_scale.to(x.dtype))
        x = leaky_relu(x)
        if self.style is None:
            return pixel_norm(x)
        with torch.autocast(x.device.type, enabled=False):
            scale, bias = self.style(exact(w)).chunk(2, dim=1)  # [N, 2C] -> 2 of [N, C]
        return adaptive_instance_norm(x, scale + 1, bias)


class StyleGanGenerator(StyleGenerator):
    """Mapping and synthesis network (figure 1b)."""

    def __init__(self, options: Options, spec: ImageSpec, pyramid: Pyramid, condition: str):
        levels = [layer // 2 for layer in range(2 * (pyramid.levels + 1))]
        super().__init__(options, spec, pyramid, condition, levels, bias_gain=1.0)
        widths = [channels_at(k, options.base_channels, options.max_channels) for k in range(pyramid.levels + 1)]
        self.shape = (widths[0], pyramid.height, pyramid.width)
        self.constant = nn.Parameter(torch.empty(1, *self.shape)) if options.constant else None
        gain = HE_GAIN / math.sqrt(pyramid.height * pyramid.width)  # the fan-in of PGGAN's first layer
        self.dense = None if options.constant else EqualLinear(self.mapping.width, math.prod(self.shape), gain)
        self.conv0 = nn.ModuleList(
            DoublingConv2d(widths[k], widths[k + 1], 3, gain=HE_GAIN, bias=False) for k in range(pyramid.levels)
        )
        self.conv1 = nn.ModuleList(EqualConv2d(width, width, 3, gain=HE_GAIN, bias=False) for width in widths)
        self.epilogues = nn.ModuleList(
            Epilogue(width, self.mapping.width, options.adain) for width in widths for _ in range(2)
        )
        self.to_rgb = nn.ModuleList(EqualConv2d(width, spec.channels, 1) for width in widths)
        self.blur = Blur(TAPS, padding=1)

    def draw_weights(self, rng: torch.Generator) -> None:
        """The constant starts at 1."""
        if self.constant is not None:
            with torch.no_grad():
                self.constant.fill_(1.0)

    def style_layers(self, stage: Stage) -> int:
        """Two a level."""
        return 2 * (stage.level + 1)

    def truncated_layers(self, stage: Stage) -> int:
        """Those of 4x4 to 32x32."""
        return min(2 * COARSE_LEVELS, self.style_layers(stage))

    def synthesis(self, ws: Tensor, stage: Stage, noise: NoiseSource | None) -> Tensor:
        """See :meth:`StyleGenerator.synthesis`."""
        if self.dense is not None:
            x = self.dense(ws[:, 0]).reshape(-1, *self.shape)  # [N, W] -> [N, F·h·w] -> [N, F, h, w]
            x = x.contiguous(memory_format=torch.channels_last)
        else:
            assert self.constant is not None, "one of both is there"
            x = self.constant.expand(len(ws), -1, -1, -1)  # [1, F, h, w] -> [N, F, h, w]
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        x = self._style(x, 0, ws, noise)
        x = self._style(self.conv1[0](x), 1, ws, noise)
        below = x
        for level in range(1, stage.level + 1):
            below = x
            x = self.blur(self.conv0[level - 1](x))  # [N, F, h, w] -> [N, F/2, 2h, 2w]
            x = self._style(x, 2 * level, ws, noise)
            x = self._style(self.conv1[level](x), 2 * level + 1, ws, noise)
        image: Tensor = self.to_rgb[stage.level](x)
        if stage.alpha < 1:
            image = fade_images(self.to_rgb[stage.level - 1](below), image, stage.alpha)
        return exact(image)

    def _style(self, x: Tensor, layer: int, ws: Tensor, noise: NoiseSource | None) -> Tensor:
        styled: Tensor = self.epilogues[layer](x, ws[:, layer], self.layer_noise.pick(layer, noise))
        return styled


class StyleGan(StyleArchitecture):
    """StyleGAN with any loss; the paper's is the non-saturating one with R1."""

    Options: ClassVar[type[Any]] = Options

    def __init__(self, config: GanConfig, spec: ImageSpec):
        super().__init__(config, spec)
        options = self.options
        self.generator = StyleGanGenerator(options, spec, self.pyramid, config.conditioning.generator)
        self.discriminator = GrowingDiscriminator(
            spec,
            self.pyramid,
            options.base_channels,
            options.max_channels,
            options.stddev_group,
            TAPS,
            config.conditioning.discriminator,
        )
        if not options.equalised:
            without_equalised_rate(self)

    def size_at(self, images_seen: int) -> Stage:
        """Grows by the options' schedule."""
        stage: Stage = self.options.growth.stage_at(images_seen, self.config.images, self.pyramid.levels)
        return stage
