"""Frozen records of the scorecard: claims of the literature, what would show them, and what an experiment says."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Criterion:
    """What must hold for a claim to be shown.

    Attributes:
        probe: who measures it.
        of: the metric, e.g. ``recall``.
        relation: "value" (the metric itself), "ratio", "difference", "correlation" (over all GANs) or "speedup".
        over: the second metric, where there is one.
        twin: whether the metric is set against that of the same GAN without one choice.
        side: "above" or "below": where the figure lies if the claim holds.
        threshold: where that side begins.
        reason: why there.
    """

    probe: str
    of: str
    relation: str
    over: str
    twin: bool
    side: str
    threshold: float
    reason: str


@dataclass(frozen=True)
class Concern:
    """A claim of the literature, and the GANs of an experiment that it concerns.

    Attributes:
        claim: key of the claim, e.g. "droplets".
        text: the claim as the literature has it.
        source: who claimed it.
        gans: preset names.
        criteria: what must hold, all of it, for the claim to be shown.
    """

    claim: str
    text: str
    source: str
    gans: tuple[str, ...]
    criteria: tuple[Criterion, ...]


@dataclass(frozen=True)
class Verdict:
    """What an experiment says of one claim of the literature about one GAN (a row of the scorecard).

    Attributes:
        claim: key of the claim, e.g. "droplets".
        text: the claim as the literature has it.
        source: who claimed it.
        check: what the claim is judged by, e.g. ``recall / floor.recall`` or ``difference in recall``.
        metric: what the figure is: the same, or the metric alone where there is nothing to set it against.
        probe: who measured it; names the picture.
        leading: whether the claim's verdict is this row's; the other rows of a claim stand beside it.
        gan: preset name.
        against: the GAN it is compared with; "" where none is.
        verdict: "shown", "not shown" or "cannot tell at this n".
        value: the figure.
        low: lower end of its 95 % interval; None where the end is not bounded or the figure has none.
        high: upper end.
        side: "above" or "below": where the figure lies if the claim holds.
        threshold: where that side begins.
        reason: why there.
        seeds: trainings behind the figure.
        n_real: real images behind it.
        n_synthetic: synthetic images of each training behind it.
        remedy: what would have to be trained before anything can be told; "" where that is not what is missing.
        note: what the probe says of its figure.
        of: the metric that is judged, e.g. ``recall``; "" in reports of earlier versions.
        relation: as of :class:`Criterion`.
        over: the second metric, where there is one.
    """

    claim: str
    text: str
    source: str
    check: str
    metric: str
    probe: str
    leading: bool
    gan: str
    against: str
    verdict: str
    value: float
    low: float | None
    high: float | None
    side: str
    threshold: float
    reason: str
    seeds: int
    n_real: int | None = None
    n_synthetic: int | None = None
    remedy: str = ""
    note: str = ""
    of: str = ""
    relation: str = "value"
    over: str = ""

    @property
    def alone(self) -> bool:
        """Whether there was nothing to compare with: the figure is then the GAN's own and not the check's."""
        return self.metric != self.check

    @property
    def criterion(self) -> Criterion:
        """What must hold for this check to be shown."""
        of, twin = self.of or self.check, bool(self.against) or self.alone
        return Criterion(self.probe, of, self.relation, self.over, twin, self.side, self.threshold, self.reason)
