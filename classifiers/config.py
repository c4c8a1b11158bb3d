"""What a classifier is and how it is trained; one configuration serves every arm."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from pipeline.records import MedaugError

Balance = Literal["uniform", "balance"]
"""How added images spread over the classes: in proportion, or to the rarest first."""

NETWORK_OPTIONS: dict[str, frozenset[str]] = {
    "densenet": frozenset({"layers", "init_features", "growth_rate", "dropout", "stem_stride"}),
    "resnet": frozenset({"layers", "planes", "block", "stem_stride"}),
    "efficientnet": frozenset({"scale", "dropout", "stem_stride"}),
    "vit": frozenset({"patch", "width", "depth", "heads", "dropout"}),
}
"""Network → the options it reads; any other option is refused rather than ignored."""

TRANSFORMS: dict[str, frozenset[str]] = {
    "RandAdjustContrastd": frozenset({"prob", "gamma", "invert_image", "retain_stats"}),
    "RandAffined": frozenset(
        {"prob", "rotate_range", "shear_range", "translate_range", "scale_range", "mode", "padding_mode"}
    ),
    "RandBiasFieldd": frozenset({"prob", "degree", "coeff_range"}),
    "Rand2DElasticd": frozenset(
        {"prob", "spacing", "magnitude_range", "rotate_range", "shear_range", "translate_range", "scale_range"}
        | {"mode", "padding_mode"}
    ),
    "RandCoarseDropoutd": frozenset({"prob", "holes", "spatial_size", "fill_value", "max_holes", "max_spatial_size"}),
    "RandFlipd": frozenset({"prob", "spatial_axis"}),
    "RandGaussianNoised": frozenset({"prob", "mean", "std"}),
    "RandGaussianSmoothd": frozenset({"prob", "sigma_x", "sigma_y"}),
    "RandRotate90d": frozenset({"prob", "max_k"}),
    "RandRotated": frozenset({"prob", "range_x", "mode", "padding_mode"}),
    "RandScaleIntensityd": frozenset({"prob", "factors"}),
    "RandShiftIntensityd": frozenset({"prob", "offsets"}),
    "RandZoomd": frozenset({"prob", "min_zoom", "max_zoom", "mode", "padding_mode"}),
}
"""MONAI's dictionary transforms that keep an image's size, and the parameters of each that make sense here."""

MIRRORS = ("RandFlipd", "RandRotate90d")
"""What turns left into right, or stands a patient on the head."""
UPRIGHT = 45.0
"""Degrees from which what was above lies rather beside."""
HARMLESS: dict[str, tuple[float, float]] = {
    "scale_range": (-1.0, math.inf),  # MONAI adds 1: from -1 on nothing or the mirror image is left
    "shear_range": (-1.0, 1.0),  # shears of s and t mirror where s·t > 1
    "rotate_range": (-math.radians(UPRIGHT), math.radians(UPRIGHT)),
    "range_x": (-math.radians(UPRIGHT), math.radians(UPRIGHT)),
}
"""Parameter of a transform → between which values it neither mirrors nor turns a patient over; angles in radians."""


@dataclass(frozen=True)
class Transform:
    """One of MONAI's dictionary transforms.

    Attributes:
        name: a key of :data:`TRANSFORMS`.
        parameters: its arguments, as MONAI names them; all else keeps MONAI's default.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    name: str
    parameters: dict[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if self.name not in TRANSFORMS:
            raise MedaugError(f"transform {self.name!r}: unknown, expected one of {', '.join(TRANSFORMS)}")
        unknown = sorted(set(self.parameters) - TRANSFORMS[self.name])
        if unknown:
            known = ", ".join(sorted(TRANSFORMS[self.name]))
            raise MedaugError(f"transform {self.name}: no parameter {unknown[0]!r}, expected some of {known}")


@dataclass(frozen=True)
class Augmentation:
    """Classical augmentation: small changes that a scan could have shown by itself.

    Either the ranges below, applied to a whole batch at once (fast), or ``transforms``: MONAI's dictionary transforms,
    one image at a time (slower by as much as the small networks need for a training step). Each image gets its own
    draw; every range is uniform and symmetric (zoom and gamma: symmetric in the logarithm).

    Attributes:
        rotation: degrees, at most; below 45 where ``laterality`` holds.
        shift: fraction of the image's side, at most.
        zoom: factor, at most 1 + zoom, at least 1 / (1 + zoom).
        gamma: exponent of the contrast curve, at most 1 + gamma, at least 1 / (1 + gamma).
        noise: standard deviation of additive Gaussian noise at most, on the [-1, 1] scale.
        mirror: whether to flip left and right in half of the draws.
        laterality: whether left and right, up and down carry meaning: heart, liver and a marker's side do. Then
            nothing is allowed that mirrors (flips, scales of -1 and below, shears of 1 and above) or turns by 45
            degrees or more.
        transforms: in this order, instead of the ranges.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    rotation: float = 10.0
    shift: float = 0.06
    zoom: float = 0.1
    gamma: float = 0.25
    noise: float = 0.03
    mirror: bool = False
    laterality: bool = True
    transforms: tuple[Transform, ...] = ()

    def __post_init__(self) -> None:
        limits = {"rotation": 180.0, "shift": 0.5, "zoom": 1.0, "gamma": 4.0, "noise": 1.0}
        for name, limit in limits.items():
            value = getattr(self, name)
            if not 0.0 <= value <= limit:
                raise MedaugError(f"augmentation.{name}: {value}, expected 0 (off) to {limit:g}")
        wrong = [found for one in self.transforms for found in _mirroring(one)] + ["mirror"] * self.mirror
        wrong += [f"rotation {self.rotation:g}"] * (self.rotation >= UPRIGHT)
        if self.laterality and wrong:
            raise MedaugError(
                f"augmentation: {wrong[0]} makes a wrong image where sides carry meaning; leave it out, or set "
                "laterality: false if they carry none"
            )


def _mirroring(transform: Transform) -> Iterator[str]:
    """What of a transform can turn left into right or a patient over, in words; nothing for a harmless one."""
    if transform.name in MIRRORS:
        yield transform.name
    for name, (lowest, highest) in HARMLESS.items():
        value = transform.parameters.get(name, 0.0)
        if not all(lowest < low and high < highest for low, high in _spans(value)):
            yield f"{transform.name}'s {name} {value}"


def _spans(value: Any) -> Iterator[tuple[float, float]]:
    """What MONAI draws from: a pair is a range, a number x stands for (-x, x); all else is MONAI's to refuse."""
    for entry in value if isinstance(value, list | tuple) else [value]:
        numbers = entry if isinstance(entry, list | tuple) else [entry]
        if numbers and all(isinstance(number, int | float) for number in numbers):
            ends = numbers if numbers is entry else [entry, -entry]
            yield min(ends), max(ends)


@dataclass(frozen=True)
class ClassifierConfig:
    """A network and its training. The same steps, batch and rates serve every arm of an experiment.

    Training runs AdamW under one cosine cycle (Smith and Topin 2019): up over the first tenth of the steps, down to
    zero by the last. The weights kept are those of the best evaluation on the validation patients.

    Attributes:
        name: the preset's name, for result rows.
        network: "densenet" (DenseNet121 with its defaults), "resnet" (a small one; ResNet-18 with layers 2 and planes
            64 to 512), "efficientnet" or "vit", all MONAI's in two dimensions.
        weights: a file of weights to start from, safetensors or torch's (read with weights_only); None starts from
            scratch.
        layers: layers in each of the four blocks; None for the network's default.
        planes: resnet: channels of the four stages.
        block: resnet: "basic" or "bottleneck".
        init_features: densenet: channels after the first convolution.
        growth_rate: densenet: channels that each layer adds.
        scale: efficientnet: "b0" to "b7".
        patch: vit: side of a patch in pixels.
        width: vit: size of a token; its perceptron has four times as many units.
        depth: vit: number of blocks.
        heads: vit: attention heads.
        dropout: densenet: after each layer; efficientnet: before the last one; vit: throughout.
        stem_stride: by how much the stem shrinks the image, 1, 2 or (not efficientnet) 4; None for the largest that
            leaves the last block 4x4 pixels (resnet) or 2x2 (densenet, efficientnet).
        steps: optimiser steps, equal for every arm.
        batch: images a step.
        learning_rate: the peak of the cycle.
        weight_decay: AdamW's, decoupled.
        evaluate_every: steps between evaluations on the validation patients.
        patience: evaluations without gain after which training stops; None spends all steps.
        sampling: "balanced" draws every class equally often; "natural" draws every image equally often.
        precision: of the forward pass in training: "bfloat16", "float32", or "auto" for bfloat16 where the hardware
            has it. Weights, predictions and features are float32 always.
        augmentation: what arms B, C and D do to each image.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    name: str = "resnet"
    network: Literal["densenet", "resnet", "efficientnet", "vit"] = "resnet"
    weights: str | None = None
    layers: tuple[int, ...] | None = None
    planes: tuple[int, ...] | None = None
    block: Literal["basic", "bottleneck"] | None = None
    init_features: int | None = None
    growth_rate: int | None = None
    scale: Literal["b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7"] | None = None
    patch: int | None = None
    width: int | None = None
    depth: int | None = None
    heads: int | None = None
    dropout: float | None = None
    stem_stride: Literal[1, 2, 4] | None = None
    steps: int = 600
    batch: int = 32
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    evaluate_every: int = 25
    patience: int | None = None
    sampling: Literal["natural", "balanced"] = "balanced"
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        if self.network not in NETWORK_OPTIONS:
            raise MedaugError(f"network {self.network!r}: unknown, expected one of {', '.join(NETWORK_OPTIONS)}")
        for option in sorted(frozenset().union(*NETWORK_OPTIONS.values()) - NETWORK_OPTIONS[self.network]):
            if getattr(self, option) is not None:
                raise MedaugError(f"{option}: not an option of network {self.network!r}; leave it out")
        if self.network == "efficientnet" and self.stem_stride == 4:
            raise MedaugError("stem_stride: 4, expected 1 or 2: an efficientnet's stem halves once")
        for name in ("layers", "planes"):
            value = getattr(self, name)
            if value is not None and (len(value) != 4 or min(value) < 1):
                raise MedaugError(f"{name}: {list(value)}, expected four numbers of at least 1, one for each block")
        counted = ("init_features", "growth_rate", "patience", "patch", "width", "depth", "heads")
        for name in ("steps", "evaluate_every", *counted):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise MedaugError(f"{name}: {value}, expected at least 1")
        if self.batch < 2:
            raise MedaugError(f"batch: {self.batch}, expected at least 2 (batch normalisation needs two images)")
        if not self.learning_rate > 0.0:
            raise MedaugError(f"learning_rate: {self.learning_rate}, expected a positive number")
        if not self.weight_decay >= 0.0:
            raise MedaugError(f"weight_decay: {self.weight_decay}, expected 0 or more")
        if self.dropout is not None and not 0.0 <= self.dropout < 1.0:
            raise MedaugError(f"dropout: {self.dropout}, expected 0 to below 1")
