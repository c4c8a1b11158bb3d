"""From finished cells to evidence: arms, contrasts, their power, where variation comes from, and what FID is worth."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np

from classifiers.delong import delong
from classifiers.evaluate import Predictions
from classifiers.statistics import POWER, Contrast, contrast, endpoint_of, estimate, holm, resamples_for
from classifiers.variation import components, rank_correlation
from flows.classify import PREDICTIONS, Cell
from flows.configuration import ClassificationConfig
from pipeline.records import ResultRow

CONTROLS = ("B", "C")


@dataclass(frozen=True)
class Run:
    """A finished cell and what it answered."""

    cell: Cell
    predictions: Predictions


def load_runs(cells: Sequence[tuple[Cell, Path]]) -> list[Run]:
    """Reads each cell's predictions."""
    return [Run(cell, Predictions.load(path / PREDICTIONS)) for cell, path in cells]


def evidence_rows(
    cells: Sequence[tuple[Cell, Path]],
    scores: Sequence[ResultRow],
    settings: ClassificationConfig,
    seed: int,
    planned: Collection[str] = (),
    gan_seeds: int | None = None,
) -> list[ResultRow]:
    """Everything that is said over all cells.

    Args:
        cells: finished cells with their classifier artifacts.
        scores: fidelity rows of the synthetic sets.
        settings: endpoint and resamples.
        seed: of the bootstrap.
        planned: as in :func:`contrast_rows`.
        gan_seeds: likewise.
    """
    runs = load_runs(cells)
    gains = gain_rows(runs, settings)
    return [
        *arm_rows(runs, settings, seed),
        *contrast_rows(runs, settings, seed, planned, gan_seeds),
        *gains,
        *worth_rows(gains, scores),
    ]


def identity(cell: Cell) -> ResultRow:
    """A row without a figure, that says which arm of which classifier it is about."""
    return ResultRow(
        "arm",
        "",
        0.0,
        gan=cell.gan,
        arm=cell.arm,
        ratio=cell.ratio,
        classifier=cell.classifier.name,
        fraction=cell.fraction,
        variant=cell.variant,
    )


def grouped(runs: Sequence[Run]) -> dict[ResultRow, list[Run]]:
    """The runs of each arm, which differ in their seeds alone."""
    groups: dict[ResultRow, list[Run]] = {}
    for run in runs:
        groups.setdefault(identity(run.cell), []).append(run)
    return dict(sorted(groups.items(), key=lambda group: _order(group[0])))


def _order(row: ResultRow) -> tuple[str, float, str, str, float, str]:
    return row.classifier, row.fraction or 1.0, row.arm, row.gan, row.ratio or 0.0, row.variant


def arm_rows(runs: Sequence[Run], settings: ClassificationConfig, seed: int) -> list[ResultRow]:
    """The endpoint of each arm over all its seeds with its interval, and where its variation comes from."""
    rows = []
    for key, mine in grouped(runs).items():
        found = estimate([run.predictions for run in mine], settings.endpoint, settings.resamples, seed)
        rows.append(
            replace(
                key,
                metric=settings.endpoint,
                value=found.value,
                low=found.low,
                high=found.high,
                n=found.n_patients,
                note=_spread(found.seed_sd).removeprefix(", "),
            )
        )
        figures = {(run.cell.gan_seed, run.cell.seed): endpoint_of(run.predictions, settings.endpoint) for run in mine}
        parts = {**components(figures)._asdict(), "patients": found.patient_sd}
        rows += [
            replace(key, stage="variance", metric=f"sd.{name}", value=value, n=len(mine))
            for name, value in parts.items()
            if value is not None
        ]
    return rows


def contrast_rows(
    runs: Sequence[Run],
    settings: ClassificationConfig,
    seed: int,
    planned: Collection[str] = (),
    gan_seeds: int | None = None,
) -> list[ResultRow]:
    """D−B and D−C of each arm D, over all seeds, under one Holm correction over all of them; and their power.

    Args:
        runs: all finished cells.
        settings: endpoint and resamples; more are drawn where the family needs them.
        seed: of the bootstrap.
        planned: names of the registered contrasts. Those that failed stay in Holm's family with p = 1.
        gan_seeds: how many were planned, for the note; None takes those that are there.
    """
    groups = grouped(runs)
    pairs = {
        contrast_name(key, settings.endpoint, f"D-{arm}"): (key, arm)
        for key, arm in product([key for key in groups if key.arm == "D"], CONTROLS)
        if _control(key, arm) in groups
    }
    family = len({*planned, *pairs})
    resamples = max(settings.resamples, resamples_for(family))
    found: list[tuple[ResultRow, Contrast]] = []
    for key, control_arm in pairs.values():
        treatment, control = groups[key], groups[_control(key, control_arm)]
        answers = ([run.predictions for run in treatment], [run.predictions for run in control])
        drawn = [run.cell.gan_seed for run in treatment]
        result = contrast(
            *answers,
            settings.endpoint,
            resamples,
            seed,
            gan_seeds=drawn,
            classifier_seeds=([run.cell.seed for run in treatment], [run.cell.seed for run in control]),
            tests=family,
        )
        row = replace(
            key,
            stage="contrast",
            metric=settings.endpoint,
            value=result.value,
            low=result.low,
            high=result.high,
            n=result.n_patients,
            arm=f"D-{control_arm}",
            note=f"{_spread(result.seed_sd)}; {len(treatment)} runs against {len(control)}"
            + f"; {_gan_seeds(len(set(drawn)), gan_seeds)}"
            + _check(answers, result, settings),
        )
        found.append((row, result))
    failed = [1.0] * (family - len(found))
    adjusted = holm([*(result.p for _, result in found), *failed])[: len(found)]
    rows = []
    for (row, result), holm_p in zip(found, adjusted, strict=True):
        rows.append(replace(row, note=f"p={result.p:.3g}, Holm p={holm_p:.3g}{row.note}"))
        power = f"{POWER:.0%} power among {family} contrasts" if result.smallest < 1.0 else "none could be shown"
        rows.append(replace(row, stage="power", value=result.smallest, low=None, high=None, note=power))
    return rows


