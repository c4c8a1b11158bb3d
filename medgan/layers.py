"""Blocks that two or more architectures share."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medgan.convolution import conv2d, conv_transpose2d

LEAK = 0.2
HE_GAIN = math.sqrt(2.0)


def channels_at(level: int, base: int, maximum: int) -> int:
    """Feature maps at a level: halved with every doubling of the size, at most ``maximum``.

    ``base / (4·2^level)`` counts in the nominal size, 4 pixels at level 0. PGGAN and StyleGAN have base 16384,
    StyleGAN2 has 32768, all with at most 512.
    """
    return max(min(base // (4 << level), maximum), 1)


class Equalised(nn.Module):
    """A layer with equalised learning rate (PGGAN, section 4.1).

    Weights are drawn from N(0, 1) and scaled by He's constant at every use, so that all of them have the same dynamic
    range and Adam the same effective step.

    Attributes:
        weight: the parameter.
        scale: its factor at every use.
        rate: learning rate relative to other layers; ``scale`` has it as a factor.
        start: factor of the N(0, 1) that the weight is drawn from.
    """

    weight: nn.Parameter
    scale: float
    rate: float = 1.0
    start: float = 1.0

    def fold(self) -> None:
        """Moves He's constant from every use into the first draw, before weights are drawn.

        The layer then computes the same at the start and learns like any other: equalisation switched off.
        """
        self.start *= self.scale / self.rate
        self.scale = self.rate


def without_equalised_rate(module: nn.Module) -> None:
    """Folds all layers in a module; see :meth:`Equalised.fold`."""
    for layer in module.modules():
        if isinstance(layer, Equalised):
            layer.fold()


class EqualLinear(Equalised):
    """A linear layer with equalised learning rate.

    Args:
        inputs: features in.
        outputs: features out.
        gain: He's gain, √2 before a leaky ReLU.
        bias_gain: factor of the bias. StyleGAN2 scales a leaky ReLU's output by √2; since c·lrelu(v) = lrelu(c·v) for
            c > 0, that is √2 in both gains, and no pass over the activations.
        bias: the bias at the start.
        rate: learning rate relative to other layers (StyleGAN's mapping network: 0.01).
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        gain: float = 1.0,
        bias_gain: float = 1.0,
        bias: float = 0.0,
        rate: float = 1.0,
    ):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.empty(outputs))
        self.scale = gain / math.sqrt(inputs) * rate
        self.bias_scale = bias_gain * rate
        self.rate = rate
        self.start = 1.0 / rate
        self.bias_start = bias

    def draw_weights(self, rng: torch.Generator) -> None:
        """N(0, 1) over the rate: at the first step the layer computes what one of rate 1 would."""
        with torch.no_grad():
            self.weight.normal_(generator=rng).mul_(self.start)
            self.bias.fill_(self.bias_start / self.rate)

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs] -> [N, outputs]."""
        return F.linear(x, self.weight * self.scale, self.bias * self.bias_scale)


class EqualConv2d(Equalised):
    """A convolution with equalised learning rate and odd kernel.

    Args:
        inputs: feature maps in.
        outputs: feature maps out.
        kernel: side of the kernel.
        gain: see :class:`EqualLinear`.
        bias_gain: see :class:`EqualLinear`.
        bias: whether it has one.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, gain: float = 1.0, bias_gain: float = 1.0, bias: bool = True
    ):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None
        self.scale = gain / math.sqrt(inputs * kernel * kernel)
        self.bias_scale = bias_gain
        self.padding = kernel // 2

    def draw_weights(self, rng: torch.Generator) -> None:
        """N(0, 1), biases 0."""
        with torch.no_grad():
            self.weight.normal_(generator=rng).mul_(self.start)
            if self.bias is not None:
                self.bias.zero_()

    @property
    def scaled(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias as the convolution uses them."""
        return self.weight * self.scale, None if self.bias is None else self.bias * self.bias_scale

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] -> [N, outputs, H, W]; zeros beyond the border."""
        w, b = self.scaled
        return conv2d(x, w, b, padding=self.padding)


class StridedConv2d(EqualConv2d):
    """Every second position of the unpadded convolution: [N, I, H, W] -> [N, O, (H − k)/2 + 1, (W − k)/2 + 1]."""

    def forward(self, x: Tensor) -> Tensor:
        """Halves what a lowpass has padded."""
        w, b = self.scaled
        return conv2d(x, w, b, stride=2)


class DoublingConv2d(EqualConv2d):
    """The convolution of x doubled by nearest neighbour: [N, I, H, W] -> [N, O, 2H, 2W].

    Doubling is a transposed convolution with a 2x2 box, so both together are one with the kernel spread by that box:
    4x4 at stride 2, 16 multiplications where there were 36. Exact, borders included.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Doubles."""
        w, b = self.scaled
        return conv_transpose2d(x, transposed(spread(w)), b, stride=2, padding=self.padding)


class HalvingConv2d(EqualConv2d):
    """The convolution followed by 2x2 averages, as one at stride 2: [N, I, H, W] -> [N, O, H/2, W/2]. Exact."""

    def forward(self, x: Tensor) -> Tensor:
        """Halves."""
        w, b = self.scaled
        return conv2d(x, spread(w) / 4, b, stride=2, padding=self.padding)


def spread(w: Tensor) -> Tensor:
    """A kernel convolved with a 2x2 box of ones: [O, I, k, k] -> [O, I, k + 1, k + 1]."""
    w = F.pad(w, (1, 1, 1, 1))
    return w[..., 1:, 1:] + w[..., 1:, :-1] + w[..., :-1, 1:] + w[..., :-1, :-1]


def transposed(w: Tensor) -> Tensor:
    """The weight with which ``conv_transpose2d`` cross-correlates: [O, I, k, k] -> [I, O, k, k], mirrored."""
    return w.flip((2, 3)).transpose(0, 1)


class ClassEmbedding(nn.Module):
    """The class as a second latent, to be concatenated with z (Mirza & Osindero 2014).

    A learned vector for each class, normalised like z, so that neither drowns the other. With a single class there is
    nothing to tell, and the width is 0: the network is then the unconditional one of its paper.

    Attributes:
        width: length of the vector.
    """

    def __init__(self, classes: int, width: int):
        super().__init__()
        self.width = width if classes > 1 else 0
        self.weight = nn.Parameter(torch.empty(classes, width)) if classes > 1 else None

    def draw_weights(self, rng: torch.Generator) -> None:
        """N(0, 1)."""
        if self.weight is not None:
            with torch.no_grad():
                self.weight.normal_(generator=rng)

    def forward(self, z: Tensor, labels: Tensor, label: float = 1.0) -> Tensor:
        """[N, latent] and labels [N] -> [N, latent + width]; the class's vector is weighted by ``label``."""
        return z if self.weight is None else torch.cat([z, label * pixel_norm(self.weight[labels])], dim=1)


def project_logits(outputs: Tensor, labels: Tensor, label: float = 1.0) -> Tensor:
    """ψ(φ(x)) + ⟨v_y, φ(x)⟩: the projection discriminator (Miyato & Koyama 2018).

    Args:
        outputs: [N, 1 + classes] of one linear layer on φ(x): the first is ψ, the others are the inner products
            with every v.
        labels: [N].
        label: weight of the inner product.

    Returns:
        logits [N].
    """
    return outputs[:, 0] + label * outputs[:, 1:].gather(1, labels.unsqueeze(1)).squeeze(1)


def exact(x: Tensor) -> Tensor:
    """In float32, for statistics and penalties; float64 stays what it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def pixel_norm(x: Tensor, epsilon: float = 1e-8) -> Tensor:
    """Divides by the root mean square over channels, at every pixel, [N, C] or [N, C, H, W] (PGGAN, section 4.2)."""
    return F.rms_norm(x.movedim(1, -1), (x.shape[1],), eps=epsilon).movedim(-1, 1)


def minibatch_stddev(x: Tensor, group: int = 4) -> Tensor:
    """Appends one map that says how much the images of a group differ (PGGAN, section 3).

    Standard deviation over the group at every position and channel, averaged to one number a group.

    Args:
        x: [N, C, H, W].
        group: images in a group; where N is no multiple of it, the largest divisor of N below.

    Returns:
        [N, C + 1, H, W], x's dtype.
    """
    N, C, H, W = x.shape
    G = next(size for size in range(min(group, N), 0, -1) if N % size == 0)
    with torch.autocast(x.device.type, enabled=False):
        y = exact(x).reshape(G, N // G, C, H, W)  # [N, C, H, W] -> [G, M, C, H, W]
        variance = (y - y.mean(dim=0)).square().mean(dim=0)  # -> [M, C, H, W]
        deviation = (variance + 1e-8).sqrt()
        statistic = deviation.mean(dim=(1, 2, 3)).reshape(1, N // G, 1, 1, 1)  # -> [1, M, 1, 1, 1]
    maps = statistic.to(x.dtype).expand(G, -1, 1, H, W).reshape(N, 1, H, W)  # -> [N, 1, H, W]
    return torch.cat([x, maps], dim=1)


def leaky_relu(x: Tensor) -> Tensor:
    """X where it is positive, else 0.2·x."""
    if torch.compiler.is_dynamo_compiling():
        y: Tensor = _LeakyRelu.apply(x)
        return y
    return F.leaky_relu(x, LEAK)


class _LeakyRelu(torch.autograd.Function):
    """The same, for the compiler: its gradient is taken from the result, which the next layer keeps anyway.

    Taken from x, as the library has it, the compiler keeps a mask besides, which it writes slowly.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = F.leaky_relu(x, LEAK)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return torch.where(y > 0, gradients[0], LEAK * gradients[0])


def double(x: Tensor) -> Tensor:
    """Nearest neighbour: [N, C, H, W] -> [N, C, 2H, 2W]."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def halve(x: Tensor) -> Tensor:
    """Averages of 2x2: [N, C, H, W] -> [N, C, H/2, W/2]."""
    return F.avg_pool2d(x, 2)


class Blur(nn.Module):
    """A separable binomial filter over height and width, zeros beyond the border.

    Args:
        taps: [1, 2, 1] (StyleGAN) or [1, 3, 3, 1] (StyleGAN2); normalised to sum 1, times ``gain``.
        padding: zeros added on every side.
        gain: 4 after zeros were inserted between the pixels, else 1.
    """

    kernel: Tensor

    def __init__(self, taps: tuple[float, ...], padding: int, gain: float = 1.0):
        super().__init__()
        assert taps == taps[::-1], f"taps {taps}: the backward pass counts on symmetry"
        line = torch.tensor(taps) / sum(taps) * math.sqrt(gain)
        self.register_buffer("kernel", torch.outer(line, line)[None, None], persistent=False)
        self.padding = padding

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C, H + 2·padding + 1 − taps, W + 2·padding + 1 − taps], x's dtype."""
        function = _FilterOnce if torch.compiler.is_dynamo_compiling() else _Filter
        blurred: Tensor = function.apply(x, self.kernel.to(x.dtype), self.padding)
        return blurred


class _Filter(torch.autograd.Function):
    """Depthwise filtering whose gradient is filtering again: faster than the general gradient, to any order."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Tensor, padding: int) -> Tensor:
        ctx.save_for_backward(kernel)
        ctx.padding = kernel.shape[-1] - 1 - padding
        return filtered(x, kernel, padding)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (kernel,) = ctx.saved_tensors
        gradient: Tensor = _Filter.apply(gradients[0], kernel.to(gradients[0].dtype), ctx.padding)
        return gradient, None, None


class _FilterOnce(_Filter):
    """The same for the compiler, which differentiates once and does not follow a function into itself."""

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (kernel,) = ctx.saved_tensors
        return filtered(gradients[0], kernel.to(gradients[0].dtype), ctx.padding), None, None


def filtered(x: Tensor, kernel: Tensor, padding: int) -> Tensor:
    """Every channel filtered by one kernel: [N, C, H, W], [1, 1, k, k] -> [N, C, H', W'], in x's dtype."""
    C = x.shape[1]
    with torch.autocast(x.device.type, enabled=False):
        return F.conv2d(x, kernel.expand(C, -1, -1, -1), padding=padding, groups=C)
