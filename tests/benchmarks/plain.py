"""The same networks as a textbook has them: float32, NCHW, nothing fused, filters as passes of their own.

What the benchmark divides by, and what the parity tests compare with. Weights are those of the networks themselves, so
that :func:`use` can put a plain network in the place of the fast one inside the same trainer, and one step of both can
be compared. Nothing but weights is taken from the layers: He's constants (gain over the root of the fan-in) are
computed from the weights' shapes with the papers' gains, which stand here.
"""

from __future__ import annotations

import math
from functools import partial
from types import MethodType

import torch
import torch.nn.functional as F
from torch import Tensor

from medgan.architecture import Architecture
from medgan.growing import DiscriminatorBlock, GrowingDiscriminator
from medgan.layers import EqualConv2d, EqualLinear
from medgan.networks.dcgan import BatchNorm, ClassBatchNorm, DcganDiscriminator, DcganGenerator
from medgan.networks.modulated import ModulatedConv2d, StyledConv, ToRgb
from medgan.networks.pggan import PgganGenerator
from medgan.networks.stylegan import Epilogue, StyleGanGenerator
from medgan.networks.stylegan2 import StyleGan2Discriminator, StyleGan2Generator
from medgan.styles import MappingNetwork, StyleGenerator

ROOT2 = math.sqrt(2.0)


def use(architecture: Architecture) -> None:
    """Replaces the forward passes of both networks by the plain ones, and their weights' layout by NCHW.

    Only for networks with equalised learning rate, where they have any: its constants stand in the plain ones.
    """
    assert getattr(architecture.options, "equalised", True), "the plain networks scale their weights"
    architecture.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    forms = {
        DcganGenerator: ("forward", dcgan_generator),
        DcganDiscriminator: ("score", dcgan_discriminator),
        PgganGenerator: ("forward", pggan_generator),
        GrowingDiscriminator: ("score", growing_discriminator),
        StyleGanGenerator: ("synthesis", stylegan_synthesis),
        StyleGan2Generator: ("synthesis", stylegan2_synthesis),
        StyleGan2Discriminator: ("score", stylegan2_discriminator),
    }
    for network in (architecture.generator, architecture.discriminator):
        name, form = forms[type(network)]
        setattr(network, name, MethodType(form, network))
    if isinstance(architecture.generator, StyleGenerator):
        form = stylegan2_mapping if isinstance(architecture.generator, StyleGan2Generator) else stylegan_mapping
        mapping, rate = architecture.generator.mapping, architecture.options.mapping_rate
        mapping.forward = partial(form, mapping, rate)  # type: ignore[method-assign]


# -- layers ------------------------------------------------------------------------------------------------------------


