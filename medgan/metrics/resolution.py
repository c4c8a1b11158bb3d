"""At which resolution a GAN fails: the same distances after both sets were averaged down to smaller sizes.

A generator of coarse shapes that cannot draw detail (the claim on DCGAN: Radford et al. 2016 stop at 64 pixels; Karras
et al. 2018, section 1) is near real images once they are small, and far from them at full size. Features are taken at
the extractor's own size: smaller images are enlarged again, real and synthetic ones alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F

from medgan.metrics import fid, kid
from medgan.metrics.features import Z95, Features, as_pair, standard_errors
from medgan.metrics.images import Images, Labels, as_numbers
from medgan.metrics.measured import Measured, TooFewImagesError
from medgan.metrics.sampling import unsplittable
from medgan.metrics.spectrum import SMALLEST, spectrum
from medgan.pooled import compare, pool
from pipeline.records import MedaugError

FEWEST = 8
REPEATS = 10


def sizes(height: int, width: int) -> list[tuple[int, int]]:
    """The full size and its halves, as long as both sides are even and 16 pixels remain."""
    found = [(height, width)]
    while height % 2 == 0 and width % 2 == 0 and min(height, width) // 2 >= SMALLEST:
        height, width = height // 2, width // 2
        found.append((height, width))
    return found


def reduced(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Images [N, C, H, W] averaged over pixel areas to a size."""
    return F.adaptive_avg_pool2d(images, size)


def spectrum_by_resolution(
    real: Images, synthetic: Images, real_patients: Labels | None = None, seed: int = 0
) -> dict[str, Measured]:
    """``spectrum.at.<pixels>``, ``floor.`` and ``excess.spectrum.at.<pixels>`` (longer side): the gap at each size.

    Args:
        real: [N, C, H, W] in [-1, 1].
        synthetic: [M, C, H, W].
        real_patients: patient number [N]; None makes each image its own.
        seed: of resamples and halves.

    Raises:
        TooFewImagesError: as :func:`medgan.metrics.spectrum.spectrum`.
        MedaugError: as there.
    """
    x, y = _as_tensors(real, synthetic)
    measured = {}
    for size in sizes(x.shape[2], x.shape[3]):
        found, _ = spectrum(reduced(x, size), reduced(y, size), real_patients, seed)
        for name in ("spectrum", "floor.spectrum", "excess.spectrum"):
            measured[f"{name}.at.{max(size)}"] = found[name]
    return measured


def spectrum_trend(found: Mapping[str, Measured]) -> Measured:
    """How much the spectral gap above that of real halves is larger at full size than at the smallest size, in dB.

    Above 0 where a GAN fails the more the finer the images are. Both are ``excess.spectrum``, synthetic and real images
    at one n, and are taken for independent (MOVER); they come from the same images and go together, so that the
    interval is rather too wide.

    Args:
        found: :func:`spectrum_by_resolution`'s answer.

    Raises:
        TooFewImagesError: images that have one size only.
    """
    places = sorted(int(name.rpartition(".")[2]) for name in found if name.startswith("spectrum.at."))
    if len(places) < 2:
        raise TooFewImagesError(f"resolution: images of {places} pixels, expected sides that can be halved to 16")
    full, smallest = (pool([found[f"excess.spectrum.at.{size}"].row("spectrum")]) for size in (places[-1], places[0]))
    trend, one = compare(full, smallest, "difference"), found[f"spectrum.at.{places[-1]}"]
    note = f"dB above real halves: {full.value:.2f} at {places[-1]} pixels, {smallest.value:.2f} at {places[0]}"
    return Measured(trend.value, trend.low, trend.high, one.n_real, one.n_synthetic, note)


def distances_by_resolution(
    real: Images,
    synthetic: Images,
    extract: Callable[[torch.Tensor], Features],
    extractor: str = "domain",
    real_patients: Labels | None = None,
    seed: int = 0,
    at_full_size: tuple[Features, Features] | None = None,
) -> dict[str, Measured]:
    """``fid.<extractor>.at.<pixels>`` and ``kid.<extractor>.at.<pixels>`` (longer side) at each size.

    Intervals as in :func:`medgan.metrics.fidelity`: normal ones, from half samples of whole patients and from subsets.

    Args:
        real: [N, C, H, W] in [-1, 1].
        synthetic: [M, C, H, W].
        extract: images [N, C, H, W] to features [N, D].
        extractor: its name.
        real_patients: patient number [N]; None makes each image its own.
        seed: of halves and subsets.
        at_full_size: features of both sets as they are, where they are known already.

    Raises:
        TooFewImagesError: fewer than :data:`FEWEST` images on a side, or too few patients for halves.
        MedaugError: images that do not fit.
    """
    x, y = _as_tensors(real, synthetic)
    patients = as_numbers(real_patients, len(x), "patients")
    if min(len(x), len(y)) < FEWEST:
        raise TooFewImagesError(f"resolution: {len(x)} real and {len(y)} synthetic images, expected {FEWEST} each")
    if why := unsplittable(patients, FEWEST // 2):
        raise TooFewImagesError(f"resolution: {why}; give images of more patients")
    full = (x.shape[2], x.shape[3])
    measured = {}
    for size in sizes(*full):
        if size == full and at_full_size is not None:
            found = at_full_size
        else:
            found = extract(_enlarged(reduced(x, size), full)), extract(_enlarged(reduced(y, size), full))
        known, drawn = as_pair(*found)
        value = fid.distance(known, drawn)
        (error,) = standard_errors(lambda a, b: [fid.distance(a, b)], known, drawn, patients, REPEATS, seed)
        kernel = kid.distance(known, drawn, seed=seed, patients=patients)
        note = f"images averaged down to {size[0]}x{size[1]}"
        for name, figure, spread, lowest in (
            ("fid", value, error, 0.0),
            ("kid", kernel.value, kernel.standard_error, -float("inf")),
        ):
            low, high = max(figure - Z95 * spread, lowest), figure + Z95 * spread
            measured[f"{name}.{extractor}.at.{max(size)}"] = Measured(figure, low, high, len(x), len(y), note)
    return measured


def _enlarged(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return images if images.shape[2:] == size else F.interpolate(images, size, mode="bilinear", align_corners=False)


def _as_tensors(real: Images, synthetic: Images) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = (torch.as_tensor(images).detach() for images in (real, synthetic))
    if x.ndim != 4 or x.shape[1:] != y.shape[1:]:
        raise MedaugError(f"images: {tuple(x.shape)} and {tuple(y.shape)}, expected [images, channels, height, width]")
    return x, y
