"""Features of a dataset's or synthetic set's images: made once for each extractor, kept in the store."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from classifiers.trained import features, load_classifier
from flows.context import Context
from medgan.extractors import (
    LARGEST_CHANGE,
    Extractor,
    ExtractorConfig,
    Precision,
    bfloat16_change,
    extractor_identity,
    load_extractor,
)
from medgan.metrics import fid
from medgan.metrics.features import DOMAIN
from pipeline.dataset import ScanDataset
from pipeline.device import choose_device, has_bfloat16
from pipeline.store import Artifact, Draft, Recipe
from pipeline.versions import code_version

log = logging.getLogger(__name__)
FEATURES, STATISTICS = "features.npy", "statistics.safetensors"
CODE = ("flows.extract",)


@dataclass(frozen=True)
class Source:
    """An extractor that is known but not loaded yet.

    Attributes:
        name: part of metrics' names.
        identity: of its weights, code and preparation of images.
        precision: as configured.
        described: the domain classifier's folder, or the configuration of another extractor.
    """

    name: str
    identity: str
    precision: Precision
    described: Path | ExtractorConfig

    def load(self, device: str) -> Extractor:
        """Reads the network from disk."""
        if not isinstance(self.described, Path):
            return load_extractor(self.described, device)
        classifier = load_classifier(self.described, device)

        def network(images: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(features(classifier, images))

        return Extractor(self.name, self.identity, network, choose_device(device))


@dataclass(frozen=True)
class FeatureSet:
    """Features of a set of images, and their mean and covariance.

    Attributes:
        features: float32 [N, D], memory-mapped.
        statistics: of all of them.
        precision: in which they were extracted.
        note: why not in the configured precision; "" where it is that.
    """

    features: NDArray[np.float32]
    statistics: fid.Statistics
    precision: Precision
    note: str


def sources(context: Context, domain: Path) -> list[Source]:
    """The domain classifier, then the configured extractors in their order.

    Args:
        context: the experiment.
        domain: the domain classifier's artifact.
    """
    others = [Source(one.name, extractor_identity(one), one.precision, one) for one in context.config.extractors]
    return [Source(DOMAIN, Artifact.open(domain).digest, "float32", domain), *others]


def real_features(context: Context, source: Source, dataset: Path) -> FeatureSet:
    """Features of the training images; where bfloat16 is configured, it is tried on them first."""
    return _extract(context, source, dataset, "train", source.precision, trial=source.precision == "bfloat16")


def synthetic_features(context: Context, source: Source, synthetic: Path, real: FeatureSet) -> FeatureSet:
    """Features of a synthetic set, in the precision of the real ones that it is compared with."""
    return _extract(context, source, synthetic, None, real.precision, trial=False)


def _extract(
    context: Context, source: Source, images: Path, split: str | None, precision: Precision, trial: bool
) -> FeatureSet:
    settings: dict[str, Any] = {"split": split, "precision": precision, "trial": trial}
    inputs = {"images": Artifact.open(images).digest, "extractor": source.identity}
    recipe = Recipe("features", source.name, inputs, settings, code_version(*CODE))

    def build(draft: Draft) -> None:
        extractor = source.load(context.config.device)
        tensor = ScanDataset(images, split).tensor()
        used, note = try_bfloat16(extractor, tensor) if trial else (precision, "")
        found = extractor.features(tensor, used)
        np.save(draft.folder / FEATURES, found)
        fid.statistics(found).save(draft.folder / STATISTICS)
        draft.meta.update(extractor=source.name, precision=used, note=note)

    artifact = context.store.get_or_create(recipe, build)
    return FeatureSet(
        np.load(artifact.path / FEATURES, mmap_mode="c"),  # torch takes no read-only arrays
        fid.load_statistics(artifact.path / STATISTICS),
        artifact.meta["precision"],
        artifact.meta["note"],
    )


def try_bfloat16(extractor: Extractor, images: torch.Tensor) -> tuple[Precision, str]:
    """bfloat16 where the hardware has it and FID stays within :data:`LARGEST_CHANGE`, else float32; and why.

    Args:
        extractor: the network.
        images: real images, float32 [N, C, H, W] in [-1, 1].
    """
    if not has_bfloat16(extractor.device.type):
        return "float32", "features in float32: this hardware has no bfloat16"
    change = bfloat16_change(extractor, images)
    log.info("extractor %s: bfloat16 changes FID by %.2g %%", extractor.name, 100 * change)
    if change > LARGEST_CHANGE:
        limit = f"{100 * LARGEST_CHANGE:g} %"
        return "float32", f"features in float32: bfloat16 changes FID by {100 * change:.2g} %, more than {limit}"
    return "bfloat16", f"features in bfloat16, which changes FID between halves of real images by {100 * change:.2g} %"
