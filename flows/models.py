"""Generators as MLflow models: logged by their training, registered under the experiment's name, the best by alias.

Beside :mod:`flows.tracking` the only module that imports MLflow.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import threading
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import mlflow.pyfunc
import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode
from mlflow.store.artifact.runs_artifact_repo import RunsArtifactRepository
from mlflow.types import DataType, ParamSchema, ParamSpec, Schema, TensorSpec

import medgan
import pipeline
from classifiers.evaluate import classification_metrics, predict
from classifiers.trained import load_classifier
from flows.classify import Cell
from flows.context import Context
from flows.tracking import PARENT_TAG, Run, Tracker
from medgan.sample import CARD, WEIGHTS, LoadedGenerator
from pipeline.dataset import ScanDataset
from pipeline.records import MedaugError
from pipeline.store import MANIFEST, Artifact

log = logging.getLogger(__name__)
NAME = "generator"  # the model's name in its run: runs:/ID/generator
BEST = "best"  # alias of the best version
NEEDS = ("mlflow", "torch", "numpy", "safetensors", "filelock")
_saving = threading.Lock()  # MLflow runs a model's code with a global in hand, and trainings end in several threads


def signature(generator: LoadedGenerator) -> ModelSignature:
    """Labels in; seed, truncation and the place in the series as parameters; images out."""
    spec = generator.spec
    return ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(np.int64), (-1,), "labels")]),
        outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, spec.channels, spec.height, spec.width))]),
        params=ParamSchema(
            [
                ParamSpec("seed", DataType.long, 0),
                ParamSpec("truncation", DataType.double, 1.0),
                ParamSpec("start", DataType.long, 0),
            ]
        ),
    )


def save_model(generator: Path, target: Path, run_id: str | None = None) -> None:
    """Writes a generator artifact as an MLflow model that needs nothing of this installation.

    Args:
        generator: the artifact's folder.
        target: the model's folder; must not exist.
        run_id: the MLflow run it will belong to.
    """
    loaded = medgan.load(generator, device="cpu")
    packages = [Path(package.__path__[0]) for package in (medgan, pipeline)]
    with tempfile.TemporaryDirectory() as scratch:
        files = Path(scratch) / NAME  # without the training's other files
        files.mkdir()
        for name in (CARD, WEIGHTS, MANIFEST):
            if (generator / name).is_file():
                shutil.copy(generator / name, files)
        with _saving, warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about a missing example: the signature is given
            mlflow.pyfunc.save_model(
                target,
                python_model=str(Path(__file__).with_name("served_generator.py")),
                artifacts={NAME: str(files)},
                code_paths=[str(package) for package in packages],
                pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in NEEDS],
                signature=signature(loaded),
                metadata={"classes": list(loaded.spec.classes), "value_range": vars(loaded.value_range).copy()},
                mlflow_model=Model(artifact_path=NAME, run_id=run_id),
            )


def log_model(run: Run, generator: Path) -> None:
    """Logs a generator artifact to its training's run, as ``runs:/ID/generator``."""
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / "model"
        save_model(generator, target, run.run_id)
        run.log_folder(target, NAME)


def register(
    tracker: Tracker, name: str, endpoint: str, runs: Mapping[str, Mapping[str, str]], values: Mapping[str, float]
) -> str | None:
    """Registers generators as versions of one model; those that are registered already stay what they are.

    Args:
        tracker: the MLflow experiment.
        name: of the registered model.
        endpoint: what ``values`` are.
        runs: MLflow run of each training → tags of its version; ``generator``, its digest, tells whether it is known.
        values: run → endpoint on validation patients, larger is better; of those runs that were measured.

    Returns:
        The version with the alias ``best``; None where nothing was measured.
    """
    client = tracker.client
    try:
        client.create_registered_model(name, description="Class-conditional generators of one medaug experiment")
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
            raise
    # By what it is: a training that is done again and comes out the same is no new version.
    known = {v.tags.get("generator", v.run_id): str(v.version) for v in client.search_model_versions(f"name='{name}'")}
    versions = {}
    for run_id, tags in runs.items():
        key = tags.get("generator", run_id)
        if key not in known:
            source = RunsArtifactRepository.get_underlying_uri(f"runs:/{run_id}/{NAME}")
            known[key] = str(client.create_model_version(name, source, run_id, dict(tags)).version)
        versions[run_id] = known[key]
        if run_id in values:
            client.set_model_version_tag(name, known[key], f"validation.{endpoint}", f"{values[run_id]:.6g}")
    measured = [run_id for run_id in runs if run_id in values]
    if not measured:
        return None
    best = versions[max(measured, key=lambda run_id: values[run_id])]
    client.set_registered_model_alias(name, BEST, best)
    return best


