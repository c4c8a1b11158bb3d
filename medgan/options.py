"""The orthogonal choices of a training, each a frozen dataclass of its own, and how plain data becomes one of them."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, get_type_hints

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
