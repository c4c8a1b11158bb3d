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


def require_one_of(key: str, value: str, known: Iterable[str]) -> None:
    """Raises ValueError that names the nearest known word, unless the value is one of them."""
    if value not in (names := list(known)):
        raise ValueError(f"{key}: unknown {value!r}{nearest(value, names)}")


@dataclass(frozen=True)
class Regularisation:
    """Penalties beside the adversarial loss; 0 switches one off.

    Attributes:
        gradient_penalty: λ of WGAN-GP, λ·E[(‖∇D(x̂)‖₂ − 1)²] on interpolates (Gulrajani et al. 2017, equation 3).
        drift: ε of PGGAN, ε·E[D(x)²] on real images, which keeps a critic's output near zero (Karras et al. 2018).
        clip: c of WGAN, after each update every weight of the critic is clamped to [−c, c] (Arjovsky et al. 2017,
            algorithm 1).
        r1: γ of R1, γ/2·E[‖∇D(x)‖²] on real images (Mescheder et al. 2018, equation 9).
        r1_every: discriminator steps from one R1 to the next; above 1 it is "lazy" (StyleGAN2, section 3.1).
        path_length: weight of the path length penalty (StyleGAN2, equation 4).
        path_length_every: generator steps from one path length penalty to the next.
        path_length_shrink: the penalty sees a batch this many times smaller.
        path_length_decay: step of the running mean of path lengths.
    """

    gradient_penalty: float = 0.0
    drift: float = 0.0
    clip: float = 0.0
    r1: float = 0.0
    r1_every: int = 1
    path_length: float = 0.0
    path_length_every: int = 4
    path_length_shrink: int = 2
    path_length_decay: float = 0.01

    __pydantic_config__: ClassVar[Any] = FORBID

    def __post_init__(self) -> None:
        for key in ("gradient_penalty", "drift", "clip", "r1", "path_length"):
            require(getattr(self, key) >= 0, key, getattr(self, key), "0 (off) or more")
        for key in ("r1_every", "path_length_every", "path_length_shrink"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "1 or more")
        require(0 < self.path_length_decay <= 1, "path_length_decay", self.path_length_decay, "above 0, at most 1")
        for key in ("gradient_penalty", "r1"):
            if self.clip > 0 and getattr(self, key) > 0:
                raise ValueError(
                    f"clip: found {self.clip} beside {key} {getattr(self, key)}, expected one of them to be 0; both "
                    "bound the critic's slope, and clamped weights cannot reach the slope that the penalty asks for"
                )

    @property
    def image_penalties(self) -> list[str]:
        """Names of the penalties on the gradient of single images that are switched on."""
        return [key for key in ("gradient_penalty", "r1") if getattr(self, key) > 0]


@dataclass(frozen=True)
class Optimiser:
    """The same optimiser for both networks: Adam (Kingma & Ba 2015), or RMSProp (Tieleman & Hinton 2012), WGAN's.

    Attributes:
        generator_rate: learning rate.
        discriminator_rate: learning rate.
        beta1: decay of the first moment; RMSProp has none, so 0 there.
        beta2: decay of the second moment; RMSProp's α.
        epsilon: beside the root of the second moment.
        kind: "adam" or "rmsprop".
    """

    generator_rate: float = 0.001
    discriminator_rate: float = 0.001
    beta1: float = 0.0
    beta2: float = 0.99
    epsilon: float = 1e-8
    kind: str = "adam"

    __pydantic_config__: ClassVar[Any] = FORBID

    def __post_init__(self) -> None:
        require_one_of("kind", self.kind, ("adam", "rmsprop"))
        require(self.kind == "adam" or self.beta1 == 0, "beta1", self.beta1, "0, as RMSProp has no first moment")
        for key in ("generator_rate", "discriminator_rate", "epsilon"):
            require(getattr(self, key) > 0, key, getattr(self, key), "above 0")
        for key in ("beta1", "beta2"):
            require(0 <= getattr(self, key) < 1, key, getattr(self, key), "at least 0, below 1")


