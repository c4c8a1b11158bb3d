"""DCGAN: Radford, Metz & Chintala, "Unsupervised Representation Learning with Deep Convolutional GANs", ICLR 2016.

Their guidelines (section 3): strided instead of pooled, batch norm in both networks but not at the generator's output
and the discriminator's input, no hidden fully connected layers, ReLU and tanh in the generator, leaky ReLU 0.2 in the
discriminator, all weights from N(0, 0.02). Channels halve with each doubling, 1024 at 4x4 (their figure 1).
The class enters beside z (Mirza & Osindero 2014) or in batch norm, and by projection (Miyato & Koyama 2018) or as an
auxiliary classifier (Odena et al. 2017).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medgan.architecture import Architecture
from medgan.config import GanConfig
from medgan.contract import Discriminator, Generator, NoiseSource
from medgan.convolution import conv2d, conv_transpose2d
from medgan.layers import ClassEmbedding, channels_at, leaky_relu
from medgan.options import require
from medgan.ranks import SharedBatchNorm
from medgan.sizes import Pyramid, Stage
from pipeline.records import ImageSpec


@dataclass(frozen=True)
class Options:
    """DCGAN's own options.

    Attributes:
        latent: length of z.
        label_width: length of the class embedding beside z; short, since a class as long as z lets the generator settle
            on one image a class early on.
        base_channels: feature maps at 4x4 times 4; halved with every doubling.
        max_channels: upper bound of feature maps.
        discriminator_norm: "batch" or, for penalties on single images, "none".
    """

    latent: int = 100
    label_width: int = 10
    base_channels: int = 4096
    max_channels: int = 1024
    discriminator_norm: str = "batch"

    def __post_init__(self) -> None:
        for key in ("latent", "label_width", "base_channels", "max_channels"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "1 or more")
        norm = self.discriminator_norm
        require(norm in ("batch", "none"), "discriminator_norm", norm, "batch or none")


class NormalWeights(nn.Module):
    """A weight from N(0, 0.02) and, where nothing after it shifts, a bias from 0 (section 4)."""

    def __init__(self, shape: tuple[int, ...], bias: int | None = None):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape))
        self.bias = nn.Parameter(torch.empty(bias)) if bias is not None else None

    def draw_weights(self, rng: torch.Generator) -> None:
        """Draws the weight."""
        with torch.no_grad():
            self.weight.normal_(0.0, 0.02, generator=rng)
            if self.bias is not None:
                self.bias.zero_()


IMAGE_CHANNELS = 4
"""An image has at most so many."""


class StridedConv(NormalWeights):
    """4x4 convolution at stride 2: [N, I, H, W] -> [N, O, H/2, W/2]."""

    def __init__(self, inputs: int, outputs: int, bias: bool):
        super().__init__((outputs, inputs, 4, 4), outputs if bias else None)

    def forward(self, x: Tensor) -> Tensor:
        """Halves.

        Of an image the gradient by x takes the library three times as long as that of the same sum over 2x2 blocks:
        a kernel's row 2a + r meets the blocks' row r, a blocks on.
        """
        if x.shape[1] > IMAGE_CHANNELS:
            return conv2d(x, self.weight, self.bias, stride=2, padding=1)
        blocks = F.pixel_unshuffle(F.pad(x, (1, 1, 1, 1)), 2)  # [N, C, H, W] -> [N, C·2·2, H/2 + 1, W/2 + 1]
        w = self.weight.unflatten(3, (2, 2)).unflatten(2, (2, 2))  # [O, C, 4, 4] -> [O, C, a, r, b, s]
        w = w.permute(0, 1, 3, 5, 2, 4).flatten(1, 3)  # -> [O, C·r·s, a, b]
        return conv2d(channels_last(blocks), channels_last(w), self.bias)


class TransposedConv(NormalWeights):
    """4x4 transposed ("fractionally strided") convolution at stride 2: [N, I, H, W] -> [N, O, 2H, 2W]."""

    def __init__(self, inputs: int, outputs: int, bias: bool):
        super().__init__((inputs, outputs, 4, 4), outputs if bias else None)

    def forward(self, x: Tensor) -> Tensor:
        """Doubles.

        To an image it is three times as fast as a convolution that gives 2x2 blocks, by :meth:`StridedConv.forward`
        the other way round: the blocks' row r is a sum of the kernel's rows r and 2 + r, of two neighbours.
        """
        if self.weight.shape[1] > IMAGE_CHANNELS:
            return conv_transpose2d(x, self.weight, self.bias, stride=2, padding=1)
        w = self.weight.unflatten(3, (2, 2)).unflatten(2, (2, 2)).flip(2, 4)  # [I, C, 4, 4] -> [I, C, a, r, b, s]
        w = w.permute(1, 3, 5, 0, 2, 4).flatten(0, 2)  # -> [C·r·s, I, a, b]
        bias = None if self.bias is None else self.bias.repeat_interleave(4)
        blocks = conv2d(x, channels_last(w), bias, padding=1)  # [N, I, H, W] -> [N, C·2·2, H + 1, W + 1]
        return F.pixel_shuffle(blocks, 2)[:, :, 1:-1, 1:-1]  # -> [N, C, 2H + 2, 2W + 2] -> [N, C, 2H, 2W]


def channels_last(x: Tensor) -> Tensor:
    """[A, B, H, W] in that layout."""
    return x.contiguous(memory_format=torch.channels_last)


class Projection(NormalWeights):
    """Linear: [N, I] -> [N, O]. Of a 1x1 map this is the transposed convolution of the paper's first layer."""

    def __init__(self, inputs: int, outputs: int, bias: bool):
        super().__init__((outputs, inputs), outputs if bias else None)

    def forward(self, x: Tensor) -> Tensor:
        """Projects."""
        return F.linear(x, self.weight, self.bias)


