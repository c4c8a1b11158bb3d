"""The probe of pinned detail: moving bodies whose texture moves along, stays, or does something between."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from medgan.metrics import pinning
from medgan.metrics.measured import TooFewImagesError
from pipeline.phantom import draw_patient
from tests.unit.latent_toys import coordinates, toy
from tests.unit.medgan_toys import PRESETS
from tests.unit.test_medgan_explore import generator


def texture(x, y, seed):
    """A sum of waves of 4 to 8 pixels, exact at every place, so that nothing is interpolated when it moves."""
    rng = torch.Generator().manual_seed(seed)
    length, angle, phase = (torch.rand(60, 1, 1, generator=rng) for _ in range(3))
    k = 2 * math.pi / (4 + 4 * length)
    turn = 2 * math.pi * angle
    return 3 * torch.cos(k * turn.cos() * x + k * turn.sin() * y + 2 * math.pi * phase).mean(dim=0)


def body(dx, dy, zoom, along, seed, size=64):
    """An ellipse moved by (dx, dy) and enlarged; its texture is moved by the share ``along`` of that: [1, H, W]."""
    x, y = (axis[0] for axis in coordinates(size))
    radius = (((x - dx) / zoom / (0.31 * size)) ** 2 + ((y - dy) / zoom / (0.24 * size)) ** 2).sqrt()
    own = 1 + along * (zoom - 1)
    detail = texture((x - along * dx) / own, (y - along * dy) / own, seed)
    return (torch.sigmoid((1 - radius) * 30) * (1.1 + 0.25 * detail) - 1)[None]


def moved_pairs(along, count=30):
    rng = torch.Generator().manual_seed(1)
    first, second = [], []
    for pair in range(count):
        u = (torch.rand(6, generator=rng) * 4 - 2).tolist()
        first.append(body(u[0], u[1], 1 + 0.03 * u[2], along, pair))
        second.append(body(u[0] + 0.6 * u[3], u[1] + 0.6 * u[4], 1 + 0.03 * u[2] + 0.015 * u[5], along, pair))
    return torch.stack(first), torch.stack(second)


@pytest.mark.parametrize("along", [0.0, 0.5, 1.0])
def test_slope_is_the_share_of_the_motion_that_detail_takes_part_in(along):
    motion = pinning.compare(*moved_pairs(along))
    found = pinning.pinning(motion)
    assert found.value == pytest.approx(along, abs=0.08)
    assert found.low <= found.value <= found.high
    slopes, correlations = pinning.curve(motion)
    assert slopes[int(np.argmax(correlations))] == pytest.approx(along, abs=0.13)


def test_motion_of_the_structure_is_found():
    """A translation of (1.5, −1) pixels moves every pixel by √3.25."""
    pairs = [[body(0.3 * k, 0, 1, 1, k), body(0.3 * k + 1.5, -1, 1, 1, k)] for k in range(4)]
    first, second = (torch.stack(images) for images in zip(*pairs, strict=True))
    motion = pinning.compare(first, second)
    torch.testing.assert_close(motion.moved, torch.full((4,), math.sqrt(3.25)).double(), rtol=0.1, atol=0)
    assert float(motion.explained.min()) > 0.9
    brighter = pinning.compare(first, 0.8 * second - 0.1)  # contrast and brightness are no motion
    torch.testing.assert_close(brighter.moved, motion.moved, rtol=1e-3, atol=1e-3)
    still = pinning.compare(first, first)
    assert float(still.moved.max()) < 1e-3


def shifted(images, rng):
    """Images moved by up to 1.5 pixels either way (cubic interpolation)."""
    H, W = images.shape[2:]
    y, x = torch.meshgrid(torch.linspace(-1, 1, H), torch.linspace(-1, 1, W), indexing="ij")
    by = (torch.rand(len(images), 2, generator=rng) - 0.5) * 3 * 2 / (W - 1)
    grid = torch.stack([x, y], dim=2)[None] + by[:, None, None]
    return F.grid_sample(images, grid, "bicubic", "border", align_corners=True)


def smooth_then_detailed(images):
    """The low-pass, and what is above it."""
    low = pinning._blur(images.double(), 1.5).float()
    return low, images - low


def real_and_frozen(images):
    """Slopes of images that move whole, and of images whose detail stays where it is while the rest moves."""
    rng = torch.Generator().manual_seed(0)
    moving = pinning.pinning(pinning.compare(images, shifted(images, rng)))
    low, detail = smooth_then_detailed(images)
    frozen = pinning.pinning(pinning.compare(images, shifted(low, rng) + detail))
    return moving, frozen


@pytest.mark.thorough
def test_phantoms_that_move_whole_and_phantoms_with_frozen_detail():
    cuts = [draw_patient("nodule", 1, 64, True, np.random.default_rng([5, patient]))[0].hu for patient in range(40)]
    moving, frozen = real_and_frozen(torch.tensor(np.stack(cuts))[:, None].add(1000).div(700).sub(1).clamp(-1, 1))
    assert moving.value == pytest.approx(1.0, abs=0.1)
    assert frozen.high < 0.3  # a little of the detail's band is in the low-pass, and moves


@pytest.mark.thorough
def test_real_images_that_move_whole_and_with_frozen_detail(real_data):
    from PIL import Image

    files = [
        file
        for folder in ("ChestCT", "HeadCT", "BreastMRI")
        for file in sorted((real_data / "mednist6000" / folder).glob("*.jp*g"))[:20]
    ]
    images = torch.tensor(np.stack([np.asarray(Image.open(file).convert("L")) for file in files]))[:, None]
    moving, frozen = real_and_frozen(images.float() / 127.5 - 1)
    assert moving.value == pytest.approx(1.0, abs=0.1)
    assert frozen.high < 0.3


def test_what_does_not_move_gets_no_figure():
    first, _ = moved_pairs(1.0, 24)
    with pytest.raises(TooFewImagesError, match="in 0 of 24 pairs the structure moves"):
        pinning.pinning(pinning.compare(first, first))
    other = first.flip(0)  # one body fades into another: a change, but not by moving
    with pytest.raises(TooFewImagesError, match="expected 20 such pairs"):
        pinning.pinning(pinning.compare(first, torch.lerp(first, -other.flip(2), 0.1)))


def walker(along):
    """w moves the body; its texture belongs to the generator."""

    def render(factors, noise):
        return torch.stack([body(4 * float(f[0]), 4 * float(f[1]), 1 + 0.03 * float(f[2]), along, 0) for f in factors])

    return toy(render, size=64)


@pytest.mark.parametrize("along", [0.0, 1.0])
def test_generators_whose_detail_stays_and_moves(along):
    gan = walker(along)
    found = pinning.pinning(pinning.observe(gan, 40))
    assert found.value == pytest.approx(along, abs=0.15)
    sheet = pinning.picture(gan, steps=8)
    assert (sheet.dtype, sheet.shape) == (np.uint8, (8, 64))


@pytest.mark.thorough
@pytest.mark.parametrize("preset", PRESETS)
def test_every_generator_can_be_walked(preset):
    """The same pairs again from the same seed, whatever is drawn beside them."""
    gan = generator(preset)
    motion = pinning.observe(gan, 6)
    assert motion.correlation.shape == (6, len(pinning.SLOPES))
    torch.testing.assert_close(pinning.observe(gan, 3).correlation, motion.correlation[:3], rtol=1e-2, atol=1e-2)