@dataclass(frozen=True)
class Conditioning:
    """How the class enters the networks; with a single class none of it does anything.

    Attributes:
        generator: "embedding", a learned vector for each class beside z (Mirza & Osindero 2014); "batch_norm", scales
            and biases of batch norm for each class (Dumoulin et al. 2017; de Vries et al. 2017); or "none".
        discriminator: "projection", ⟨v_y, φ(x)⟩ added to the logit (Miyato & Koyama 2018); "input", the class beside
            the image (Mirza & Osindero 2014); "auxiliary", the discriminator names the class (Odena et al. 2017); or
            "none".
        auxiliary: weight of the auxiliary classifier's cross-entropy against the adversarial loss.
        transition_start: real images after which the class begins to enter, its weight rising from 0 to 1; until then
            the training is an unconditional one (transitional training for small sets, Shahbazi et al. 2022).
        transition_end: real images after which it is wholly there; 0 for no transition.
    """

    generator: str = "embedding"
    discriminator: str = "projection"
    auxiliary: float = 1.0
    transition_start: int = 0
    transition_end: int = 0

    __pydantic_config__: ClassVar[Any] = FORBID

    def __post_init__(self) -> None:
        require_one_of("generator", self.generator, ("embedding", "batch_norm", "none"))
        require_one_of("discriminator", self.discriminator, ("projection", "input", "auxiliary", "none"))
        require(self.auxiliary > 0, "auxiliary", self.auxiliary, "above 0")
        start, end = self.transition_start, self.transition_end
        require(start >= 0, "transition_start", start, "0 or more")
        require(end > start or start == end == 0, "transition_end", end, f"more than transition_start ({start})")
        for key in ("generator", "discriminator"):
            if self.transitional and getattr(self, key) == "none":
                raise ValueError(
                    f"transition_end: found {end} beside {key}: none, expected 0; a transition leads to a conditional "
                    "training, and this network never learns of the class"
                )

    @property
    def transitional(self) -> bool:
        """Whether the training begins without the class."""
        return self.transition_end > 0

    def label_at(self, images_seen: int) -> float:
        """Weight λ of the class after so many real images: 0, then linearly up to 1 (Shahbazi et al. 2022)."""
        if not self.transitional:
            return 1.0
        share = (images_seen - self.transition_start) / (self.transition_end - self.transition_start)
        return min(max(share, 0.0), 1.0)


TRANSFORMS = (
    *("flip", "rotate90", "translate"),  # pixels keep their values
    *("scale", "rotate", "stretch", "shift"),
    *("brightness", "contrast", "luma_flip"),
    *("noise", "cutout"),
)
DIFFAUGMENT = ("translate", "cutout")


@dataclass(frozen=True)
class Augmentation:
    """Augmentation of what the discriminator sees; see :mod:`medgan.augment`.

    Attributes:
        kind: "none"; "adaptive", ADA with p under control; "constant", ADA's transforms with p as it is; or
            "diffaugment", always on.
        transforms: the allowed ones, of :data:`TRANSFORMS`; of :data:`DIFFAUGMENT` for "diffaugment". None is allowed
            unless named: "flip" makes a mirrored chest, which is a wrong label.
        probability: p, or where it starts.
        target: of E[sign D(x)] on real images.
        every: discriminator steps from one change of p to the next.
        ramp: real images in which p may go from 0 to 1.
    """

    kind: str = "none"
    transforms: tuple[str, ...] = ()
    probability: float = 0.0
    target: float = 0.6
    every: int = 4
    ramp: int = 500_000

    __pydantic_config__: ClassVar[Any] = FORBID

    def __post_init__(self) -> None:
        require_one_of("kind", self.kind, ("none", "adaptive", "constant", "diffaugment"))
        for name in self.transforms:
            require_one_of("transforms", name, DIFFAUGMENT if self.kind == "diffaugment" else TRANSFORMS)
        require(len(set(self.transforms)) == len(self.transforms), "transforms", self.transforms, "each once")
        require(
            self.kind == "none" or bool(self.transforms),
            "transforms",
            "none",
            "one or more of " + ", ".join(TRANSFORMS),
        )
        require(0 <= self.probability <= 1, "probability", self.probability, "0 to 1")
        require(-1 <= self.target <= 1, "target", self.target, "-1 to 1")
        require(self.every >= 1, "every", self.every, "1 or more")
        require(self.ramp >= 1, "ramp", self.ramp, "1 or more")


def read_options(kind: type[OptionsType], data: Mapping[str, Any], where: str) -> OptionsType:
    """Plain data to a flat dataclass of numbers, texts, switches and lists of texts.

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
        if hint == tuple[str, ...]:
            fits = isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value)
            require(fits, f"{where}: {key}", repr(value), "a list of texts")
            values[key] = tuple(value)
            continue
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
