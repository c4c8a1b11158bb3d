"""Augmentation leak: do synthetic images show the transforms that only the discriminator should have seen?

Karras et al. 2020, "Training Generative Adversarial Networks with Limited Data", section 2.2 and figure 3: transforms
that are applied too often leak into the generated images. For each transform a small network learns, on real training
images, to tell transformed from untransformed ones. Which share of a set is transformed follows from its mean output,
calibrated on held-out real images, transformed and not (the adjusted count of Bella et al. 2010):

    share = (mean of synthetic − mean of untransformed) / (mean of transformed − mean of untransformed)

Where the network cannot see a transform in real images either (a mirrored hand may be the other hand), or they are of
too few patients, the interval is the whole of 0 to 1. Synthetic images differ from real ones in other ways too; what
the network makes of those is in the figure, so that a GAN trained without augmentation is the fair comparison.
Measured on phantoms and MedNIST of 64 pixels (300 training, 100 validation, 200 other images, 30 % of them
transformed): 21 to 38 % are found wherever the network sees the transform, and 0 to 13 % where there are none;
contrast is never seen, noise not in noisy phantoms, and in MedNIST neither are flips, scale, stretch and brightness.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from medgan.augment import augment
from medgan.metrics.images import Images, Labels, Picture, as_image_pair, as_numbers, mosaic, shrink
from medgan.metrics.intervals import RESAMPLES, percentiles, resample
from medgan.metrics.measured import Measured, TooFewImagesError
from medgan.metrics.sampling import FEWEST_PATIENTS
from medgan.options import TRANSFORMS, require_one_of

GRID = 64
STEPS, BATCH = 200, 32
WIDTH = 32
FEWEST_TRAINING, FEWEST_HELD_OUT, FEWEST = 32, 20, 20
APART = 0.2
"""Least difference of the mean outputs for transformed and untransformed held-out images: below, it sees nothing."""
CHANGED = 0.02
"""A transform that moves no pixel by more (of a range of 2) has not happened."""


@dataclass(frozen=True)
class Leak:
    """What was found of one transform.

    Attributes:
        share: of synthetic images that show it: ``leak.<transform>``.
        outputs: of the network for each synthetic image, 0 to 1: how transformed it looks, float64 [M].
        visible: whether the network sees the transform in real images; if not, its outputs say nothing.
    """

    share: Measured
    outputs: torch.Tensor
    visible: bool


def transformed(images: torch.Tensor, transform: str, generator: torch.Generator) -> torch.Tensor:
    """Each image transformed for certain: drawn again where a draw leaves it as it is.

    Args:
        images: float32 [N, 1, H, W] in [-1, 1].
        transform: a name of :data:`medgan.options.TRANSFORMS`.
        generator: of the draws.
    """
    result = images.clone()
    left = torch.arange(len(images))
    certain = torch.ones(())
    for _ in range(8):
        drawn = augment(images[left], (transform,), certain, generator)
        result[left] = drawn
        same = (drawn - images[left]).abs().amax(dim=(1, 2, 3)) <= CHANGED
        left = left[same]
        if len(left) == 0:
            break
    return result


class _Detector(nn.Sequential):
    """Three strided convolutions and a linear layer that knows places: logits [N] of images [N, 1, H, W]."""

    def __init__(self, longest: int, generator: torch.Generator):
        stride = 4 if longest > GRID // 2 else 2  # about 16 pixels remain, where most of the time would go
        layers: list[nn.Module] = [nn.Conv2d(1, WIDTH, 5, stride, 2)]
        for fan_in, fan_out in ((WIDTH, 2 * WIDTH), (2 * WIDTH, 2 * WIDTH)):
            layers += [nn.GroupNorm(4, fan_in), nn.LeakyReLU(0.2), nn.Conv2d(fan_in, fan_out, 3, 2, 1)]
        layers += [nn.GroupNorm(4, 2 * WIDTH), nn.LeakyReLU(0.2), nn.AdaptiveAvgPool2d(4), nn.Flatten()]
        super().__init__(*layers, nn.Linear(16 * 2 * WIDTH, 1), nn.Flatten(0))
        with torch.no_grad():
            for module in self:
                if isinstance(module, (nn.Conv2d, nn.Linear)):
                    scale = (2.0 / module.weight[0].numel()) ** 0.5
                    module.weight.copy_(scale * torch.randn(module.weight.shape, generator=generator))
                    assert module.bias is not None
                    nn.init.zeros_(module.bias)


def look_for(
    transform: str,
    train: Images,
    validation: Images,
    synthetic: Images,
    validation_patients: Labels | None = None,
    seed: int = 0,
    steps: int = STEPS,
) -> Leak:
    """The share of synthetic images that show a transform, metric ``leak.<transform>``, and how much each shows it.

    The interval is a percentile bootstrap over synthetic images and validation patients, for the network as trained.

    Args:
        transform: a name of :data:`medgan.options.TRANSFORMS`.
        train: real images to learn from [N, C, H, W] in [-1, 1].
        validation: real images of other patients, to calibrate on [V, C, H, W].
        synthetic: [M, C, H, W]; or other real images, to see what they score.
        validation_patients: patient number [V]; None makes each image its own.
        seed: of weights, draws and resamples.
        steps: of training.

    Raises:
        ValueError: an unknown transform.
        TooFewImagesError: too few images in one of the sets.
        MedaugError: images or patients that do not fit.
    """
    require_one_of("transform", transform, TRANSFORMS)
    known, held_out = as_image_pair(train, validation)
    drawn = as_image_pair(train, synthetic)[1]
    for images, fewest, name in (
        (known, FEWEST_TRAINING, "training"),
        (held_out, FEWEST_HELD_OUT, "validation"),
        (drawn, FEWEST, "synthetic"),
    ):
        if len(images) < fewest:
            raise TooFewImagesError(f"leak.{transform}: {len(images)} {name} images, expected at least {fewest}")
    patients = as_numbers(validation_patients, len(held_out), "validation patients")
    generator = torch.Generator().manual_seed(seed)
    known, held_out, drawn = (shrink(images.float(), GRID)[:, None] for images in (known, held_out, drawn))
    network = _train(known, transform, generator, steps)
    of_drawn, negative = (_outputs(network, images) for images in (drawn, held_out))
    positive = _outputs(network, transformed(held_out, transform, generator))
    value = _share(of_drawn.mean(), negative.mean(), positive.mean())
    times = resample(patients, RESAMPLES, generator)
    of_drawn_resampled = (resample(torch.arange(len(drawn)), RESAMPLES, generator) @ of_drawn) / len(drawn)
    negative_resampled, positive_resampled = ((times @ each) / times.sum(dim=1) for each in (negative, positive))
    ranked = _auc(positive, negative)
    note = (
        f"calibrated on {len(held_out)} validation images, where transformed are told from others with AUC {ranked:.2f}"
    )
    seen = percentiles(positive_resampled - negative_resampled)[0] > APART
    if len(patients.unique()) < FEWEST_PATIENTS:
        low, high, note = 0.0, 1.0, f"{note}: of fewer than {FEWEST_PATIENTS} patients, so nothing can be said"
    elif seen:
        low, high = percentiles(_share(of_drawn_resampled, negative_resampled, positive_resampled))
    else:
        low, high, note = 0.0, 1.0, f"{note}: not to be seen in real images either, so nothing can be said"
    return Leak(Measured(float(value), low, high, len(known), len(drawn), note), of_drawn, (low, high) != (0.0, 1.0))


def leak(
    train: Images,
    validation: Images,
    synthetic: Images,
    transform: str,
    validation_patients: Labels | None = None,
    seed: int = 0,
    steps: int = STEPS,
) -> Measured:
    """The share of :func:`look_for` alone."""
    return look_for(transform, train, validation, synthetic, validation_patients, seed, steps).share


def picture(
    validation: Images, synthetic: Images, transform: str, outputs: torch.Tensor, count: int = 5, seed: int = 0
) -> Picture:
    """The synthetic images that look most transformed above, real images with the transform below."""
    real, drawn = as_image_pair(validation, synthetic)
    order = outputs.argsort(descending=True)[:count]
    certain = transformed(real[:count].float()[:, None], transform, torch.Generator().manual_seed(seed))
    return mosaic([list(drawn[order]), list(certain[:, 0])])


def _train(known: torch.Tensor, transform: str, generator: torch.Generator, steps: int) -> _Detector:
    """A detector, trained on batches half of which are transformed."""
    network = _Detector(max(known.shape[2:]), generator)
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    target = torch.cat([torch.zeros(BATCH), torch.ones(BATCH)])
    for _ in range(steps):
        plain, other = torch.randint(len(known), (2, BATCH), generator=generator)
        batch = torch.cat([known[plain], transformed(known[other], transform, generator)])
        loss = F.binary_cross_entropy_with_logits(network(batch), target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return network.eval()


@torch.no_grad()
def _outputs(network: _Detector, images: torch.Tensor) -> torch.Tensor:
    """Probability of being transformed, float64 [N]."""
    return torch.cat([network(batch).double().sigmoid() for batch in images.split(256)])


def _share(drawn: torch.Tensor, negative: torch.Tensor, positive: torch.Tensor) -> torch.Tensor:
    """The share of transformed images from mean outputs, 0 to 1."""
    return ((drawn - negative) / (positive - negative).clamp(min=1e-6)).clamp(0.0, 1.0)


def _auc(positive: torch.Tensor, negative: torch.Tensor) -> float:
    """Probability that a transformed image gets the higher output."""
    above = (positive[:, None] > negative).double() + 0.5 * (positive[:, None] == negative).double()
    return float(above.mean())
