"""Style mixing: how much worse images get when their layers take styles of two to four latents (StyleGAN, table 2).

Layers are cut at random places into as many stretches as there are latents, all of one class; an image of one latent is
the very image that ``sample`` draws. A generator trained with mixing should lose little, one trained without it much.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from medgan.explore import mixing_grid, style_network
from medgan.metrics import fid, kid
from medgan.metrics.drawing import Extractor, Picture, batches, finite, tiled
from medgan.metrics.features import Z95, standard_errors
from medgan.metrics.measured import Measured, TooFewImagesError
from medgan.sample import LoadedGenerator
from medgan.seeds import seeded
from pipeline.records import MedaugError

MIN_IMAGES = 50
HALVES = 20


def mixed_images(generator: LoadedGenerator, labels: Tensor, latents: int, seed: int = 0, start: int = 0) -> Tensor:
    """Images whose layers take their styles from several latents.

    Args:
        generator: one with styles.
        labels: class of each image, int64 [N].
        latents: how many w each image has; 1 is ``generator.sample(labels, seed, start=start)``.
        seed: of the series.
        start: where in the series to begin.

    Returns:
        float32 [N, C, H, W] in [-1, 1], on the CPU.

    Raises:
        MedaugError: no styles, or more latents than layers.
    """
    network = style_network(generator)
    layers = network.style_layers(generator.stage)
    if not 1 <= latents <= layers:
        raise MedaugError(f"mixing: {latents} latents for {layers} layers; expected 1 to {layers}")
    classes = generator.check_labels(labels)
    drawn = []
    for part in batches(generator, len(classes)):
        numbers, own = range(start + part.start, start + part.stop), classes[part]
        z, noise = generator.draw_latents([seeded(seed, number) for number in numbers])
        others = [
            torch.stack([torch.randn(network.latent, generator=seeded(seed, number, "mixed", k)) for number in numbers])
            for k in range(1, latents)
        ]
        stretches = torch.stack([_stretches(layers, latents, seed, number) for number in numbers])  # [N, L]
        with torch.inference_mode():
            w = torch.stack([network.mapping(one.to(generator.device), own) for one in [z, *others]], dim=1)
            place = stretches.to(generator.device)[:, :, None].expand(-1, -1, w.shape[2])
            styles = w.gather(1, place)  # [N, latents, width] -> [N, L, width]
            drawn.append(generator.render(styles, noise).float().clamp(-1.0, 1.0).cpu())
    return torch.cat(drawn)


def _stretches(layers: int, latents: int, seed: int, number: int) -> Tensor:
    """Which latent each layer takes, ascending from 0, every one at least once: int64 [layers]."""
    cuts = torch.randperm(layers - 1, generator=seeded(seed, number, "cuts"))[: latents - 1] + 1
    changes = torch.zeros(layers, dtype=torch.int64)
    changes[cuts] = 1
    return changes.cumsum(0)


def mixed_features(
    generator: LoadedGenerator, extractor: Extractor, labels: Tensor, latents: int, seed: int = 0
) -> Tensor:
    """Features of :func:`mixed_images`, float64 [N, D], batch by batch.

    Give labels in the real images' proportions: FID and KID see the mix of classes, too.
    """
    parts = batches(generator, len(labels))
    return torch.cat(
        [
            finite(
                extractor(mixed_images(generator, labels[part], latents, seed, part.start)), part.stop - part.start
            ).flatten(1)
            for part in parts
        ]
    )


@dataclass(frozen=True)
class Mixed:
    """Distances of images of so many latents.

    Attributes:
        fid: Fréchet distance from real features.
        kid: kernel distance from them.
        penalty: how much that is above the kernel distance of unmixed images.
    """

    fid: Measured
    kid: Measured
    penalty: Measured


def mixing(real: Tensor, patients: Tensor, unmixed: Tensor, mixed: Tensor, seed: int = 0) -> Mixed:
    """Distances of mixed images' features.

    Args:
        real: [N, D].
        patients: patient of each real image, int64 [N].
        unmixed: [M, D], of images of one latent.
        mixed: [M, D], of images of several.
        seed: of subsets and halves.

    Raises:
        TooFewImagesError: fewer than :data:`MIN_IMAGES` of either kind.
    """
    if min(len(real), len(unmixed), len(mixed)) < MIN_IMAGES:
        raise TooFewImagesError(
            f"mixing: {len(real)} real and {min(len(unmixed), len(mixed))} synthetic images, expected at least "
            f"{MIN_IMAGES} of each"
        )
    counts = {"n_real": len(real), "n_synthetic": len(mixed)}

    def measured(value: float, error: float, note: str, lowest: float = -math.inf) -> Measured:
        return Measured(value, max(value - Z95 * error, lowest), value + Z95 * error, note=note, **counts)

    (error,) = standard_errors(lambda a, b: [fid.distance(a, b)], real, mixed, patients, HALVES, seed)
    one = kid.distance(real, unmixed, seed=seed, patients=patients)
    several = kid.distance(real, mixed, seed=seed, patients=patients)
    both = math.hypot(one.standard_error, several.standard_error)
    return Mixed(
        fid=measured(fid.distance(real, mixed), error, "normal interval from halves", lowest=0.0),
        kid=measured(several.value, several.standard_error, "normal interval from subsets"),
        penalty=measured(
            several.value - one.value,
            both,
            "KID of mixed less KID of unmixed images; the interval takes their errors for independent, which is wide: "
            "both have the same real images",
        ),
    )


def picture(generator: LoadedGenerator, label: int = 0, seed: int = 0, rows: int = 3, columns: int = 4) -> Picture:
    """:func:`medgan.explore.mixing_grid`: coarse layers from the first column, the finer half from the first row."""
    grid = mixing_grid(generator, range(rows), range(rows, rows + columns), (label, label), seed=seed)
    return tiled(grid)
