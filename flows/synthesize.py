"""Stage: a generator draws a labelled set, as an artifact that reads like a dataset artifact, and as DICOM."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from prefect import task
from prefect.cache_policies import NO_CACHE

import medgan
from flows.context import Context
from flows.progress import progress_bar
from flows.tracking import tracking_uri
from medgan.sample import WEIGHTS, resolve, synthesize
from pipeline.codes import decode
from pipeline.dataset import ScanDataset
from pipeline.dicom.write import write_synthetic
from pipeline.records import MedaugError
from pipeline.store import Artifact, Draft, Recipe, Store, code_version, file_sha256

PICTURES, WALK = 9, 8  # images a class, and steps of a latent walk, that the report shows
CODE = (
    "medgan.sample",
    "medgan.networks",
    "medgan.layers",
    "medgan.ranks",
    "medgan.styles",
    "medgan.growing",
    "medgan.architecture",
    "pipeline.codes",
    "pipeline.dataset",
    "pipeline.dicom.write",
)


def to_uint8(unit: NDArray[np.float32]) -> NDArray[np.uint8]:
    """[-1, 1] to 0..255 for pictures."""
    return np.rint((np.clip(unit, -1, 1) + 1) * 127.5).astype(np.uint8)


def write_pictures(images: NDArray[np.uint16], labels: NDArray[np.int64], classes: int, folder: Path) -> None:
    """The first images of each class, uncurated, for the report: ``<label>.npy`` uint8 [n, H, W].

    Args:
        images: codes [N, C, H, W]; the first channel is shown.
        labels: class index of each image.
        classes: number of classes.
        folder: made where it is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for label in range(classes):
        rows = np.flatnonzero(labels == label)[:PICTURES]
        np.save(folder / f"{label}.npy", to_uint8(decode(images[rows, 0])))


@task(name="synthesize", task_run_name="synthesize {generator.name}", tags=["synthesize"], cache_policy=NO_CACHE)
def draw_synthetic(context: Context, dataset: Path, generator: Path) -> Path:
    """Draws the configured number of images of each class.

    Returns:
        The synthetic artifact's folder; beside the images ``pictures/`` for the report and ``dicom/``.
    """
    settings, seed = context.config.synthesis, context.config.seed
    source, data = Artifact.open(generator), Artifact.open(dataset)
    gan, gan_seed = source.meta["gan"], source.meta["seed"]
    recipe = Recipe(
        "synthetic",
        f"{gan}-s{gan_seed}",
        {"generator": source.digest},
        {**settings.model_dump(), "seed": seed},
        code_version(*CODE, "flows.synthesize"),
    )
    tags = {"stage": "synthesize", "gan": gan, "gan_seed": gan_seed}
    with context.child(recipe, f"synthesize {gan} s{gan_seed}", tags) as run:

        def build(draft: Draft) -> None:
            drawn = medgan.load(generator)
            classes = range(len(drawn.spec.classes))
            with progress_bar(f"synthesize {gan} s{gan_seed}", "images") as progress:
                counts = dict.fromkeys(drawn.spec.classes, settings.per_class)
                draft.meta.update(synthesize(drawn, counts, draft.folder, seed, 1.0, progress))
            draft.meta.update(gan=gan, gan_seed=gan_seed, generator=source.digest, dataset=data.digest)
            codes = np.load(draft.folder / "images.npy")
            labels = np.repeat(np.arange(len(classes)), settings.per_class)
            write_pictures(codes, labels, len(classes), draft.folder / "pictures")
            walk = np.stack([drawn.interpolate(label, WALK, seed).numpy()[:, 0] for label in classes])
            np.save(draft.folder / "pictures" / "walk.npy", to_uint8(walk))
            chosen = np.concatenate([np.flatnonzero(labels == label)[: settings.dicom] for label in classes])
            write_synthetic(
                decode(codes[chosen, 0]),
                labels[chosen].tolist(),
                drawn.spec.classes,
                drawn.value_range,
                draft.folder / "dicom",
                modality=data.meta["modality"],
                generator_hash=source.digest,
                seed=seed,
                pixel_spacing=data.meta["pixel_spacing"],
            )

        artifact = context.store.get_or_create(recipe, build)
        if not run.finished:
            run.log_params(recipe.config)
            run.log_dataset(artifact.path.name, artifact.digest, str(artifact.path), "synthetic")
            run.set_tag("artifact", artifact.path.name)
    return artifact.path


