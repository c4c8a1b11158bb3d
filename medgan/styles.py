"""What StyleGAN and StyleGAN2 share: the mapping network, style mixing, truncation in w."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from medgan import losses
from medgan.architecture import Architecture
from medgan.config import GanConfig
from medgan.contract import Batch, DrawnNoise, Generator, NoiseSource, Phase, random_latent, random_noise
from medgan.convolution import WithoutWeightGradients
from medgan.layers import HE_GAIN, ClassEmbedding, EqualLinear, exact, leaky_relu, pixel_norm
from medgan.options import require, require_one_of
from medgan.ranks import mean, total, uniform
from medgan.sizes import Pyramid, Stage
from pipeline.records import ImageSpec

NOISES = ("random", "fixed", "none")
W_AVERAGE_DECAY = 0.995


@dataclass(frozen=True)
class StyleOptions:
    """Options that generators with styles share; each network has its own defaults.

    Attributes:
        latent: length of z.
        label_width: length of the class embedding beside z.
        width: length of w.
        mapping_layers: fully connected layers from z to w; 0 makes w the normalised z with the class beside it,
            whatever ``width`` says (StyleGAN, table 4).
        mapping_rate: their relative learning rate.
        mixing: share of training images with styles of two latents.
        noise: "random" is fresh for every image, "fixed" is drawn once and belongs to the weights, "none" is left out.
        noise_from: smallest size, 4 at level 0, whose layers get noise.
        noise_to: largest such size.
        base_channels: see :func:`medgan.layers.channels_at`.
        max_channels: upper bound of feature maps.
        equalised: equalised learning rate; see :class:`medgan.layers.Equalised`.
        stddev_group: images in a group of minibatch stddev; 0 leaves it out.
    """

    latent: int = 512
    label_width: int = 512
    width: int = 512
    mapping_layers: int = 8
    mapping_rate: float = 0.01
    mixing: float = 0.9
    noise: str = "random"
    noise_from: int = 4
    noise_to: int = 1024
    base_channels: int = 16384
    max_channels: int = 512
    equalised: bool = True
    stddev_group: int = 4

    def __post_init__(self) -> None:
        for key in ("latent", "label_width", "width", "base_channels", "max_channels"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "1 or more")
        require(self.mapping_layers >= 0, "mapping_layers", self.mapping_layers, "0 (no network) or more")
        require(self.mapping_rate > 0, "mapping_rate", self.mapping_rate, "above 0")
        require(0 <= self.mixing <= 1, "mixing", self.mixing, "0 to 1")
        require_one_of("noise", self.noise, NOISES)
        require(self.noise_from <= self.noise_to, "noise_to", self.noise_to, f"noise_from ({self.noise_from}) or more")
        group = self.stddev_group
        require(group == 0 or group >= 2, "stddev_group", group, "0 (off) or 2 or more")


class LayerNoise(nn.Module):
    """Which layer gets what noise.

    Args:
        options: see :class:`StyleOptions`.
        pyramid: the image's sizes.
        levels: level of each layer.
    """

    def __init__(self, options: StyleOptions, pyramid: Pyramid, levels: Sequence[int]):
        super().__init__()
        self.mode = options.noise
        self.sizes = [pyramid.size(level) for level in levels]
        self.noisy = [options.noise_from <= 4 << level <= options.noise_to for level in levels]
        for layer, size in enumerate(self.sizes):
            if self.mode == "fixed" and self.noisy[layer]:
                self.register_buffer(f"layer{layer}", torch.zeros(1, 1, *size))

    def draw_weights(self, rng: torch.Generator) -> None:
        """Fixed noise is drawn once, with the weights."""
        for buffer in self.buffers():
            buffer.normal_(generator=rng)

    def pick(self, layer: int, noise: NoiseSource | None) -> Tensor | None:
        """A layer's noise, [N, 1, h, w] or, fixed, [1, 1, h, w]; None for none."""
        if noise is None or self.mode == "none" or not self.noisy[layer]:
            return None
        fixed: Tensor | None = getattr(self, f"layer{layer}", None)
        return noise(layer, *self.sizes[layer]) if fixed is None else fixed


