"""Purity of edits: moving along one attribute's direction, how much of what changes is that attribute?

PGGAN "offers no control of single features"; StyleGAN's w is said to be disentangled (sections 1 and 4). An edit moves
points by one standard deviation either way along an attribute's direction (:func:`medgan.directions.direction`). With
Δᵢⱼ the mean absolute change of attribute j under the edit of attribute i, in units of j's standard deviation among
unedited images of a class,

    purity = mean over i of Δᵢᵢ / (Δᵢᵢ + mean over j ≠ i of Δᵢⱼ)

is 1 where nothing but the edited attribute changes, and 1/2 where the others change as much. If scores were linear in
normal points, with correlations ρ, Δᵢⱼ/Δᵢᵢ would be |ρᵢⱼ|: attributes that go together in the images lower the purity
in every space. Perfect linear control therefore reaches

    ceiling = mean over i of 1 / (1 + mean over j ≠ i of |ρᵢⱼ|)

alone, and control = purity / ceiling is what says whether single features can be reached.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from medgan.directions import direction
from medgan.explore import Space, images
from medgan.metrics.attributes import ATTRIBUTES, Attribute, measure
from medgan.metrics.drawing import Picture, of_images, points, tiled
from medgan.metrics.intervals import RESAMPLES, percentiles, resample
from medgan.metrics.measured import Measured, TooFewImagesError
from medgan.metrics.separability import confident_half, require_points, within_class
from medgan.sample import LoadedGenerator
from medgan.seeds import seeded
from pipeline.records import MedaugError

MIN_EDITED = 20
MIN_IMAGES = 200
"""Fewest images for directions."""


@dataclass(frozen=True)
class Edits:
    """What edits did.

    Attributes:
        names: of the attributes.
        changes: signed change of attribute j under the edit of attribute i, in j's standard deviations,
            float64 [i, images, j].
        directions: unit vectors [i, width].
        steps: one standard deviation of the points along each direction [i].
        correlations: |ρ| between attributes i and j among unedited images, 1 where i = j, float64 [i, j].
    """

    names: tuple[str, ...]
    changes: Tensor
    directions: Tensor
    steps: Tensor
    correlations: Tensor

    @property
    def correlation(self) -> float:
        """Mean |ρ| between two attributes."""
        A = len(self.names)
        return float((self.correlations.sum() - A) / (A * (A - 1)))

    @property
    def ceiling(self) -> float:
        """The purity of perfect linear control."""
        return float(_purities(self.correlations).mean())


def edit(
    generator: LoadedGenerator,
    scores: Mapping[str, Tensor],
    labels: Tensor,
    space: Space,
    attributes: Mapping[str, Attribute] = ATTRIBUTES,
    edited: int = 100,
    seed: int = 0,
) -> Edits:
    """Finds each attribute's direction and moves images along it, both ways.

    Args:
        generator: any; for "w" one that has it.
        scores: of the images, by attribute, each [N]; see :func:`medgan.metrics.attributes.scores`.
        labels: their classes, int64 [N].
        space: whose points are moved.
        attributes: the same as those of the scores.
        edited: how many of the images are moved.
        seed: the one that the scores were measured with.

    Raises:
        TooFewImagesError: fewer than :data:`MIN_IMAGES` images, or than the space's width asks for.
        MedaugError: fewer than two attributes, an attribute that does not vary, or no w.
    """
    if len(labels) < MIN_IMAGES:
        raise TooFewImagesError(f"edits: {len(labels)} images, expected at least {MIN_IMAGES}")
    if len(attributes) < 2:
        raise MedaugError(f"edits: {len(attributes)} attribute(s), expected at least two")
    at = points(generator, labels, seed, space)
    require_points("edits", len(at), at.shape[1])
    centred = within_class(at, labels)
    own_scores = within_class(torch.stack([scores[name] for name in attributes], dim=1), labels)  # [N, A]
    deviation = own_scores.std(dim=0).clamp(min=1e-12)
    edited = min(edited, len(labels))
    changes, found, steps = [], [], []
    for name in attributes:
        kept, truth = confident_half(scores[name], labels)
        along = direction(centred[kept], truth)
        step = (centred @ along).std()
        moved = [
            of_images(
                lambda drawn: measure(drawn, attributes),
                generator,
                (at[:edited] + sign * step * along).float(),
                labels[:edited],
                seed,
                space,
            )
            for sign in (-1.0, 1.0)
        ]
        changes.append((moved[1] - moved[0]) / deviation)
        found.append(along)
        steps.append(step)
    correlations = torch.corrcoef(own_scores.T).abs()
    return Edits(tuple(attributes), torch.stack(changes), torch.stack(found), torch.stack(steps), correlations)


def purity(edits: Edits, seed: int = 0) -> Measured:
    """See above; the interval is a bootstrap over the images that were edited, the fitted directions held fixed.

    Raises:
        TooFewImagesError: fewer than :data:`MIN_EDITED` of them.
    """
    count = edits.changes.shape[1]
    if count < MIN_EDITED:
        raise TooFewImagesError(f"edits: {count} images moved, expected at least {MIN_EDITED}")
    size = edits.changes.abs()  # [i, N, j]
    weights = resample(torch.arange(count), RESAMPLES, seeded(seed, "bootstrap"))
    low, high = percentiles(_purities(torch.einsum("bn,inj->bij", weights / count, size)).mean(dim=1))
    each = _purities(size.mean(dim=1))
    named = ", ".join(f"{name} {value:.2f}" for name, value in zip(edits.names, each.tolist(), strict=True))
    return Measured(
        float(each.mean()),
        low,
        high,
        n_synthetic=count,
        note=f"1 pure, 0.5 all alike; {named}; attributes correlate by |ρ| = {edits.correlation:.2f} on average; "
        "bootstrap over edited images, the fitted directions held fixed",
    )


def control(edits: Edits, seed: int = 0) -> Measured:
    """Purity over its ceiling, which is held fixed, too: 1 for perfect linear control.

    Raises:
        TooFewImagesError: as :func:`purity`.
    """
    found, ceiling = purity(edits, seed), edits.ceiling
    assert found.low is not None
    assert found.high is not None
    return replace(
        found,
        value=found.value / ceiling,
        low=found.low / ceiling,
        high=found.high / ceiling,
        note=f"purity over {ceiling:.2f}, what correlated attributes allow; {found.note}",
    )


def _purities(size: Tensor) -> Tensor:
    """Of each edit, from mean absolute changes [..., i, j] -> [..., i]."""
    own = size.diagonal(dim1=-2, dim2=-1)
    others = (size.sum(dim=-1) - own) / (size.shape[-1] - 1)
    return own / (own + others).clamp(min=1e-12)


def effects(edits: Edits) -> list[list[float]]:
    """Mean signed change of attribute j (columns) under the edit of attribute i (rows), for a figure."""
    rows: list[list[float]] = edits.changes.mean(dim=1).tolist()
    return rows


def picture(generator: LoadedGenerator, edits: Edits, label: int, space: Space, seed: int = 0) -> Picture:
    """One image moved by −2, −1, 0, 1, 2 standard deviations along each attribute's direction (one a row)."""
    strengths = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0], dtype=torch.float64)
    at = points(generator, torch.tensor([label]), seed, space)  # [1, width]
    reach = strengths[None, :, None] * (edits.steps[:, None] * edits.directions)[:, None]  # [A, 5, width]
    moved = (at[None] + reach).float().flatten(0, 1)
    rows = images(generator, moved, [label] * len(moved), seed, space)
    return tiled(rows.unflatten(0, (len(edits.names), len(strengths))))