def draw_to_folder(
    source: str, folder: Path, per_class: int, truncation: float, seed: int, form: str, runs: Path
) -> dict[str, Any]:
    """Draws from a generator outside any experiment.

    Args:
        source: a generator artifact's folder or an MLflow URI.
        folder: where the set goes; must not exist.
        per_class: images of each class.
        truncation: above 0, at most 1.
        seed: of the drawing.
        form: "artifact", "dicom" or "png".
        runs: the runs folder, whose MLflow knows ``runs:/`` sources unless MLFLOW_TRACKING_URI is set.

    Returns:
        A summary with ``text`` for people.

    Raises:
        MedaugError: the folder exists, a number is out of range, or the source is no generator.
    """
    if folder.exists():
        raise MedaugError(f"--out {folder}: exists already; give a new folder")
    if per_class < 1:
        raise MedaugError(f"--per-class {per_class}: expected 1 or more")
    if not 0 < truncation <= 1:
        raise MedaugError(f"--truncation {truncation:g}: expected above 0 and at most 1")
    with _mlflow_at(tracking_uri(None, runs)):  # for a source like runs:/ID/generator
        drawn = medgan.load(source)
        weights = file_sha256(resolve(source) / WEIGHTS)
    counts = dict.fromkeys(drawn.spec.classes, per_class)
    recipe = Recipe(
        "synthetic",
        folder.name,
        {"generator": weights},
        {"per_class": per_class, "truncation": truncation, "seed": seed},
        code_version(*CODE),
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=folder.parent, prefix=".medaug-") as scratch,
        progress_bar("synthesize", "images") as progress,
    ):
        draw = Store(Path(scratch)).get_or_create(
            recipe,
            lambda draft: draft.meta.update(synthesize(drawn, counts, draft.folder, seed, truncation, progress)),
        )
        if form == "artifact":
            draw.path.rename(folder)
        elif form == "dicom":
            images = ScanDataset(draw.path)
            write_synthetic(
                decode(images.codes[:, 0]),
                images.labels.tolist(),
                drawn.spec.classes,
                drawn.value_range,
                folder,
                modality="CT" if drawn.value_range.unit == "HU" else "OT",
                generator_hash=weights,
                seed=seed,
            )
        else:
            _write_png(ScanDataset(draw.path), folder)
    text = f"{sum(counts.values())} synthetic images ({per_class} of each class) in {folder}"
    return {"status": "done", "folder": str(folder), "images": sum(counts.values()), "format": form, "text": text}


@contextmanager
def _mlflow_at(uri: str) -> Iterator[None]:
    """MLflow's tracking URI for a while; afterwards the environment is as it was."""
    given = os.environ.get("MLFLOW_TRACKING_URI")
    os.environ["MLFLOW_TRACKING_URI"] = uri
    try:
        yield
    finally:
        if given is None:
            del os.environ["MLFLOW_TRACKING_URI"]
        else:
            os.environ["MLFLOW_TRACKING_URI"] = given


def _write_png(data: ScanDataset, folder: Path) -> None:
    for label, name in enumerate(data.spec.classes):
        (folder / name).mkdir(parents=True)
        for number, row in enumerate(np.flatnonzero(data.labels == label)):
            Image.fromarray(to_uint8(decode(data.codes[row, 0]))).save(folder / name / f"{number:05d}.png")
