"""What the scorecards of an experiment say of the literature's claims: figures over all seeds, then verdicts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from flows.configuration import ExperimentConfig
from flows.tracking import metric_name
from medgan.limitations import CLAIMS
from medgan.metrics.divergence import Course, divergence
from medgan.metrics.speedup import Curves
from medgan.verdicts import Measurements, concerns, judge
from pipeline.records import Concern, ResultRow, Verdict, read_rows
from pipeline.store import Artifact

if TYPE_CHECKING:
    from flows.compare import Outcome
    from flows.context import Context

ROWS = "rows.jsonl"
STAGE = "probe"
"""Of the result rows that probes give."""


def probe_rows(config: ExperimentConfig, outcomes: Sequence[Outcome]) -> list[ResultRow]:
    """All figures of the scorecards, and of each GAN over its seeds how its trainings went."""
    rows = [row for one in outcomes if one.scorecard is not None for row in read_rows(one.scorecard / ROWS)]
    if not config.scorecard.enabled:
        return rows
    for gan in config.gans:
        # a training that the machine ended ("failed": memory, disk) says nothing of the GAN
        own = [one for one in outcomes if one.gan == gan.name and one.status != "failed"]
        courses = [Course(one.status, _curves(one.generator)) for one in own]
        found = divergence(courses, gan.loss) if courses else {}
        rows += [replace(one.row(metric, STAGE), gan=gan.name, n=len(courses)) for metric, one in found.items()]
    return rows


def experiment_verdicts(
    config: ExperimentConfig, rows: Sequence[ResultRow], outcomes: Sequence[Outcome]
) -> list[Verdict]:
    """The scorecard's verdicts.

    Args:
        config: the experiment.
        rows: of all stages.
        outcomes: of all trainings.
    """
    if not config.scorecard.enabled:
        return []
    curves = {(one.gan, one.seed): _with_seconds(one.generator) for one in outcomes if one.generator is not None}
    used = [row for row in rows if row.stage in ("train", "score", STAGE)]
    return judge(CLAIMS, Measurements({gan.name: asdict(gan) for gan in config.gans}, used, curves))


def experiment_concerns(config: ExperimentConfig) -> list[Concern]:
    """The claims that concern a GAN of the experiment."""
    return concerns(CLAIMS, {gan.name: asdict(gan) for gan in config.gans}) if config.scorecard.enabled else []


def log_verdicts(
    context: Context, rows: Sequence[ResultRow], outcomes: Sequence[Outcome], verdicts: Sequence[Verdict]
) -> None:
    """To MLflow: what concerns all seeds of a GAN to each one's score run, the leading verdicts to the experiment's.

    A verdict is a tag ``limitation.<claim>.<gan>`` and a figure of the same name with its interval; no figure where
    there is nothing to compare with, for the GAN's own is then another quantity than the check's.

    Args:
        context: the experiment.
        rows: of all stages.
        outcomes: of all trainings.
        verdicts: the scorecard.
    """
    for one in outcomes:
        over_seeds = [row for row in rows if (row.stage, row.gan, row.gan_seed) == (STAGE, one.gan, None)]
        if one.score is not None and over_seeds:
            run = Artifact.open(one.score).manifest["recipe"]["hash"]
            context.tracker.log_rows_once(run, context.parent, over_seeds, "over_seeds", str(len(outcomes)))
    values: dict[str, float] = {}
    for told in verdicts:
        if told.leading:
            name = metric_name(f"limitation.{told.claim}.{told.gan}")  # a tag takes no more than a metric does
            ends = {"": told.value, ".low": told.low, ".high": told.high} if not told.alone else {}
            values |= {f"{name}{end}": value for end, value in ends.items() if value is not None}
            context.parent.set_tag(name, told.verdict)
    context.parent.log(values, 0)


def _curves(generator: Path | None) -> dict[str, list[tuple[float, float]]]:
    """A training's curves; none of one that failed."""
    if generator is None:
        return {}
    curves = json.loads((generator / "curves.json").read_text(encoding="utf-8"))
    return {name: [(float(x), float(y)) for x, y in points] for name, points in curves.items()}


def _with_seconds(generator: Path) -> Curves:
    timeline: Mapping[str, list[list[float]]] = Artifact.open(generator).manifest["record"]
    seconds = [(float(x), float(y)) for x, y in timeline.get("timeline", [])]
    return {**_curves(generator), "seconds": seconds}
