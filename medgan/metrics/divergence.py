"""Divergence: how many seeds of a GAN's training went wrong, and how steady those are that did not.

The min-max game has no loss whose fall would mean success (Goodfellow et al. 2014; Mescheder et al. 2018, "Which
Training Methods for GANs do actually Converge?"). What can be seen in the curves: the trainer gave up; steps with
non-finite losses or gradients, or returns to an earlier state; losses out of bounds; a discriminator so sure of itself
that it teaches nothing; and a quality that differs from seed to seed or still swings in the last quarter.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from medgan.metrics.intervals import clopper_pearson, deviation_interval
from medgan.metrics.measured import Measured, TooFewImagesError
from medgan.pooled import student_t

Curve = Sequence[tuple[float, float]]
"""(images seen, value), in order."""

EQUILIBRIUM: Mapping[str, float] = {
    "bce": 2 * math.log(2),
    "non_saturating": 2 * math.log(2),
    "minimax": 2 * math.log(2),
    "least_squares": 0.25,
    "hinge": 2.0,
}
"""Discriminator loss where it cannot tell real from generated; a Wasserstein critic has none to compare with."""
SATURATED = 0.01
"""Share of that loss below which, throughout the last quarter, the discriminator is saturated."""
BOUND = 1e4
"""Absolute loss out of bounds: no loss here is above a few hundred in a training that goes well."""
SKIPPED = 0.01
"""Share of curve points with newly skipped (non-finite) steps from which they are told as a sign."""
LAST = 0.25
TOLD_FROM = 72
"""Trainings without a loss from which the exact interval ends below 1/20."""
MIN_SEEDS = 3
"""Below it a mean over seeds has no interval."""
QUALITY = "validation.fid.domain"


@dataclass(frozen=True)
class Course:
    """How the training of one seed went.

    Attributes:
        status: "done" or "diverged"; a training that the machine ended tells nothing of the GAN and is no course.
        curves: metric → points; as in :class:`medgan.progression.TrainResult`.
    """

    status: str
    curves: Mapping[str, Curve] = field(default_factory=dict)


def last_quarter(curve: Curve) -> list[float]:
    """Values in the last quarter of the images that were seen."""
    return [value for seen, value in curve if seen >= (1 - LAST) * curve[-1][0]]


def signs(course: Course, loss: str) -> list[str]:
    """What speaks against a training, a few words each; empty for one that went well.

    Args:
        course: one seed's training.
        loss: the adversarial loss, a name of :data:`medgan.losses.LOSSES`.
    """
    found = [] if course.status == "done" else [f"status {course.status}"]
    if course.curves.get("rollback"):
        found.append(f"went back {len(course.curves['rollback'])} time(s)")
    broken = [name for name, curve in course.curves.items() if any(not math.isfinite(value) for _, value in curve)]
    if broken:
        found.append(f"not finite: {', '.join(sorted(broken))}")
    skipped = [value for _, value in course.curves.get("skipped", [])]
    rises = sum(later > earlier for earlier, later in zip([0.0, *skipped], skipped, strict=False))
    if skipped and rises > SKIPPED * len(skipped):
        found.append(f"non-finite steps at {rises} of {len(skipped)} points")
    for name in ("loss.discriminator", "loss.generator"):
        values = [abs(value) for value in last_quarter(course.curves.get(name, []))]
        # a Wasserstein critic's loss has no scale of its own, but not of this size either
        if any(value > BOUND for value in values):
            found.append(f"{name} up to {max(values):.3g}")
    own = last_quarter(course.curves.get("loss.discriminator", []))
    if loss in EQUILIBRIUM and own and max(own) < SATURATED * EQUILIBRIUM[loss]:
        found.append(f"saturated discriminator: loss at most {max(own):.2g}")
    return found


def divergence(courses: Sequence[Course], loss: str, quality: str = QUALITY) -> dict[str, Measured]:
    """Share of seeds that diverged, and how much quality varies over seeds and at the end of each.

    Args:
        courses: one for each seed of a GAN.
        loss: its adversarial loss.
        quality: the curve that tells quality, lower being better.

    Returns:
        ``divergence``, the share of seeds that the trainer gave up, with the exact interval of so many of the seeds;
        ``divergence.signs``, the share with any sign of trouble; ``divergence.over_seeds``, the standard
        deviation of the last quality over seeds without one, relative to their mean, with its χ² interval
        (needs two such seeds); ``divergence.last_quarter``, the standard deviation of quality around a straight line
        in the last quarter, relative to its mean: mean over those seeds with Student's 95 % interval (needs three
        points each); below three seeds its upper end is not bounded and its lower one 0, so that nothing follows.

    Raises:
        TooFewImagesError: no seed at all.
    """
    if not courses:
        raise TooFewImagesError("divergence: no training, expected at least one seed")
    reasons = [signs(course, loss) for course in courses]
    count, seeds = sum(map(bool, reasons)), len(courses)
    note = "; ".join(f"seed {number}: {', '.join(why)}" for number, why in enumerate(reasons, 1) if why)
    lost = sum(course.status != "done" for course in courses)
    most = f"none of {seeds} seeds: as few as {TOLD_FROM} would tell that fewer than one in twenty are lost"
    measured = {
        "divergence": Measured(lost / seeds, *clopper_pearson(lost, seeds), note=note if lost else most),
        "divergence.signs": Measured(count / seeds, *clopper_pearson(count, seeds), note=note or f"none of {seeds}"),
    }
    steady = [course.curves.get(quality, []) for course, why in zip(courses, reasons, strict=True) if not why]
    final = torch.tensor([curve[-1][1] for curve in steady if curve], dtype=torch.float64)
    if len(final) > 1 and final.mean() > 0:
        spread = float(final.std() / final.mean())
        ends = deviation_interval(spread, len(final))
        note = f"{quality} at the end over {len(final)} seeds: {', '.join(f'{value:.4g}' for value in final.tolist())}"
        measured["divergence.over_seeds"] = Measured(spread, *ends, note=f"relative standard deviation; {note}")
    swings = [swing for curve in steady if (swing := _swing(last_quarter(curve))) is not None]
    if swings:
        note = f"{quality} around a straight line, relative; mean over {len(swings)} seed(s)"
        measured["divergence.last_quarter"] = _over_seeds(swings, note)
    return measured


def _over_seeds(values: Sequence[float], note: str) -> Measured:
    """Mean of positive values over seeds; Student's t, from three seeds on."""
    mean = statistics.fmean(values)
    if len(values) < MIN_SEEDS:
        return Measured(mean, 0.0, None, note=f"{note}; no interval below {MIN_SEEDS} seeds")
    reach = student_t(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return Measured(mean, max(mean - reach, 0.0), mean + reach, note=f"{note}, Student's t")


def _swing(values: Sequence[float]) -> float | None:
    """Standard deviation around a straight line over the mean; None for fewer than three points."""
    if len(values) < 3:
        return None
    y = torch.tensor(values, dtype=torch.float64)
    x = torch.arange(len(y), dtype=torch.float64) - (len(y) - 1) / 2
    rest = y - y.mean() - x * (x @ y) / x.square().sum()
    # a line takes two degrees of freedom
    return float((rest.square().sum() / (len(y) - 2)).sqrt() / y.mean().abs().clamp(min=1e-12))
