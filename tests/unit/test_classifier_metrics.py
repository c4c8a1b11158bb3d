"""Metrics of predictions against hand calculation and scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import f1_score, roc_auc_score

from classifiers import Predictions, classification_metrics
from classifiers.evaluate import expected_calibration_error, youden_point
from pipeline.records import MedaugError
from tests.unit.classifier_scans import CLASSES


def answers(labels, scores, classes=CLASSES):
    labels = np.asarray(labels)
    return Predictions(np.asarray(scores, float), labels, np.arange(len(labels)), classes)


def by_metric(rows):
    assert len({row.metric for row in rows}) == len(rows)
    return {row.metric: row.value for row in rows}


def test_metrics_of_two_classes_by_hand():
    p = np.array([0.1, 0.4, 0.35, 0.8])
    values = by_metric(
        classification_metrics(answers([0, 0, 1, 1], np.stack([1 - p, p], 1), ("well", "ill")), (0.7, 0.3))
    )
    assert values["auroc"] == values["auroc.ill"] == pytest.approx(0.75)  # 3 of 4 pairs in order
    assert values["auprc.ill"] == pytest.approx(0.5 * 1.0 + 0.5 * 2 / 3)
    assert values["balanced_accuracy"] == pytest.approx(0.75)  # most probable class: 0, 0, 0, 1
    assert values["sensitivity.ill"] == 1.0  # 0.35 and 0.8 reach 0.3
    assert values["specificity.ill"] == 0.5  # 0.4 does too
    assert values["brier"] == pytest.approx((0.01 + 0.16 + 0.65**2 + 0.04) / 4)
    # bins of confidence: 0.9 right; 0.6 right and 0.65 wrong (together); 0.8 right
    assert values["ece"] == pytest.approx((0.1 + abs(1 - 1.25) + 0.2) / 4)


def test_metrics_of_three_classes_are_scikit_learns():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 60)
    p = rng.dirichlet((1, 1, 1), 60)
    p[np.arange(60), labels] += 0.4
    p /= p.sum(1, keepdims=True)
    values = by_metric(classification_metrics(answers(labels, p)))
    assert values["auroc"] == pytest.approx(roc_auc_score(labels, p, multi_class="ovr", average="macro"))
    assert values["auroc.bright"] == pytest.approx(roc_auc_score(labels == 1, p[:, 1]))
    assert values["brier"] == pytest.approx(np.mean(np.sum((p - np.eye(3)[labels]) ** 2, axis=1)))
    names = {"auroc", "auprc", "balanced_accuracy", "f1", "sensitivity", "specificity", "brier", "ece"}
    names |= {"sensitivity_at_specificity", "specificity_at_sensitivity"}
    assert values["f1"] == pytest.approx(f1_score(labels, p.argmax(1), average="macro"))
    assert {metric for metric in values if "." not in metric} == names


def test_a_class_absent_from_the_test_is_left_out_and_named():
    rows = classification_metrics(answers([0, 0, 1, 1], [[0.6, 0.3, 0.1], [0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0, 1, 0]]))
    assert not any(row.metric.endswith(".striped") for row in rows)
    assert {row.metric: row.note for row in rows}["auroc"] == "no test scan of class striped"
    with pytest.raises(MedaugError, match="of class dark alone"):
        classification_metrics(answers([0, 0], [[1, 0, 0], [1, 0, 0]]))


def test_calibration_error_of_a_calibrated_and_an_overconfident_classifier():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.5, 1.0, 20_000)
    assert expected_calibration_error(confidence, rng.uniform(size=20_000) < confidence) < 0.02
    always = np.ones(1000)
    assert expected_calibration_error(always, np.arange(1000) < 700) == pytest.approx(0.3)


def test_youden_point_separates_what_can_be_separated():
    p = np.array([0.1, 0.2, 0.3, 0.7, 0.8])
    point = youden_point(np.array([0, 0, 0, 1, 1]), np.stack([1 - p, p], 1))
    assert point == pytest.approx((0.5, 0.5))
    assert youden_point(np.array([0, 0]), np.full((2, 3), 1 / 3)) == pytest.approx((1 / 3,) * 3)


def test_predictions_survive_the_disk(tmp_path):
    written = answers([0, 1, 2], np.eye(3))
    written.save(tmp_path / "p.npz")
    read = Predictions.load(tmp_path / "p.npz")
    assert read.classes == CLASSES
    for name in ("probabilities", "labels", "patients"):
        assert np.array_equal(getattr(read, name), getattr(written, name))
    with pytest.raises(MedaugError, match="not readable"):
        Predictions.load(tmp_path / "absent.npz")
