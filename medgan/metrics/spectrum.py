"""Radial power spectrum: does each spatial frequency carry as much power in synthetic images as in real ones?

The power |F(u, v)|² of an image, its mean taken off and a Hann window put on (else the edges' leakage hides high
frequencies), is averaged over rings of equal radius √(u² + v²), with u and v in cycles a pixel, so that images need not
be square. Up-convolutions are known to leave wrong high frequencies: Durall et al. 2020, "Watch your Up-Convolution";
Dzanic et al. 2020, "Fourier Spectrum Discrepancies in Deep Network Generated Images". Checkerboards are peaks at 0.5
cycles a pixel along an axis and at 0.71 on the diagonal, so rings go up to the corner. Gaps are in decibels:

    gap(r) = 10 log₁₀ (P_synthetic(r) / P_real(r)),    spectrum = mean over rings of |gap(r)|
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from medgan.metrics.features import Z95
from medgan.metrics.images import BLOCK, Images, Labels, as_image_pair, as_numbers, real_halves
from medgan.metrics.intervals import RESAMPLES, percentiles, resample
from medgan.metrics.measured import Measured
from pipeline.records import MedaugError

BANDS = {"low": (0.0, 0.125), "middle": (0.125, 0.25), "high": (0.25, 0.5), "corner": (0.5, 0.75)}
"""Octaves in cycles a pixel; 0.5 is the finest wave along an axis, beyond it only diagonals remain."""
TINY = 1e-12
"""Power below which nothing is told apart: rounding of float32 images."""
FEWEST = 8
SMALLEST = 16
SPLITS = 20


@dataclass(frozen=True)
class Spectra:
    """The curves behind the figures, to be plotted.

    Attributes:
        frequency: middle of each ring in cycles a pixel, float64 [R].
        real: mean power of real images, float64 [R].
        synthetic: of synthetic ones.
        gap: 10 log₁₀ of their ratio, in dB.
        low: lower end of the gap's 95 % interval at each ring.
        high: upper end.
    """

    frequency: NDArray[np.float64]
    real: NDArray[np.float64]
    synthetic: NDArray[np.float64]
    gap: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def rings(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Which ring each coefficient of ``rfft2`` belongs to, and each ring's middle.

    Rings are as wide as the coarser of the two frequency steps; the constant (u = v = 0) is in none.

    Returns:
        int64 [H, W // 2 + 1] with -1 for the constant; float64 [R] in cycles a pixel.
    """
    step = 1.0 / min(height, width)
    down, across = torch.fft.fftfreq(height, dtype=torch.float64), torch.fft.rfftfreq(width, dtype=torch.float64)
    radius = (down[:, None].square() + across.square()).sqrt()
    # ring k holds radii around (k + 1) steps
    ring = (radius / step - 0.5 + 1e-9).floor().clamp(min=0).long()
    ring[0, 0] = -1
    return ring, (torch.arange(int(ring.max()) + 1, dtype=torch.float64) + 1) * step


