"""The main job: data, GANs, synthetic sets, scores, classifiers, report, as one Prefect flow."""

# No postponed annotations here: a scheduled run gets the flow by pickle, which would leave their names behind.
import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, Literal

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.states import Completed, Failed, State
from prefect.task_runners import ThreadPoolTaskRunner

from flows.classify import classify
from flows.compare import Outcome, comparison_table, write_experiment_report
from flows.configuration import ExperimentConfig
from flows.context import Context
from flows.devices import workers
from flows.features import train_extractor
from flows.fractions import prepare_grounds
from flows.grid import check_classifiers, check_fractions, grid
from flows.ingest import ingest_scans
from flows.models import register_generators
from flows.preflight import (
    check_disk,
    check_extractor_names,
    check_extractors,
    check_labels,
    check_networks,
    check_output,
    check_runner,
    check_services,
)
from flows.progress import say, stop_stages
from flows.registration import register
from flows.runner import tasks_run_on
from flows.score import score_floor, score_synthetic
from flows.scorecard import fill_scorecard
from flows.settle import settle
from flows.synthesize import draw_synthetic
from flows.tracking import tracking_uri
from flows.train_gan import train_gan
from pipeline.dataset import ScanDataset
from pipeline.records import MedaugError
from pipeline.store import Artifact, canonical_json

Training = tuple[str, int]
"""A GAN's name and seed."""
Until = Literal["ingest", "train", "synthesize", "score", "classify", "report"]
FEWEST_TRAINING, FEWEST_VALIDATION = 24, 4  # what the floor and the curves need
STAGES: tuple[Until, ...] = ("ingest", "train", "synthesize", "score", "classify", "report")


def preflight(config: ExperimentConfig) -> None:
    """All checks that need no data.

    Raises:
        MedaugError: the first fault.
    """
    check_output(config.runs)
    check_labels(config)
    check_disk(config, check_networks(config))
    check_services(config)
    check_runner(config)
    check_extractors(config)


def open_context(config: ExperimentConfig, dataset: Artifact) -> Context:
    """The experiment's MLflow run: taken up again where configuration and data are the same."""
    uri = tracking_uri(config.tracking.uri, config.runs)
    context = Context(config, uri)
    tracker = context.tracker
    tracker.close_dead_runs()
    settings = config.model_dump(mode="json", exclude={"runs", "tracking", "runner", "headline"})
    key = hashlib.sha256(canonical_json([settings, dataset.digest]).encode()).hexdigest()[:16]
    tags = {"stage": "experiment", "dataset": dataset.path.name}
    run = tracker.run(key, config.name, tags, description=config.headline)
    if not run.finished:
        run.log_params({"name": config.name, "seed": config.seed, "classification": settings["classification"]})
        run.log_dataset(dataset.path.name, dataset.digest, str(dataset.path), "experiment")
    return replace(context, parent_run_id=run.run_id)


def check_sizes(config: ExperimentConfig, dataset: Path) -> None:
    """Every later stage has enough scans and enough images: found out before the first training, not after it.

    Raises:
        MedaugError: too few; names the number that would do.
    """
    train, validation = ScanDataset(dataset, "train"), ScanDataset(dataset, "validation")
    for data, need in ((train, FEWEST_TRAINING), (validation, FEWEST_VALIDATION)):
        if len(data) < need:
            raise MedaugError(
                f"data: {len(data)} scans in {data.split}, expected at least {need}; add scans or change data.split"
            )
    check_fractions(config, train)
    check_classifiers(config, train)