class MappingNetwork(nn.Module):
    """z and class to w: fully connected layers at a hundredth of the learning rate (StyleGAN, sections 2 and C).

    Args:
        options: see :class:`StyleOptions`.
        classes: number of classes, 1 where the class does not enter.
        bias_gain: see :class:`EqualLinear`.

    Attributes:
        width: length of w.
    """

    def __init__(self, options: StyleOptions, classes: int, bias_gain: float):
        super().__init__()
        self.embedding = ClassEmbedding(classes, options.label_width)
        widths = [options.latent + self.embedding.width] + [options.width] * options.mapping_layers
        rate = options.mapping_rate
        self.layers = nn.ModuleList(EqualLinear(i, o, HE_GAIN, bias_gain, rate=rate) for i, o in pairwise(widths))
        self.width = widths[-1]

    def forward(self, z: Tensor, labels: Tensor, label: float = 1.0) -> Tensor:
        """[N, latent], [N] -> [N, width], in float32: it is small, and all styles hang on it.

        Args:
            z: [N, latent].
            labels: [N].
            label: weight of the class; see :class:`Stage`.
        """
        with torch.autocast(z.device.type, enabled=False):
            x = self.embedding(pixel_norm(exact(z)), labels, label)
            for layer in self.layers:
                x = leaky_relu(layer(x))
            return x


class StyleGenerator(Generator):
    """A generator with an intermediate latent w.

    Args:
        options: see :class:`StyleOptions`.
        spec: what the images are.
        pyramid: their sizes.
        condition: how the class enters; see :class:`medgan.options.Conditioning`.
        levels: level of each layer that could get noise.
        bias_gain: of the mapping network; see :class:`EqualLinear`.

    Attributes:
        mapping: from z and class to w.
        w_moments: running means, for each class, of w and of 1, float32 [classes, width + 1]. Both start at 0, so
            that their ratio has no share of the start; it stays a mean of w where weights are averaged, too.
    """

    w_moments: Tensor

    def __init__(
        self,
        options: StyleOptions,
        spec: ImageSpec,
        pyramid: Pyramid,
        condition: str,
        levels: Sequence[int],
        bias_gain: float,
    ):
        super().__init__()
        classes = len(spec.classes)
        self.latent = options.latent
        self.pyramid = pyramid
        self.mapping = MappingNetwork(options, classes if condition == "embedding" else 1, bias_gain)
        self.layer_noise = LayerNoise(options, pyramid, levels)
        self.register_buffer("w_moments", torch.zeros(classes, self.mapping.width + 1))

    @property
    def w_average(self) -> Tensor:
        """Mean of w for each class, float32 [classes, width]; 0 for a class that was never seen.

        Truncation goes towards the class's own mean: towards a common one, it would pull the classes together.
        """
        return self.w_moments[:, :-1] / self.w_moments[:, -1:].clamp(min=torch.finfo(torch.float32).tiny)

    @abstractmethod
    def synthesis(self, ws: Tensor, stage: Stage, noise: NoiseSource | None) -> Tensor:
        """Styles [N, layers, width], one for each layer, to images [N, C, h, w]."""

    def noise_layers(self, stage: Stage) -> Sequence[tuple[int, int]]:
        """Of all layers up to the stage's size, also of those that take none: their numbers count."""
        if self.layer_noise.mode != "random":
            return ()
        largest = self.pyramid.size(stage.level)
        return [size for size in self.layer_noise.sizes if size <= largest]

    def draw_noise(self, stage: Stage, noise: NoiseSource) -> DrawnNoise:
        """See :meth:`Generator.draw_noise`; of the layers that take some."""
        noisy = self.layer_noise.noisy
        sizes = enumerate(self.noise_layers(stage))
        return DrawnNoise({layer: noise(layer, *size) for layer, size in sizes if noisy[layer]})

    @abstractmethod
    def style_layers(self, stage: Stage) -> int:
        """Number of styles that :meth:`synthesis` takes at a stage."""

    @abstractmethod
    def truncated_layers(self, stage: Stage) -> int:
        """How many of them truncation touches, counted from the coarsest."""

    def truncate(self, w: Tensor, labels: Tensor, stage: Stage, truncation: float, layers: int | None = None) -> Tensor:
        """One w for all layers: w' = w̄ + ψ(w − w̄) in the coarse ones (StyleGAN, appendix B).

        Args:
            w: [N, width].
            labels: [N], whose w̄.
            stage: see :class:`Stage`.
            truncation: ψ.
            layers: how many layers it touches, from the coarsest; None for as many as the paper says.

        Returns:
            styles [N, layers, width].
        """
        ws = w.unsqueeze(1).repeat(1, self.style_layers(stage), 1)  # [N, W] -> [N, L, W]
        if truncation != 1.0:
            mean = self.w_average[labels].unsqueeze(1)  # [N, W] -> [N, 1, W]
            coarse = self.truncated_layers(stage) if layers is None else layers
            ws[:, :coarse] = mean + truncation * (ws[:, :coarse] - mean)
        return ws

    def forward(self, z: Tensor, labels: Tensor, stage: Stage, noise: NoiseSource | None) -> Tensor:
        """See :meth:`Generator.forward`."""
        return self.synthesis(self.truncate(self.mapping(z, labels, stage.label), labels, stage, 1.0), stage, noise)

    @torch.no_grad()
    def track_average(self, w: Tensor, labels: Tensor) -> None:
        """Moves the mean of each class in the batch towards the batch's; a class that is not in it stays."""
        rows = torch.cat([w.detach(), torch.ones_like(w[:, :1])], dim=1)  # [N, W + 1]: what is added, and how many
        sums = total(torch.zeros_like(self.w_moments).index_add_(0, labels, rows))
        count = sums[:, -1:]  # [classes, 1]
        moved = torch.lerp(sums / count.clamp(min=1), self.w_moments, W_AVERAGE_DECAY)
        usable = (count > 0) & torch.isfinite(moved).all(dim=1, keepdim=True)
        self.w_moments.copy_(torch.where(usable, moved, self.w_moments))


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
    cross = 1 + uniform((N,), rng).mul(L - 1).long()  # 1 to L − 1
    kept = uniform((N,), rng) >= probability
    cross = torch.where(kept, L, cross)
    coarse = torch.arange(L, device=first.device) < cross[:, None]  # [N, L]
    return torch.where(coarse[:, :, None], first[:, None, :], second)


