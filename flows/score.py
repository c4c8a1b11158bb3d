"""Stage: how close each GAN's images come to the training patients' (fidelity rows of a score artifact)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from flows.context import Context
from flows.extract import Source, real_features, sources, synthetic_features
from flows.progress import progress_bar
from medgan.metrics import fidelity, floor
from pipeline.dataset import ScanDataset
from pipeline.records import ResultRow, read_rows, write_rows
from pipeline.store import Artifact, Draft, Recipe
from pipeline.versions import code_version

ROWS = "rows.jsonl"
CODE = ("flows.score", "flows.extract")


@task(name="score", task_run_name="score {synthetic.name}", tags=["score"], cache_policy=NO_CACHE)
def score_synthetic(context: Context, dataset: Path, extractor: Path, synthetic: Path) -> Path:
    """FID, KID, precision, recall, density and coverage of one synthetic set, overall and for each class.

    A GAN whose generator knows no classes has no figures of classes: the labels of what it drew say nothing.

    Args:
        context: the experiment.
        dataset: the dataset artifact; its training images are the reference.
        extractor: the domain classifier's artifact; the configured extractors come beside it.
        synthetic: the synthetic artifact.

    Returns:
        The score artifact's folder with ``rows.jsonl``.
    """
    drawn, data = Artifact.open(synthetic), Artifact.open(dataset)
    gan, gan_seed = drawn.meta["gan"], drawn.meta["gan_seed"]
    config = next(one for one in context.config.gans if one.name == gan)
    by_class = config.conditioning.generator != "none"
    used = sources(context, extractor)
    recipe = _recipe(context, f"{gan}-s{gan_seed}", {"dataset": data.digest, "synthetic": drawn.digest}, used)
    tags = {"stage": "score", "gan": gan, "gan_seed": gan_seed}
    with context.child(recipe, f"score {gan} s{gan_seed}", tags) as run:

        def build(draft: Draft) -> None:
            real, fake = ScanDataset(dataset, "train"), ScanDataset(synthetic)
            rows: list[ResultRow] = []
            with progress_bar(f"score {gan} s{gan_seed}", "steps") as progress:
                for done, source in enumerate(used):
                    progress(2 * done, 2 * len(used))
                    of_real = real_features(context, source, dataset)
                    of_fake = synthetic_features(context, source, synthetic, of_real)
                    progress(2 * done + 1, 2 * len(used))
                    found = fidelity(
                        of_real.features,
                        of_fake.features,
                        real.labels,
                        fake.labels,
                        real.patients,
                        real.spec.classes,
                        extractor=source.name,
                        seed=context.config.seed,
                        real_statistics=of_real.statistics,
                        by_class=by_class,
                    )
                    rows += _noted(found, of_real.note)
                progress(2 * len(used), 2 * len(used))
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
    used = sources(context, extractor)
    recipe = _recipe(context, "floor", {"dataset": data.digest}, used)
    with context.child(recipe, "score real against real", {"stage": "score"}) as run:

        def build(draft: Draft) -> None:
            real = ScanDataset(dataset, "train")
            rows: list[ResultRow] = []
            for source in used:
                of_real = real_features(context, source, dataset)
                found = floor(
                    of_real.features,
                    real.labels,
                    real.patients,
                    real.spec.classes,
                    extractor=source.name,
                    seed=context.config.seed,
                )
                rows += _noted(found, of_real.note)
            write_rows(draft.folder / ROWS, rows)

        artifact = context.store.get_or_create(recipe, build)
        if not run.finished:
            run.log_rows(read_rows(artifact.path / ROWS))
            run.log_dataset(data.path.name, data.digest, str(data.path), "reference")
    return artifact.path


def _recipe(context: Context, name: str, inputs: Mapping[str, str], used: Sequence[Source]) -> Recipe:
    extractors = {f"extractor.{source.name}": source.identity for source in used}
    settings: dict[str, Any] = {
        "seed": context.config.seed,
        "precision": {source.name: source.precision for source in used},
    }
    return Recipe("score", name, {**inputs, **extractors}, settings, code_version(*CODE))


def _noted(rows: Sequence[ResultRow], note: str) -> list[ResultRow]:
    return [replace(row, note="; ".join(filter(None, [row.note, note]))) for row in rows]
