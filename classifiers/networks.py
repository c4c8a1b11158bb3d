"""MONAI's DenseNet and ResNet in two dimensions, with stems that suit small images, and their penultimate layer."""

from __future__ import annotations

from typing import Any

import torch
from monai.networks.nets import DenseNet, ResNet
from torch import nn

from classifiers.config import ClassifierConfig
from pipeline.records import ImageSpec, MedaugError

BLOCKS_SHRINK = 8  # both networks halve the image three times after the stem
LAST_BLOCK = {"densenet": 2, "resnet": 4}
"""Pixels a side that the stem should leave to the last block: a shallow network loses more by a coarse start, and a
DenseNet costs four times as much at twice the side."""


def build_network(config: ClassifierConfig, spec: ImageSpec, generator: torch.Generator) -> nn.Module:
    """The configured network with freshly drawn weights.

    Args:
        config: which network, and its options.
        spec: channels, size and classes of the images.
        generator: of the weights, on the CPU.

    Returns:
        A module from float32 [N, C, H, W] in [-1, 1] to logits [N, K].

    Raises:
        MedaugError: the image is too small for the network.
    """
    network = _architecture(config, spec, stem_stride(config, spec))
    initialise(network, generator)
    return nn.utils.convert_conv2d_weight_memory_format(network, torch.channels_last)


def _architecture(config: ClassifierConfig, spec: ImageSpec, stride: int) -> nn.Module:
    if config.network == "densenet":
        # Huang et al. 2017, "Densely Connected Convolutional Networks", table 1: DenseNet-121.
        features = config.init_features or 64
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
    # He et al. 2016, "Deep Residual Learning for Image Recognition", section 4.2: 32x32 images get a 3x3 stem.
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


def initialise(network: nn.Module, generator: torch.Generator) -> None:
    """Draws all weights anew, as MONAI does but from a generator of one's own.

    The global generator is shared by all threads: two trainings side by side would change each other's start.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.kaiming_uniform_(module.weight, a=5**0.5, generator=generator)
            nn.init.zeros_(module.bias)


def stem_stride(config: ClassifierConfig, spec: ImageSpec) -> int:
    """By how much the stem shrinks the image: the configured 1, 2 or 4, or the largest that leaves enough pixels.

    Raises:
        MedaugError: less than one pixel would reach the last block.
    """
    smaller = min(spec.height, spec.width)
    if config.stem_stride is None:
        stride = next((s for s in (4, 2) if smaller >= LAST_BLOCK[config.network] * BLOCKS_SHRINK * s), 1)
    else:
        stride = config.stem_stride
    if smaller < BLOCKS_SHRINK * stride:
        raise MedaugError(
            f"classifier {config.name}: images of {spec.height}x{spec.width} with stem_stride {stride}, expected at "
            f"least {BLOCKS_SHRINK * stride} pixels a side; use larger images or a smaller stem_stride"
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
