"""Generators with one planted defect each, beside the same without it; see :mod:`tests.benchmarks.planted`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import torch

from medgan.metrics import attributes, droplets, edits, noise, path_length, pinning
from medgan.metrics.drawing import classes_in_turn, points
from medgan.metrics.measured import Measured
from medgan.sample import LoadedGenerator
from tests.unit.latent_toys import disc, swirl, toy
from tests.unit.probe_images import phantoms
from tests.unit.test_medgan_explore import generator
from tests.unit.test_probes_latent import ATTRIBUTES, edited, flat, judged
from tests.unit.test_probes_pinning import real_and_frozen, walker
from tests.unit.test_probes_style import noisy

DRAWS = 600
PAIRS = 200
WORSE: dict[str, Literal["above", "below"]] = {
    **{"droplets": "above", "ppl": "above", "separability": "above", "noise.low_pass": "above"},
    **{"pinning": "below", "edit_purity": "below", "edit_control": "below"},
}
"""Probe -> where a defect moves its figure."""


class Planted(NamedTuple):
    """A probe's answers.

    Attributes:
        defect: what was planted.
        probe: the metric.
        without: its figure for the sound generator.
        planted: its figure for the same generator with the defect.
    """

    defect: str
    probe: str
    without: Measured
    planted: Measured

    @property
    def seen(self) -> bool:
        """Whether the intervals lie apart, the planted one on the worse side."""
        ends = (self.without.low, self.without.high, self.planted.low, self.planted.high)
        low, high, planted_low, planted_high = (end for end in ends if end is not None)
        name = self.probe.removesuffix(".z").removesuffix(".w")
        return planted_low > high if WORSE[name] == "above" else planted_high < low


def generators() -> Iterator[Planted]:
    """The rows, each as soon as it is measured."""
    yield from _droplet()
    moving, frozen = real_and_frozen(phantoms(40, 64, 5, slices=1)[0])
    yield Planted("detail frozen on moving phantoms", "pinning", moving, frozen)
    along, pinned = (pinning.pinning(pinning.observe(walker(share), 40)) for share in (1.0, 0.0))
    yield Planted("texture that stays while w moves the body", "pinning", along, pinned)
    fine, coarse = (noise.low_pass_share(noise.observe(noisy(layer))) for layer in (3, 1))
    yield Planted("noise in a coarse layer", "noise.low_pass", fine, coarse)
    straight = latent(toy(disc))
    for defect, entangled in (
        ("z swirled by the mapping, w straight", toy(disc, swirl)),
        ("w swirled by the synthesis", toy(lambda factors, noise=None: disc(swirl(factors)))),
    ):
        for probe, found in latent(entangled).items():
            yield Planted(defect, probe, straight[probe], found)


def _droplet() -> Iterator[Planted]:
    gan = generator("stylegan", 64, 64, architecture={"base_channels": 512})
    last = [layer for layer in gan.network.modules() if hasattr(layer, "noise_scale")][-1]
    quiet = droplets.droplets(droplets.observe(gan, 100))

    def paint(module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        painted = output.clone()
        painted[:, :, 31:34, 8:11] += 60 * output.std()
        return painted

    hook = last.register_forward_hook(paint)
    try:
        found = droplets.droplets(droplets.observe(gan, 100))
    finally:
        hook.remove()
    yield Planted("a droplet painted into activations of 64x64", "droplets", quiet, found)


def latent(gan: LoadedGenerator) -> dict[str, Measured]:
    """Path length, separability, purity and control in z and in w of a generator of discs."""
    labels = classes_in_turn(gan, DRAWS)
    scores = attributes.scores(gan, labels, ATTRIBUTES)
    found = {}
    for space in ("z", "w"):
        speeds = path_length.squared_speeds(gan, flat, space, pairs=PAIRS)
        found[f"ppl.{space}"] = path_length.path_length(speeds)
        found[f"separability.{space}"] = judged(points(gan, labels, 0, space), scores, labels)
        moves = edited(gan, space, DRAWS)
        found[f"edit_purity.{space}"] = edits.purity(moves)
        found[f"edit_control.{space}"] = edits.control(moves)
    return found