def _gan_seeds(used: int, planned: int | None) -> str:
    """``3 of 3 GAN seeds``; of one it says what follows."""
    planned = planned or used
    text = f"{used} of {planned} GAN seed{'' if planned == 1 else 's'}"
    return text if used > 1 else f"{text}, so that its luck is unknown and nothing can be shown (p is set to 1)"


def _control(key: ResultRow, arm: str) -> ResultRow:
    """The arm that D is compared with: the same classifier and patients; for C the same count of added images."""
    if arm == "B":
        return replace(key, arm="B", gan="", ratio=None, variant="")
    # C duplicates as many images of each class as D adds, whichever synthetic ones a filter chose.
    return replace(key, arm="C", gan="", variant="balanced" if key.variant.startswith("balanced") else "")


def _check(
    answers: tuple[Sequence[Predictions], Sequence[Predictions]], result: Contrast, settings: ClassificationConfig
) -> str:
    """DeLong's standard error beside the bootstrap's over patients alone; "" where it does not apply."""
    closed = delong(*answers) if settings.endpoint == "auroc" else None
    if closed is None:
        return ""
    return f"; SE over patients alone {result.patient_se:.3g} by bootstrap, {closed.se:.3g} by DeLong"


def _spread(seed_sd: float | None) -> str:
    return "" if seed_sd is None else f", SD over seeds {seed_sd:.3g}"


def gain_rows(runs: Sequence[Run], settings: ClassificationConfig) -> list[ResultRow]:
    """What each single GAN training brought: the mean over classifier seeds of D less that of B, without an interval.

    For the question whether a training's fidelity tells its usefulness; what counts are the contrasts.
    """
    groups = grouped(runs)
    rows = []
    for key, mine in groups.items():
        control = groups.get(_control(key, "B"), []) if key.arm == "D" else []
        if not control:
            continue
        base = _mean(control, settings.endpoint)
        for gan_seed in sorted({run.cell.gan_seed for run in mine if run.cell.gan_seed is not None}):
            own = [run for run in mine if run.cell.gan_seed == gan_seed]
            value = _mean(own, settings.endpoint) - base
            rows.append(
                replace(
                    key,
                    stage="gain",
                    metric=settings.endpoint,
                    value=value,
                    n=len(own),
                    arm="D-B",
                    gan_seed=gan_seed,
                )
            )
    return rows


def _mean(runs: Sequence[Run], endpoint: str) -> float:
    return float(np.mean([endpoint_of(run.predictions, endpoint) for run in runs]))


def worth_rows(gains: Sequence[ResultRow], scores: Sequence[ResultRow]) -> list[ResultRow]:
    """Rank correlation between a fidelity metric and the gain D−B over GAN trainings, for each classifier.

    Trainings on all patients, their unfiltered images; a training's gain is its mean over ratios. Trainings of one GAN
    are not independent, so that the interval is rather too narrow.
    """
    rows = []
    plain = [row for row in gains if row.fraction is None and "filter" not in row.variant]
    scores = [row for row in scores if row.stage == "score"]
    metrics = dict.fromkeys(row.metric for row in scores if row.gan and is_fidelity(row.metric))
    for classifier, metric in product(dict.fromkeys(row.classifier for row in plain), metrics):
        mine = [row for row in plain if row.classifier == classifier]
        gain = _by_training(mine)
        fidelity = _by_training([row for row in scores if row.metric == metric])
        both = [training for training in gain if training in fidelity]
        found = rank_correlation([fidelity[one] for one in both], [gain[one] for one in both])
        if found is not None:
            rows.append(
                ResultRow(
                    "worth",
                    metric,
                    found.value,
                    found.low,
                    found.high,
                    n=found.n,
                    classifier=classifier,
                    note="Spearman's rank correlation with the gain D-B over GAN trainings",
                )
            )
    return rows


def is_fidelity(metric: str) -> bool:
    """Whether a metric is an overall FID or KID: ``kid.domain``, but no class's and no floor's."""
    return metric.count(".") == 1 and metric.split(".")[0] in ("fid", "kid")


def _by_training(rows: Sequence[ResultRow]) -> Mapping[tuple[str, int], float]:
    values: dict[tuple[str, int], list[float]] = {}
    for row in rows:
        if row.gan and row.gan_seed is not None and np.isfinite(row.value):
            values.setdefault((row.gan, row.gan_seed), []).append(row.value)
    return {training: float(np.mean(found)) for training, found in values.items()}


def contrast_name(row: ResultRow, metric: str, arms: str) -> str:
    """Under which name a contrast goes to MLflow: ``auroc.D-B.resnet.dcgan.x1``, with fraction and variant behind.

    Args:
        row: says which arm D of which classifier it is about.
        metric: the endpoint.
        arms: "D-B" or "D-C".
    """
    fraction = f".{row.fraction * 100:g}pct" if row.fraction is not None else ""
    variant = f".{row.variant}" if row.variant else ""
    return f"{metric}.{arms}.{row.classifier}.{row.gan}.x{row.ratio:g}{fraction}{variant}"
