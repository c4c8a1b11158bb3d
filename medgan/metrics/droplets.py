"""Water droplets: spots of enormous activations in the feature maps of a generator with AdaIN.

Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN", section 2.1 and figure 1: from 64x64 up,
StyleGAN's feature maps hold a blob that dominates their statistics, by which the generator smuggles signal strength
past the normalisation; with demodulation instead it is gone. Seen in the norm over channels at each pixel, the blob is
tiny (under a hundredth of the map) and many times as large as anything around it:

    peak = max over pixels of ‖x‖ / the norm that 5 % of the pixels exceed

An image has a droplet where some layer's peak is above :data:`THRESHOLD`. A frame of two pixels is left out of
both: there convolutions meet their zero padding, and a short training was seen with a bright border, no droplet.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from medgan.explore import style_network
from medgan.metrics.drawing import Picture, batches, classes_in_turn, tiled
from medgan.metrics.intervals import clopper_pearson
from medgan.metrics.measured import Measured, TooFewImagesError
from medgan.sample import LoadedGenerator
from pipeline.records import MedaugError

SMALLEST = 64
"""Side from which the paper saw droplets."""
THRESHOLD = 8.0
"""A spot of 1 % of the pixels at 8 times the norm of the 95th percentile holds about as much energy (0.01·8²) as all
others, so it dominates the statistics. Untrained networks of 8 and more channels stay below 5 (measured)."""
EXCEEDING = 0.05
FRAME = 2
MIN_IMAGES = 20


@dataclass(frozen=True)
class Peaks:
    """Peaks of feature maps.

    Attributes:
        sizes: height and width of each layer looked at.
        peaks: of each image in each layer, float64 [N, layers].
        highest: the map of norms with the highest peak of all, float32 [h, w].
    """

    sizes: tuple[tuple[int, int], ...]
    peaks: Tensor
    highest: Tensor


def norm_peaks(activations: Tensor) -> tuple[Tensor, Tensor]:
    """Norms over channels and their peaks.

    Args:
        activations: [N, F, h, w], each side above 2 · :data:`FRAME`.

    Returns:
        float64 [N], and the norms, float32 [N, h, w].
    """
    norms = activations.detach().float().square().sum(dim=1).sqrt()
    flat = norms[:, FRAME:-FRAME, FRAME:-FRAME].flatten(1)
    rank = flat.shape[1] - int(EXCEEDING * flat.shape[1])
    background = flat.kthvalue(rank, dim=1).values
    return (flat.amax(dim=1) / background.clamp(min=1e-12)).double().cpu(), norms


def observe(generator: LoadedGenerator, images: int = 200, seed: int = 0, smallest: int = SMALLEST) -> Peaks:
    """Draws images and looks at every synthesis layer.

    Args:
        generator: one with styles.
        images: how many, classes in turn.
        seed: of the series.
        smallest: shorter side of the smallest layer looked at.

    Raises:
        MedaugError: no styles, or no layer as large as that.
    """
    network = style_network(generator)
    labels = classes_in_turn(generator, images)
    found: list[list[Tensor]] = []
    sizes: tuple[tuple[int, int], ...] = ()
    highest, record = torch.zeros(1, 1), -1.0
    for part in batches(generator, images):
        with _recorded(network, smallest) as layers:
            generator.sample(labels[part], seed, start=part.start)
        if not layers:
            raise MedaugError(
                f"droplets: no layer of {smallest}x{smallest} or more in images of {generator.spec.height}x"
                f"{generator.spec.width}; expected larger images"
            )
        sizes = tuple((norms.shape[1], norms.shape[2]) for _, norms in layers)
        found.append([peaks for peaks, _ in layers])
        for peaks, norms in layers:
            if float(peaks.max()) > record:
                record, highest = float(peaks.max()), norms[int(peaks.argmax())].cpu()
    return Peaks(sizes, torch.cat([torch.stack(part, dim=1) for part in found]), highest)


@contextmanager
def _recorded(network: nn.Module, smallest: int) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Peaks and norms of each synthesis layer, in the order in which they run, while this lasts.

    A synthesis layer is what adds noise with a scale of its own: StyleGAN's epilogues, StyleGAN2's convolutions.
    """
    seen: list[tuple[Tensor, Tensor]] = []

    def look(module: nn.Module, inputs: object, output: Tensor) -> None:
        if min(output.shape[2:]) >= smallest:
            seen.append(norm_peaks(output))

    hooks = [each.register_forward_hook(look) for each in network.modules() if hasattr(each, "noise_scale")]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def droplets(peaks: Peaks, threshold: float = THRESHOLD) -> Measured:
    """Share of images with a droplet, and its exact interval.

    Raises:
        TooFewImagesError: fewer than :data:`MIN_IMAGES` images.
    """
    count = len(peaks.peaks)
    if count < MIN_IMAGES:
        raise TooFewImagesError(f"droplets: {count} images, expected at least {MIN_IMAGES}")
    shown = int((peaks.peaks.amax(dim=1) > threshold).sum())
    medians = ", ".join(
        f"{height}x{width} {value:.2f}"
        for (height, width), value in zip(peaks.sizes, peaks.peaks.median(dim=0).values.tolist(), strict=True)
    )
    low, high = clopper_pearson(shown, count)
    return Measured(
        shown / count,
        low,
        high,
        n_synthetic=count,
        note=f"images with a peak above {threshold:g}; median peaks: {medians}; exact interval",
    )


def picture(peaks: Peaks) -> Picture:
    """The map of norms with the highest peak, from 0 to its maximum: a droplet is a white spot on black."""
    return tiled(peaks.highest[None, None, None], 0.0, float(peaks.highest.max()))
