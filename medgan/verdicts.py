"""From figures to verdicts: what an experiment says of a claim, always with the figure and its interval.

A claim is judged by the checks of its table (:mod:`medgan.limitations`): a figure, a threshold, and the side
of it on which the figure lies if the claim holds. "Shown" is an interval wholly on that side, "not shown" one wholly on
the other, and everything else "cannot tell at this n".
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from medgan.metrics.speedup import Curves, times_sooner
from medgan.pooled import Figure, compare, pool, spearman, student_t
from pipeline.claims import Concern, Criterion, Verdict
from pipeline.records import ResultRow

SHOWN, NOT_SHOWN, CANNOT_TELL = "shown", "not shown", "cannot tell at this n"

MIN_SEEDS = 3
"""Trainings of each of two GANs before their difference is one of the GANs and not of the seeds' luck."""

MIN_GENERATORS = 6
"""GANs behind a correlation over generators; the seeds of one GAN are no independent generators."""

UNTOLD = ("name", "snapshots", "checkpoint_seconds")
"""Settings that do not change what is trained."""

Condition = tuple[str, Literal["=", "!=", ">"], Any]
"""(dotted key of a GAN's configuration, relation, value); a key that is not there meets none."""


@dataclass(frozen=True)
class Twin:
    """The GAN that another one is compared with: the same but for one choice.

    Attributes:
        varied: dotted keys, or beginnings of such, in which the two may differ; in all others they are equal.
        control: what the twin's configuration meets.
        train: for people: what would have to be trained where it is missing.
    """

    varied: tuple[str, ...]
    control: tuple[Condition, ...]
    train: str


@dataclass(frozen=True)
class Check:
    """One figure by which a claim is judged.

    Attributes:
        probe: who measures it (a name of the registered probes, or of this package's figures over trainings).
        metric: the result row's name.
        side: where the figure lies if the claim holds.
        threshold: where that side begins.
        reason: why there.
        relation: "value" takes the metric as it is; "ratio" and "difference" set it against ``over`` of the same GAN
            or, with a twin, against the twin's; "correlation" is Spearman's between it and ``over`` over
            all GANs that have both, each with its mean over seeds;
            "speedup" is how many times sooner than the twin's a training reaches a quality that both reach.
        over: the second metric, for a ratio, difference or correlation within. With a twin it is the twin's metric,
            where that is another one (a GAN without w against a style GAN's w).
        twin: the GAN to compare with.
    """

    probe: str
    metric: str
    side: Literal["above", "below"]
    threshold: float
    reason: str
    relation: Literal["value", "ratio", "difference", "correlation", "speedup"] = "value"
    over: str = ""
    twin: Twin | None = None

    @property
    def label(self) -> str:
        """What the figure is, for people: ``separability.w / separability.z``."""
        if self.relation == "value":
            return self.metric
        if self.relation == "speedup":
            return f"times sooner in {self.metric}"
        if self.twin is not None:
            return f"{self.relation} in {self.metric}" + (f" to {self.over}" if self.over else "")
        return f"{self.metric} {dict(ratio='/', difference='−', correlation='~')[self.relation]} {self.over}"


@dataclass(frozen=True)
class Claim:
    """A claim of the literature.

    Attributes:
        key: short name.
        text: the claim.
        source: who made it, where.
        concerns: what a GAN's configuration meets if the claim is about it.
        checks: the first ones lead: their verdict is the claim's; the others stand beside them.
        leads: how many lead. A claim with two halves ("this rises and that falls") names both: it is shown if all are
            shown, not shown if any is not shown, and else cannot be told.
    """

    key: str
    text: str
    source: str
    concerns: tuple[Condition, ...]
    checks: tuple[Check, ...]
    leads: int = 1


