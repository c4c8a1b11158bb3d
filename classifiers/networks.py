"""MONAI's networks in two dimensions, with stems that suit small images, and their penultimate layer.

Whatever is random in them comes from a generator of their own: the global one is shared by all threads, so that two
trainings side by side would change each other's course.
"""

from __future__ import annotations

from typing import Any

import torch
from monai.networks.nets import DenseNet, EfficientNetBN, ResNet, ViT
from monai.utils import OptionalImportError
from torch import nn

from classifiers.config import ClassifierConfig
from pipeline.records import ImageSpec, MedaugError

SHRINK = {"densenet": 8, "resnet": 8, "efficientnet": 16}
"""By how much a network shrinks the image after the stem."""
LAST_BLOCK = {"densenet": 2, "resnet": 4, "efficientnet": 2}
"""Pixels a side that the stem should leave to the last block: a shallow network loses more by a coarse start, and a
DenseNet costs four times as much at twice the side."""
PATCHES, FEWEST_PATCHES = (16, 8, 4, 2), 7  # Dosovitskiy et al. 2021 have 14 of 16 pixels a side


def build_network(config: ClassifierConfig, spec: ImageSpec, generator: torch.Generator) -> nn.Module:
    """The configured network with freshly drawn weights.

    Args:
        config: which network, and its options.
        spec: channels, size and classes of the images.
        generator: of the weights and of what is dropped out, on the CPU.

    Returns:
        A module from float32 [N, C, H, W] in [-1, 1] to logits [N, K].

    Raises:
        MedaugError: the image is too small for the network.
    """
    network = _architecture(config, spec)
    initialise(network, generator)
    seed_dropout(network, generator)
    return nn.utils.convert_conv2d_weight_memory_format(network, torch.channels_last)


def _architecture(config: ClassifierConfig, spec: ImageSpec) -> nn.Module:
    build = {"densenet": _densenet, "resnet": _resnet, "efficientnet": _efficientnet, "vit": _vit}
    return build[config.network](config, spec)


def _densenet(config: ClassifierConfig, spec: ImageSpec) -> nn.Module:
    """Huang et al. 2017, "Densely Connected Convolutional Networks", table 1: DenseNet-121."""
    stride, features = stem_stride(config, spec), config.init_features or 64
    densenet = DenseNet(
        spatial_dims=2,
        in_channels=spec.channels,
        out_channels=len(spec.classes),
        init_features=features,
        growth_rate=config.growth_rate or 32,
        block_config=config.layers or (6, 12, 24, 16),
        dropout_prob=config.dropout or 0.0,
    )
    # Its stem (7x7 with stride 2, then pooling) is for 224x224; section 4.2 gives 32x32 images a 3x3 convolution.
    if stride < 4:
        densenet.features.pool0 = nn.Identity()
    if stride < 2:
        densenet.features.conv0 = nn.Conv2d(spec.channels, features, 3, padding=1, bias=False)
    return densenet


def _resnet(config: ClassifierConfig, spec: ImageSpec) -> nn.Module:
    """He et al. 2016, "Deep Residual Learning for Image Recognition", section 4.2: 32x32 images get a 3x3 stem."""
    stride = stem_stride(config, spec)
    return ResNet(
        block=config.block or "basic",
        layers=list(config.layers or (1, 1, 1, 1)),
        block_inplanes=list(config.planes or (16, 32, 64, 64)),
        spatial_dims=2,
        n_input_channels=spec.channels,
        num_classes=len(spec.classes),
        conv1_t_size=7 if stride == 4 else 3,
        conv1_t_stride=1 if stride == 1 else 2,
        no_max_pool=stride < 4,
    )


def _efficientnet(config: ClassifierConfig, spec: ImageSpec) -> nn.Module:
    """Tan and Le 2019, "EfficientNet"; without its random depth, which MONAI draws from the global generator."""
    stride = stem_stride(config, spec)
    network = EfficientNetBN(
        f"efficientnet-{config.scale or 'b0'}",
        pretrained=False,
        spatial_dims=2,
        in_channels=spec.channels,
        num_classes=len(spec.classes),
    )
    network._dropout = nn.Dropout(config.dropout or 0.0)
    for module in network.modules():
        if hasattr(module, "drop_connect_rate"):
            setattr(module, "drop_connect_rate", 0.0)  # noqa: B010 (a plain attribute, which type checkers doubt)
    if stride == 1:
        network._conv_stem.stride = (1, 1)
        network._conv_stem_padding = nn.ConstantPad2d(1, 0.0)
    return network


class VisionTransformer(ViT):
    """MONAI's ViT without the hidden states beside its logits."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits [N, K] of images [N, C, H, W]."""
        logits: torch.Tensor = super().forward(images)[0]
        return logits


