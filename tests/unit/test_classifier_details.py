"""Confusion, calibration curve, figures at fixed points and by subgroup, against hand calculation."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from classifiers.details import detail_rows, subgroup_rows
from classifiers.evaluate import Predictions, classification_metrics, read_off
from tests.unit.classifier_scans import CLASSES


def answers(labels, scores, classes=CLASSES, patients=None):
    labels = np.asarray(labels)
    patients = np.arange(len(labels)) if patients is None else np.asarray(patients)
    return Predictions(np.asarray(scores, float), labels, patients, classes)


def test_the_confusion_matrix_counts_by_the_most_probable_class():
    scores = [[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4], [0.5, 0.2, 0.3]]
    rows = detail_rows(answers([0, 0, 1, 2, 2], scores))
    found = {row.metric: row.value for row in rows if row.metric.startswith("confusion.")}
    assert len(found) == 9
    assert {name: value for name, value in found.items() if value} == {
        "confusion.dark.dark": 1, "confusion.dark.bright": 1, "confusion.bright.bright": 1,
        "confusion.striped.striped": 1, "confusion.striped.dark": 1,
    }  # fmt: skip


def test_the_reliability_curve_holds_the_calibration_error():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 500)
    p = np.clip(0.5 + (labels - 0.5) * rng.uniform(-0.5, 1.0, 500), 0.0, 1.0)
    predictions = answers(labels, np.stack([1 - p, p], 1), ("well", "ill"))
    rows = {row.metric: row for row in detail_rows(predictions)}
    bins = [name.split(".")[1] for name in rows if name.startswith("reliability.")]
    gaps = [
        rows[f"reliability.{b}"].n * abs(rows[f"reliability.{b}"].value - rows[f"confidence.{b}"].value) for b in bins
    ]
    ece = next(row.value for row in classification_metrics(predictions) if row.metric == "ece")
    assert sum(gaps) / 500 == pytest.approx(ece)
    assert sum(rows[f"reliability.{b}"].n for b in bins) == 500
    assert all(
        rows[f"reliability.{b}"].low <= rows[f"confidence.{b}"].value <= rows[f"reliability.{b}"].high for b in bins
    )


def test_sensitivity_at_a_specificity_by_hand():
    positive = np.array([False] * 10 + [True] * 4)
    scores = np.array([0.1] * 8 + [0.5, 0.9] + [0.2, 0.6, 0.95, 0.99])
    # Above 0.5 lies one of ten negatives (specificity 0.9) and three of four positives.
    assert read_off(positive, scores, 0.9) == (0.75, 0.8)  # all four positives need 0.2: two negatives lie above
    assert read_off(positive, scores, 1.0) == (0.5, 0.8)
    assert read_off(np.array([False, True]), np.array([0.0, 1.0]), 0.9) == (1.0, 1.0)


def test_figures_at_fixed_points_never_lie_below_an_admissible_threshold():
    rng = np.random.default_rng(1)
    for _ in range(30):
        positive = rng.random(60) < 0.4
        scores = np.round(rng.normal(size=60) + positive, 1)
        sensitivity, specificity = read_off(positive, scores, 0.8)
        for cut in np.unique(scores):
            se, sp = np.mean(scores[positive] >= cut), np.mean(scores[~positive] < cut)
            assert sensitivity >= se - 1e-12 or sp < 0.8
            assert specificity >= sp - 1e-12 or se < 0.8


def test_subgroups_have_their_own_figures_and_small_ones_none():
    rng = np.random.default_rng(2)
    labels = np.tile([0, 1], 30)
    p = rng.uniform(size=60)
    sex = np.array(["F"] * 40 + ["M"] * 16 + ["O"] * 2 + [""] * 2)
    predictions = answers(labels, np.stack([1 - p, p], 1), ("well", "ill"))
    rows = {row.metric: row for row in subgroup_rows(predictions, {"sex": sex})}
    assert {name.split(".", 1)[1] for name in rows} == {"sex.F", "sex.M"}
    assert {row.stage for row in rows.values()} == {"subgroup"}
    assert rows["auroc.sex.F"].value == pytest.approx(roc_auc_score(labels[:40], p[:40]))
    assert rows["auroc.sex.M"].n == 16
    # Many scans of few patients are few: here four patients of each class.
    few = answers(labels, np.stack([1 - p, p], 1), ("well", "ill"), patients=labels + 2 * (np.arange(60) // 2 % 4))
    assert subgroup_rows(few, {"all": np.full(60, "x")}) == []
