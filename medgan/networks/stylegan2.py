"""StyleGAN2: Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", CVPR 2020, configuration F.

Styles scale a convolution's weights instead of its output, and the weights are demodulated (section 2.2); the generator
adds up images of all sizes ("skip"), the discriminator is residual (section 4.1), and nothing grows. Lazy R1 and path
length regularisation (sections 3.1 and 3.2).
The class enters beside z (Mirza & Osindero 2014) and by projection (Miyato & Koyama 2018).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medgan.config import GanConfig
from medgan.contract import Discriminator, NoiseSource
from medgan.layers import (
    HE_GAIN,
    LEAK,
    Blur,
    EqualConv2d,
    EqualLinear,
    StridedConv2d,
    channels_at,
    exact,
    minibatch_stddev,
    transposed,
)
from medgan.options import require
from medgan.sizes import Pyramid, Stage
from medgan.styles import MappingNetwork, StyleArchitecture, StyleGenerator
from pipeline.records import ImageSpec

TAPS = (1.0, 3.0, 3.0, 1.0)


@dataclass(frozen=True)
class Options:
    """StyleGAN2's own options.

    Attributes:
        latent: length of z.
        label_width: length of the class embedding beside z.
        width: length of w.
        mapping_layers: fully connected layers from z to w.
        mapping_rate: their relative learning rate.
        mixing: share of training images with styles of two latents.
        noise: whether layers get noise.
        base_channels: see :func:`medgan.layers.channels_at`.
        max_channels: upper bound of feature maps.
        stddev_group: images in a group of minibatch stddev; 0 leaves it out.
    """

    latent: int = 512
    label_width: int = 512
    width: int = 512
    mapping_layers: int = 8
    mapping_rate: float = 0.01
    mixing: float = 0.9
    noise: bool = True
    base_channels: int = 32768
    max_channels: int = 512
    stddev_group: int = 4

    def __post_init__(self) -> None:
        for key in ("latent", "label_width", "width", "base_channels", "max_channels", "mapping_layers"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "1 or more")
        require(self.mapping_rate > 0, "mapping_rate", self.mapping_rate, "above 0")
        require(0 <= self.mixing <= 1, "mixing", self.mixing, "0 to 1")
        group = self.stddev_group
        require(group == 0 or group >= 2, "stddev_group", group, "0 (off) or 2 or more")


class ModulatedConv2d(nn.Module):
    """A convolution whose weights are scaled by a style for each image (section 2.2).

    w'ᵢⱼₖ = sᵢ·wᵢⱼₖ (equation 1), w''ᵢⱼₖ = w'ᵢⱼₖ / √(Σᵢₖ w'ᵢⱼₖ² + ε) (equation 3). Convolution is linear, so scaling
    input channel i by sᵢ and output channel j by the root's inverse is the same, and one weight serves all images.

    Args:
        inputs: feature maps in.
        outputs: feature maps out.
        kernel: 1 or 3.
        width: length of w.
        demodulate: whether equation 3 applies.
        up: doubles: zeros between the pixels, the convolution, then [1, 3, 3, 1] in both directions.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, width: int, demodulate: bool = True, up: bool = False):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, kernel, kernel))
        self.style = EqualLinear(width, inputs, bias=1.0)  # "A"
        self.scale = 1.0 / math.sqrt(inputs * kernel * kernel)
        self.demodulate = demodulate
        self.blur = Blur(TAPS, padding=1, gain=4.0) if up else None

    def draw_weights(self, rng: torch.Generator) -> None:
        """N(0, 1)."""
        with torch.no_grad():
            self.weight.normal_(generator=rng)

    def forward(self, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor | None]:
        """X [N, I, H, W], w [N, width] -> the convolution of sᵢ·x [N, O, H', W'], and its demodulation [N, O, 1, 1].

        The caller multiplies the two, together with what else it does to every value.
        """
        weight = self.weight * self.scale
        with torch.autocast(x.device.type, enabled=False):
            style = self.style(exact(w))  # [N, W] -> [N, I]
            factor = None
            if self.demodulate:
                power = style.square() @ weight.square().sum(dim=(2, 3)).T  # Σᵢₖ (sᵢ·wᵢⱼₖ)²: [N, I]·[I, O] -> [N, O]
                factor = torch.rsqrt(power + 1e-8)[:, :, None, None]
        x = x * style[:, :, None, None].to(x.dtype)
        if self.blur is None:
            return F.conv2d(x, weight, padding=weight.shape[-1] // 2), factor
        x = F.conv_transpose2d(x, transposed(weight), stride=2)  # [N, I, H, W] -> [N, O, 2H + 1, 2W + 1]
        return self.blur(x), factor  # -> [N, O, 2H, 2W]


class StyledConv(nn.Module):
    """Modulated convolution, noise with one learned scale a layer, bias, leaky ReLU times √2 (figure 2c)."""

    def __init__(self, inputs: int, outputs: int, width: int, up: bool):
        super().__init__()
        self.conv = ModulatedConv2d(inputs, outputs, 3, width, up=up)
        self.noise_scale = nn.Parameter(torch.empty(()))
        self.bias = nn.Parameter(torch.empty(1, outputs, 1, 1))

    def draw_weights(self, rng: torch.Generator) -> None:
        """Noise and bias start at 0."""
        with torch.no_grad():
            self.noise_scale.zero_()
            self.bias.zero_()

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None) -> Tensor:
        """X [N, I, H, W], w [N, width], noise [N, 1, H', W'] -> [N, O, H', W']."""
        x, factor = self.conv(x, w)
        # √2·lrelu(v) = lrelu(√2·v): the gain goes into the three small factors, not over the activations.
        added = HE_GAIN * (self.noise_scale * noise) if noise is not None else torch.zeros(1, 1, 1, 1, device=x.device)
        x = torch.addcmul(added.to(x.dtype), x, (HE_GAIN * factor).to(x.dtype))
        return F.leaky_relu(x + (HE_GAIN * self.bias).to(x.dtype), LEAK)