def _vit(config: ClassifierConfig, spec: ImageSpec) -> nn.Module:
    """Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words"; ViT-B where no size is given."""
    width, heads, patch = config.width or 768, config.heads or 12, config.patch or patch_side(config, spec)
    if width % heads:
        raise MedaugError(f"classifier {config.name}: width {width} is no multiple of heads {heads}; change either")
    if spec.height % patch or spec.width % patch:
        raise MedaugError(
            f"classifier {config.name}: patch {patch} does not divide images of {spec.height}x{spec.width}; set another"
        )
    try:
        return VisionTransformer(
            in_channels=spec.channels,
            img_size=(spec.height, spec.width),
            patch_size=patch,
            hidden_size=width,
            mlp_dim=4 * width,
            num_layers=config.depth or 12,
            num_heads=heads,
            classification=True,
            num_classes=len(spec.classes),
            dropout_rate=config.dropout or 0.0,
            spatial_dims=2,
            post_activation="none",
        )
    except OptionalImportError:
        raise MedaugError(
            f"classifier {config.name}: MONAI's ViT needs the package einops; pip install einops"
        ) from None


def patch_side(config: ClassifierConfig, spec: ImageSpec) -> int:
    """The largest patch of 16, 8, 4 or 2 pixels that divides the image and leaves at least seven a side.

    Raises:
        MedaugError: there is none.
    """
    sides = (spec.height, spec.width)
    for patch in PATCHES:
        if all(side % patch == 0 and side // patch >= FEWEST_PATCHES for side in sides):
            return patch
    raise MedaugError(
        f"classifier {config.name}: no patch of {', '.join(map(str, PATCHES))} pixels divides {sides[0]}x{sides[1]} "
        f"into at least {FEWEST_PATCHES} a side; set patch, or resize at ingest"
    )


def initialise(network: nn.Module, generator: torch.Generator) -> None:
    """Draws all weights anew, as MONAI does but from a generator of one's own.

    He et al. 2015 for convolutions; a ViT's weights are normal with standard deviation 0.02 (Dosovitskiy et al. 2021).
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            if isinstance(network, ViT):
                nn.init.trunc_normal_(module.weight, std=0.02, generator=generator)
            elif isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
            else:
                nn.init.kaiming_uniform_(module.weight, a=5**0.5, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    if isinstance(network, ViT):
        for name in ("patch_embedding.position_embeddings", "cls_token"):
            nn.init.trunc_normal_(network.get_parameter(name), std=0.02, generator=generator)


class SeededDropout(nn.Module):
    """Dropout (Srivastava et al. 2014) whose draws follow from a seed alone, on whatever device."""

    def __init__(self, probability: float, seed: int):
        super().__init__()
        self.probability = probability
        self.seed = seed
        self._generator: torch.Generator | None = None

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Zeroes a share of the values and scales the rest up, in training."""
        if not self.training or self.probability == 0.0:
            return values
        if self._generator is None or self._generator.device != values.device:
            self._generator = torch.Generator(values.device).manual_seed(self.seed)
        keep = 1.0 - self.probability
        return values * torch.empty_like(values).bernoulli_(keep, generator=self._generator) / keep


def seed_dropout(network: nn.Module, generator: torch.Generator) -> None:
    """Puts :class:`SeededDropout` in the place of every dropout, each with a seed of its own from the generator."""
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Dropout | nn.Dropout2d):
                seed = int(torch.randint(2**62, (1,), generator=generator))
                setattr(parent, name, SeededDropout(child.p, seed))


def stem_stride(config: ClassifierConfig, spec: ImageSpec) -> int:
    """By how much a convolutional network's stem shrinks the image: as configured, or as far as enough pixels stay.

    Raises:
        MedaugError: less than one pixel would reach the last block.
    """
    smaller, shrink = min(spec.height, spec.width), SHRINK[config.network]
    if config.stem_stride is None:
        strides = (2,) if config.network == "efficientnet" else (4, 2)
        stride = next((s for s in strides if smaller >= LAST_BLOCK[config.network] * shrink * s), 1)
    else:
        stride = config.stem_stride
    if smaller < shrink * stride:
        raise MedaugError(
            f"classifier {config.name}: images of {spec.height}x{spec.width} with stem_stride {stride}, expected at "
            f"least {shrink * stride} pixels a side; use larger images or a smaller stem_stride"
        )
    return stride


def head(network: nn.Module) -> nn.Linear:
    """The network's last layer: features to logits."""
    return [module for module in network.modules() if isinstance(module, nn.Linear)][-1]


def penultimate(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """What enters the last layer.

    Args:
        network: from :func:`build_network`.
        images: [N, C, H, W].

    Returns:
        [N, D]; D is 64 for the default ResNet, 1024 for DenseNet121.
    """
    caught: list[torch.Tensor] = []

    def catch(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        caught.append(inputs[0])

    handle = head(network).register_forward_pre_hook(catch)
    try:
        network(images)
    finally:
        handle.remove()
    return caught[0]
