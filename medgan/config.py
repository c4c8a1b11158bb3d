"""What is trained: architecture × loss × regularisation × augmentation, and for how long. Frozen, validated when made.

The options of an architecture stand beside it (``Options`` in its file); :class:`GanConfig` checks the plain mapping
``architecture`` against them and fills in their defaults, so that two configurations that mean the same are the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from medgan.options import (
    FORBID,
    Augmentation,
    Conditioning,
    Optimiser,
    Regularisation,
    nearest,
    read_options,
    require,
    require_one_of,
)

PARTS: Mapping[str, type[Any]] = {
    "regularisation": Regularisation,
    "augmentation": Augmentation,
    "conditioning": Conditioning,
    "optimiser": Optimiser,
}


@dataclass(frozen=True)
class GanConfig:
    """One GAN and its training.

    Attributes:
        name: for people and for result rows; a preset's name.
        network: a name of :mod:`medgan.registry`.
        loss: a name of :data:`medgan.losses.LOSSES`.
        architecture: the network's own options; see ``Options`` in its file. Defaults are filled in.
        regularisation: penalties.
        augmentation: of what the discriminator sees.
        conditioning: how the class enters.
        optimiser: which one, and its numbers.
        critic_steps: discriminator steps for each generator step.
        images: length of the training, in real images shown to the discriminator.
        batch: images in one step.
        ema: decay of the averaged generator for each step; 0 keeps no average (the newest weights are the result).
        ema_ramp_up: the average's half-life is at most this share of the images seen so far; 0 switches that off.
        snapshots: number of evaluation points, evenly spaced, the last one at the end.
        checkpoint_seconds: wall time between two checkpoints.
        precision: "auto" takes bfloat16 where the hardware computes in it, "float32" and "bfloat16" force. What it took
            is in generator.json; a training that goes on elsewhere keeps it.
        compile: ``torch.compile`` of what is differentiated once: "off"; "default"; or "reduce-overhead", with CUDA
            graphs, the same as "default" on a CPU. Minutes at the start; never measured on CUDA. What cannot be
            compiled runs eager: how it ran is in generator.json, see :mod:`medgan.compiled`.
        skip_limit: so many consecutive steps of one phase with non-finite losses or gradients, or more than half of at
            least so many, and the training goes back; looked for at the points of the training's curves.
        rollbacks: how often it goes back to the last good state, with half the learning rates, before it has diverged.

    Raises:
        ValueError: one line that names the key, what was found and what was expected.
    """

    name: str
    network: str
    loss: str
    images: int
    architecture: Mapping[str, Any] = field(default_factory=dict)
    regularisation: Regularisation = field(default_factory=Regularisation)
    augmentation: Augmentation = field(default_factory=Augmentation)
    conditioning: Conditioning = field(default_factory=Conditioning)
    optimiser: Optimiser = field(default_factory=Optimiser)
    critic_steps: int = 1
    batch: int = 32
    ema: float = 0.999
    ema_ramp_up: float = 0.05
    snapshots: int = 5
    checkpoint_seconds: float = 60.0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    compile: Literal["off", "default", "reduce-overhead"] = "off"
    skip_limit: int = 50
    rollbacks: int = 2

    __pydantic_config__: ClassVar[Any] = FORBID

    def __post_init__(self) -> None:
        from medgan import losses, registry  # they import this module

        require(bool(self.name), "name", repr(self.name), "a name")
        require_one_of("loss", self.loss, losses.LOSSES)
        require(self.images >= 1, "images", self.images, "1 or more")
        require(self.batch >= 2, "batch", self.batch, "2 or more")
        require(self.critic_steps >= 1, "critic_steps", self.critic_steps, "1 or more")
        require(0 <= self.ema < 1, "ema", self.ema, "at least 0, below 1")
        require(self.ema_ramp_up >= 0, "ema_ramp_up", self.ema_ramp_up, "0 (off) or more")
        require(self.snapshots >= 1, "snapshots", self.snapshots, "1 or more")
        require(self.checkpoint_seconds >= 0, "checkpoint_seconds", self.checkpoint_seconds, "0 or more")
        precisions = ("auto", "float32", "bfloat16")
        require(self.precision in precisions, "precision", self.precision, ", ".join(precisions))
        require_one_of("compile", self.compile, ("off", "default", "reduce-overhead"))
        require(self.skip_limit >= 1, "skip_limit", self.skip_limit, "1 or more")
        require(self.rollbacks >= 0, "rollbacks", self.rollbacks, "0 (none) or more")
        end = self.conditioning.transition_end
        require(end <= self.images, "conditioning.transition_end", end, f"at most images ({self.images})")
        network = registry.architecture_class(self.network)
        options = read_options(network.Options, self.architecture, f"architecture ({self.network})")
        object.__setattr__(self, "architecture", dataclasses.asdict(options))
        network.refuse(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> GanConfig:
        """Reads what ``dataclasses.asdict`` and JSON made of a configuration.

        Raises:
            ValueError: an unknown key, a wrong type or a value out of range.
        """
        plain = dict(data)
        for key, kind in PARTS.items():
            plain[key] = read_options(kind, data.get(key, {}), key)
        known = [item.name for item in dataclasses.fields(cls)]
        for key in plain:
            if key not in known:
                raise ValueError(f"unknown key {key!r}{nearest(key, known)}")
        return cls(**plain)
