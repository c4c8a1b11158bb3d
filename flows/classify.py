"""Stage: one classifier on one arm's training data, judged on the real test patients."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from classifiers.arms import Arm, build_arm
from classifiers.config import ClassifierConfig
from classifiers.evaluate import classification_metrics, predict
from classifiers.train import train_classifier
from flows.context import Context, plain
from flows.devices import training_device
from flows.progress import progress_bar
from pipeline.dataset import ScanDataset
from pipeline.records import read_rows, write_rows
from pipeline.store import Artifact, Draft, Recipe, code_version

ROWS = "rows.jsonl"
PREDICTIONS = "predictions.npz"


@dataclass(frozen=True)
class Cell:
    """One training of the grid arm × GAN × ratio × classifier × seed.

    Attributes:
        arm: "A" to "E".
        classifier: its configuration.
        seed: classifier seed.
        ratio: synthetic (D) or duplicated (C) to real images; None for A, B and E.
        gan: preset name, for D and E.
        gan_seed: seed of the generator.
        synthetic: folder of the synthetic artifact, for D and E.
    """

    arm: Arm
    classifier: ClassifierConfig
    seed: int
    ratio: float | None = None
    gan: str = ""
    gan_seed: int | None = None
    synthetic: Path | None = None

    @property
    def title(self) -> str:
        """For people: ``D stylegan2-s0 x1 resnet s1``."""
        gan = f" {self.gan}-s{self.gan_seed}" if self.gan else ""
        ratio = f" x{self.ratio:g}" if self.ratio is not None else ""
        return f"{self.arm}{gan}{ratio} {self.classifier.name} s{self.seed}"


@task(name="classify", task_run_name="classify {cell.title}", tags=["classify"], cache_policy=NO_CACHE)
def classify(context: Context, dataset: Path, cell: Cell) -> Path:
    """Trains one cell and scores it on the sealed test patients.

    Returns:
        The classifier artifact's folder with weights, ``predictions.npz`` and ``rows.jsonl``.
    """
    data = Artifact.open(dataset)
    inputs = {"dataset": data.digest}
    if cell.synthetic is not None:
        inputs["synthetic"] = Artifact.open(cell.synthetic).digest
    settings = {"classifier": plain(cell.classifier), "arm": cell.arm, "ratio": cell.ratio, "seed": cell.seed}
    recipe = Recipe(
        "classifier", cell.title.replace(" ", "-"), inputs, settings, code_version("classifiers", "pipeline.dataset")
    )
    identity: dict[str, Any] = {
        "gan": cell.gan,
        "gan_seed": cell.gan_seed,
        "arm": cell.arm,
        "ratio": cell.ratio,
        "classifier": cell.classifier.name,
        "classifier_seed": cell.seed,
    }
    with context.child(recipe, f"classify {cell.title}", {"stage": "classify", **identity}) as run:
        if not run.finished:
            run.log_params(settings)

        def build(draft: Draft) -> None:
            real, test = ScanDataset(dataset, "train"), ScanDataset(dataset, "test")
            synthetic = ScanDataset(cell.synthetic) if cell.synthetic is not None else None
            arm = build_arm(cell.arm, real, synthetic, 1.0 if cell.ratio is None else cell.ratio, seed=cell.seed)
            with (
                training_device(context.config.device) as device,
                progress_bar(f"classify {cell.title}", "steps") as progress,
            ):
                trained = train_classifier(
                    cell.classifier,
                    arm,
                    ScanDataset(dataset, "validation"),
                    cell.seed,
                    device=device,
                    log=run.log,
                    progress=progress,
                )
            trained.save(draft.folder)
            predictions = predict(trained, test)
            predictions.save(draft.folder / PREDICTIONS)
            rows = classification_metrics(predictions, trained.operating_point)
            write_rows(draft.folder / ROWS, [replace(row, **identity) for row in rows])

        artifact = context.store.get_or_create(recipe, build)
        if not run.finished:
            run.log_rows(read_rows(artifact.path / ROWS))
            run.log_dataset(data.path.name, data.digest, str(data.path), "training and test")
            run.log_folder(artifact.path, "classifier")
    return artifact.path