def register_generators(
    context: Context, dataset: Path, synthetic: Mapping[tuple[str, int], Path], cells: Sequence[tuple[Cell, Path]]
) -> str | None:
    """Registers the generators whose images were used, under the experiment's name; the best one gets an alias.

    Best is who helped classifiers most on the *validation* patients: the mean endpoint of its arms D on all training
    patients, over those cells that every generator with any has. Chosen on the test patients, its test figures would
    flatter it.

    Args:
        context: the experiment.
        dataset: the dataset artifact.
        synthetic: GAN and seed → synthetic artifact.
        cells: finished classifiers with their artifacts.

    Returns:
        The best version, or None where no arm D was trained, or none that all generators have.
    """
    endpoint = context.config.classification.endpoint
    validation = ScanDataset(dataset, "validation")
    helped = comparable(cells)
    runs: dict[str, dict[str, str]] = {}
    values: dict[str, float] = {}
    try:
        for (gan, seed), folder in synthetic.items():
            generator = str(Artifact.open(folder).meta["generator"])
            run_id = _run_of(context, generator)
            if run_id is None:
                continue
            runs[run_id] = {"gan": gan, "gan_seed": str(seed), "generator": generator}
            paths = helped.get((gan, seed))
            if paths:
                values[run_id] = float(np.mean([_endpoint(path, validation, endpoint) for path in paths]))
        return register(context.tracker, context.config.name, endpoint, runs, values)
    except (MlflowException, MedaugError) as error:  # a store without a registry takes nothing from the experiment
        log.warning("generators are not registered: %s", " ".join(str(error).split())[:200])
        return None


def comparable(cells: Sequence[tuple[Cell, Path]]) -> dict[tuple[str, int], list[Path]]:
    """The cells by which generators can be compared: arm D, all training patients, whatever the filter.

    Args:
        cells: finished classifiers with their artifacts.

    Returns:
        GAN and seed → artifacts of those cells that every generator here has, in one order; empty where they share
        none.
    """
    found: dict[tuple[str, int], dict[Cell, Path]] = {}
    for cell, path in cells:
        if cell.arm == "D" and cell.fraction is None and cell.gan_seed is not None:
            design = replace(cell, gan="", gan_seed=None, synthetic=None)
            found.setdefault((cell.gan, cell.gan_seed), {})[design] = path
    shared = [design for design in next(iter(found.values()), {}) if all(design in of for of in found.values())]
    if found and not shared:
        log.warning("no generator is called the best: no cell of arm D was finished for all of them")
    return {generator: [of[design] for design in shared] for generator, of in found.items()} if shared else {}


def _run_of(context: Context, generator: str) -> str | None:
    """The MLflow run that trained the generator with this digest."""
    tracker = context.tracker
    query = f"tags.digest = '{generator}' and tags.stage = 'train' and tags.`{PARENT_TAG}` = '{context.parent_run_id}'"
    found = tracker.client.search_runs([tracker.experiment_id], query, max_results=1)
    return str(found[0].info.run_id) if found else None


def _endpoint(classifier: Path, validation: ScanDataset, endpoint: str) -> float:
    trained = load_classifier(classifier)
    rows = classification_metrics(predict(trained, validation), trained.operating_point)
    return next(row.value for row in rows if row.metric == endpoint)
