"""Whether a style generator's noise is stochastic detail alone (StyleGAN, section 3.2 and figures 4 and 5).

The latent is held and the noise drawn anew: the variance of what changes says where noise acts. Coarse structure is the
mean over each of 8x8 blocks of the image. Two figures:

    low-pass share = variance of block means / variance of pixels, both over noise
        1 / (pixels of a block) for white noise, 1 for a change of whole blocks;
    structure share = variance of block means over noise / their variance over noise and latents of one class
        near 0 where noise leaves the structure to the latent.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from medgan.explore import style_network
from medgan.metrics.drawing import Picture, batches, classes_in_turn, tiled
from medgan.metrics.intervals import percentiles, resamples
from medgan.metrics.measured import Measured, TooFewImagesError
from medgan.metrics.separability import within_class
from medgan.sample import LoadedGenerator
from medgan.seeds import seeded
from pipeline.records import MedaugError

BLOCKS = 8
MIN_LATENTS = 20


@dataclass(frozen=True)
class NoiseVariances:
    """What noise changes in the images of some latents; float64.

    Attributes:
        fine: variance over noise, mean over pixels [P].
        coarse: the same of block means [P].
        structure: block means of the mean image, [P, C·8·8].
        labels: class of each latent, int64 [P]; how classes differ is no variance of latents.
        draws: images of each latent.
        map: standard deviation over noise at each pixel, root mean square over latents and channels, [H, W].
    """

    fine: Tensor
    coarse: Tensor
    structure: Tensor
    labels: Tensor
    draws: int
    map: Tensor


def variances(images: Tensor, labels: Tensor) -> NoiseVariances:
    """Of images [P, R, C, H, W] of P latents, of classes [P], under R noises each."""
    P, R = images.shape[:2]
    images = images.double()
    blocks = F.adaptive_avg_pool2d(images.flatten(0, 1), BLOCKS).flatten(1).unflatten(0, (P, R))  # [P, R, C·8·8]
    pixels = images.var(dim=1)  # [P, C, H, W]
    return NoiseVariances(
        fine=pixels.mean(dim=(1, 2, 3)),
        coarse=blocks.var(dim=1).mean(dim=1),
        structure=blocks.mean(dim=1),
        labels=labels,
        draws=R,
        map=pixels.mean(dim=(0, 1)).sqrt(),
    )


def observe(generator: LoadedGenerator, latents: int = 64, draws: int = 8, seed: int = 0) -> NoiseVariances:
    """Draws each latent under several noises.

    Args:
        generator: one with styles and random noise.
        latents: how many, classes in turn.
        draws: noises for each.
        seed: everything follows from it.

    Raises:
        MedaugError: no styles, or no noise that could be drawn anew.
    """
    style_network(generator)
    if not generator.network.noise_layers(generator.stage):
        raise MedaugError(
            f"noise: {generator.config.name} draws no noise for its images; expected architecture.noise: random"
        )
    labels = generator.check_labels(classes_in_turn(generator, latents))
    parts = []
    for place in range(latents):
        z, _ = generator.draw_latents([seeded(seed, place)])
        drawn = []
        for part in batches(generator, draws):
            rngs = [seeded(seed, place, "noise", number) for number in range(part.start, part.stop)]
            _, noise = generator.draw_latents(rngs)
            with torch.inference_mode():
                images = generator.render_z(z.expand(len(rngs), -1), labels[place].expand(len(rngs)), noise)
            drawn.append(images.float().clamp(-1.0, 1.0).cpu())
        parts.append(variances(torch.cat(drawn)[None], labels[place : place + 1]))
    return NoiseVariances(
        fine=torch.cat([part.fine for part in parts]),
        coarse=torch.cat([part.coarse for part in parts]),
        structure=torch.cat([part.structure for part in parts]),
        labels=torch.cat([part.labels for part in parts]),
        draws=draws,
        map=torch.stack([part.map.square() for part in parts]).mean(dim=0).sqrt(),
    )


def low_pass_share(found: NoiseVariances, seed: int = 0) -> Measured:
    """See above; bootstrap over latents.

    Raises:
        TooFewImagesError: fewer than :data:`MIN_LATENTS` latents.
        MedaugError: noise that changes nothing.
    """
    drawn = _usable(found, seed)
    shares = found.coarse[drawn].mean(dim=1) / found.fine[drawn].mean(dim=1)
    low, high = percentiles(shares[1:])
    H, W = found.map.shape
    white = BLOCKS * BLOCKS / (H * W)
    amplitude = float(found.fine.mean().sqrt())
    note = f"white noise has {white:.3g}; noise changes a pixel by {amplitude:.3g} (standard deviation; range −1 to 1)"
    return Measured(float(shares[0]), low, high, n_synthetic=len(found.fine) * found.draws, note=_ending(note))


def amplitude(found: NoiseVariances, seed: int = 0) -> Measured:
    """By how much noise changes a pixel: standard deviation over noise, images being −1 to 1; bootstrap over latents.

    Raises:
        TooFewImagesError: fewer than :data:`MIN_LATENTS` latents.
    """
    sizes = found.fine[_samples(found, seed)].mean(dim=1).sqrt()
    low, high = percentiles(sizes[1:])
    note = "standard deviation of a pixel over noise, range −1 to 1; bootstrap over latents"
    return Measured(float(sizes[0]), low, high, n_synthetic=len(found.fine) * found.draws, note=note)


def structure_share(found: NoiseVariances, seed: int = 0) -> Measured:
    """See above; bootstrap over latents.

    Raises:
        TooFewImagesError: fewer than :data:`MIN_LATENTS` latents.
        MedaugError: noise that changes nothing.
    """
    drawn = _usable(found, seed)
    by_noise = found.coarse[drawn].mean(dim=1)
    # of means over draws: the noise that is left in them is no variance of latents
    by_latent = torch.stack([_within_classes(found, sample) for sample in drawn]) - by_noise / found.draws
    shares = by_noise / (by_noise + by_latent.clamp(min=0))
    low, high = percentiles(shares[1:])
    note = "share of coarse structure's variance that noise makes"
    return Measured(float(shares[0]), low, high, n_synthetic=len(found.fine) * found.draws, note=_ending(note))


def _within_classes(found: NoiseVariances, sample: Tensor) -> Tensor:
    """Variance of the structure of a sample of latents around the means of their classes, mean over blocks."""
    structure, labels = found.structure[sample], found.labels[sample]
    rest = within_class(structure, labels)
    return rest.square().sum(dim=0).mean() / max(len(rest) - len(labels.unique()), 1)


def changes_nothing(found: NoiseVariances) -> bool:
    """Whether images are the same under every noise, as where a generator never learned to use it."""
    return float(found.fine.max()) <= 1e-12


def _usable(found: NoiseVariances, seed: int) -> Tensor:
    """:func:`_samples` of noise that changes something."""
    if changes_nothing(found):
        raise MedaugError("noise: it changes nothing in any image; expected a generator that has learned to use it")
    return _samples(found, seed)


def _samples(found: NoiseVariances, seed: int) -> Tensor:
    """Samples of latents, [1 + repeats, P], the first being all of them once."""
    count = len(found.fine)
    if count < MIN_LATENTS:
        raise TooFewImagesError(f"noise: {count} latents, expected at least {MIN_LATENTS}")
    return torch.cat([torch.arange(count)[None], resamples(count, seed)])


def _ending(note: str) -> str:
    return f"{note}; blocks of an {BLOCKS}x{BLOCKS} grid; bootstrap over latents"


def picture(found: NoiseVariances) -> Picture:
    """Where noise acts: its standard deviation at each pixel, from 0 to its maximum."""
    return tiled(found.map[None, None, None], 0.0, float(found.map.max()))