class BatchNorm(SharedBatchNorm):
    """Batch norm with scales from N(1, 0.02), as the authors' code has it."""

    def draw_weights(self, rng: torch.Generator) -> None:
        """Draws the scales."""
        self.reset_running_stats()
        with torch.no_grad():
            self.weight.normal_(1.0, 0.02, generator=rng)
            self.bias.zero_()


class ClassBatchNorm(SharedBatchNorm):
    """Batch norm whose scale and shift are the class's own (Dumoulin et al. 2017; de Vries et al. 2017).

    Statistics stay common to all classes, as published: it is scale and shift that tell them apart.
    """

    def __init__(self, channels: int, classes: int):
        super().__init__(channels, affine=False)
        self.scales = nn.Parameter(torch.empty(classes, channels))
        self.shifts = nn.Parameter(torch.empty(classes, channels))

    def draw_weights(self, rng: torch.Generator) -> None:
        """Like :class:`BatchNorm`, a draw for each class."""
        self.reset_running_stats()
        with torch.no_grad():
            self.scales.normal_(1.0, 0.02, generator=rng)
            self.shifts.zero_()

    def restyle(self, x: Tensor, labels: Tensor, label: float = 1.0) -> Tensor:
        """[N, C, H, W] and labels [N] -> [N, C, H, W]; ``label`` weighs the class's own against the classes' mean."""
        x = self(x)
        tables = (torch.lerp(table.mean(dim=0), table[labels], label) for table in (self.scales, self.shifts))
        scale, shift = (table[:, :, None, None].to(x.dtype) for table in tables)
        return torch.addcmul(shift, x, scale)


