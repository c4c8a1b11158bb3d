"""What StyleGAN and StyleGAN2 share: the mapping network, style mixing, truncation in w."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medgan import losses
from medgan.config import GanConfig
from medgan.contract import Architecture, Batch, Generator, NoiseSource, Phase, random_latent, random_noise
from medgan.layers import HE_GAIN, LEAK, ClassEmbedding, EqualLinear, exact, pixel_norm
from medgan.sizes import Stage
from pipeline.records import ImageSpec

W_AVERAGE_DECAY = 0.995


class MappingNetwork(nn.Module):
    """z and class to w: fully connected layers at a hundredth of the learning rate (StyleGAN, sections 2 and C).

    Args:
        latent: length of z.
        classes: number of classes.
        label_width: length of the class embedding beside z.
        width: length of w.
        layers: number of layers; 0 makes w the normalised input, and wants ``width`` to be its length.
        rate: relative learning rate.
        bias_gain: see :class:`EqualLinear`.
    """

    def __init__(
        self, latent: int, classes: int, label_width: int, width: int, layers: int, rate: float, bias_gain: float
    ):
        super().__init__()
        self.embedding = ClassEmbedding(classes, label_width)
        widths = [latent + self.embedding.width] + [width] * layers
        self.layers = nn.ModuleList(EqualLinear(i, o, HE_GAIN, bias_gain, rate=rate) for i, o in pairwise(widths))

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        """[N, latent], [N] -> [N, width], in float32: it is small, and all styles hang on it."""
        with torch.autocast(z.device.type, enabled=False):
            x = self.embedding(pixel_norm(exact(z)), labels)
            for layer in self.layers:
                x = F.leaky_relu(layer(x), LEAK)
            return x


class StyleGenerator(Generator):
    """A generator with an intermediate latent w.

    Attributes:
        mapping: from z and class to w.
        w_average: running mean of w for each class, float32 [classes, width]. Truncation goes towards the class's own
            mean: towards a common one, it would pull the classes together.
    """

    w_average: Tensor

    def __init__(self, mapping: MappingNetwork, latent: int, classes: int, width: int):
        super().__init__()
        self.mapping = mapping
        self.latent = latent
        self.register_buffer("w_average", torch.zeros(classes, width))

    @abstractmethod
    def synthesis(self, ws: Tensor, stage: Stage, noise: NoiseSource | None) -> Tensor:
        """Styles [N, layers, width], one for each layer, to images [N, C, h, w]."""

    @abstractmethod
    def style_layers(self, stage: Stage) -> int:
        """Number of styles that :meth:`synthesis` takes at a stage."""

    @abstractmethod
    def truncated_layers(self, stage: Stage) -> int:
        """How many of them truncation touches, counted from the coarsest."""

    def truncate(self, w: Tensor, labels: Tensor, stage: Stage, truncation: float) -> Tensor:
        """One w for all layers: w' = w̄ + ψ(w − w̄) in the coarse ones (StyleGAN, appendix B). -> [N, layers, width]."""
        ws = w.unsqueeze(1).repeat(1, self.style_layers(stage), 1)  # [N, W] -> [N, L, W]
        if truncation != 1.0:
            mean = self.w_average[labels].unsqueeze(1)  # [N, W] -> [N, 1, W]
            coarse = self.truncated_layers(stage)
            ws[:, :coarse] = mean + truncation * (ws[:, :coarse] - mean)
        return ws

    def forward(self, z: Tensor, labels: Tensor, stage: Stage, noise: NoiseSource | None) -> Tensor:
        """See :meth:`Generator.forward`."""
        return self.synthesis(self.truncate(self.mapping(z, labels), labels, stage, 1.0), stage, noise)

    @torch.no_grad()
    def track_average(self, w: Tensor, labels: Tensor) -> None:
        """Moves the mean of each class in the batch towards the batch's; a class that is not in it stays."""
        count = torch.zeros(len(self.w_average), 1, device=w.device).index_add_(0, labels, torch.ones_like(w[:, :1]))
        total = torch.zeros_like(self.w_average).index_add_(0, labels, w.detach())
        moved = torch.lerp(total / count.clamp(min=1), self.w_average, W_AVERAGE_DECAY)
        usable = (count > 0) & torch.isfinite(moved).all(dim=1, keepdim=True)
        self.w_average.copy_(torch.where(usable, moved, self.w_average))


