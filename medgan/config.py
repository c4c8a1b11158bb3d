"""What is trained: architecture × loss × regularisation, and for how long. Frozen, validated where it is made.

The options of an architecture stand beside it (``Options`` in its file); :class:`GanConfig` checks the plain mapping
``architecture`` against them and fills in their defaults, so that two configurations that mean the same are the same.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar, get_type_hints

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

OptionsType = TypeVar("OptionsType", bound="DataclassInstance")

FORBID = {"extra": "forbid"}


def require(condition: bool, key: str, value: object, expected: str) -> None:
    """Raises ValueError with the key, what was found and what was expected, unless the condition holds."""
    if not condition:
        raise ValueError(f"{key}: found {value}, expected {expected}")


@dataclass(frozen=True)
class Regularisation:
    """Penalties beside the adversarial loss; 0 switches one off.

    Attributes:
        gradient_penalty: λ of WGAN-GP, λ·E[(‖∇D(x̂)‖₂ − 1)²] on interpolates (Gulrajani et al. 2017, equation 3).
        drift: ε of PGGAN, ε·E[D(x)²] on real images, which keeps a critic's output near zero (Karras et al. 2018).
        r1: γ of R1, γ/2·E[‖∇D(x)‖²] on real images (Mescheder et al. 2018, equation 9).
        r1_every: discriminator steps from one R1 to the next; above 1 it is "lazy" (StyleGAN2, section 3.1).
        path_length: weight of the path length penalty (StyleGAN2, equation 4).
        path_length_every: generator steps from one path length penalty to the next.
        path_length_shrink: the penalty sees a batch this many times smaller.
        path_length_decay: step of the running mean of path lengths.
    """

    gradient_penalty: float = 0.0
    drift: float = 0.0
    r1: float = 0.0
    r1_every: int = 1
    path_length: float = 0.0
    path_length_every: int = 4
    path_length_shrink: int = 2
    path_length_decay: float = 0.01

    __pydantic_config__: ClassVar[Any] = FORBID

    def __post_init__(self) -> None:
        for key in ("gradient_penalty", "drift", "r1", "path_length"):
            require(getattr(self, key) >= 0, key, getattr(self, key), "0 (off) or more")
        for key in ("r1_every", "path_length_every", "path_length_shrink"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "1 or more")
        require(0 < self.path_length_decay <= 1, "path_length_decay", self.path_length_decay, "above 0, at most 1")


@dataclass(frozen=True)
class Optimiser:
    """Adam (Kingma & Ba 2015) for both networks.

    Attributes:
        generator_rate: learning rate.
        discriminator_rate: learning rate.
        beta1: decay of the first moment.
        beta2: decay of the second moment.
        epsilon: Adam's ε.
    """

    generator_rate: float = 0.001
    discriminator_rate: float = 0.001
    beta1: float = 0.0
    beta2: float = 0.99
    epsilon: float = 1e-8

    __pydantic_config__: ClassVar[Any] = FORBID

    def __post_init__(self) -> None:
        for key in ("generator_rate", "discriminator_rate", "epsilon"):
            require(getattr(self, key) > 0, key, getattr(self, key), "above 0")
        for key in ("beta1", "beta2"):
            require(0 <= getattr(self, key) < 1, key, getattr(self, key), "at least 0, below 1")


@dataclass(frozen=True)
class GanConfig:
    """One GAN and its training.

    Attributes:
        name: for people and for result rows; a preset's name.
        network: a name of :mod:`medgan.registry`.
        loss: a name of :data:`medgan.losses.LOSSES`.
        architecture: the network's own options; see ``Options`` in its file. Defaults are filled in.
        regularisation: penalties.
        optimiser: Adam's numbers.
        critic_steps: discriminator steps for each generator step.
        images: length of the training, in real images shown to the discriminator.
        batch: images in one step.
        ema: decay of the averaged generator for each step; 0 keeps no average (the newest weights are the result).
        ema_ramp_up: the average's half-life is at most this share of the images seen so far; 0 switches that off.
        snapshots: number of evaluation points, evenly spaced, the last one at the end.
        checkpoint_seconds: wall time between two checkpoints.
        precision: "auto" takes bfloat16 where the hardware computes in it, "float32" and "bfloat16" force.
        skip_limit: so many consecutive steps with non-finite losses or gradients end the training as diverged.

    Raises:
        ValueError: one line that names the key, what was found and what was expected.
    """

    name: str
    network: str
    loss: str
    images: int
    architecture: Mapping[str, Any] = field(default_factory=dict)
    regularisation: Regularisation = field(default_factory=Regularisation)
    optimiser: Optimiser = field(default_factory=Optimiser)
    critic_steps: int = 1
    batch: int = 32
    ema: float = 0.999
    ema_ramp_up: float = 0.05
    snapshots: int = 5
    checkpoint_seconds: float = 60.0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    skip_limit: int = 50

    __pydantic_config__: ClassVar[Any] = FORBID

    def __post_init__(self) -> None:
        from medgan import losses, registry  # they import this module

        require(bool(self.name), "name", repr(self.name), "a name")
        if self.loss not in losses.LOSSES:
            raise ValueError(f"loss: unknown {self.loss!r}{nearest(self.loss, losses.LOSSES)}")
        require(self.images >= 1, "images", self.images, "1 or more")
        require(self.batch >= 2, "batch", self.batch, "2 or more")
        require(self.critic_steps >= 1, "critic_steps", self.critic_steps, "1 or more")
        require(0 <= self.ema < 1, "ema", self.ema, "at least 0, below 1")
        require(self.ema_ramp_up >= 0, "ema_ramp_up", self.ema_ramp_up, "0 (off) or more")
        require(self.snapshots >= 1, "snapshots", self.snapshots, "1 or more")
        require(self.checkpoint_seconds >= 0, "checkpoint_seconds", self.checkpoint_seconds, "0 or more")
        precisions = ("auto", "float32", "bfloat16")
        require(self.precision in precisions, "precision", self.precision, ", ".join(precisions))
        require(self.skip_limit >= 1, "skip_limit", self.skip_limit, "1 or more")
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
        plain["regularisation"] = read_options(Regularisation, data.get("regularisation", {}), "regularisation")
        plain["optimiser"] = read_options(Optimiser, data.get("optimiser", {}), "optimiser")
        known = [item.name for item in dataclasses.fields(cls)]
        for key in plain:
            if key not in known:
                raise ValueError(f"unknown key {key!r}{nearest(key, known)}")
        return cls(**plain)


def read_options(kind: type[OptionsType], data: Mapping[str, Any], where: str) -> OptionsType:
    """Plain data to a flat dataclass of numbers, texts and switches.

    Raises:
        ValueError: an unknown key (names the nearest), or a value of another type.
    """
    types = get_type_hints(kind)
    hints = {item.name: types[item.name] for item in dataclasses.fields(kind)}
    values: dict[str, Any] = {}
    for key, value in data.items():
        if key not in hints:
            raise ValueError(f"{where}: unknown key {key!r}{nearest(key, hints)}")
        hint = hints[key]
        accepted = (int, float) if hint is float else (hint,)
        fits = isinstance(value, accepted) and (hint is bool or not isinstance(value, bool))
        require(fits, f"{where}: {key}", repr(value), f"a value of type {hint.__name__}")
        values[key] = hint(value)
    return kind(**values)


def nearest(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?``, or else ``; known: ...``."""
    names = sorted(known)
    matches = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; did you mean {matches[0]!r}?" if matches else f"; known: {', '.join(names)}"