@dataclass(frozen=True)
class Measurements:
    """What verdicts rest on.

    Attributes:
        configs: GAN → its configuration as plain nested data.
        rows: result rows of stages "score" and "train", one for each GAN, seed and metric; ``gan`` is "" for real
            against real.
        curves: (GAN, seed) → its training's curves; see :mod:`medgan.metrics.speedup`.
    """

    configs: Mapping[str, Mapping[str, Any]]
    rows: Sequence[ResultRow]
    curves: Mapping[tuple[str, int], Curves] = field(default_factory=dict)

    def figure(self, gan: str, metric: str) -> Figure | None:
        """A metric of a GAN over its trainings; None where it was not measured."""
        found = [row for row in self.rows if (row.gan, row.metric) == (gan, metric) and math.isfinite(row.value)]
        return pool(found) if found else None

    def only(self, gan: str, metric: str) -> str:
        """``of this training only; ...`` where a figure rests on fewer than :data:`MIN_SEEDS`; else "".

        A figure over seeds (without a seed of its own) has them in its interval.
        """
        seeds = {row.gan_seed for row in self.rows if (row.gan, row.metric) == (gan, metric)}
        if len(seeds) >= MIN_SEEDS or None in seeds:
            return ""
        which = "this training" if len(seeds) == 1 else f"these {len(seeds)} trainings"
        return f"of {which} only; train {MIN_SEEDS} seeds to tell something of the GAN"

    def speedup(self, gan: str, twin: str, clock: str) -> Figure | None:
        """How many times sooner a GAN is than its twin; None where nothing can be compared.

        Geometric mean over the seeds that both have, with Student's t on the logarithms; one seed has no bounds.
        """
        seeds = [seed for name, seed in self.curves if name == gan and (twin, seed) in self.curves]
        found = [times_sooner(self.curves[gan, seed], self.curves[twin, seed], clock) for seed in seeds]
        logs = [math.log(times) for times in found if times is not None]
        if not logs:
            return None
        mean = statistics.fmean(logs)
        luck = student_t(len(logs) - 1) * statistics.stdev(logs) / math.sqrt(len(logs)) if len(logs) > 1 else math.inf
        return Figure(math.exp(mean), math.exp(mean - luck), math.exp(min(mean + luck, 700.0)), len(logs))


def judge(claims: Sequence[Claim], measured: Measurements) -> list[Verdict]:
    """The scorecard: a verdict for each claim, check and GAN that the claim concerns.

    A check whose figure was not measured for a GAN gives no row: there is never a word without a number.

    Args:
        claims: the table.
        measured: configurations and figures.

    Returns:
        Verdicts in the order of claims, checks and GANs; a correlation over all GANs stands under the first one
        that the claim concerns. Where several checks lead, the leading row is the one that decides.
    """
    verdicts: list[Verdict] = []
    for claim in claims:
        concerned = [gan for gan, config in measured.configs.items() if meets(config, claim.concerns)]
        found_of: dict[int, list[_Told]] = {}
        for position, check in enumerate(claim.checks):
            if check.relation == "correlation":
                found = [_correlation(check, measured, concerned[0])] if concerned else []
            elif check.twin is not None:
                found = [_pair(check, measured, gan) for gan in concerned]
            else:
                found = [_alone(check, measured, gan) for gan in concerned]
            found_of[position] = [told for told in found if told is not None]
        deciding = {gan: _deciding(claim, found_of, gan) for gan in concerned}
        for position, check in enumerate(claim.checks):
            for told in found_of[position]:
                lead = deciding[told.gan]
                leading = lead is not None and lead[0] == position
                verdicts.append(_verdict(claim, check, leading, lead[1] if lead is not None and leading else told))
    return verdicts


def concerns(claims: Sequence[Claim], configs: Mapping[str, Mapping[str, Any]]) -> list[Concern]:
    """Which claims are about which GANs, measured or not, and what would show them.

    Args:
        claims: the table.
        configs: GAN → its configuration as plain nested data.

    Returns:
        In the order of claims; none of a claim that concerns no GAN.
    """
    found = []
    for claim in claims:
        gans = tuple(gan for gan, config in configs.items() if meets(config, claim.concerns))
        criteria = tuple(
            Criterion(
                *(one.probe, one.metric, one.relation, one.over),
                *(one.twin is not None, one.side, one.threshold, one.reason),
            )
            for one in claim.checks[: claim.leads]
        )
        if gans:
            found.append(Concern(claim.key, claim.text, claim.source, gans, criteria))
    return found


def _deciding(claim: Claim, found: Mapping[int, Sequence[_Told]], gan: str) -> tuple[int, _Told] | None:
    """Position and answer of the leading check that decides for a GAN; None where none of them was measured.

    The first that is not shown, else the first that cannot tell, else the first; one that was not measured cannot tell.
    """
    leads = {position: told for position in range(claim.leads) for told in found[position] if told.gan == gan}
    for word in (NOT_SHOWN, CANNOT_TELL):
        for position, told in leads.items():
            if told.verdict == word:
                return position, told
    if not leads:
        return None
    position, told = next(iter(leads.items()))
    missing = [claim.checks[other].label for other in range(claim.leads) if other not in leads]
    if missing:
        remedy = f"this half is shown, and {', '.join(missing)} was not measured"
        return position, replace(told, verdict=CANNOT_TELL, remedy=remedy)
    return position, told


def meets(config: Mapping[str, Any], conditions: Sequence[Condition]) -> bool:
    """Whether a configuration meets all conditions."""
    flat = flatten(config)
    return all(key in flat and _holds(flat[key], relation, value) for key, relation, value in conditions)


