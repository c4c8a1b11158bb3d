"""StyleGAN2: Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", CVPR 2020, configuration F.

Styles scale a convolution's weights instead of its output, and the weights are demodulated (section 2.2); the generator
adds up images of all sizes ("skip"), the discriminator is residual (section 4.1), and nothing grows. Lazy R1 and path
length regularisation (sections 3.1 and 3.2).
The class enters beside z (Mirza & Osindero 2014) and by projection (Miyato & Koyama 2018).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from medgan.config import GanConfig
from medgan.contract import Discriminator, NoiseSource
from medgan.layers import (
    HE_GAIN,
    Blur,
    EqualConv2d,
    EqualLinear,
    StridedConv2d,
    channels_at,
    leaky_relu,
    minibatch_stddev,
    without_equalised_rate,
)
from medgan.networks.modulated import TAPS, DoubleImage, StyledConv, ToRgb
from medgan.options import require_one_of
from medgan.sizes import Pyramid, Stage
from medgan.styles import StyleArchitecture, StyleGenerator, StyleOptions
from pipeline.records import ImageSpec

FORMS = ("skip", "residual", "plain")


@dataclass(frozen=True)
class Options(StyleOptions):
    """StyleGAN2's own options, beside the common ones.

    Attributes:
        demodulate: whether weights are demodulated (equation 3).
        generator_form: "skip" adds up images of all sizes (figure 7b), "residual" adds a 1x1 shortcut to each pair of
            convolutions (7c), "plain" does neither.
        discriminator_form: the same of the discriminator; "skip" reads the image at every size.
    """

    base_channels: int = 32768
    demodulate: bool = True
    generator_form: str = "skip"
    discriminator_form: str = "residual"

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("generator_form", "discriminator_form"):
            require_one_of(key, getattr(self, key), FORMS)


class StyleGan2Generator(StyleGenerator):
    """Mapping network and synthesis network (figures 2c and 7).

    Styles are counted as the authors do: level l's convolutions take 2l − 1 and 2l, its image 2l + 1, which is also the
    first of the next level.
    """

    def __init__(self, options: Options, spec: ImageSpec, pyramid: Pyramid, condition: str):
        levels = [(layer + 1) // 2 for layer in range(2 * pyramid.levels + 1)]
        super().__init__(options, spec, pyramid, condition, levels, bias_gain=HE_GAIN)
        widths = [channels_at(k, options.base_channels, options.max_channels) for k in range(pyramid.levels + 1)]
        style = self.mapping.width
        self.form = options.generator_form
        self.constant = nn.Parameter(torch.empty(1, widths[0], pyramid.height, pyramid.width))
        convs = [StyledConv(widths[0], widths[0], style, False, options.demodulate)]
        for inputs, outputs in pairwise(widths):
            convs.append(StyledConv(inputs, outputs, style, True, options.demodulate))
            convs.append(StyledConv(outputs, outputs, style, False, options.demodulate))
        self.convs = nn.ModuleList(convs)
        read = widths if self.form == "skip" else widths[-1:]
        self.to_rgb = nn.ModuleList(ToRgb(width, spec.channels, style) for width in read)
        pairs = pairwise(widths) if self.form == "residual" else ()
        self.shortcuts = nn.ModuleList(EqualConv2d(inputs, outputs, 1, bias=False) for inputs, outputs in pairs)
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

    def synthesis(self, ws: Tensor, stage: Stage, noise: NoiseSource | None) -> Tensor:
        """See :meth:`StyleGenerator.synthesis`."""
        x = self.constant.expand(len(ws), -1, -1, -1)  # [1, F, h, w] -> [N, F, h, w]
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        x = self._style(x, 0, ws, noise)
        image: Tensor | None = self.to_rgb[0](x, ws[:, 1]) if self.form == "skip" else None
        for level in range(1, self.pyramid.levels + 1):
            below = x
            x = self._style(x, 2 * level - 1, ws, noise)  # [N, F, h, w] -> [N, F/2, 2h, 2w]
            x = self._style(x, 2 * level, ws, noise)
            if self.form == "residual":
                x = (x + self.double_image(self.shortcuts[level - 1](below))) / HE_GAIN
            if image is not None:
                image = self.double_image(image) + self.to_rgb[level](x, ws[:, 2 * level + 1])
        if image is None:
            image = self.to_rgb[0](x, ws[:, -1])
        return image

    def _style(self, x: Tensor, layer: int, ws: Tensor, noise: NoiseSource | None) -> Tensor:
        styled: Tensor = self.convs[layer](x, ws[:, layer], self.layer_noise.pick(layer, noise))
        return styled


class DownBlock(nn.Module):
    """[N, I, H, W] -> [N, O, H/2, W/2]: two convolutions, and where it is residual a 1x1 shortcut, over √2 (figure 7c).

    Halvings are filtered by [1, 3, 3, 1] first. The factor 1/√2 stands in the gains: the second convolution's √2 (of
    the leaky ReLU) becomes 1, the shortcut's 1 becomes 1/√2.
    """

    def __init__(self, inputs: int, outputs: int, residual: bool = True):
        super().__init__()
        gain = 1.0 if residual else HE_GAIN
        self.conv0 = EqualConv2d(inputs, inputs, 3, HE_GAIN, HE_GAIN)
        self.conv1 = StridedConv2d(inputs, outputs, 3, gain, gain)
        self.shortcut = StridedConv2d(inputs, outputs, 1, 1.0 / HE_GAIN, bias=False) if residual else None
        self.blur_wide = Blur(TAPS, padding=2)  # [N, I, H, W] -> [N, I, H + 1, W + 1]
        self.blur = Blur(TAPS, padding=1)  # -> [N, I, H − 1, W − 1]

    def forward(self, x: Tensor) -> Tensor:
        """Halves."""
        y = leaky_relu(self.conv0(x))
        y = leaky_relu(self.conv1(self.blur_wide(y)))
        if self.shortcut is None:
            return y
        shortcut: Tensor = self.shortcut(self.blur(x))
        return y + shortcut


class StyleGan2Discriminator(Discriminator):
    """Residual discriminator (figure 7c), or its other forms, with minibatch stddev."""

    def __init__(self, options: Options, spec: ImageSpec, pyramid: Pyramid, condition: str):
        super().__init__(len(spec.classes), condition)
        widths = [channels_at(k, options.base_channels, options.max_channels) for k in range(pyramid.levels + 1)]
        widths = widths[::-1]  # from the image's size down
        self.form = options.discriminator_form
        self.stddev_group = options.stddev_group
        read = widths if self.form == "skip" else widths[:1]
        self.from_rgb = nn.ModuleList(EqualConv2d(spec.channels, width, 1, HE_GAIN, HE_GAIN) for width in read)
        self.blocks = nn.ModuleList(DownBlock(i, o, self.form == "residual") for i, o in pairwise(widths))
        self.halve_image = Blur(TAPS, padding=1)
        self.conv = EqualConv2d(widths[-1] + (self.stddev_group > 0), widths[-1], 3, HE_GAIN, HE_GAIN)
        self.dense = EqualLinear(widths[-1] * pyramid.height * pyramid.width, widths[-1], HE_GAIN, HE_GAIN)
        self.last = EqualLinear(widths[-1], self.outputs)

    def score(self, images: Tensor, labels: Tensor, stage: Stage, rng: torch.Generator | None) -> Tensor:
        """See :meth:`Discriminator.score`."""
        images = images.contiguous(memory_format=torch.channels_last)
        x = leaky_relu(self.from_rgb[0](images))
        for k, block in enumerate(self.blocks):
            x = block(x)  # [N, F, h, w] -> [N, 2F, h/2, w/2]
            if self.form == "skip":
                images = self.halve_image(images)[:, :, ::2, ::2]  # [N, C, h, w] -> [N, C, h/2, w/2]
                x = x + leaky_relu(self.from_rgb[k + 1](images))
        if self.stddev_group:
            x = minibatch_stddev(x, self.stddev_group)
        x = leaky_relu(self.conv(x))
        x = leaky_relu(self.dense(x.flatten(1)))  # [N, F, h, w] -> [N, F·h·w] -> [N, F]
        scores: Tensor = self.last(x)
        return scores


class StyleGan2(StyleArchitecture):
    """StyleGAN2 with any loss; the paper's is the non-saturating one with lazy R1."""

    Options: ClassVar[type[Any]] = Options

    def __init__(self, config: GanConfig, spec: ImageSpec):
        super().__init__(config, spec)
        options, conditioning = self.options, config.conditioning
        self.generator = StyleGan2Generator(options, spec, self.pyramid, conditioning.generator)
        self.discriminator = StyleGan2Discriminator(options, spec, self.pyramid, conditioning.discriminator)
        if not options.equalised:
            without_equalised_rate(self)
