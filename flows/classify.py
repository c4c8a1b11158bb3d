"""Stage: one classifier on one arm's training data, judged on the real test patients."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from classifiers.arms import Arm, build_arm
from classifiers.config import Balance, ClassifierConfig
from classifiers.details import detail_rows, subgroup_rows
from classifiers.evaluate import classification_metrics, predict
from classifiers.train import train_classifier
from flows.configuration import Filter
from flows.context import Context, plain
from flows.devices import training_device
from flows.progress import progress_bar
from pipeline.dataset import ScanDataset
from pipeline.records import read_rows, write_rows
from pipeline.store import Artifact, Draft, Recipe, file_sha256
from pipeline.subgroups import read_subgroups
from pipeline.versions import code_version

ROWS = "rows.jsonl"
PREDICTIONS = "predictions.npz"
TRAINING_CODE = ("classifiers.arms", "classifiers.evaluate", "classifiers.train")
"""What a trained classifier depends on, the feature extractor too."""
CODE = ("flows.classify", *TRAINING_CODE, "classifiers.details", "pipeline.subgroups")
"""What a cell depends on; the statistics over cells are made anew with each report."""


@dataclass(frozen=True)
class Cell:
    """One training of the grid fraction × arm × GAN × ratio × balance × filter × classifier × seed.

    Attributes:
        arm: "A" to "E".
        classifier: its configuration.
        seed: classifier seed.
        ratio: synthetic (D) or duplicated (C) to real images; None for A, B and E.
        balance: how the added images spread over the classes.
        gan: preset name, for D and E.
        gan_seed: seed of the generator.
        filter: which of the generator's images are used, for D.
        synthetic: folder of the synthetic artifact, for D and E.
        fraction: of the training patients; None for all.
    """

    arm: Arm
    classifier: ClassifierConfig
    seed: int
    ratio: float | None = None
    balance: Balance = "uniform"
    gan: str = ""
    gan_seed: int | None = None
    filter: Filter = "none"
    synthetic: Path | None = None
    fraction: float | None = None

    @property
    def variant(self) -> str:
        """What sets the arm apart beside its ratio: ``balanced, filter=copies``; "" for the plain one."""
        balanced = ["balanced"] if self.balance == "balance" else []
        return ", ".join([*balanced, *([f"filter={self.filter}"] if self.filter != "none" else [])])

    @property
    def title(self) -> str:
        """For people: ``D stylegan2-s0 x1 resnet s1 10pct``."""
        gan = f"{self.gan}-s{self.gan_seed}" if self.gan else ""
        ratio = f"x{self.ratio:g}" if self.ratio is not None else ""
        fraction = f"{self.fraction * 100:g}pct" if self.fraction is not None else ""
        variant = self.variant.replace(", ", " ")
        parts = (self.arm, gan, ratio, variant, self.classifier.name, f"s{self.seed}", fraction)
        return " ".join(part for part in parts if part)


def weights_input(classifier: ClassifierConfig) -> dict[str, str]:
    """The weights a classifier starts from, as a recipe's input: by what is in the file, not by its name."""
    return {} if classifier.weights is None else {"weights": file_sha256(Path(classifier.weights))}


@task(name="classify", task_run_name="classify {cell.title}", tags=["classify"], cache_policy=NO_CACHE)
def classify(context: Context, dataset: Path, cell: Cell) -> Path:
    """Trains one cell and scores it on the sealed test patients.

    Args:
        context: the experiment.
        dataset: the dataset artifact with the cell's fraction of the training patients.
        cell: what is trained.

    Returns:
        The classifier artifact's folder with weights, ``predictions.npz`` and ``rows.jsonl``.
    """
    data = Artifact.open(dataset)
    inputs = {"dataset": data.digest, **weights_input(cell.classifier)}
    if cell.synthetic is not None:
        inputs["synthetic"] = Artifact.open(cell.synthetic).digest
    fixed = context.config.classification.fixed
    settings = {
        "classifier": plain(cell.classifier),
        "arm": cell.arm,
        "ratio": cell.ratio,
        "balance": cell.balance,
        "seed": cell.seed,
        "fixed": fixed,
    }
    recipe = Recipe("classifier", cell.title.replace(" ", "-"), inputs, settings, code_version(*CODE))
    identity: dict[str, Any] = {
        "gan": cell.gan,
        "gan_seed": cell.gan_seed,
        "arm": cell.arm,
        "ratio": cell.ratio,
        "classifier": cell.classifier.name,
        "classifier_seed": cell.seed,
        "fraction": cell.fraction,
        "variant": cell.variant,
    }
    with context.child(recipe, f"classify {cell.title}", {"stage": "classify", **identity}) as run:
        if not run.finished:
            run.log_params(settings)

        def build(draft: Draft) -> None:
            real, test = ScanDataset(dataset, "train"), ScanDataset(dataset, "test")
            synthetic = ScanDataset(cell.synthetic) if cell.synthetic is not None else None
            ratio = 1.0 if cell.ratio is None else cell.ratio
            arm = build_arm(cell.arm, real, synthetic, ratio, cell.balance, seed=cell.seed)
            with (
                training_device(context.config.device, small=True) as device,
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
            rows = [
                *classification_metrics(predictions, trained.operating_point, fixed=fixed),
                *detail_rows(predictions),
                *subgroup_rows(predictions, read_subgroups(dataset, "test")),
            ]
            write_rows(draft.folder / ROWS, [replace(row, **identity) for row in rows])

        artifact = context.store.get_or_create(recipe, build)
        if not run.finished:
            run.log_rows([row for row in read_rows(artifact.path / ROWS) if row.stage != "detail"])
            run.log_dataset(data.path.name, data.digest, str(data.path), "training and test")
            run.log_folder(artifact.path, "classifier")
    return artifact.path