class DcganGenerator(Generator):
    """z and class -> 4x4 -> transposed convolutions -> tanh (figure 1)."""

    def __init__(self, options: Options, spec: ImageSpec, pyramid: Pyramid, condition: str):
        super().__init__()
        classes = len(spec.classes)
        self.latent = options.latent
        widths = [channels_at(k, options.base_channels, options.max_channels) for k in range(pyramid.levels)]
        self.shape = (widths[0], pyramid.height, pyramid.width)
        self.embedding = ClassEmbedding(classes if condition == "embedding" else 1, options.label_width)
        features = widths[0] * pyramid.height * pyramid.width
        self.project = Projection(self.latent + self.embedding.width, features, bias=False)
        by_class = condition == "batch_norm" and classes > 1
        self.norms = nn.ModuleList(ClassBatchNorm(width, classes) if by_class else BatchNorm(width) for width in widths)
        inner = [TransposedConv(widths[k], widths[k + 1], bias=False) for k in range(pyramid.levels - 1)]
        self.convs = nn.ModuleList([*inner, TransposedConv(widths[-1], spec.channels, bias=True)])

    def forward(self, z: Tensor, labels: Tensor, stage: Stage, noise: NoiseSource | None) -> Tensor:
        """See :meth:`Generator.forward`."""
        x = self.project(self.embedding(z, labels, stage.label)).reshape(-1, *self.shape)  # [N, C·h·w] -> [N, C, h, w]
        x = x.contiguous(memory_format=torch.channels_last)
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = norm.restyle(x, labels, stage.label) if isinstance(norm, ClassBatchNorm) else norm(x)
            x = conv(F.relu(x))  # [N, C, h, w] -> [N, C/2, 2h, 2w]
        return torch.tanh(x.float())


class DcganDiscriminator(Discriminator):
    """Strided convolutions down to the smallest size, then one linear layer; the generator mirrored."""

    def __init__(self, options: Options, spec: ImageSpec, pyramid: Pyramid, condition: str):
        super().__init__(len(spec.classes), condition)
        widths = [channels_at(k, options.base_channels, options.max_channels) for k in reversed(range(pyramid.levels))]
        normed = options.discriminator_norm == "batch"
        inputs = [spec.channels, *widths[:-1]]
        # The first layer has no norm, so it keeps its bias.
        self.convs = nn.ModuleList(
            StridedConv(i, o, bias=not normed or k == 0) for k, (i, o) in enumerate(zip(inputs, widths, strict=True))
        )
        self.norms = nn.ModuleList(
            BatchNorm(width) if normed and k > 0 else nn.Identity() for k, width in enumerate(widths)
        )
        features = widths[-1] * pyramid.height * pyramid.width
        self.last = Projection(features, self.outputs, bias=True)

    def score(self, images: Tensor, labels: Tensor, stage: Stage, rng: torch.Generator | None) -> Tensor:
        """See :meth:`Discriminator.score`."""
        x = images.contiguous(memory_format=torch.channels_last)
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = leaky_relu(norm(conv(x)))  # [N, C, h, w] -> [N, 2C, h/2, w/2]
        scores: Tensor = self.last(x.flatten(1))  # [N, C, h, w] -> [N, C·h·w] -> [N, outputs]
        return scores


class Dcgan(Architecture):
    """DCGAN with any loss; batch norm refuses penalties on single images."""

    generator_conditions: ClassVar[tuple[str, ...]] = ("embedding", "batch_norm", "none")
    Options: ClassVar[type[Any]] = Options

    def __init__(self, config: GanConfig, spec: ImageSpec):
        super().__init__(config, spec)
        self.generator = DcganGenerator(self.options, spec, self.pyramid, config.conditioning.generator)
        self.discriminator = DcganDiscriminator(self.options, spec, self.pyramid, config.conditioning.discriminator)

    @classmethod
    def refuse(cls, config: GanConfig) -> None:
        """No gradient penalty through batch norm."""
        super().refuse(config)
        for key in config.regularisation.image_penalties:
            if config.architecture["discriminator_norm"] == "batch":
                raise ValueError(
                    f"regularisation.{key}: batch norm ties the images of a batch together, so a penalty on each "
                    "image's own gradient loses its meaning (Gulrajani 2017, section 4); expected 0, or "
                    "architecture.discriminator_norm: none"
                )
