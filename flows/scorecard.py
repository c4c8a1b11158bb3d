"""Stage: the probes of one generator become a scorecard artifact; the verdicts on all of them, for the report."""

from __future__ import annotations

import errno
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from prefect import task
from prefect.cache_policies import NO_CACHE

from classifiers.trained import load_classifier
from flows.configuration import ExperimentConfig
from flows.context import Context, one_line
from flows.devices import share_cores, training_device
from flows.probes import RUN
from flows.progress import progress_bar
from flows.subject import Answer, Images, Subject
from flows.verdicts import ROWS, STAGE
from medgan.limitations import PROBES, WITHOUT_AUGMENTATION
from medgan.sample import load
from medgan.verdicts import find_twin, meets
from pipeline.dataset import ScanDataset
from pipeline.records import read_rows, write_rows
from pipeline.store import Artifact, Draft, Recipe
from pipeline.versions import code_version

log = logging.getLogger(__name__)
MISSING, FIGURES, CAPTIONS = "missing.json", "figures.json", "captions.json"
CODE = ("flows.scorecard", "flows.probes", "flows.latent_probes", "flows.subject", "medgan.networks")


@task(name="scorecard", task_run_name="scorecard {synthetic.name}", tags=["scorecard"], cache_policy=NO_CACHE)
def fill_scorecard(
    context: Context, dataset: Path, extractor: Path, generator: Path, synthetic: Path, score: Path
) -> Path:
    """Runs the probes that concern a generator; their figures go to its score run in MLflow, under their own names.

    A probe that fails is a missing row with its reason. What may work next time (a full disk, no memory) fails the task
    instead, so that it is not kept.

    Args:
        context: the experiment.
        dataset: the dataset artifact's folder.
        extractor: the extractor artifact's.
        generator: the generator artifact's.
        synthetic: what it drew.
        score: its score artifact's, whose MLflow run gets the figures.

    Returns:
        The scorecard artifact's folder with ``rows.jsonl``, ``missing.json``, ``figures.json``, ``captions.json`` and
        ``pictures/``.
    """
    share_cores()
    drawn, settings = Artifact.open(synthetic), context.config.scorecard
    gan, gan_seed = drawn.meta["gan"], drawn.meta["gan_seed"]
    inputs = {
        "dataset": Artifact.open(dataset).digest,
        "extractor": Artifact.open(extractor).digest,
        "generator": Artifact.open(generator).digest,
        "synthetic": drawn.digest,
    }
    config = asdict(next(one for one in context.config.gans if one.name == gan))
    wanted = [name for name in RUN if name in settings.probes or not settings.probes]
    concerned = [name for name in wanted if meets(config, PROBES[name].concerns)]
    transforms = transforms_of(context.config, gan)
    chosen = {
        "images": settings.images,
        "draws": settings.draws,
        "probes": concerned,
        "transforms": transforms,
        "seed": context.config.seed,
    }
    recipe = Recipe("scorecard", f"{gan}-s{gan_seed}", inputs, chosen, code_version(*CODE))

    def build(draft: Draft) -> None:
        with (
            training_device(context.config.device) as device,
            progress_bar(f"scorecard {gan} s{gan_seed}", "probes") as progress,
        ):
            subject = examine(context.config, dataset, extractor, generator, synthetic, device)
            answers, missing, seconds = {}, {}, {}
            for number, name in enumerate(concerned):
                progress(number, len(concerned))
                started = time.monotonic()
                try:
                    answers[name] = RUN[name](subject)
                except Exception as error:
                    if _may_work_next_time(error):
                        raise
                    missing[name] = one_line(error)
                    log.warning("scorecard of %s (seed %s): no %s: %s", gan, gan_seed, name, missing[name])
                seconds[name] = time.monotonic() - started
            progress(len(concerned), len(concerned))
        draft.record.update(seconds=seconds)
        write_answers(draft.folder, answers, missing, gan, gan_seed)

    artifact = context.store.get_or_create(recipe, build)
    score_run = Artifact.open(score).manifest["recipe"]["hash"]
    rows = read_rows(artifact.path / ROWS)
    context.tracker.log_rows_once(score_run, context.parent, rows, "scorecard", artifact.path.name)
    return artifact.path


def examine(
    config: ExperimentConfig, dataset: Path, extractor: Path, generator: Path, synthetic: Path, device: str
) -> Subject:
    """Loads what the probes look at."""
    most, seed = config.scorecard.images, config.seed
    train, drawn = ScanDataset(dataset, "train"), load(generator, device=device)
    return Subject(
        generator=drawn,
        classifier=load_classifier(extractor, device),
        real=Images.of(train, most, seed),
        training=Images.of(train, len(train), seed),
        validation=Images.of(ScanDataset(dataset, "validation"), most, seed),
        synthetic=Images.of(ScanDataset(synthetic), most, seed),
        transforms=tuple(transforms_of(config, drawn.config.name)),
        draws=config.scorecard.draws,
        seed=seed,
    )


def transforms_of(config: ExperimentConfig, gan: str) -> list[str]:
    """The augmentations' transforms that are looked for in a GAN's scans: the same ones in all that are compared.

    A GAN without augmentation and all that differ from it in their augmentation alone make a group; a mean over other
    transforms would be another quantity.
    """
    configs = {one.name: asdict(one) for one in config.gans}
    plain_of = {name: find_twin(configs, name, WITHOUT_AUGMENTATION) or name for name in configs}
    group = [name for name in configs if plain_of[name] == plain_of[gan]]
    return sorted({transform for name in group for transform in configs[name]["augmentation"]["transforms"]})


def _may_work_next_time(error: Exception) -> bool:
    """Whether a probe's failure is the machine's."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    )


def write_answers(
    folder: Path, answers: Mapping[str, Answer], missing: Mapping[str, str], gan: str, gan_seed: int
) -> None:
    """A scorecard artifact's files.

    Args:
        folder: the draft's.
        answers: by probe.
        missing: reasons by probe.
        gan: whose.
        gan_seed: of which training.
    """
    rows = [
        replace(one.row(metric, STAGE), gan=gan, gan_seed=gan_seed)
        for answer in answers.values()
        for metric, one in answer.figures.items()
    ]
    write_rows(folder / ROWS, rows)
    figures = {name: answer.figure for name, answer in answers.items() if answer.figure is not None}
    captions = {name: answer.caption for name, answer in answers.items() if answer.caption}
    for file, data in ((MISSING, missing), (FIGURES, figures), (CAPTIONS, captions)):
        (folder / file).write_text(json.dumps(data, indent=1, ensure_ascii=False), encoding="utf-8")
    (folder / "pictures").mkdir()
    for name, answer in answers.items():
        if answer.picture is not None:
            np.save(folder / "pictures" / f"{name}.npy", answer.picture)
