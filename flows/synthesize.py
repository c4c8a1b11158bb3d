"""Stage: a generator draws a labelled set, as an artifact that reads like a dataset artifact, and as DICOM."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from prefect import task
from prefect.cache_policies import NO_CACHE

from flows.context import Context
from flows.exports.gate import find_copies
from flows.exports.writers import ImageSet, write_dicom
from flows.progress import progress_bar, say
from medgan.sample import load, synthesize
from pipeline.codes import decode
from pipeline.records import MedaugError
from pipeline.store import Artifact, Draft, Recipe
from pipeline.versions import code_version

PICTURES, WALK = 9, 8  # images a class, and steps of a latent walk, that the report shows
CODE = ("medgan.sample", "medgan.networks", "pipeline.dicom.write", "flows.exports.gate", "flows.exports.writers")


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


def write_dicom_past_the_gate(images: ImageSet, dataset: Path, folder: Path) -> str:
    """Writes those images as DICOM that are no copies of training images.

    Args:
        images: what would be written.
        dataset: the artifact their generator was trained on.
        folder: where to; not made where nothing is written.

    Returns:
        What was checked and left out; or why none was written, for example since too few validation images are there
        to tell a copy.
    """
    try:
        copies, check = find_copies("synthetic images", images, images.codes, dataset)
        if not copies.all():
            write_dicom(images.chosen(~copies), folder)
    except MedaugError as error:
        return f"none written: {error}"
    return check.text


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
            drawn = load(generator)
            classes = range(len(drawn.spec.classes))
            with progress_bar(f"synthesize {gan} s{gan_seed}", "images") as progress:
                counts = dict.fromkeys(drawn.spec.classes, settings.per_class)
                draft.meta.update(synthesize(drawn, counts, draft.folder, seed, 1.0, progress))
            draft.meta.update(gan=gan, gan_seed=gan_seed, generator=source.digest, dataset=data.digest)
            draft.meta.update(modality=data.meta["modality"], pixel_spacing=data.meta["pixel_spacing"])
            codes = np.load(draft.folder / "images.npy")
            labels = np.repeat(np.arange(len(classes)), settings.per_class)
            write_pictures(codes, labels, len(classes), draft.folder / "pictures")
            walk = np.stack([drawn.interpolate(label, WALK, seed).numpy()[:, 0] for label in classes])
            np.save(draft.folder / "pictures" / "walk.npy", to_uint8(walk))
            if settings.dicom:
                first = np.concatenate([np.flatnonzero(labels == label)[: settings.dicom] for label in classes])
                modality, spacing = data.meta["modality"], data.meta["pixel_spacing"]
                shown = ImageSet(
                    codes[first], labels[first], drawn.spec, drawn.value_range, source.digest, seed, modality, spacing
                )
                draft.meta["dicom"] = write_dicom_past_the_gate(shown, dataset, draft.folder / "dicom")
                say(f"DICOM of {gan} s{gan_seed}: {draft.meta['dicom']}")

        artifact = context.store.get_or_create(recipe, build)
        if not run.finished:
            run.log_params(recipe.config)
            run.log_dataset(artifact.path.name, artifact.digest, str(artifact.path), "synthetic")
            run.set_tag("artifact", artifact.path.name)
    return artifact.path
