"""Perceptual path length: how fast images change along a path among latents (StyleGAN, section 4.1).

    l = E[ d(G(p(t)), G(p(t + ε))) / ε² ]                               (StyleGAN, equations 2 and 3)

p is a great circle between two z (lengths interpolated, too, since not every network normalises them) or a straight
line between two w; t is uniform in [0, 1] ("full") or 0 ("end"); ε = 1e-4; the slowest and the fastest 1 % of the pairs
are dropped, as the authors' evaluation does. Both ends are of one class, and noise is held still.

The authors' d is LPIPS, a squared distance of VGG's features of unit length at every place. Its weights are not to be
had everywhere, so here d(a, b) = ‖f(a)/‖f(a)‖ − f(b)/‖f(b)‖‖² for the features f of any extractor: like LPIPS it does
not depend on their scale. It is another distance, so that figures of two extractors, or of the papers, do not compare.

Numbers. Points are interpolated and distances taken in float64; network and extractor run in float32, whose rounding
(about 1e-6 of an image) is small against the change over ε (about 1e-4). An extractor that rounds more (bfloat16,
images made uint8) would measure its own rounding, over ε²: it is found out by taking some pairs at 10 ε, and refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from medgan.metrics.drawing import Extractor, classes_in_turn, of_images, points
from medgan.metrics.intervals import percentiles, resamples
from medgan.metrics.measured import Measured, TooFewImagesError
from medgan.sample import LoadedGenerator, slerp
from medgan.seeds import seeded
from pipeline.records import MedaugError

EPSILON = 1e-4
MIN_PAIRS = 100
"""Fewest pairs of images: of fewer, dropping 1 % on either side drops nothing."""
CHECKED = 32
"""Pairs that are taken at 10 ε as well."""

Sampling = Literal["full", "end"]


def squared_speeds(
    generator: LoadedGenerator,
    extractor: Extractor,
    space: Literal["z", "w"],
    sampling: Sampling = "full",
    pairs: int = 500,
    seed: int = 0,
    epsilon: float = EPSILON,
    unit: bool = True,
) -> Tensor:
    """Squared speeds d / ε² of random pairs.

    Args:
        generator: any; for "w" one that has it.
        extractor: images to features, in float32 at least.
        space: where the paths run.
        sampling: where on them.
        pairs: how many; two images each.
        seed: everything follows from it.
        epsilon: step along the path, as a share of it.
        unit: whether features are brought to unit length.

    Returns:
        float64 [pairs], for :func:`path_length` and :func:`histograms`.

    Raises:
        MedaugError: no w, features that are not finite, or an extractor whose rounding is larger than what changes.
    """
    labels = classes_in_turn(generator, pairs)
    start, end = (points(generator, labels, seed, space, start=begin).double() for begin in (0, pairs))
    t = torch.zeros(pairs, 1, dtype=torch.float64)
    if sampling == "full":
        t = torch.rand(pairs, 1, generator=seeded(seed, "t"), dtype=torch.float64)

    def features(at: Tensor, count: int) -> Tensor:
        found = of_images(extractor, generator, at.float(), labels[:count], seed, space).flatten(1)
        return found / found.norm(dim=1, keepdim=True).clamp(min=1e-12) if unit else found

    def path(t: Tensor) -> Tensor:
        a, b = start[: len(t)], end[: len(t)]
        return slerp(a, b, t) if space == "z" else torch.lerp(a, b, t)

    here = features(path(t), pairs)
    speeds = (features(path(t + epsilon), pairs) - here).square().sum(dim=1) / epsilon**2
    checked = min(CHECKED, pairs)
    further = features(path(t[:checked] + 10 * epsilon), checked)
    coarse = (further - here[:checked]).square().sum(dim=1) / (10 * epsilon) ** 2
    _refuse_rounding(speeds[:checked], coarse)
    return speeds


def _refuse_rounding(fine: Tensor, coarse: Tensor) -> None:
    """Rounding is the same at every ε, so over ε² it is 100 times as large at ε as at 10 ε; a true speed is equal."""
    if float(fine.median()) > 3 * float(coarse.median()) and float(fine.mean()) > 3 * float(coarse.mean()):
        raise MedaugError(
            f"path length: features change by {float(fine.median()):.3g} over ε² at ε but by "
            f"{float(coarse.median()):.3g} at 10 ε, so rounding is what is measured; expected an extractor that "
            "computes in float32 on images that are not rounded"
        )


def path_length(speeds: Tensor, seed: int = 0, extractor: str = "", sampling: Sampling = "full") -> Measured:
    """The mean of squared speeds without the slowest and the fastest 1 %, and its bootstrap interval over pairs.

    Args:
        speeds: [N].
        seed: of the bootstrap.
        extractor: whose features they are of, for the note; "" leaves it out.
        sampling: where on the paths, for the note.

    Raises:
        TooFewImagesError: fewer than :data:`MIN_PAIRS` pairs.
    """
    if len(speeds) < MIN_PAIRS:
        raise TooFewImagesError(f"path length: {len(speeds)} pairs of images, expected at least {MIN_PAIRS}")
    low, high = percentiles(_clipped_mean(speeds[resamples(len(speeds), seed)]))
    where = {"full": "anywhere on the paths", "end": "at the paths' beginnings"}[sampling]
    stands_in = f"; features of {extractor} stand in for LPIPS" if extractor else ""
    return Measured(
        float(_clipped_mean(speeds[None])[0]),
        low,
        high,
        n_synthetic=2 * len(speeds),
        note=f"{len(speeds)} pairs {where}{stands_in}; the slowest and fastest 1 % dropped; bootstrap over pairs; "
        "noise held still",
    )


def _clipped_mean(speeds: Tensor) -> Tensor:
    """Means between the 1st and the 99th percentile, these included: [B, N] -> [B]."""
    first, last = _kept(speeds.shape[1])
    return speeds.double().sort(dim=1).values[:, first : last + 1].mean(dim=1)


def _kept(count: int) -> tuple[int, int]:
    """Ranks of the 1st percentile (the order statistic at or below it) and of the 99th (at or above)."""
    return math.floor(0.01 * (count - 1)), math.ceil(0.99 * (count - 1))


def histograms(speeds: Mapping[str, Tensor], bins: int = 24) -> tuple[list[float], dict[str, list[int]]]:
    """How the squared speeds that :func:`path_length` averages are distributed, in bins that all sets share.

    Bins are equally wide on a logarithmic axis: speeds spread over orders of magnitude, and in equal bins the few
    fastest pairs would press all others into the first.

    Args:
        speeds: [N] of each space, by name.
        bins: how many.

    Returns:
        Edges [bins + 1], above 0, and for each name the counts [bins]; pairs that are slower than a millionth of the
        fastest (that do not move at all, say) are counted in the first bin.
    """
    kept = {}
    for name, one in speeds.items():
        first, last = _kept(len(one))
        kept[name] = one.double().cpu().sort().values[first : last + 1]
    high = max(max(float(one[-1]) for one in kept.values()), 1e-12)
    low = max(min(float(one[0]) for one in kept.values()), 1e-6 * high)
    edges = torch.logspace(math.log10(min(low, 0.1 * high)), math.log10(high), bins + 1, dtype=torch.float64)
    inner = edges[1:-1].contiguous()
    counts = {name: torch.bincount(torch.bucketize(one, inner), minlength=bins).tolist() for name, one in kept.items()}
    return edges.tolist(), counts
