"""From a generator or a synthetic artifact to a folder for other programs, past the gate, with its datasheet."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import medgan
from flows.exports.datasheet import make_datasheet, scores_of, write_datasheet
from flows.exports.gate import CopyCheck, find_copies, find_training_data, unchecked
from flows.exports.writers import WRITERS, ImageSet
from flows.progress import progress_bar
from flows.synthesize import CODE
from flows.tracking import tracking_uri
from medgan.sample import WEIGHTS, fetch, resolve, synthesize, trained_on
from pipeline.dataset import IMAGES, ScanDataset, write_index
from pipeline.records import SPLITS, MedaugError
from pipeline.store import MANIFEST, Artifact, Draft, Recipe, Store, file_sha256
from pipeline.versions import code_version

FORMATS = ("artifact", *WRITERS)
PER_CLASS = 100  # images of each class drawn from a generator, unless told otherwise


@dataclass(frozen=True)
class ExportRequest:
    """What the user wants.

    Attributes:
        source: a generator artifact, a synthetic artifact, or an MLflow URI of either.
        out: where it goes; must not exist.
        form: one of :data:`FORMATS`.
        per_class: images of each class before the gate; None for 100 of a generator and all of a synthetic set.
        truncation: above 0, at most 1; None for 1; only for a generator.
        seed: of the drawing; None for 0; only for a generator.
        runs: the runs folder, whose artifacts hold the training data and scores, and whose MLflow knows URIs.
        training: the dataset artifact the generator was trained on; None to look in the runs folder.
        copy_check: whether copies of training images are left out.
        licence: of the source data, for the datasheet.
    """

    source: str
    out: Path
    form: str = "artifact"
    per_class: int | None = None
    truncation: float | None = None
    seed: int | None = None
    runs: Path = Path("runs")
    training: Path | None = None
    copy_check: bool = True
    licence: str = ""


def export(request: ExportRequest) -> dict[str, Any]:
    """Draws or reads the images, leaves out copies of training images, and writes the rest.

    Returns:
        A summary with ``text`` for people.

    Raises:
        MedaugError: an unknown format, the folder exists, a number is out of range, the source is neither generator
            nor synthetic set, the training data is not at hand, or nothing is left to export.
    """
    if request.form not in FORMATS:
        raise MedaugError(f"--format {request.form}: expected one of {', '.join(FORMATS)}")
    if request.out.exists():
        raise MedaugError(f"--out {request.out}: exists already; give a new folder")
    if request.per_class is not None and request.per_class < 1:
        raise MedaugError(f"--per-class {request.per_class}: expected 1 or more")
    if request.truncation is not None and not 0 < request.truncation <= 1:
        raise MedaugError(f"--truncation {request.truncation:g}: expected above 0 and at most 1")
    store = request.runs / "artifacts"
    with _mlflow_at(tracking_uri(None, request.runs)):  # for a source like runs:/ID/generator
        folder = fetch(request.source)
    request.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=request.out.parent, prefix=".medaug-") as scratch:
        is_set = (folder / MANIFEST).is_file() and Artifact.open(folder).kind in ("synthetic", "dataset")
        drawn = _opened(request, folder) if is_set else _drawn(request, folder, store, Path(scratch))
        data = ScanDataset(drawn)
        rows, check, training = _past_the_gate(request, data, store)
        images = _image_set(data, rows, training)
        meta = data.meta
        making = {
            "network": meta["gan"],
            "generator": images.generator,
            "seed": images.seed,
            "truncation": meta["truncation"],
            "training_data": meta.get("dataset") or "unknown",
        }
        if "filter" in meta:
            kept = ", ".join(f"{count} {name}" for name, count in zip(meta["classes"], meta["kept"], strict=True))
            making |= {"filter": meta["filter"], "kept_by_the_filter": f"{kept}, of {meta['of']} drawn"}
        if training is not None:
            making["training_images"] = sum(
                c["slices"] for c in Artifact.open(training).meta["counts"]["train"].values()
            )
        sheet = make_datasheet(
            f"Synthetic set {request.out.name}",
            request.form,
            images,
            making,
            check,
            scores_of(store, data.artifact),
            request.licence,
            [] if training is None else Artifact.open(training).meta.get("warnings", []),
        )
        if request.form == "artifact":
            finished = _write_artifact(request, data, images, sheet, Path(scratch))
        else:
            finished = Path(scratch) / "export"
            WRITERS[request.form](images, finished)
            write_datasheet(sheet, finished)
        finished.rename(request.out)
    left = {name: int(np.sum(images.labels == label)) for label, name in enumerate(images.spec.classes)}
    counts = ", ".join(f"{count} {name}" for name, count in left.items())
    return {
        "status": "done",
        "folder": str(request.out),
        "images": len(images.labels),
        "classes": left,
        "format": request.form,
        "copies": {"checked": check.checked, "left_out": check.left_out},
        "text": f"{len(images.labels)} synthetic images ({counts}) in {request.out}; {check.text}",
    }


def _opened(request: ExportRequest, folder: Path) -> Path:
    """A synthetic artifact as it is."""
    for option, value in (("--truncation", request.truncation), ("--seed", request.seed)):
        if value is not None:
            raise MedaugError(f"{option}: {request.source} is drawn already; {option} goes with a generator")
    if not ScanDataset(folder).synthetic:
        raise MedaugError(f"{request.source}: holds real images; expected a generator or a synthetic set")
    return folder


def _drawn(request: ExportRequest, folder: Path, store: Path, scratch: Path) -> Path:
    """A new synthetic artifact, drawn from a generator."""
    place = resolve(folder)
    dataset, weights = trained_on(place), file_sha256(place / WEIGHTS)
    if request.copy_check:
        find_training_data(request.source, dataset, request.training, store)  # refuses before the drawing
    generator = medgan.load(place)
    seed, truncation = request.seed or 0, 1.0 if request.truncation is None else request.truncation
    counts = dict.fromkeys(generator.spec.classes, request.per_class or PER_CLASS)
    settings = {"counts": counts, "seed": seed, "truncation": truncation}
    recipe = Recipe("synthetic", "drawn", {"generator": weights}, settings, code_version(*CODE))

    def build(draft: Draft) -> None:
        with progress_bar("synthesize", "images") as progress:
            draft.meta.update(synthesize(generator, counts, draft.folder, seed, truncation, progress))
        digest = Artifact.open(place).digest if (place / MANIFEST).is_file() else weights
        draft.meta.update(generator=digest, dataset=dataset)

    return Store(scratch).get_or_create(recipe, build).path


def _past_the_gate(
    request: ExportRequest, data: ScanDataset, store: Path
) -> tuple[NDArray[np.int64], CopyCheck, Path | None]:
    """Rows that may leave, what was checked, and the dataset artifact where it is at hand.

    Raises:
        MedaugError: no training data to compare with, or nothing but copies.
    """
    limit = request.per_class or len(data)
    rows = np.sort(np.concatenate([np.flatnonzero(data.labels == k)[:limit] for k in range(len(data.spec.classes))]))
    dataset = str(data.meta.get("dataset", ""))
    if not request.copy_check:
        try:
            training = find_training_data(request.source, dataset, request.training, store)
        except MedaugError:
            training = None
        return rows, unchecked(len(rows)), training
    training = find_training_data(request.source, dataset, request.training, store)
    with progress_bar("compare with training images", "steps") as progress:
        progress(0, 1)
        copies, check = find_copies(request.source, data, data.codes[rows], training)
        progress(1, 1)
    check = replace(check, proven=bool(dataset))
    if copies.all():
        raise MedaugError(f"{request.source}: all {len(rows)} images are copies of training images; none is exported")
    return rows[~copies], check, training


def _image_set(data: ScanDataset, kept: NDArray[np.int64], training: Path | None) -> ImageSet:
    """The images that leave; what the set does not say of its source, its dataset may."""
    source = {} if training is None else Artifact.open(training).meta
    meta = data.meta
    spacing = meta.get("pixel_spacing", source.get("pixel_spacing"))
    modality = meta.get("modality", source.get("modality", "CT" if data.value_range.unit == "HU" else "OT"))
    return ImageSet(
        np.asarray(data.codes[kept]),
        data.labels[kept],
        data.spec,
        data.value_range,
        str(meta.get("generator", data.artifact.digest)),
        int(meta["seed"]),
        str(modality),
        spacing,
    )


def _write_artifact(
    request: ExportRequest, data: ScanDataset, images: ImageSet, sheet: dict[str, Any], scratch: Path
) -> Path:
    """The set without its copies, as an artifact of its own."""
    recipe = Recipe(
        "synthetic",
        request.out.name,
        {"synthetic": data.artifact.digest},
        {"images": len(images.labels)},
        code_version(*CODE),
    )

    def build(draft: Draft) -> None:
        np.save(draft.folder / IMAGES, images.codes)
        write_index(
            draft.folder,
            images.codes,
            images.labels.tolist(),
            [SPLITS.index("train")] * len(images.labels),
            [-1] * len(images.labels),
        )
        draft.meta.update(data.meta, counts=sheet["content"]["classes"], copies=sheet["copies"])
        draft.meta.update(modality=images.modality, pixel_spacing=images.pixel_spacing)
        write_datasheet(sheet, draft.folder)

    return Store(scratch / "finished").get_or_create(recipe, build).path


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
