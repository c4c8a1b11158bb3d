"""Truncation trades variety for quality: precision and recall over ψ (StyleGAN, appendix B; Kynkäänniemi 2019, fig. 4).

The same latents are drawn at every ψ. If the trade is there, precision falls and recall rises with ψ. Each is summed
up by the slope of its regression on ψ, the gain over one unit of ψ, and by Kendall's τ, +1 where it rises at every
step and −1 where it falls. ψ = 0 is drawn and shown, but left out of both: there all images of a class are one, so
that recall rises from it whatever the generator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medgan.explore import style_network, truncation_sweep
from medgan.metrics import precision_recall
from medgan.metrics.drawing import Extractor, Picture, batches, finite, tiled
from medgan.metrics.features import Z95, standard_errors
from medgan.metrics.measured import Measured, TooFewImagesError
from medgan.sample import LoadedGenerator
from pipeline.records import MedaugError

PSIS = (0.0, 0.25, 0.5, 0.75, 1.0)
JUDGED_FROM = 0.25
"""Least ψ that counts for slopes."""
MIN_IMAGES = 50
HALVES = 20


@dataclass(frozen=True)
class Truncation:
    """Precision and recall over ψ.

    Attributes:
        psis: ψ of each point.
        precision: at each.
        recall: at each.
        precision_slope: negative where quality is bought.
        recall_slope: positive where it is paid for with variety.
    """

    psis: tuple[float, ...]
    precision: tuple[Measured, ...]
    recall: tuple[Measured, ...]
    precision_slope: Measured
    recall_slope: Measured


def truncated_features(
    generator: LoadedGenerator, extractor: Extractor, labels: Tensor, psis: Sequence[float] = PSIS, seed: int = 0
) -> Tensor:
    """Features of the same images at each ψ, float64 [psis, N, D].

    Give labels in the real images' proportions: precision and recall see the mix of classes, too.

    Raises:
        MedaugError: no w to truncate.
    """
    style_network(generator)
    found = []
    for psi in psis:
        parts = []
        for part in batches(generator, len(labels)):
            images = generator.sample(labels[part], seed, psi, start=part.start)
            parts.append(finite(extractor(images), len(images)).flatten(1))
        found.append(torch.cat(parts))
    return torch.stack(found)


def truncation(
    real: Tensor, patients: Tensor, truncated: Tensor, psis: Sequence[float] = PSIS, seed: int = 0
) -> Truncation:
    """Precision and recall of truncated images.

    Intervals are normal, with delete-half standard errors; a half has the same images at every ψ, so that the slopes'
    errors are those of paired figures.

    Args:
        real: features [N, D].
        patients: patient of each real image, int64 [N].
        truncated: features [psis, M, D].
        psis: ascending, two or more of them from :data:`JUDGED_FROM` on.
        seed: of the halves.

    Raises:
        TooFewImagesError: fewer than :data:`MIN_IMAGES` on a side.
        MedaugError: fewer than two ψ, or not one for each set of features.
    """
    if min(len(real), truncated.shape[1]) < MIN_IMAGES:
        raise TooFewImagesError(
            f"truncation: {len(real)} real and {truncated.shape[1]} synthetic images, expected at least {MIN_IMAGES} "
            "of each"
        )
    judged = [psi >= JUDGED_FROM for psi in psis]
    if sum(judged) < 2 or len(psis) != len(truncated):
        raise MedaugError(
            f"truncation: {len(psis)} ψ for {len(truncated)} sets of features, expected one each and two or more "
            f"ψ from {JUDGED_FROM} on"
        )
    K, M, D = truncated.shape
    side_by_side = truncated.permute(1, 0, 2).reshape(M, K * D)  # [K, M, D] -> [M, K·D]: one row for one latent
    place = torch.tensor(psis, dtype=torch.float64)
    place = torch.where(torch.tensor(judged), place - place[torch.tensor(judged)].mean(), 0.0)
    place = place / place.square().sum()

    def figures(x: Tensor, y: Tensor) -> list[float]:
        found = [precision_recall.manifold(x, one) for one in y.reshape(len(y), K, D).unbind(dim=1)]
        precision, recall = ([getattr(one, name) for one in found] for name in ("precision", "recall"))
        slopes = [float(place @ torch.tensor(values, dtype=torch.float64)) for values in (precision, recall)]
        return [*precision, *recall, *slopes]

    values = figures(real.double(), side_by_side)
    errors = standard_errors(figures, real.double(), side_by_side, patients, HALVES, seed)

    def measured(number: int, note: str, lowest: float, highest: float) -> Measured:
        value, reach = values[number], Z95 * errors[number]
        return Measured(value, max(value - reach, lowest), min(value + reach, highest), len(real), M, note)

    near = f"k = {precision_recall.NEIGHBOURS}; normal interval from halves"
    steep = float("inf")
    return Truncation(
        psis=tuple(psis),
        precision=tuple(measured(k, near, 0.0, 1.0) for k in range(K)),
        recall=tuple(measured(K + k, near, 0.0, 1.0) for k in range(K)),
        precision_slope=measured(2 * K, _summary("precision", psis, values[:K]), -steep, steep),
        recall_slope=measured(2 * K + 1, _summary("recall", psis, values[K : 2 * K]), -steep, steep),
    )


def _summary(name: str, psis: Sequence[float], values: Sequence[float]) -> str:
    course = ", ".join(f"{psi:g}: {value:.2f}" for psi, value in zip(psis, values, strict=True))
    judged = [value for psi, value in zip(psis, values, strict=True) if psi >= JUDGED_FROM]
    return (
        f"{name} over ψ ({course}); slope and Kendall's τ ({kendall(judged):+.2f}) from {JUDGED_FROM} on; "
        "normal interval from halves"
    )


def kendall(values: Sequence[float]) -> float:
    """Kendall's τ-a of a sequence with its order: 1 where it always rises, −1 where it always falls."""
    pairs = [(a, b) for place, a in enumerate(values) for b in values[place + 1 :]]
    return sum((b > a) - (b < a) for a, b in pairs) / len(pairs)


def picture(generator: LoadedGenerator, seed: int = 0, psis: Sequence[float] = PSIS) -> Picture:
    """The same images, one of each class (rows), at each ψ (columns)."""
    sweep = truncation_sweep(generator, range(len(generator.spec.classes)), psis, seed=seed)  # [K, N, C, H, W]
    return tiled(sweep.transpose(0, 1))
