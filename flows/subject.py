"""One generator under examination: what the probes of the scorecard look at, and what they answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from classifiers.trained import TrainedClassifier, features, probabilities
from medgan.metrics import attributes
from medgan.metrics.drawing import classes_in_turn
from medgan.metrics.measured import Measured
from medgan.sample import LoadedGenerator
from pipeline.dataset import ScanDataset

Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class Images:
    """Scans and what is known of them.

    Attributes:
        images: float32 [N, C, H, W] in [-1, 1].
        labels: class index, int64 [N].
        patients: patient number, int64 [N]; -1 for synthetic ones.
    """

    images: Tensor
    labels: Tensor
    patients: Tensor

    @classmethod
    def of(cls, data: ScanDataset, most: int, seed: int) -> Images:
        """At most so many scans, picked at random; those of a smaller number are among those of a larger one."""
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[:most].sort().values
        everything = data.tensor()
        labels, patients = torch.from_numpy(data.labels), torch.from_numpy(data.patients)
        return cls(everything[order], labels[order], patients[order])


@dataclass(frozen=True)
class Subject:
    """One generator under examination.

    Attributes:
        generator: the generator.
        classifier: trained on the training patients; its features are the extractor's.
        real: training scans, at most so many as the configuration says.
        training: all of them: copies may be of any.
        validation: scans of patients that neither the generator nor the classifier learnt from.
        synthetic: what the generator drew, at most as many as the configuration says.
        transforms: of augmentation that are looked for in what it drew; its own, or those of its twin.
        draws: images that a probe draws itself.
        seed: of everything random.
    """

    generator: LoadedGenerator
    classifier: TrainedClassifier
    real: Images
    training: Images
    validation: Images
    synthetic: Images
    transforms: tuple[str, ...]
    draws: int
    seed: int

    @property
    def classes(self) -> tuple[str, ...]:
        """Names in label order."""
        return self.generator.spec.classes

    def features(self, images: Tensor) -> Tensor:
        """Features of the domain extractor, float64 [N, D]."""
        return torch.from_numpy(features(self.classifier, images.cpu()))

    def probabilities(self, images: Tensor) -> Tensor:
        """The extractor's class probabilities, float64 [N, K]."""
        return torch.from_numpy(probabilities(self.classifier, images.cpu()))

    @cached_property
    def real_features(self) -> Tensor:
        """Of the real scans, float64 [N, D]."""
        return self.features(self.real.images)

    @cached_property
    def synthetic_features(self) -> Tensor:
        """Of the synthetic scans, float64 [M, D]."""
        return self.features(self.synthetic.images)

    @cached_property
    def turns(self) -> Tensor:
        """Classes in turn for the images that probes draw."""
        return classes_in_turn(self.generator, self.draws)

    @cached_property
    def real_mix(self) -> Tensor:
        """As many labels in the real scans' proportions: distances see the mix of classes, too."""
        place = torch.linspace(0, len(self.real.labels) - 1, self.draws).long()
        return self.real.labels.sort().values[place]

    @cached_property
    def scores(self) -> dict[str, Tensor]:
        """Attributes of the images of :attr:`turns`."""
        return attributes.scores(self.generator, self.turns, seed=self.seed)

    @property
    def conditional(self) -> bool:
        """Whether the generator knows classes; if not, the labels of what it drew say nothing of the scans."""
        return self.generator.config.conditioning.generator != "none"

    def of_class(self, label: int) -> str:
        """`` of class nodule``, for a caption; "" of a generator that knows no classes."""
        return f" of class {self.classes[label]}" if self.conditional else ""

    @property
    def spaces(self) -> tuple[Literal["z", "w"], ...]:
        """Latent spaces that it has."""
        return ("z", "w") if self.generator.has_w else ("z",)


@dataclass(frozen=True)
class Answer:
    """What a probe found.

    Attributes:
        figures: metric → figure.
        picture: grey values [H, W], or None.
        figure: plain data of a small figure (see :func:`pipeline.report.small_figures.small_figure`), or None.
        caption: one sentence that says what is to be seen in them: classes, rows, columns, scales; "" without any.
    """

    figures: Mapping[str, Measured]
    picture: Picture | None = None
    figure: Mapping[str, Any] | None = None
    caption: str = ""


def line_figure(
    lines: Mapping[str, list[list[float]]], x: str, y: str, log: bool = False, steps: bool = False
) -> dict[str, Any]:
    """A small figure's plain data: points [x, y] by name, the axes' names, a logarithmic y, a histogram's steps."""
    return {"lines": lines, "x": x, "y": y, "log": log, "steps": steps}


def scans_of(count: int) -> str:
    """``1,200 synthetic scans``."""
    return f"{count:,} synthetic scans"


def percent(share: float | Tensor) -> str:
    """``7.8 %``."""
    return f"{100 * float(share):.1f} %"
