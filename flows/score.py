"""Stage: how close each GAN's images come to the training patients' (fidelity rows of a score artifact)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from classifiers.trained import features, load_classifier
from flows.context import Context
from flows.progress import progress_bar
from medgan.metrics import fidelity, floor
from pipeline.dataset import ScanDataset
from pipeline.records import read_rows, write_rows
from pipeline.store import Artifact, Draft, Recipe, code_version

ROWS = "rows.jsonl"
CODE = ("medgan.metrics", "classifiers.trained", "classifiers.networks")


@task(name="score", task_run_name="score {synthetic.name}", tags=["score"], cache_policy=NO_CACHE)
def score_synthetic(context: Context, dataset: Path, extractor: Path, synthetic: Path) -> Path:
    """FID, KID, precision, recall, density and coverage of one synthetic set, overall and for each class.

    Returns:
        The score artifact's folder with ``rows.jsonl``.
    """
    drawn, data = Artifact.open(synthetic), Artifact.open(dataset)
    gan, gan_seed = drawn.meta["gan"], drawn.meta["gan_seed"]
    inputs = {"dataset": data.digest, "extractor": Artifact.open(extractor).digest, "synthetic": drawn.digest}
    recipe = Recipe("score", f"{gan}-s{gan_seed}", inputs, {"seed": context.config.seed}, code_version(*CODE))
    tags = {"stage": "score", "gan": gan, "gan_seed": gan_seed}
    with context.child(recipe, f"score {gan} s{gan_seed}", tags) as run:

        def build(draft: Draft) -> None:
            with progress_bar(f"score {gan} s{gan_seed}", "steps") as progress:
                progress(0, 3)
                network = load_classifier(extractor)
                real, fake = ScanDataset(dataset, "train"), ScanDataset(synthetic)
                real_features = features(network, real.tensor())
                progress(1, 3)
                fake_features = features(network, fake.tensor())
                progress(2, 3)
                rows = fidelity(
                    real_features,
                    fake_features,
                    real.labels,
                    fake.labels,
                    real.patients,
                    real.spec.classes,
                    extractor="domain",
                    seed=context.config.seed,
                )
                progress(3, 3)
            write_rows(draft.folder / ROWS, [replace(row, gan=gan, gan_seed=gan_seed) for row in rows])

        artifact = context.store.get_or_create(recipe, build)
        if not run.finished:
            run.log_rows(read_rows(artifact.path / ROWS))
            run.log_dataset(data.path.name, data.digest, str(data.path), "reference")
            run.log_dataset(drawn.path.name, drawn.digest, str(drawn.path), "synthetic")
    return artifact.path


@task(name="score real against real", tags=["score"], cache_policy=NO_CACHE)
def score_floor(context: Context, dataset: Path, extractor: Path) -> Path:
    """The same distances between halves of the real training images: what sampling alone does to them.

    Returns:
        The score artifact's folder with ``rows.jsonl``.
    """
    data = Artifact.open(dataset)
    inputs = {"dataset": data.digest, "extractor": Artifact.open(extractor).digest}
    recipe = Recipe("score", "floor", inputs, {"seed": context.config.seed}, code_version(*CODE))
    with context.child(recipe, "score real against real", {"stage": "score"}) as run:

        def build(draft: Draft) -> None:
            real = ScanDataset(dataset, "train")
            real_features = features(load_classifier(extractor), real.tensor())
            rows = floor(
                real_features,
                real.labels,
                real.patients,
                real.spec.classes,
                extractor="domain",
                seed=context.config.seed,
            )
            write_rows(draft.folder / ROWS, rows)

        artifact = context.store.get_or_create(recipe, build)
        if not run.finished:
            run.log_rows(read_rows(artifact.path / ROWS))
            run.log_dataset(data.path.name, data.digest, str(data.path), "reference")
    return artifact.path