def conv(layer: EqualConv2d, x: Tensor, gain: float, padding: int | None = None, stride: int = 1) -> Tensor:
    """He's constant, gain/√(I·k·k), and the bias."""
    weight = layer.weight * (gain / math.sqrt(layer.weight[0].numel()))
    return F.conv2d(x, weight, layer.bias, stride, layer.weight.shape[-1] // 2 if padding is None else padding)


def linear(layer: EqualLinear, x: Tensor, gain: float, rate: float = 1.0) -> Tensor:
    """He's constant, gain/√I, and the bias, both times the relative learning rate."""
    return F.linear(x, layer.weight * (rate * gain / math.sqrt(layer.weight.shape[1])), layer.bias * rate)


def lrelu(x: Tensor) -> Tensor:
    """Leaky ReLU of 0.2."""
    return F.leaky_relu(x, 0.2)


def blur(x: Tensor, taps: tuple[float, ...], padding: int, gain: float = 1.0) -> Tensor:
    """A depthwise convolution with the outer product of the taps."""
    line = torch.tensor(taps, device=x.device, dtype=x.dtype) / sum(taps)
    kernel = gain * torch.outer(line, line)
    return F.conv2d(x, kernel.expand(x.shape[1], 1, -1, -1), padding=padding, groups=x.shape[1])


def doubled(x: Tensor) -> Tensor:
    """Nearest neighbour."""
    return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


def spread(x: Tensor) -> Tensor:
    """Zeros between the pixels and after them: [N, C, H, W] -> [N, C, 2H, 2W]."""
    N, C, H, W = x.shape
    wide = x.reshape(N, C, H, 1, W, 1)
    wide = torch.cat([wide, torch.zeros_like(wide)], dim=3)
    wide = torch.cat([wide, torch.zeros_like(wide)], dim=5)
    return wide.reshape(N, C, 2 * H, 2 * W)


def pixel_norm(x: Tensor) -> Tensor:
    """Over channels."""
    return x / (x.square().mean(dim=1, keepdim=True) + 1e-8).sqrt()


def with_stddev(x: Tensor, group: int) -> Tensor:
    """One more map: minibatch stddev."""
    if not group:
        return x
    N, _, H, W = x.shape
    size = max(g for g in range(1, min(group, N) + 1) if N % g == 0)
    statistic = torch.stack(
        [(x[m :: N // size].var(dim=0, unbiased=False) + 1e-8).sqrt().mean() for m in range(N // size)]
    )
    return torch.cat([x, statistic.repeat(size).reshape(N, 1, 1, 1).expand(-1, 1, H, W)], dim=1)


# -- DCGAN -------------------------------------------------------------------------------------------------------------


def dcgan_generator(net: DcganGenerator, z, labels, stage, noise) -> Tensor:
    """Transposed convolutions with batch norm."""
    x = net.project(net.embedding(z, labels)).reshape(-1, *net.shape)
    for norm, layer in zip(net.norms, net.convs, strict=True):
        x = norm.restyle(x, labels) if isinstance(norm, ClassBatchNorm) else norm(x)
        x = F.conv_transpose2d(F.relu(x), layer.weight, layer.bias, stride=2, padding=1)
    return torch.tanh(x)


def dcgan_discriminator(net: DcganDiscriminator, images, labels, stage, rng) -> Tensor:
    """Strided convolutions with batch norm."""
    x = images.contiguous()
    for norm, layer in zip(net.norms, net.convs, strict=True):
        x = F.conv2d(x, layer.weight, layer.bias, stride=2, padding=1)
        x = lrelu(norm(x) if isinstance(norm, BatchNorm) else x)
    return net.last(x.flatten(1))


# -- PGGAN -------------------------------------------------------------------------------------------------------------


def pggan_generator(net: PgganGenerator, z, labels, stage, noise) -> Tensor:
    """Doubling, then two convolutions, at every level."""

    def activated(x: Tensor) -> Tensor:
        return pixel_norm(lrelu(x)) if net.normalise else lrelu(x)

    x = net.embedding(pixel_norm(z), labels)
    h, w, O = net.first.shape  # noqa: E741
    he = ROOT2 / math.sqrt(net.first.weight.shape[0] * h * w)  # a 4x4 convolution: √2/(4√I)
    x = (x @ (net.first.weight * he)).reshape(-1, h, w, O).permute(0, 3, 1, 2).contiguous()
    x = activated(x + net.first.bias.reshape(1, -1, 1, 1))
    x = activated(conv(net.conv1[0], x, ROOT2))
    below = x
    for level in range(1, stage.level + 1):
        below = x
        x = activated(conv(net.conv0[level - 1], doubled(x), ROOT2))
        x = activated(conv(net.conv1[level], x, ROOT2))
    image = conv(net.to_rgb[stage.level], x, 1.0)
    if stage.alpha < 1:
        smaller = doubled(conv(net.to_rgb[stage.level - 1], below, 1.0))
        image = (1 - stage.alpha) * smaller + stage.alpha * image
    return image


def growing_discriminator(net: GrowingDiscriminator, images, labels, stage, rng) -> Tensor:
    """Two convolutions, then averages, at every level; with a blur before them where StyleGAN has one."""
    images = images.contiguous()
    x = lrelu(conv(net.from_rgb[stage.level], images, ROOT2))
    for level in reversed(range(stage.level)):
        block: DiscriminatorBlock = net.blocks[level]
        x = lrelu(conv(block.conv0, x, ROOT2))
        if block.blur is None:
            x = F.avg_pool2d(lrelu(conv(block.conv1, x, ROOT2)), 2)
        else:
            x = lrelu(F.avg_pool2d(conv(block.conv1, blur(x, (1.0, 2.0, 1.0), 1), ROOT2), 2))
        if level == stage.level - 1 and stage.alpha < 1:
            smaller = lrelu(conv(net.from_rgb[level], F.avg_pool2d(images, 2), ROOT2))
            x = (1 - stage.alpha) * smaller + stage.alpha * x
    x = lrelu(conv(net.conv, with_stddev(x, net.stddev_group), ROOT2))
    return linear(net.last, lrelu(linear(net.dense, x.flatten(1), ROOT2)), 1.0)


# -- StyleGAN ----------------------------------------------------------------------------------------------------------


def stylegan_mapping(net: MappingNetwork, rate: float, z: Tensor, labels: Tensor, label: float = 1.0) -> Tensor:
    """z, normalised, and the class through fully connected layers."""
    x = net.embedding(pixel_norm(z), labels, label)
    for layer in net.layers:
        x = lrelu(linear(layer, x, ROOT2, rate))
    return x


def epilogue(layer: Epilogue, x: Tensor, w: Tensor, noise: Tensor | None) -> Tensor:
    """Bias, noise, activation, AdaIN."""
    x = x + layer.bias
    if noise is not None:
        x = x + layer.noise_scale * noise
    x = lrelu(x)
    scale, bias = linear(layer.style, w, 1.0)[:, :, None, None].chunk(2, dim=1)
    mean = x.mean(dim=(2, 3), keepdim=True)
    variance = x.var(dim=(2, 3), unbiased=False, keepdim=True)
    return (scale + 1) * (x - mean) / (variance + 1e-8).sqrt() + bias


def stylegan_synthesis(net: StyleGanGenerator, ws, stage, noise) -> Tensor:
    """Doubling, convolution, blur; AdaIN after every convolution."""

    def styled(x: Tensor, layer: int) -> Tensor:
        return epilogue(net.epilogues[layer], x, ws[:, layer], net.layer_noise.pick(layer, noise))

    if net.dense is None:
        x = net.constant.repeat(len(ws), 1, 1, 1)
    else:  # a 4x4 convolution of w as a 1x1 map: √2/(4√I)
        x = linear(net.dense, ws[:, 0], ROOT2 / math.sqrt(net.shape[1] * net.shape[2])).reshape(-1, *net.shape)
    x = styled(x, 0)
    x = styled(conv(net.conv1[0], x, ROOT2), 1)
    below = x
    for level in range(1, stage.level + 1):
        below = x
        x = styled(blur(conv(net.conv0[level - 1], doubled(x), ROOT2), (1.0, 2.0, 1.0), 1), 2 * level)
        x = styled(conv(net.conv1[level], x, ROOT2), 2 * level + 1)
    image = conv(net.to_rgb[stage.level], x, 1.0)
    if stage.alpha < 1:
        smaller = doubled(conv(net.to_rgb[stage.level - 1], below, 1.0))
        image = (1 - stage.alpha) * smaller + stage.alpha * image
    return image


# -- StyleGAN2 ---------------------------------------------------------------------------------------------------------

TAPS = (1.0, 3.0, 3.0, 1.0)


def stylegan2_mapping(net: MappingNetwork, rate: float, z: Tensor, labels: Tensor, label: float = 1.0) -> Tensor:
    """StyleGAN's, with √2 after the activation instead of in He's constant."""
    x = net.embedding(pixel_norm(z), labels, label)
    for layer in net.layers:
        x = lrelu(linear(layer, x, 1.0, rate)) * ROOT2
    return x


def modulated(layer: ModulatedConv2d, x: Tensor, w: Tensor) -> Tensor:
    """A weight for each image, in one grouped convolution (StyleGAN2, appendix B)."""
    N, I, H, W = x.shape  # noqa: E741
    style = linear(layer.style, w, 1.0)
    weight = layer.weight / math.sqrt(layer.weight[0].numel()) * style[:, None, :, None, None]  # -> [N, O, I, k, k]
    if layer.demodulate:
        weight = weight * torch.rsqrt(weight.square().sum(dim=(2, 3, 4), keepdim=True) + 1e-8)
    O, k = weight.shape[1], weight.shape[-1]  # noqa: E741
    if layer.blur is not None:
        x, H, W = spread(x), 2 * H, 2 * W
        # A 3x3 convolution at 2H + 1 places: the transposed one's output, then the lowpass.
        x = F.pad(x, (2, 1, 2, 1))
        y = F.conv2d(x.reshape(1, N * I, H + 3, W + 3), weight.reshape(N * O, I, k, k), groups=N)
        return blur(y.reshape(N, O, H + 1, W + 1), TAPS, padding=1, gain=4.0)
    y = F.conv2d(x.reshape(1, N * I, H, W), weight.reshape(N * O, I, k, k), padding=k // 2, groups=N)
    return y.reshape(N, O, H, W)


def styled_conv(layer: StyledConv, x: Tensor, w: Tensor, noise: Tensor | None) -> Tensor:
    """Noise, bias, activation times √2."""
    x = modulated(layer.conv, x, w)
    if noise is not None:
        x = x + layer.noise_scale * noise
    return lrelu(x + layer.bias) * ROOT2


def stylegan2_synthesis(net: StyleGan2Generator, ws, stage, noise) -> Tensor:
    """The skip generator."""
    assert net.form == "skip"

    def read(layer: ToRgb, x: Tensor, w: Tensor) -> Tensor:
        return modulated(layer.conv, x, w) + layer.bias

    x = net.constant.repeat(len(ws), 1, 1, 1)
    image = None
    for layer, conv_layer in enumerate(net.convs):
        x = styled_conv(conv_layer, x, ws[:, layer], net.layer_noise.pick(layer, noise))
        if layer % 2 == 0:
            own = read(net.to_rgb[layer // 2], x, ws[:, layer + 1])
            if image is not None:
                own = own + blur(F.pad(spread(image), (1, 0, 1, 0)), TAPS, padding=1, gain=4.0)
            image = own
    return image


def stylegan2_discriminator(net: StyleGan2Discriminator, images, labels, stage, rng) -> Tensor:
    """The residual discriminator."""
    assert net.form == "residual"
    x = lrelu(conv(net.from_rgb[0], images.contiguous(), 1.0)) * ROOT2
    for block in net.blocks:
        y = lrelu(conv(block.conv0, x, 1.0)) * ROOT2
        y = lrelu(conv(block.conv1, blur(y, TAPS, 2), 1.0, padding=0, stride=2)) * ROOT2
        x = (y + conv(block.shortcut, blur(x, TAPS, 1), 1.0, padding=0, stride=2)) / ROOT2
    x = lrelu(conv(net.conv, with_stddev(x, net.stddev_group), 1.0)) * ROOT2
    return linear(net.last, lrelu(linear(net.dense, x.flatten(1), 1.0)) * ROOT2, 1.0)