class ToRgb(nn.Module):
    """A modulated 1x1 convolution without demodulation: [N, I, H, W] -> [N, C, H, W]."""

    def __init__(self, inputs: int, channels: int, width: int):
        super().__init__()
        self.conv = ModulatedConv2d(inputs, channels, 1, width, demodulate=False)
        self.bias = nn.Parameter(torch.empty(1, channels, 1, 1))

    def draw_weights(self, rng: torch.Generator) -> None:
        """Bias starts at 0."""
        with torch.no_grad():
            self.bias.zero_()

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """See the class."""
        image, _ = self.conv(x, w)
        return exact(image) + self.bias


class DoubleImage(nn.Module):
    """Zeros between the pixels, then [1, 3, 3, 1]/4 in both directions: [N, C, H, W] -> [N, C, 2H, 2W], float32."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        line = torch.tensor(TAPS) / sum(TAPS) * 2.0
        self.register_buffer("kernel", torch.outer(line, line)[None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Doubles."""
        C = images.shape[1]
        with torch.autocast(images.device.type, enabled=False):
            return F.conv_transpose2d(images, self.kernel.expand(C, -1, -1, -1), stride=2, padding=1, groups=C)


class StyleGan2Generator(StyleGenerator):
    """Mapping network and skip generator (figures 2c and 7b).

    Styles are counted as the authors do: level l's convolutions take 2l − 1 and 2l, its image 2l + 1, which is also the
    first of the next level.
    """

    def __init__(self, options: Options, spec: ImageSpec, pyramid: Pyramid, condition: str):
        mapping = MappingNetwork(
            options.latent,
            len(spec.classes) if condition == "embedding" else 1,
            options.label_width,
            options.width,
            options.mapping_layers,
            options.mapping_rate,
            bias_gain=HE_GAIN,
        )
        super().__init__(mapping, options.latent, len(spec.classes), options.width)
        self.pyramid = pyramid
        self.noise = options.noise
        widths = [channels_at(k, options.base_channels, options.max_channels) for k in range(pyramid.levels + 1)]
        self.constant = nn.Parameter(torch.empty(1, widths[0], pyramid.height, pyramid.width))
        convs = [StyledConv(widths[0], widths[0], options.width, up=False)]
        for inputs, outputs in pairwise(widths):
            convs.append(StyledConv(inputs, outputs, options.width, up=True))
            convs.append(StyledConv(outputs, outputs, options.width, up=False))
        self.convs = nn.ModuleList(convs)
        self.to_rgb = nn.ModuleList(ToRgb(width, spec.channels, options.width) for width in widths)
        self.double_image = DoubleImage()

    def draw_weights(self, rng: torch.Generator) -> None:
        """The constant starts from N(0, 1)."""
        with torch.no_grad():
            self.constant.normal_(generator=rng)

    def style_layers(self, stage: Stage) -> int:
        """One for each convolution, and one for the last image."""
        return len(self.convs) + 1

    def truncated_layers(self, stage: Stage) -> int:
        """All."""
        return self.style_layers(stage)

    def noise_layers(self, stage: Stage) -> Sequence[tuple[int, int]]:
        """One for each convolution."""
        return [self.pyramid.size((layer + 1) // 2) for layer in range(len(self.convs))] if self.noise else []

    def synthesis(self, ws: Tensor, stage: Stage, noise: NoiseSource | None) -> Tensor:
        """See :meth:`StyleGenerator.synthesis`."""
        x = self.constant.expand(len(ws), -1, -1, -1)  # [1, F, h, w] -> [N, F, h, w]
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        image: Tensor | None = None
        for layer, conv in enumerate(self.convs):
            height, width = self.pyramid.size((layer + 1) // 2)
            drawn = noise(layer, height, width) if noise is not None and self.noise else None
            x = conv(x, ws[:, layer], drawn)  # odd layers: [N, F, h, w] -> [N, F/2, 2h, 2w]
            if layer % 2 == 0:
                own = self.to_rgb[layer // 2](x, ws[:, layer + 1])
                image = own if image is None else self.double_image(image) + own
        assert image is not None
        return image


class ResidualBlock(nn.Module):
    """[N, I, H, W] -> [N, O, H/2, W/2]: two convolutions, plus a 1x1 shortcut, over √2 (figure 7c).

    Halvings are filtered by [1, 3, 3, 1] first. The factor 1/√2 stands in the gains: the second convolution's √2 (of
    the leaky ReLU) becomes 1, the shortcut's 1 becomes 1/√2.
    """

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv0 = EqualConv2d(inputs, inputs, 3, HE_GAIN, HE_GAIN)
        self.conv1 = StridedConv2d(inputs, outputs, 3, 1.0, 1.0)
        self.shortcut = StridedConv2d(inputs, outputs, 1, 1.0 / HE_GAIN, bias=False)
        self.blur_wide = Blur(TAPS, padding=2)  # [N, I, H, W] -> [N, I, H + 1, W + 1]
        self.blur = Blur(TAPS, padding=1)  # -> [N, I, H − 1, W − 1]

    def forward(self, x: Tensor) -> Tensor:
        """Halves."""
        y = F.leaky_relu(self.conv0(x), LEAK)
        y = F.leaky_relu(self.conv1(self.blur_wide(y)), LEAK)
        shortcut: Tensor = self.shortcut(self.blur(x))
        return y + shortcut


class StyleGan2Discriminator(Discriminator):
    """Residual discriminator (figure 7c) with minibatch stddev."""

    def __init__(self, options: Options, spec: ImageSpec, pyramid: Pyramid, condition: str):
        super().__init__(len(spec.classes), condition)
        widths = [channels_at(k, options.base_channels, options.max_channels) for k in range(pyramid.levels + 1)]
        self.stddev_group = options.stddev_group
        self.from_rgb = EqualConv2d(spec.channels, widths[-1], 1, HE_GAIN, HE_GAIN)
        self.blocks = nn.ModuleList(
            ResidualBlock(widths[level + 1], widths[level]) for level in reversed(range(pyramid.levels))
        )
        self.conv = EqualConv2d(widths[0] + (self.stddev_group > 0), widths[0], 3, HE_GAIN, HE_GAIN)
        self.dense = EqualLinear(widths[0] * pyramid.height * pyramid.width, widths[0], HE_GAIN, HE_GAIN)
        self.last = EqualLinear(widths[0], self.outputs)

    def score(self, images: Tensor, labels: Tensor, stage: Stage, rng: torch.Generator | None) -> Tensor:
        """See :meth:`Discriminator.score`."""
        x = F.leaky_relu(self.from_rgb(images.contiguous(memory_format=torch.channels_last)), LEAK)
        for block in self.blocks:
            x = block(x)  # [N, F, h, w] -> [N, 2F, h/2, w/2]
        if self.stddev_group:
            x = minibatch_stddev(x, self.stddev_group)
        x = F.leaky_relu(self.conv(x), LEAK)
        x = F.leaky_relu(self.dense(x.flatten(1)), LEAK)  # [N, F, h, w] -> [N, F·h·w] -> [N, F]
        scores: Tensor = self.last(x)
        return scores


class StyleGan2(StyleArchitecture):
    """StyleGAN2 with any loss; the paper's is the non-saturating one with lazy R1."""

    Options: ClassVar[type[Any]] = Options

    def __init__(self, config: GanConfig, spec: ImageSpec):
        super().__init__(config, spec)
        self.generator = StyleGan2Generator(self.options, spec, self.pyramid, config.conditioning.generator)
        self.discriminator = StyleGan2Discriminator(self.options, spec, self.pyramid, config.conditioning.discriminator)
