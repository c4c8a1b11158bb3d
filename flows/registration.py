"""What will be compared, written down before the run's first training: endpoint, contrasts, correction, settings.

An endpoint that is chosen after the figures are known is always a good one. The plan is an artifact: its digest stands
in MLflow and in the report, with the time and with how many finished trainings on these images the runs folder held
before it. It vouches for this runs folder alone: of trainings elsewhere it knows nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from classifiers.statistics import resamples_for
from flows.classify import Cell
from flows.configuration import ExperimentConfig
from flows.context import Context
from flows.contrasts import CONTROLS, contrast_name, identity
from pipeline.dataset import INDEX, ScanDataset
from pipeline.records import LEVEL
from pipeline.store import MANIFEST, Artifact, Draft, Recipe

PLAN = "plan.json"
SETTINGS = {"seed", "gans", "extractor", "extractors", "synthesis", "classifiers", "classification"}
"""Of the configuration, beside the dataset: whatever can change a figure of the contrasts makes another plan."""


def register(context: Context, dataset: Path) -> Artifact:
    """The plan of an experiment on a dataset; written on the first call, found on every later one.

    Args:
        context: the experiment, its MLflow run open.
        dataset: the whole dataset artifact.

    Returns:
        The artifact; its meta holds the plan and ``trained_before``, its record the time (UTC).
    """
    data = Artifact.open(dataset)
    plan = plan_of(context.config, dataset)
    # No code version: a plan that says the same is the same plan.
    recipe = Recipe("registration", context.config.name, {"dataset": data.digest}, plan, "1")

    def build(draft: Draft) -> None:
        draft.meta = {**plan, "dataset": data.digest, "trained_before": trained_on(data, context.store.root)}
        draft.record["registered"] = datetime.now(UTC).isoformat(timespec="seconds")
        text = json.dumps({**draft.meta, **draft.record}, indent=1, ensure_ascii=False)
        (draft.folder / PLAN).write_text(text + "\n", encoding="utf-8")

    artifact = context.store.get_or_create(recipe, build)
    context.parent.set_tag("registration", artifact.digest)
    context.parent.log_file(artifact.path / PLAN, "registration")
    return artifact


def plan_of(config: ExperimentConfig, dataset: Path) -> dict[str, Any]:
    """Endpoint, contrasts and how they will be judged, as plain data."""
    settings = config.classification
    contrasts = list(planned_contrasts(config))
    resamples = max(settings.resamples, resamples_for(len(contrasts)))
    return {
        "endpoint": settings.endpoint,
        "contrasts": contrasts,
        "test": f"paired bootstrap over patients, {resamples} resamples, two-sided, seeds' luck included",
        "level": LEVEL,
        "correction": f"Holm over {len(contrasts)} contrasts; one that fails counts with p = 1",
        "helped": "D-B and D-C both above 0 with corrected p below the level; harmed: both below",
        "classifier_seeds": list(settings.seeds),
        "gan_seeds": list(config.gan_seeds),
        "test_patients": len(np.unique(ScanDataset(dataset, "test").patients)),
        "settings": config.model_dump(mode="json", include=SETTINGS),
    }


def planned_contrasts(config: ExperimentConfig) -> Iterator[str]:
    """The name of each contrast, as in MLflow: ``auroc.D-B.resnet.dcgan.x1``."""
    settings = config.classification
    if "D" not in settings.arms:
        return
    grid = product(config.classifiers, settings.fractions, config.gans, settings.filters, settings.ratios)
    for (classifier, fraction, gan, kind, ratio), balance in product(grid, settings.balance):
        part = fraction if fraction < 1.0 else None
        cell = Cell("D", classifier, 0, ratio, balance, gan.name, filter=kind, fraction=part)
        for control in CONTROLS:
            yield contrast_name(identity(cell), settings.endpoint, f"D-{control}")


def trained_on(data: Artifact, root: Path) -> int:
    """How many finished generators and classifiers a store holds that learnt from data with any of these images.

    Datasets are told by their images' hashes, not by their digests: the same scans ingested again, split anew, or a
    fraction of them are these data. Scans prepared differently (another size or window) are other images.
    """
    images = _images(data.path)
    same = {data.digest}
    for file in (root / "dataset").glob(f"*/{MANIFEST}"):
        if images & _images(file.parent):
            same.add(Artifact.open(file.parent).digest)
    manifests = [*(root / "generator").glob(f"*/{MANIFEST}"), *(root / "classifier").glob(f"*/{MANIFEST}")]
    inputs = (json.loads(file.read_text(encoding="utf-8"))["recipe"]["inputs"] for file in manifests)
    return sum(one.get("dataset") in same for one in inputs)


def _images(dataset: Path) -> set[bytes]:
    """The hashes of a dataset artifact's images, of all splits."""
    with np.load(dataset / INDEX) as index:
        return set(index["hash"].tolist())


def registered(artifact: Artifact) -> str:
    """For people: when, what, and before or after which trainings."""
    before = artifact.meta["trained_before"]
    order = f"after {before} trainings" if before else "before any training"
    return (
        f"{artifact.manifest['record']['registered']}, {order} on these images in this runs folder; "
        f"digest {artifact.digest}"
    )