def radial_power(grey: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Power of each image in each ring.

    Args:
        grey: [N, H, W].

    Returns:
        float64 [N, R], mean over the ring's coefficients of |F|² over the number of pixels; the rings' middles [R].
    """
    _, height, width = grey.shape
    ring, frequency = rings(height, width)
    window = torch.outer(*(torch.hann_window(side, periodic=True, dtype=torch.float64) for side in (height, width)))
    window /= window.square().mean().sqrt()
    # rfft2 keeps half of the plane: what it leaves out mirrors all columns but the first and an even width's last
    twice = torch.full((width // 2 + 1,), 2.0, dtype=torch.float64)
    twice[0] = 1.0
    if width % 2 == 0:
        twice[-1] = 1.0
    share = torch.zeros(ring.numel(), len(frequency), dtype=torch.float64)
    inside = ring.flatten() >= 0
    share[inside, ring.flatten()[inside]] = twice.expand_as(ring).flatten()[inside]
    share /= share.sum(dim=0)
    powers = []
    for images in grey.split(BLOCK):
        values = images.double()
        values = (values - values.mean(dim=(1, 2), keepdim=True)) * window
        powers.append(torch.fft.rfft2(values).abs().square().flatten(1) @ share / (height * width))
    return torch.cat(powers), frequency


def spectrum(
    real: Images, synthetic: Images, real_patients: Labels | None = None, seed: int = 0
) -> tuple[dict[str, Measured], Spectra]:
    """The gap between real and synthetic spectra, overall and by band, and the curves.

    Intervals are percentile bootstraps over images, over whole patients on the real side. A mean of absolute gaps is
    never 0 at finite n: ``floor.spectrum`` says what real halves have.

    Args:
        real: [N, C, H, W] in [-1, 1], at least 16 pixels a side.
        synthetic: [M, C, H, W].
        real_patients: patient number [N]; None makes each image its own.
        seed: of resamples and halves.

    Returns:
        ``spectrum`` (mean absolute gap over all rings, dB), ``spectrum.<band>`` for each of :data:`BANDS` (signed mean
        gap: below 0, power is missing), ``floor.spectrum`` (real halves against each other) and ``excess.spectrum`` (as
        many synthetic images against those halves, minus that, with a normal interval from the halves); and the curves.

    Raises:
        TooFewImagesError: fewer than :data:`FEWEST` images on a side, or too few patients for halves.
        MedaugError: images below 16 pixels, or that do not fit.
    """
    x, y = as_image_pair(real, synthetic, FEWEST)
    if min(x.shape[1:]) < SMALLEST:
        raise MedaugError(f"spectrum: images of {tuple(x.shape[1:])} pixels, expected at least {SMALLEST} a side")
    patients = as_numbers(real_patients, len(x), "patients")
    generator = torch.Generator().manual_seed(seed)
    (x_power, frequency), (y_power, _) = radial_power(x), radial_power(y)
    resampled = gap(
        _means(x_power, resample(patients, RESAMPLES, generator)),
        _means(y_power, resample(torch.arange(len(y)), RESAMPLES, generator)),
    )  # [RESAMPLES, R]
    whole = gap(x_power.mean(dim=0), y_power.mean(dim=0))
    n = len(x), len(y)
    value, error = float(whole.abs().mean()), float(resampled.abs().mean(dim=1).std())
    measured = {
        "spectrum": Measured(
            value,
            # resampling adds noise, which absolute values turn into bias: its spread is right, its percentiles are not
            max(value - Z95 * error, 0.0),
            value + Z95 * error,
            *n,
            f"mean absolute gap over {len(frequency)} rings, dB; bootstrap",
        )
    }
    for band, (low, high) in BANDS.items():
        inside = (frequency >= low) & (frequency < high)
        measured[f"spectrum.{band}"] = Measured(
            float(whole[inside].mean()),
            *percentiles(resampled[:, inside].mean(dim=1)),
            *n,
            f"synthetic over real power at {low:g} to {high:g} cycles a pixel, dB; bootstrap",
        )
    of_real: list[torch.Tensor] = []
    of_synthetic: list[torch.Tensor] = []
    for _ in range(SPLITS):
        first, second = real_halves(patients, generator, FEWEST // 2)
        size = min(len(second), len(y))
        others, drawn = (
            power[torch.randperm(len(power), generator=generator)[:size]] for power in (x_power[second], y_power)
        )
        for power, found in ((others, of_real), (drawn, of_synthetic)):
            found.append(gap(x_power[first].mean(dim=0), power.mean(dim=0)).abs().mean())
    floors, above = torch.stack(of_real), torch.stack(of_synthetic) - torch.stack(of_real)
    halved, size = f"{SPLITS} half splits by patient", min(len(x) // 2, len(y))
    measured["floor.spectrum"] = Measured(
        float(floors.mean()),
        float(floors.min()),
        float(floors.max()),
        size,
        None,
        f"real against real: {halved}, their mean and range; dB",
    )
    excess, error = float(above.mean()), float(above.std())
    measured["excess.spectrum"] = Measured(
        excess,
        excess - Z95 * error,
        excess + Z95 * error,
        size,
        size,
        f"above what other real images have, both at this n: {halved}; dB",
    )
    ends = torch.quantile(resampled, torch.tensor([0.025, 0.975], dtype=torch.float64), dim=0)
    curves = [frequency, x_power.mean(dim=0), y_power.mean(dim=0), whole, ends[0], ends[1]]
    return measured, Spectra(*(curve.numpy() for curve in curves))


def gap(real: torch.Tensor, synthetic: torch.Tensor) -> torch.Tensor:
    """Synthetic over real power in dB."""
    return 10.0 / math.log(10.0) * ((synthetic + TINY).log() - (real + TINY).log())


def _means(power: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
    """Mean spectra [repeats, R] of images [N, R] that are drawn so many times [repeats, N]."""
    return times @ power / times.sum(dim=1, keepdim=True)
