"""What a single figure hides: who is taken for what, how far probabilities hold, and in which patients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix

from classifiers.evaluate import ECE_BINS, Predictions, classification_metrics
from pipeline.records import ResultRow

FEWEST = 5
"""Patients of each of two classes that a subgroup needs: below it a figure tells chance."""


def detail_rows(predictions: Predictions) -> list[ResultRow]:
    """Confusion matrix and reliability diagram, as rows of stage "detail".

    ``confusion.<true>.<said>`` counts scans of a class by the most probable class. ``reliability.<bin>`` is the share
    of right answers among the scans whose highest probability lies in that tenth; its ``low`` and ``high`` are the ends
    of the bin, its ``n`` the scans there, and empty bins have no row. ``confidence.<bin>`` is their mean probability.

    Args:
        predictions: of the test scans.
    """
    y, p, names = predictions.labels, predictions.probabilities, predictions.classes
    said = p.argmax(axis=1)
    table = confusion_matrix(y, said, labels=list(range(len(names))))
    rows = [
        ResultRow("detail", f"confusion.{true}.{answer}", float(table[i, j]), n=len(y))
        for i, true in enumerate(names)
        for j, answer in enumerate(names)
    ]
    confidence = p.max(axis=1)
    bins = np.minimum((confidence * ECE_BINS).astype(np.int64), ECE_BINS - 1)
    for index in np.unique(bins).tolist():
        inside = bins == index
        common = {"low": index / ECE_BINS, "high": (index + 1) / ECE_BINS, "n": int(inside.sum())}
        rows.append(ResultRow("detail", f"reliability.{index}", float((said == y)[inside].mean()), **common))
        rows.append(ResultRow("detail", f"confidence.{index}", float(confidence[inside].mean()), **common))
    return rows


def subgroup_rows(predictions: Predictions, groups: Mapping[str, NDArray[np.str_]]) -> list[ResultRow]:
    """The main figures within groups of patients, as rows of stage "subgroup": ``auroc.sex.F``.

    Args:
        predictions: of the test scans.
        groups: name of the grouping → each scan's group [N]; "" where unknown.

    Returns:
        Nothing for a group with fewer than five patients of each of two classes.
    """
    rows = []
    for name, of in groups.items():
        for group in sorted(set(of.tolist()) - {""}):
            inside = of == group
            part = replace(
                predictions,
                probabilities=predictions.probabilities[inside],
                labels=predictions.labels[inside],
                patients=predictions.patients[inside],
            )
            patients = [len(np.unique(part.patients[part.labels == k])) for k in np.unique(part.labels)]
            if sum(count >= FEWEST for count in patients) < 2:
                continue
            rows += [
                replace(row, metric=f"{row.metric}.{name}.{group}")
                for row in classification_metrics(part, stage="subgroup")
                if row.metric in ("auroc", "auprc", "balanced_accuracy", "brier")
            ]
    return rows
