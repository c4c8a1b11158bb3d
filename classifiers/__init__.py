"""Classifiers with and without synthetic data, and the statistics of the difference."""

from importlib import import_module
from typing import Any

_HOME = {
    "Augmentation": "config",
    "ClassifierConfig": "config",
    "ArmData": "arms",
    "build_arm": "arms",
    "TrainedClassifier": "trained",
    "features": "trained",
    "load_classifier": "trained",
    "train_classifier": "train",
    "Predictions": "evaluate",
    "classification_metrics": "evaluate",
    "predict": "evaluate",
    "Contrast": "statistics",
    "contrast": "statistics",
    "estimate": "statistics",
    "holm": "statistics",
    "sentence": "statistics",
    "verdict": "statistics",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    # Lazy: MONAI takes seconds to import, and a configuration needs none of it.
    if name in _HOME:
        return getattr(import_module(f"classifiers.{_HOME[name]}"), name)
    raise AttributeError(f"module 'classifiers' has no attribute {name!r}")