def _holds(found: Any, relation: str, value: Any) -> bool:
    if relation == ">":
        return bool(found > value)
    among = found in value if isinstance(value, tuple) else found == value
    return among if relation == "=" else not among


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} to {"a.b": 1}; lists become tuples."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = tuple(value) if isinstance(value, list) else value
    return flat


def find_twin(configs: Mapping[str, Mapping[str, Any]], gan: str, twin: Twin) -> str:
    """The GAN that is ``gan`` but for the twin's choice; "" where there is none."""
    mine = _told(configs[gan], twin.varied)
    for name, config in configs.items():
        if name != gan and meets(config, twin.control) and _told(config, twin.varied) == mine:
            return name
    return ""


def _told(config: Mapping[str, Any], varied: tuple[str, ...]) -> dict[str, Any]:
    """What twins have in common."""
    out = (*UNTOLD, *varied)
    return {k: v for k, v in flatten(config).items() if not any(k == o or k.startswith(f"{o}.") for o in out)}


def decide(figure: Figure, side: str, threshold: float) -> str:
    """Where the whole interval lies."""
    above, below = figure.low > threshold, figure.high < threshold
    if not above and not below:
        return CANNOT_TELL
    return SHOWN if above == (side == "above") else NOT_SHOWN


@dataclass(frozen=True)
class _Told:
    """A check's answer for one GAN."""

    gan: str
    figure: Figure
    verdict: str
    against: str = ""
    remedy: str = ""
    metric: str = ""  # where it is not the check's own


def _set_against(check: Check, figure: Figure, other: Figure | None) -> Figure | None:
    """The check's figure from two; None where there is no second one, or a ratio without a positive one below."""
    if other is None or (check.relation == "ratio" and other.value <= 0):
        return None
    return compare(figure, other, "ratio" if check.relation == "ratio" else "difference")


def _alone(check: Check, measured: Measurements, gan: str) -> _Told | None:
    figure = measured.figure(gan, check.metric)
    if figure is not None and check.relation in ("ratio", "difference"):
        figure = _set_against(check, figure, measured.figure(gan, check.over))
    if figure is None:
        return None
    verdict = decide(figure, check.side, check.threshold)
    return _Told(gan, figure, verdict, remedy=measured.only(gan, check.metric) if verdict != CANNOT_TELL else "")


def _pair(check: Check, measured: Measurements, gan: str) -> _Told | None:
    assert check.twin is not None
    mine, twin = measured.figure(gan, check.metric), find_twin(measured.configs, gan, check.twin)
    if check.relation == "speedup":
        figure = measured.speedup(gan, twin, check.metric)
    else:
        other = measured.figure(twin, check.over or check.metric) if twin else None
        figure = _set_against(check, mine, other) if mine is not None else None
    if figure is None:
        if mine is None:
            return None
        remedy = f"{twin} was not measured" if twin else f"nothing to compare with; {check.twin.train}"
        return _Told(gan, mine, CANNOT_TELL, twin, remedy, check.metric)
    if figure.seeds < MIN_SEEDS:
        remedy = f"one training may be luck; train {MIN_SEEDS} seeds of each (there: {figure.seeds})"
        return _Told(gan, figure, CANNOT_TELL, twin, remedy)
    return _Told(gan, figure, decide(figure, check.side, check.threshold), twin)


def _correlation(check: Check, measured: Measurements, under: str) -> _Told | None:
    figures = [(measured.figure(gan, check.metric), measured.figure(gan, check.over)) for gan in measured.configs]
    pairs = [(one.value, other.value) for one, other in figures if one is not None and other is not None]
    if len(pairs) < 4:
        return None
    figure = replace(spearman(pairs), note=f"over the means of {len(pairs)} GANs")
    if len(pairs) < MIN_GENERATORS:
        remedy = f"train {MIN_GENERATORS} or more GANs (there: {len(pairs)})"
        return _Told(under, figure, CANNOT_TELL, remedy=remedy)
    return _Told(under, figure, decide(figure, check.side, check.threshold))


def _verdict(claim: Claim, check: Check, leading: bool, told: _Told) -> Verdict:
    figure = told.figure
    return Verdict(
        claim=claim.key,
        text=claim.text,
        source=claim.source,
        check=check.label,
        metric=told.metric or check.label,
        probe=check.probe,
        leading=leading,
        gan=told.gan,
        against=told.against,
        verdict=told.verdict,
        value=figure.value,
        low=figure.low if math.isfinite(figure.low) else None,
        high=figure.high if math.isfinite(figure.high) else None,
        side=check.side,
        threshold=check.threshold,
        reason=check.reason,
        seeds=figure.seeds,
        n_real=figure.n_real,
        n_synthetic=figure.n_synthetic,
        remedy=told.remedy,
        note=figure.note,
        of=check.metric,
        relation=check.relation,
        over=check.over,
    )
