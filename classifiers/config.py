"""What a classifier is and how it is trained; one configuration serves every arm."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from pipeline.records import MedaugError

Balance = Literal["uniform", "balance"]
"""How added images spread over the classes: in proportion, or to the rarest first."""

NETWORK_OPTIONS: dict[str, frozenset[str]] = {
    "densenet": frozenset({"layers", "init_features", "growth_rate", "dropout"}),
    "resnet": frozenset({"layers", "planes", "block"}),
}
"""Network → the options it reads; any other option is refused rather than ignored."""


@dataclass(frozen=True)
class Augmentation:
    """Classical augmentation: small changes that a scan could have shown by itself.

    No mirroring by default: heart, liver and a marker's side would be wrong. Each image gets its own draw; every
    range is uniform and symmetric (zoom and gamma: symmetric in the logarithm).

    Attributes:
        rotation: degrees, at most.
        shift: fraction of the image's side, at most.
        zoom: factor, at most 1 + zoom, at least 1 / (1 + zoom).
        gamma: exponent of the contrast curve, at most 1 + gamma, at least 1 / (1 + gamma).
        noise: standard deviation of additive Gaussian noise at most, on the [-1, 1] scale.
        mirror: whether to flip left and right in half of the draws; only where laterality carries no meaning.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    rotation: float = 10.0
    shift: float = 0.06
    zoom: float = 0.1
    gamma: float = 0.25
    noise: float = 0.03
    mirror: bool = False

    def __post_init__(self) -> None:
        limits = {"rotation": 180.0, "shift": 0.5, "zoom": 1.0, "gamma": 4.0, "noise": 1.0}
        for name, limit in limits.items():
            value = getattr(self, name)
            if not 0.0 <= value <= limit:
                raise MedaugError(f"augmentation.{name}: {value}, expected 0 (off) to {limit:g}")


@dataclass(frozen=True)
class ClassifierConfig:
    """A network and its training. The same steps, batch and rates serve every arm of an experiment.

    Training runs AdamW under one cosine cycle (Smith and Topin 2019): up over the first tenth of the steps, down to
    zero by the last. The weights kept are those of the best evaluation on the validation patients.

    Attributes:
        name: the preset's name, for result rows.
        network: "densenet" (DenseNet121 with its defaults) or "resnet", both MONAI's in two dimensions.
        layers: layers in each of the four blocks; None for the network's default.
        planes: resnet: channels of the four stages.
        block: resnet: "basic" or "bottleneck".
        init_features: densenet: channels after the first convolution.
        growth_rate: densenet: channels that each layer adds.
        dropout: densenet: dropout probability after each layer.
        stem_stride: by how much the stem shrinks the image, 1, 2 or 4; None for the largest that leaves the last
            block 4x4 pixels (resnet) or 2x2 (densenet).
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
    network: Literal["densenet", "resnet"] = "resnet"
    layers: tuple[int, ...] | None = None
    planes: tuple[int, ...] | None = None
    block: Literal["basic", "bottleneck"] | None = None
    init_features: int | None = None
    growth_rate: int | None = None
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
        for name in ("layers", "planes"):
            value = getattr(self, name)
            if value is not None and (len(value) != 4 or min(value) < 1):
                raise MedaugError(f"{name}: {list(value)}, expected four numbers of at least 1, one for each block")
        for name in ("steps", "evaluate_every", "init_features", "growth_rate", "patience"):
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
