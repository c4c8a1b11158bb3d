"""What a classifier says about the test patients, and how good that is (scikit-learn's metrics)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    brier_score_loss,
    f1_score,
    roc_auc_score,
    roc_curve,
)

from classifiers.trained import TrainedClassifier, probabilities
from pipeline.dataset import ScanDataset
from pipeline.records import MedaugError, ResultRow

ECE_BINS = 10


@dataclass(frozen=True)
class Predictions:
    """One classifier's answers on one set of scans; all that the statistics need.

    Attributes:
        probabilities: float64 [N, K].
        labels: int64 [N].
        patients: int64 [N].
        classes: names in label order.
    """

    probabilities: NDArray[np.float64]
    labels: NDArray[np.int64]
    patients: NDArray[np.int64]
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        n, k = len(self.labels), len(self.classes)
        assert self.probabilities.shape == (n, k), f"probabilities {self.probabilities.shape}, labels {n}, classes {k}"
        assert self.patients.shape == (n,), f"patients {self.patients.shape}, labels {n}"

    def save(self, path: Path | str) -> None:
        """Writes an npz."""
        np.savez(
            path,
            probabilities=self.probabilities,
            labels=self.labels,
            patients=self.patients,
            classes=np.array(self.classes),
        )

    @classmethod
    def load(cls, path: Path | str) -> Predictions:
        """Reads what :meth:`save` wrote.

        Raises:
            MedaugError: no such file, or not one of these.
        """
        try:
            with np.load(path) as data:
                classes = tuple(str(name) for name in data["classes"])
                return cls(data["probabilities"], data["labels"], data["patients"], classes)
        except (OSError, KeyError, ValueError) as error:
            raise MedaugError(f"predictions {path}: not readable ({error}); classify again") from None


def predict(classifier: TrainedClassifier, dataset: ScanDataset) -> Predictions:
    """Class probabilities for every scan of a dataset.

    Raises:
        MedaugError: the dataset is empty, or differs in classes, size, channels or value range from the training's.
    """
    if len(dataset) == 0:
        raise MedaugError(f"{dataset.artifact.path}: no scan in split {dataset.split!r}, expected at least one")
    if (dataset.spec, dataset.value_range) != (classifier.spec, classifier.value_range):
        raise MedaugError(
            f"{dataset.artifact.path}: {dataset.spec} in {dataset.value_range}, expected {classifier.spec} in "
            f"{classifier.value_range} as the classifier was trained; ingest with the same configuration"
        )
    answers = probabilities(classifier, dataset.tensor())
    return Predictions(answers, dataset.labels, dataset.patients, dataset.spec.classes)


def classification_metrics(
    predictions: Predictions,
    operating_point: Sequence[float] | None = None,
    stage: str = "classify",
    fixed: float = 0.9,
) -> list[ResultRow]:
    """Discrimination, decisions and calibration.

    ``auroc``, ``auprc``, ``brier`` (one against rest for a class; over all, scikit-learn's, halved for two classes),
    ``ece`` (Guo et al. 2017, "On Calibration of Modern Neural Networks", eq. 3; 10 bins), ``balanced_accuracy`` and
    ``f1`` (the most probable class, no threshold) need no operating point. ``sensitivity`` and ``specificity`` of a
    class count a scan as that class from its operating point on. ``sensitivity_at_specificity`` and its reverse are
    read off the test scans' ROC curve, wherever the threshold lies there: a property of the curve, not of a decision.
    Without a suffix figures by class are averaged; of two classes one's sensitivity is the other's specificity, so
    there the figures by class are the ones to read.

    Args:
        predictions: of the test scans.
        operating_point: probability for each class [K]; 1/K where None.
        stage: of the rows.
        fixed: the specificity (sensitivity) at which the other is read off.

    Returns:
        Rows with ``n`` scans. A class that the scans lack has none, and the means' note names it.

    Raises:
        MedaugError: fewer than two classes among the scans.
    """
    y, p = predictions.labels, predictions.probabilities
    names = predictions.classes
    present = [k for k in range(len(names)) if np.any(y == k)]
    if len(present) < 2:
        raise MedaugError(f"test scans: {len(y)} of class {names[present[0]] if present else '-'} alone, expected two")
    missing = ", ".join(name for k, name in enumerate(names) if k not in present)
    note = f"no test scan of class {missing}" if missing else ""
    cut = np.full(len(names), 1.0 / len(names)) if operating_point is None else np.asarray(operating_point)

    def row(metric: str, value: float, remark: str = "") -> ResultRow:
        return ResultRow(stage=stage, metric=metric, value=float(value), n=len(y), note=remark)

    by_class: dict[str, Callable[[int], float]] = {
        "auroc": lambda k: roc_auc_score(y == k, p[:, k]),
        "auprc": lambda k: average_precision_score(y == k, p[:, k]),
        "sensitivity": lambda k: np.mean(p[y == k, k] >= cut[k]),
        "specificity": lambda k: np.mean(p[y != k, k] < cut[k]),
        "sensitivity_at_specificity": lambda k: read_off(y == k, p[:, k], fixed)[0],
        "specificity_at_sensitivity": lambda k: read_off(y == k, p[:, k], fixed)[1],
        "f1": lambda k: f1_score(y == k, p.argmax(axis=1) == k, zero_division=0.0),
    }
    remarks = {
        "sensitivity_at_specificity": f"Fixed specificity: at least {fixed:g}",
        "specificity_at_sensitivity": f"Fixed sensitivity: at least {fixed:g}",
    }
    rows = []
    for metric, function in by_class.items():
        values = {k: float(function(k)) for k in present}
        remark = "; ".join(text for text in (remarks.get(metric, ""), note) if text)
        rows.append(row(metric, float(np.mean(list(values.values()))), remark))
        rows += [row(f"{metric}.{names[k]}", value) for k, value in values.items()]
    rows.append(row("balanced_accuracy", balanced_accuracy_score(y, p.argmax(axis=1)), note))
    rows.append(row("brier", brier_score_loss(y, p if len(names) > 2 else p[:, 1], labels=list(range(len(names))))))
    rows += [row(f"brier.{names[k]}", np.mean((p[:, k] - (y == k)) ** 2)) for k in present]
    rows.append(row("ece", expected_calibration_error(p.max(axis=1), p.argmax(axis=1) == y)))
    rows += [row(f"ece.{names[k]}", expected_calibration_error(p[:, k], y == k)) for k in present]
    return rows


def read_off(positive: NDArray[np.bool_], scores: NDArray[np.float64], fixed: float) -> tuple[float, float]:
    """The highest sensitivity at a specificity of at least ``fixed``, and the other way round.

    Args:
        positive: [N], both kinds present.
        scores: [N].
        fixed: 0 to 1.
    """
    false, true, _ = roc_curve(positive, scores, drop_intermediate=False)
    # 1 - 0.1 is a little below 0.9
    return float(true[1.0 - false >= fixed - 1e-9].max()), float(1.0 - false[true >= fixed - 1e-9].min())


def expected_calibration_error(confidence: NDArray[np.float64], correct: NDArray[np.bool_]) -> float:
    """Mean gap between confidence and frequency over equal-width bins, weighted by their scans.

    Args:
        confidence: [N] in [0, 1].
        correct: [N].
    """
    bins = np.minimum((confidence * ECE_BINS).astype(np.int64), ECE_BINS - 1)
    # Σ_b n_b/n · |mean correct − mean confidence| = Σ_b |Σ_{i in b} (correct − confidence)| / n
    gaps = np.bincount(bins, weights=correct - confidence, minlength=ECE_BINS)
    return float(np.abs(gaps).sum() / len(confidence))


def macro_auroc(labels: NDArray[np.int64], scores: NDArray[np.float64]) -> float | None:
    """Mean one-against-rest AUROC over the classes that have both sides; None where no class has.

    Args:
        labels: [N].
        scores: [N, K].
    """
    both = [k for k in range(scores.shape[1]) if 0 < np.sum(labels == k) < len(labels)]
    return float(np.mean([roc_auc_score(labels == k, scores[:, k]) for k in both])) if both else None


def youden_point(labels: NDArray[np.int64], scores: NDArray[np.float64]) -> tuple[float, ...]:
    """For each class the probability at which sensitivity + specificity is largest (Youden 1950).

    Thresholds lie midway between neighbouring scores; of equally good ones the middle is taken. With two classes the
    second's point sets the first's. A class that is absent or alone keeps 1/K.

    Args:
        labels: [N], of validation scans.
        scores: [N, K], their probabilities.

    Returns:
        K thresholds.
    """
    k_all = scores.shape[1]
    points = []
    for k in range(k_all):
        own, other = np.sort(scores[labels == k, k]), np.sort(scores[labels != k, k])
        edges = np.unique(scores[:, k])
        if len(own) == 0 or len(other) == 0 or len(edges) < 2:
            points.append(1.0 / k_all)
            continue
        cuts = (edges[:-1] + edges[1:]) / 2
        sensitivity = 1.0 - np.searchsorted(own, cuts) / len(own)
        specificity = np.searchsorted(other, cuts) / len(other)
        best = np.flatnonzero(np.isclose(sensitivity + specificity, np.max(sensitivity + specificity)))
        points.append(float(cuts[best[len(best) // 2]]))
    return (1.0 - points[1], points[1]) if k_all == 2 else tuple(points)
