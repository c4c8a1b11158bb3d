"""Stage: contrasts between arms, and everything into the report."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import platform
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from prefect import task
from prefect.cache_policies import NO_CACHE

from flows.classify import ROWS, Cell
from flows.context import Context
from flows.contrasts import contrast_name, evidence_rows
from flows.devices import describe
from flows.registration import register, registered
from flows.synthesize import write_pictures
from flows.verdicts import experiment_concerns, experiment_verdicts, log_verdicts, probe_rows
from pipeline.dataset import ScanDataset
from pipeline.records import GanSummary, ReportInput, ResultRow, read_rows
from pipeline.report import write_report
from pipeline.store import Artifact

log = logging.getLogger(__name__)
SMALL_TEST = 100  # patients; below it no usual gain can be told from chance
SMALL_EXTRACTOR = 1000  # scans


@dataclass(frozen=True)
class Outcome:
    """What became of one GAN training.

    Attributes:
        gan: preset name.
        seed: GAN seed.
        status: "done", "diverged" or "failed".
        reason: one line, where the status is not "done".
        generator: generator artifact, where there is one.
        synthetic: synthetic artifact, where there is one.
        score: score artifact, where there is one.
        scorecard: scorecard artifact, where there is one.
    """

    gan: str
    seed: int
    status: str
    reason: str = ""
    generator: Path | None = None
    synthetic: Path | None = None
    score: Path | None = None
    scorecard: Path | None = None


def training_rows(outcomes: Sequence[Outcome]) -> list[ResultRow]:
    """Seconds, images and parameters of each finished training."""
    rows = []
    for outcome in outcomes:
        if outcome.generator is None:
            continue
        artifact = Artifact.open(outcome.generator)
        values = {
            "seconds": float(artifact.manifest["record"]["seconds"]),
            "images_seen": float(artifact.meta["images_seen"]),
            **{f"parameters.{network}": float(n) for network, n in artifact.meta["parameters"].items()},
        }
        rows += [ResultRow("train", name, v, gan=outcome.gan, gan_seed=outcome.seed) for name, v in values.items()]
    return rows


def gan_summary(outcome: Outcome) -> GanSummary:
    """What the report shows of one training."""
    summary = GanSummary(outcome.gan, outcome.seed, outcome.status, outcome.reason)
    if outcome.generator is not None:
        artifact = Artifact.open(outcome.generator)
        curves = json.loads((artifact.path / "curves.json").read_text(encoding="utf-8"))
        record = artifact.manifest["record"]
        summary = replace(
            summary,
            images_seen=int(artifact.meta["images_seen"]),
            seconds=float(record["seconds"]),
            timeline=tuple((float(x), float(y)) for x, y in record.get("timeline", ())),
            parameters=artifact.meta["parameters"],
            curves={name: [(float(x), float(y)) for x, y in points] for name, points in curves.items()},
        )
    if outcome.synthetic is not None:
        summary = replace(summary, samples=outcome.synthetic / "pictures")
    return replace(summary, scorecard=outcome.scorecard)


def experiment_warnings(context: Context, data: ScanDataset, outcomes: Sequence[Outcome]) -> list[str]:
    """What a reader must know before believing a figure, most important first."""
    warnings = [f"{o.gan} (seed {o.seed}) {o.status}: {o.reason}" for o in outcomes if o.status != "done"]
    patients = len(np.unique(ScanDataset(data.artifact.path, "test").patients))
    if patients < SMALL_TEST:
        warnings.append(f"only {patients} test patients: intervals are wide, and a smaller gain or harm cannot be seen")
    train = data.meta["counts"]["train"]
    slices = sum(entry["slices"] for entry in train.values())
    if slices < 2048:
        warnings.append(
            f"{slices} real images behind the fidelity figures: FID is biased upwards below 2,048, so read KID first, "
            "and both beside the real-against-real floor"
        )
    if slices < SMALL_EXTRACTOR:
        warnings.append(
            f"the feature extractor learnt from {slices} scans: it may miss faults that an eye sees at once, so look "
            "at the pictures before the fidelity figures"
        )
    lengths = {gan.images for gan in context.config.gans}
    if len(lengths) > 1:
        warnings.append(
            f"the GANs were trained on {min(lengths):,} to {max(lengths):,} images and for unequal times: "
            "a comparison between them compares these budgets too"
        )
    if len(context.config.gan_seeds) < 3:
        warnings.append(
            f"{len(context.config.gan_seeds)} seed(s) for each GAN: differences between GANs may be luck; "
            "3 or more are needed to tell"
        )
    if context.config.classifiers and len(context.config.classification.seeds) < 5:
        warnings.append(
            f"{len(context.config.classification.seeds)} classifier seed(s): 5 or more are needed to separate seed "
            "variation from an effect"
        )
    return [*warnings, *data.meta.get("warnings", [])]


def plan_warnings(plan: Artifact) -> list[str]:
    """Whether endpoint and contrasts were chosen after figures were known."""
    before = plan.meta["trained_before"]
    if not before:
        return []
    return [
        f"endpoint, contrasts and settings were registered after {before} trainings on these images in this runs "
        "folder: they may have been chosen by their results"
    ]


def versions() -> dict[str, str]:
    """Versions of what made the report."""
    names = ("medaug", "torch", "monai", "pydicom", "scikit-learn", "mlflow", "prefect")
    found = {name: importlib.metadata.version(name) for name in names}
    return {"python": platform.python_version(), **found}


@task(name="report", tags=["report"], cache_policy=NO_CACHE)
def write_experiment_report(
    context: Context,
    dataset: Path,
    floor: Path,
    outcomes: Sequence[Outcome],
    cells: Sequence[tuple[Cell, Path]],
    failures: Sequence[str],
    provenance: dict[str, str],
) -> Path:
    """Writes report.html and report.json, and logs both with all contrasts to the experiment's MLflow run.

    Returns:
        Path of report.html.
    """
    config = context.config
    data = ScanDataset(dataset, "train")
    rows = read_rows(floor / ROWS) + training_rows(outcomes)
    for outcome in outcomes:
        if outcome.score is not None:
            rows += read_rows(outcome.score / ROWS)
    for _, path in cells:
        rows += read_rows(path / ROWS)
    plan = register(context, dataset)
    evidence = evidence_rows(
        cells, rows, config.classification, config.seed, plan.meta["contrasts"], len(config.gan_seeds)
    )
    rows += [*evidence, *probe_rows(config, outcomes)]
    verdicts = experiment_verdicts(config, rows, outcomes)

    folder = context.report_folder
    folder.mkdir(parents=True, exist_ok=True)
    pictures = folder / "pictures"
    write_pictures(data.codes[data.rows], data.labels, len(data.spec.classes), pictures)
    write_report(
        ReportInput(
            title=config.name,
            headline=config.headline,
            # Paths and file names may hold a patient's name; the report travels.
            config=config.model_dump(mode="json", exclude={"data": {"source": {"path"}, "labels": {"file"}}}),
            dataset=data.meta,
            real_samples=pictures,
            gans=tuple(gan_summary(outcome) for outcome in outcomes),
            rows=tuple(rows),
            warnings=(*failures, *plan_warnings(plan), *experiment_warnings(context, data, outcomes)),
            links={
                "MLflow": f"mlflow ui --backend-store-uri {context.uri}",
                "Artifacts": str(context.store.root),
                **{f"Synthetic set of {o.gan} (seed {o.seed})": str(o.synthetic) for o in outcomes if o.synthetic},
            },
            provenance={
                "endpoint and contrasts registered": registered(plan),
                **provenance,
                "device": describe(),
                **versions(),
            },
            verdicts=tuple(verdicts),
            concerns=tuple(experiment_concerns(config)),
        ),
        folder,
    )
    values: dict[str, float] = {}
    for row in (row for row in evidence if row.stage == "contrast"):
        name = contrast_name(row, row.metric, row.arm)
        values |= {name: row.value, f"{name}.low": row.low or 0.0, f"{name}.high": row.high or 0.0}
    context.parent.log(values, 0)
    log_verdicts(context, rows, outcomes, verdicts)
    context.parent.log_file(folder / "report.html")
    context.parent.log_file(folder / "report.json")
    return folder / "report.html"


def comparison_table(outcomes: Sequence[Outcome]) -> str:
    """GAN × metrics as a Markdown table, for Prefect's page of the run."""
    names = ("kid.domain", "fid.domain", "precision", "recall", "density", "coverage")
    lines = ["| GAN | seed | status | " + " | ".join(names) + " |", "|---" * (len(names) + 3) + "|"]
    for outcome in outcomes:
        values = {row.metric: row.value for row in read_rows(outcome.score / ROWS)} if outcome.score else {}
        figures = [f"{values[name]:.4g}" if name in values else "–" for name in names]
        lines.append(f"| {outcome.gan} | {outcome.seed} | {outcome.status} | " + " | ".join(figures) + " |")
    return "\n".join(lines)