class StyleArchitecture(Architecture):
    """Training of generators with styles: mixing, the mean of w, path length regularisation."""

    has_w: ClassVar[bool] = True
    generates: ClassVar[str] = "synthesis"
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
            with WithoutWeightGradients():
                images = self.generator.synthesis(ws, small.stage, random_noise(small))
                lengths = losses.path_lengths(images, ws, small.rng)
        with torch.no_grad():
            moved = torch.lerp(self.path_length_mean, mean(lengths.mean()), penalties.path_length_decay)
            self.path_length_mean.copy_(torch.where(torch.isfinite(moved), moved, self.path_length_mean))
        penalty = (lengths - self.path_length_mean).square().mean()
        weight = penalties.path_length * penalties.path_length_every
        return weight * penalty, {"penalty.path_length": penalty, "path_length": lengths.mean()}

    def styles(self, batch: Batch) -> Tensor:
        """Styles of a training step, [N, layers, width], some of them mixed."""
        generator = self.generator
        w = generator.mapping(random_latent(batch, generator.latent), batch.labels, batch.stage.label)
        generator.track_average(w, batch.labels)
        layers = generator.style_layers(batch.stage)
        probability = self.options.mixing
        if probability == 0 or layers < 2:
            return w.unsqueeze(1).expand(-1, layers, -1)
        other = generator.mapping(random_latent(batch, generator.latent), batch.labels, batch.stage.label)
        return mix(w, other.unsqueeze(1).expand(-1, layers, -1), probability, batch.rng)

    def fakes(self, batch: Batch) -> Tensor:
        """Generated images for a training step, [N, C, h, w], of the batch's classes."""
        ws = self.styles(batch)
        noise = self.generator.draw_noise(batch.stage, random_noise(batch))
        return self.passes["generator"]([ws], batch.stage, noise)
