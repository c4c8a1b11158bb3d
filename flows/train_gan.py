"""Stage: one GAN, one seed, training patients only, becomes a generator artifact."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from prefect import task
from prefect.cache_policies import NO_CACHE

from classifiers.trained import features, load_classifier
from flows.context import Context, plain
from flows.devices import training_device
from flows.models import log_model
from flows.progress import progress_bar
from flows.timeline import Timeline
from medgan import LoadedGenerator
from medgan.config import GanConfig
from medgan.metrics import fid, kid
from medgan.train import train
from pipeline.dataset import ScanDataset
from pipeline.store import Artifact, Draft, Recipe, code_version

CURVE_IMAGES = 256  # drawn at each snapshot
CODE = (
    "flows.train_gan",
    "medgan.metrics.features",
    "medgan.metrics.fid",
    "medgan.metrics.intervals",
    "medgan.metrics.kid",
    "medgan.metrics.measured",
    "medgan.metrics.moments",
    "medgan.metrics.sampling",
    "classifiers.trained",
    "classifiers.networks",
    "medgan.config",
    "medgan.options",
    "medgan.sizes",
    "medgan.architecture",
    "medgan.augment",
    "medgan.progression",
    "medgan.compiled",
    "medgan.contract",
    "medgan.ranks",
    "medgan.registry",
    "medgan.convolution",
    "medgan.layers",
    "medgan.losses",
    "medgan.styles",
    "medgan.growing",
    "medgan.sample",
    "medgan.networks",
    "medgan.train",
    "medgan.checkpoint",
    "medgan.data",
    "medgan.optimise",
    "medgan.seeds",
    "pipeline.codes",
    "pipeline.device",
    "pipeline.dataset",
)


def generator_recipe(dataset: Artifact, extractor: Artifact, gan: GanConfig, seed: int) -> Recipe:
    """What a generator is made from."""
    return Recipe(
        "generator",
        f"{gan.name}-s{seed}",
        {"dataset": dataset.digest, "extractor": extractor.digest},
        {"gan": plain(gan), "seed": seed},
        code_version(*CODE),
    )


def validation_curve(data: ScanDataset, extractor: Path) -> Callable[[int, LoadedGenerator], Mapping[str, float]]:
    """KID and FID against the *validation* patients, for the curves during training.

    With few validation scans FID is biased; the curve shows a course, the score stage gives the figures.
    """
    classifier = load_classifier(extractor)
    real = features(classifier, data.tensor())
    # The validation set's classes in its own proportions: evenly spaced picks from the sorted labels.
    labels = np.sort(data.labels)[np.linspace(0, len(data) - 1, CURVE_IMAGES).astype(int)].tolist()

    def measure(images_seen: int, generator: LoadedGenerator) -> Mapping[str, float]:
        synthetic = features(classifier, generator.sample(labels, seed=images_seen))
        return {
            "validation.kid.domain": kid.distance(real, synthetic).value,
            "validation.fid.domain": fid.distance(real, synthetic),
        }

    return measure


@task(
    name="train GAN",
    task_run_name="train {gan.name} seed {seed}",
    tags=["train", "gpu-training"],
    cache_policy=NO_CACHE,
)
def train_gan(context: Context, dataset: Path, extractor: Path, gan: GanConfig, seed: int) -> Path:
    """Trains, or goes on with a killed training, or finds it done.

    Returns:
        The generator artifact's folder; its meta holds ``status`` "done" or "diverged".
    """
    data = Artifact.open(dataset)
    recipe = generator_recipe(data, Artifact.open(extractor), gan, seed)
    tags = {"stage": "train", "gan": gan.name, "gan_seed": seed}
    with context.child(recipe, f"train {gan.name} s{seed}", tags) as run:
        if not run.finished:
            run.log_params({"gan": plain(gan), "seed": seed})
            run.log_dataset(data.path.name, data.digest, str(data.path), "training")
        fresh = False

        def build(draft: Draft) -> None:
            nonlocal fresh
            fresh = True
            scratch = context.store.scratch(recipe)
            judge = validation_curve(ScanDataset(dataset, "validation"), extractor)
            with (
                training_device(context.config.device) as device,
                progress_bar(f"train {gan.name} s{seed}", "images") as progress,
            ):
                timeline = Timeline(scratch)  # not before: the wait for a GPU is no training
                result = train(
                    gan,
                    ScanDataset(dataset, "train"),
                    seed,
                    scratch,
                    draft.folder,
                    device=device,
                    log=run.log,
                    progress=progress,
                    on_snapshot=timeline.stamped(judge),
                    on_grid=lambda images_seen, grid: run.log_grid(grid, images_seen),
                )
            draft.meta.update(
                gan=gan.name,
                seed=seed,
                status=result.status,
                reason=result.reason,
                images_seen=result.images_seen,
                parameters=dict(result.parameters),
            )
            draft.record.update(seconds=result.seconds, timeline=timeline.points)

        artifact = context.store.get_or_create(recipe, build)
        if not run.finished:
            if not fresh:  # made for another experiment: this one shows its course too
                run.log_curves(json.loads((artifact.path / "curves.json").read_text(encoding="utf-8")))
            run.log({"seconds": artifact.manifest["record"]["seconds"]}, 0)
            run.set_tag("status", artifact.meta["status"])
            run.set_tag("artifact", artifact.path.name)
            run.set_tag("digest", artifact.digest)
            log_model(run, artifact.path)
    return artifact.path
