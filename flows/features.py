"""The domain feature extractor: a classifier of the training patients, whose features fidelity metrics use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from classifiers.arms import build_arm
from classifiers.train import train_classifier
from flows.classify import TRAINING_CODE, weights_input
from flows.configuration import ExperimentConfig
from flows.context import Context, plain
from flows.devices import training_device
from flows.progress import progress_bar
from pipeline.dataset import ScanDataset
from pipeline.store import Artifact, Draft, Recipe
from pipeline.versions import code_version


def extractor_recipe(config: ExperimentConfig, data: Artifact) -> Recipe:
    """What an extractor is made from."""
    settings: dict[str, Any] = {"classifier": plain(config.extractor), "seed": config.seed}
    inputs = {"dataset": data.digest, **weights_input(config.extractor)}
    return Recipe("extractor", config.extractor.name, inputs, settings, code_version("flows.features", *TRAINING_CODE))


@task(name="train feature extractor", tags=["extractor"], cache_policy=NO_CACHE)
def train_extractor(context: Context, dataset: Path) -> Path:
    """Trains the extractor on training patients with classical augmentation (arm B).

    Returns:
        The extractor artifact's folder, readable by :func:`classifiers.trained.load_classifier`.
    """
    config = context.config
    data = Artifact.open(dataset)
    recipe = extractor_recipe(config, data)
    tags = {"stage": "extractor", "classifier": config.extractor.name, "classifier_seed": config.seed}
    with context.child(recipe, f"extractor {config.extractor.name}", tags) as run:
        if not run.finished:
            run.log_params(recipe.config)
            run.log_dataset(data.path.name, data.digest, str(data.path), "training")

        def build(draft: Draft) -> None:
            real = ScanDataset(dataset, "train")
            arm = build_arm("B", real, seed=config.seed)
            with (
                training_device(context.config.device) as device,
                progress_bar("train feature extractor", "steps") as progress,
            ):
                trained = train_classifier(
                    config.extractor,
                    arm,
                    ScanDataset(dataset, "validation"),
                    config.seed,
                    device=device,
                    log=run.log,
                    progress=progress,
                )
            trained.save(draft.folder)

        artifact = context.store.get_or_create(recipe, build)
    return artifact.path
