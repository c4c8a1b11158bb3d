"""A trained classifier: what it knows of itself, its outputs, and its form on disk (safetensors and JSON)."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import nn

from classifiers.config import Augmentation, ClassifierConfig, Transform
from classifiers.networks import build_network, penultimate
from pipeline.device import choose_device
from pipeline.records import ImageSpec, MedaugError, ValueRange

WEIGHTS = "model.safetensors"
DESCRIPTION = "classifier.json"
INFERENCE_BATCH = 256


@dataclass(frozen=True)
class TrainedClassifier:
    """A network with its best weights on the validation patients.

    Attributes:
        network: in evaluation mode, float32.
        config: what it was trained by.
        spec: the images and classes it knows.
        value_range: the physical values of -1 and +1 it was trained for.
        operating_point: for each class the probability from which a scan counts as that class, chosen on validation
            patients (Youden).
        arm: "A" to "E".
        seed: of weights, order and augmentation.
        best_step: the step whose weights these are.
        history: one entry an evaluation: step, train loss, validation loss and AUROC.
    """

    network: nn.Module
    config: ClassifierConfig
    spec: ImageSpec
    value_range: ValueRange
    operating_point: tuple[float, ...]
    arm: str
    seed: int
    best_step: int
    history: tuple[dict[str, float], ...]

    def save(self, folder: Path | str) -> None:
        """Writes ``model.safetensors`` and ``classifier.json`` into a folder that exists."""
        folder = Path(folder)
        weights = {name: tensor.contiguous().cpu() for name, tensor in self.network.state_dict().items()}
        safetensors.torch.save_file(weights, folder / WEIGHTS)
        described = {
            field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "network"
        }
        for name in ("config", "spec", "value_range"):
            described[name] = dataclasses.asdict(described[name])
        text = json.dumps(described, indent=1, sort_keys=True, ensure_ascii=False)
        (folder / DESCRIPTION).write_text(text + "\n", encoding="utf-8")


def load_classifier(folder: Path | str, device: str = "auto") -> TrainedClassifier:
    """Reads what :meth:`TrainedClassifier.save` wrote; nothing is unpickled.

    Raises:
        MedaugError: a file is missing or damaged, or weights and description do not fit.
    """
    folder = Path(folder)
    try:
        described: dict[str, Any] = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        weights = safetensors.torch.load_file(folder / WEIGHTS)
        config = dict(described["config"])
        augmentation = dict(config["augmentation"])
        augmentation["transforms"] = tuple(Transform(**one) for one in augmentation["transforms"])
        config["augmentation"] = Augmentation(**augmentation)
        for name in ("layers", "planes"):
            config[name] = None if config[name] is None else tuple(config[name])
        spec = dict(described["spec"])
        described["config"] = ClassifierConfig(**config)
        described["spec"] = ImageSpec(**{**spec, "classes": tuple(spec["classes"])})
        described["value_range"] = ValueRange(**described["value_range"])
        described["operating_point"] = tuple(described["operating_point"])
        described["history"] = tuple(described["history"])
        network = build_network(described["config"], described["spec"], torch.Generator())
        network.load_state_dict(weights)
        prepared = network.to(choose_device(device)).eval()
        return TrainedClassifier(network=prepared, **described)
    except FileNotFoundError as error:
        raise MedaugError(f"classifier {folder}: {error.filename} is missing; give a classifier's folder") from None
    except (json.JSONDecodeError, SafetensorError, KeyError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise MedaugError(f"classifier {folder}: damaged or of another version ({reason}); train it again") from None


def features(classifier: TrainedClassifier, images: torch.Tensor) -> NDArray[np.float64]:
    """Feature vectors for fidelity metrics: what enters the last layer.

    Args:
        classifier: the extractor, trained on training patients.
        images: float32 [N, C, H, W] in [-1, 1].

    Returns:
        float64 [N, D].
    """
    return _in_batches(classifier, images, lambda batch: penultimate(classifier.network, batch))


def probabilities(classifier: TrainedClassifier, images: torch.Tensor) -> NDArray[np.float64]:
    """Class probabilities.

    Args:
        classifier: the classifier.
        images: float32 [N, C, H, W] in [-1, 1].

    Returns:
        float64 [N, K]; rows sum to 1.
    """
    return _in_batches(classifier, images, lambda batch: classifier.network(batch).double().softmax(dim=1))


def _in_batches(
    classifier: TrainedClassifier, images: torch.Tensor, function: Callable[[torch.Tensor], torch.Tensor]
) -> NDArray[np.float64]:
    spec = classifier.spec
    if images.ndim != 4 or tuple(images.shape[1:]) != (spec.channels, spec.height, spec.width):
        raise MedaugError(
            f"classifier {classifier.config.name}: images {tuple(images.shape)}, expected "
            f"[N, {spec.channels}, {spec.height}, {spec.width}]"
        )
    if len(images) == 0:
        raise MedaugError(f"classifier {classifier.config.name}: no images given, expected at least one")
    device = next(classifier.network.parameters()).device
    with torch.inference_mode():
        parts = [
            function(batch.to(device, memory_format=torch.channels_last)) for batch in images.split(INFERENCE_BATCH)
        ]
    return torch.cat(parts).double().cpu().numpy()