def mix(first: Tensor, second: Tensor, probability: float, rng: torch.Generator) -> Tensor:
    """Style mixing (StyleGAN, section 3.1): from a random layer on, some images take their styles from a second w.

    Args:
        first: w [N, width].
        second: w [N, layers, width] or anything that broadcasts to it; the number of layers is its own.
        probability: share of images that are mixed.
        rng: where the crossing points come from.

    Returns:
        styles [N, layers, width].
    """
    N, L, _ = second.shape
    cross = 1 + torch.rand(N, device=first.device, generator=rng).mul(L - 1).long()  # 1 to L − 1
    kept = torch.rand(N, device=first.device, generator=rng) >= probability
    cross = torch.where(kept, L, cross)
    coarse = torch.arange(L, device=first.device) < cross[:, None]  # [N, L]
    return torch.where(coarse[:, :, None], first[:, None, :], second)


class StyleArchitecture(Architecture):
    """Training of generators with styles: mixing, the mean of w, path length regularisation."""

    has_w: ClassVar[bool] = True
    generator: StyleGenerator
    path_length_mean: Tensor

    def __init__(self, config: GanConfig, spec: ImageSpec):
        super().__init__(config, spec)
        self.register_buffer("path_length_mean", torch.zeros(()))

    @classmethod
    def refuse(cls, config: GanConfig) -> None:
        """The path length penalty needs images left after its batch is shrunk."""
        super().refuse(config)
        penalties = config.regularisation
        if penalties.path_length > 0 and config.batch < penalties.path_length_shrink:
            raise ValueError(
                f"regularisation.path_length_shrink: found {penalties.path_length_shrink}, expected at most the batch "
                f"({config.batch})"
            )

    def phases(self) -> tuple[Phase, ...]:
        """The common ones, and lazy path length regularisation."""
        penalties = self.config.regularisation
        if penalties.path_length == 0:
            return super().phases()
        every = penalties.path_length_every * self.config.critic_steps
        return (*super().phases(), Phase("path_length", "generator", every, self.path_length_loss, lazy=True))

    def path_length_loss(self, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        """E[(‖Jᵀy‖ − a)²], a the running mean of lengths (equation 4), on a smaller batch, weighted by its interval."""
        penalties = self.config.regularisation
        small = replace(batch, labels=batch.labels[: len(batch.labels) // penalties.path_length_shrink])
        with torch.autocast(batch.labels.device.type, enabled=False):
            ws = self.styles(small)
            images = self.generator.synthesis(ws, small.stage, random_noise(small))
            lengths = losses.path_lengths(images, ws, small.rng)
        with torch.no_grad():
            moved = torch.lerp(self.path_length_mean, lengths.mean(), penalties.path_length_decay)
            self.path_length_mean.copy_(torch.where(torch.isfinite(moved), moved, self.path_length_mean))
        penalty = (lengths - self.path_length_mean).square().mean()
        weight = penalties.path_length * penalties.path_length_every
        return weight * penalty, {"penalty.path_length": penalty, "path_length": lengths.mean()}

    def styles(self, batch: Batch) -> Tensor:
        """Styles of a training step, [N, layers, width], some of them mixed."""
        generator = self.generator
        w = generator.mapping(random_latent(batch, generator.latent), batch.labels)
        generator.track_average(w, batch.labels)
        layers = generator.style_layers(batch.stage)
        probability = self.options.mixing
        if probability == 0 or layers < 2:
            return w.unsqueeze(1).expand(-1, layers, -1)
        other = generator.mapping(random_latent(batch, generator.latent), batch.labels)
        return mix(w, other.unsqueeze(1).expand(-1, layers, -1), probability, batch.rng)

    def fakes(self, batch: Batch) -> Tensor:
        """Generated images for a training step, [N, C, h, w], of the batch's classes."""
        return self.generator.synthesis(self.styles(batch), batch.stage, random_noise(batch))
