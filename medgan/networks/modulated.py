"""StyleGAN2's convolutions: modulated and demodulated by w (Karras et al. 2020, section 2.2), and doubled images."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medgan.convolution import conv2d, conv_transpose2d
from medgan.layers import HE_GAIN, Blur, Equalised, EqualLinear, exact, leaky_relu, transposed

TAPS = (1.0, 3.0, 3.0, 1.0)


class ModulatedConv2d(Equalised):
    """A convolution whose weights are scaled by a style for each image (section 2.2).

    w'ᵢⱼₖ = sᵢ·wᵢⱼₖ (equation 1), w''ᵢⱼₖ = w'ᵢⱼₖ / √(Σᵢₖ w'ᵢⱼₖ² + ε) (equation 3). Convolution is linear, so scaling
    input channel i by sᵢ and output channel j by the root's inverse is the same, and one weight serves all images.

    Demodulation can be switched off, modulation cannot: it is the only way by which w gets into the image.

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
            self.weight.normal_(generator=rng).mul_(self.start)

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
            return conv2d(x, weight, padding=weight.shape[-1] // 2), factor
        x = conv_transpose2d(x, transposed(weight), stride=2)  # [N, I, H, W] -> [N, O, 2H + 1, 2W + 1]
        return self.blur(x), factor  # -> [N, O, 2H, 2W]


class StyledConv(nn.Module):
    """Modulated convolution, noise with one learned scale a layer, bias, leaky ReLU times √2 (figure 2c)."""

    def __init__(self, inputs: int, outputs: int, width: int, up: bool, demodulate: bool = True):
        super().__init__()
        self.conv = ModulatedConv2d(inputs, outputs, 3, width, demodulate, up)
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
        gain = torch.full((1, 1, 1, 1), HE_GAIN, device=x.device) if factor is None else HE_GAIN * factor
        x = torch.addcmul(added.to(x.dtype), x, gain.to(x.dtype))
        return leaky_relu(x + (HE_GAIN * self.bias).to(x.dtype))


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
    """Zeros between the pixels, then [1, 3, 3, 1]/4 in both directions: [N, C, H, W] -> [N, C, 2H, 2W], its dtype."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        line = torch.tensor(TAPS) / sum(TAPS) * 2.0
        self.register_buffer("kernel", torch.outer(line, line)[None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Doubles."""
        C = images.shape[1]
        with torch.autocast(images.device.type, enabled=False):
            kernel = self.kernel.to(images.dtype).expand(C, -1, -1, -1)
            return F.conv_transpose2d(images, kernel, stride=2, padding=1, groups=C)