@flow(name="medaug experiment", flow_run_name="{config.name}", task_runner=ThreadPoolTaskRunner(max_workers=workers()))  # type: ignore[arg-type]
def experiment(config: ExperimentConfig, until: Until = "report") -> State[Any]:
    """Runs an experiment as far as ``until``; whatever is done already is found, not done again.

    One GAN that fails takes only what needs it along; the flow then ends as *failed in part*.

    Args:
        config: the experiment; Prefect's UI shows it as a form.
        until: the last stage wanted.
    """
    started = time.time()
    before = artifact_count(config)
    preflight(config)  # here as well as in the command: a server's form starts the flow without it
    ingested = ingest_scans(config)
    dataset = Artifact.open(ingested)
    counts = {split: sum(c["slices"] for c in of.values()) for split, of in dataset.meta["counts"].items()}
    say(f"dataset {dataset.path.name}: " + ", ".join(f"{n} {split}" for split, n in counts.items()) + " scans")
    if until == "ingest":
        return finish(config, until, {"dataset": str(dataset.path)}, [], before)

    data = ScanDataset(ingested, "train")
    check_extractor_names(config, data.spec.classes)
    parameters = check_networks(config, data.spec.classes)
    check_disk(config, parameters, scans=sum(counts.values()))
    check_sizes(config, ingested)
    context = open_context(config, dataset)
    register(context, ingested)  # before anything learns from these data
    try:
        with tasks_run_on(context):
            return run_stages(context, ingested, until, before, started)
    except BaseException as error:
        stop_stages()
        context.parent.end("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise


def run_stages(context: Context, ingested: Path, until: Until, before: int, started: float) -> State[Any]:
    """Everything after ingest, stage by stage.

    Args:
        context: the experiment, its MLflow run open.
        ingested: the dataset artifact's folder.
        until: the last stage wanted.
        before: finished artifacts when the run began.
        started: when that was, in seconds since the epoch.
    """
    config = context.config
    failures: list[str] = []
    wanted = STAGES.index(until)

    extractor = train_extractor.submit(context, ingested).result()
    trained = settle(
        {
            (gan.name, seed): train_gan.submit(context, ingested, extractor, gan, seed)
            for gan, seed in product(config.gans, config.gan_seeds)
        },
        lambda key: f"training {key[0]} (seed {key[1]})",
        failures,
    )
    usable = {key: path for key, path in trained.items() if Artifact.open(path).meta["status"] == "done"}
    synthetic, scores, cards, cells = {}, {}, {}, {}
    if wanted >= STAGES.index("synthesize"):
        synthetic = settle(
            {key: draw_synthetic.submit(context, ingested, path) for key, path in usable.items()},
            lambda key: f"drawing from {key[0]} (seed {key[1]})",
            failures,
        )
    if wanted >= STAGES.index("score"):
        scores = settle(
            {key: score_synthetic.submit(context, ingested, extractor, path) for key, path in synthetic.items()},
            lambda key: f"scoring {key[0]} (seed {key[1]})",
            failures,
        )
        if config.scorecard.enabled:
            cards = settle(
                {
                    key: fill_scorecard.submit(context, ingested, extractor, usable[key], synthetic[key], path)
                    for key, path in scores.items()
                },
                lambda key: f"the scorecard of {key[0]} (seed {key[1]})",
                failures,
            )
    if wanted >= STAGES.index("classify"):
        grounds = prepare_grounds(context, ingested, extractor, synthetic, failures)
        cells = settle(
            {cell: classify.submit(context, dataset, cell) for dataset, cell in grid(config, grounds)},
            lambda cell: f"classifier {cell.title}",
            failures,
        )
    register_generators(context, ingested, synthetic, list(cells.items()))
    outcomes = [
        replace(outcome(key, trained.get(key), synthetic.get(key), scores.get(key), failures), scorecard=cards.get(key))
        for key in product([gan.name for gan in config.gans], config.gan_seeds)
    ]
    results = {"dataset": str(ingested), "mlflow": context.uri}
    if until == "report":
        floor = score_floor.submit(context, ingested, extractor).result()
        provenance = {"started": time.strftime("%Y-%m-%d %H:%M", time.localtime(started))}
        provenance["wall time of this run"] = f"{time.time() - started:.0f} s"
        report = write_experiment_report(context, ingested, floor, outcomes, list(cells.items()), failures, provenance)
        results["report"] = str(report)
    if wanted >= STAGES.index("score"):
        create_markdown_artifact(comparison_table(outcomes), key="comparison", description="GAN × metrics")
    context.parent.end("FAILED" if failures else "FINISHED")
    return finish(config, until, results, failures, before)


def artifact_count(config: ExperimentConfig) -> int:
    """Finished artifacts in the store."""
    return sum(1 for _ in (config.runs / "artifacts").glob("*/*/manifest.json"))


def finish(
    config: ExperimentConfig, until: Until, results: Mapping[str, str], failures: Sequence[str], before: int
) -> State[Any]:
    """The flow's final state, with a summary as its data."""
    made = artifact_count(config) - before
    name = "failed in part" if failures else "done"
    message = f"{config.name} up to {until}; {made} new artifacts"
    summary = {"status": name, "message": message, **results, "failures": list(failures), "new_artifacts": made}
    if failures:
        return Failed(name="Failed in part", message=f"{message}; " + "; ".join(failures), data=summary)
    return Completed(message=message if made else f"{message}: everything was done already", data=summary)


def outcome(
    key: Training, generator: Path | None, synthetic: Path | None, score: Path | None, failures: Sequence[str]
) -> Outcome:
    """What became of one training, for the report."""
    gan, seed = key
    if generator is None:
        reason = next((line for line in failures if line.startswith(f"training {gan} (seed {seed})")), "")
        return Outcome(gan, seed, "failed", reason.partition(" failed: ")[2])
    meta = Artifact.open(generator).meta
    return Outcome(gan, seed, meta["status"], meta["reason"], generator, synthetic, score)
