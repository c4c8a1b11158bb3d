"""MS-SSIM, sliced Wasserstein distance, power spectrum: closed forms, peers, planted defects, quiet on real images."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from monai.metrics.regression import MultiScaleSSIMMetric

from medgan.metrics import ms_ssim, spectrum, swd
from medgan.metrics.images import mosaic, real_halves, shrink, to_pixels
from medgan.metrics.measured import TooFewImagesError
from pipeline.phantom import CLASSES
from pipeline.records import MedaugError
from tests.unit.probe_images import generator, mednist, phantoms


def lowpassed(images, share):
    """Without frequencies above a share of the highest along each axis."""
    coefficients = torch.fft.fft2(images.double())
    keep = torch.ones(images.shape[2:], dtype=torch.float64)
    for axis, side in enumerate(images.shape[2:]):
        kept = torch.fft.fftfreq(side).abs() <= share / 2
        keep = keep * (kept[:, None] if axis == 0 else kept)
    return torch.fft.ifft2(coefficients * keep).real.float()


def checkerboard(images, strength=0.05):
    pattern = torch.ones(images.shape[2:])
    pattern[::2, ::2] = pattern[1::2, 1::2] = -1
    return images + strength * pattern


# ---------------------------------------------------------------- MS-SSIM


def test_an_image_is_as_similar_to_itself_as_can_be():
    x, _, _ = phantoms(6, 48)
    assert torch.allclose(ms_ssim.similarity(x[:, 0], x[:, 0]), torch.ones(12, dtype=torch.float64))


def test_flat_images_have_the_closed_form():
    a, b = 0.7, 0.2
    flat = [torch.full((1, 40, 40), 2 * value - 1, dtype=torch.float64) for value in (a, b)]
    weight = ms_ssim.WEIGHTS[1] / sum(ms_ssim.WEIGHTS[:2])  # only the coarsest of two scales sees luminance
    expected = ((2 * a * b + ms_ssim.C1) / (a * a + b * b + ms_ssim.C1)) ** weight
    assert float(ms_ssim.similarity(*flat)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("size", "count"), [((192, 176), 5), ((64, 64), 3), ((48, 96), 3), ((28, 28), 2), ((16, 16), 1)]
)
def test_it_agrees_with_monai(size, count):
    rng = generator()
    x = torch.rand(3, *size, generator=rng)
    y = (x + 0.3 * torch.rand(3, *size, generator=rng)).clamp(0, 1)
    assert ms_ssim.scales(*size) == count
    weights = np.array(ms_ssim.WEIGHTS[:count]) / sum(ms_ssim.WEIGHTS[:count])
    if min(size) // max(1, count - 1) ** 2 <= ms_ssim.WINDOW - 1:
        pytest.skip(f"MONAI refuses {count} scales at {size}, though every scale holds a window")
    metric = MultiScaleSSIMMetric(2, data_range=1.0, weights=weights.tolist())
    peer = metric(x[:, None], y[:, None])[:, 0]
    assert torch.allclose(ms_ssim.similarity(2 * x - 1, 2 * y - 1), peer.double(), rtol=1e-4)


def test_images_smaller_than_a_window_are_refused():
    with pytest.raises(TooFewImagesError, match="11 pixels"):
        ms_ssim.scales(10, 64)


def test_pairs_are_of_different_patients_and_none_comes_twice():
    patients = torch.arange(20).repeat_interleave(3)
    first, second = ms_ssim.random_pairs(patients, 200, generator())
    assert len(first) == 200
    assert bool((patients[first] != patients[second]).all())
    assert len(set(zip(first.tolist(), second.tolist(), strict=True))) == 200
    assert len(ms_ssim.random_pairs(torch.tensor([0, 0, 1]), 200, generator())[0]) == 2


def test_a_collapsed_class_is_seen_where_it_is_and_real_images_stay_quiet():
    real, labels, owners = phantoms(90)
    other, other_labels, _ = phantoms(90, seed=5, slices=1)
    quiet = ms_ssim.intra_class(real, other, labels, other_labels, owners, CLASSES)
    for name in ("", *(f".{label}" for label in CLASSES)):
        found = quiet[f"excess.ms_ssim{name}"]
        assert found.low - 0.01 < 0 < found.high + 0.01
    collapsed = other.clone()
    mode = other[other_labels == 1][:1]
    collapsed[other_labels == 1] = mode + 0.02 * torch.randn(30, 1, 32, 32, generator=generator())
    planted = ms_ssim.intra_class(real, collapsed, labels, other_labels, owners, CLASSES)
    assert planted[f"excess.ms_ssim.{CLASSES[1]}"].low > 0.1
    assert planted["excess.ms_ssim"].low > 0.03
    assert planted[f"ms_ssim.{CLASSES[0]}"].value == pytest.approx(quiet[f"ms_ssim.{CLASSES[0]}"].value, abs=0.02)


def test_the_interval_covers_the_mean_over_all_pairs():
    real, labels, owners = phantoms(60, slices=1)
    one_class = labels == 0
    first, second = torch.triu_indices(20, 20, 1)
    own = real[one_class][:, 0]
    every = float(ms_ssim.similarity(own[first], own[second]).mean())
    found = ms_ssim.intra_class(real, real, labels, labels, owners, CLASSES)[f"ms_ssim.{CLASSES[0]}"]
    assert found.value == pytest.approx(every, rel=1e-12)  # 190 pairs: all of them
    assert found.low < every < found.high


def test_a_class_with_too_few_images_is_named_and_all_of_them_refused():
    real, labels, owners = phantoms(30)
    few = (labels != 2) | (torch.arange(len(labels)) < 6)
    found = ms_ssim.intra_class(real, real[few], labels, labels[few], owners, CLASSES)
    assert f"ms_ssim.{CLASSES[2]}" not in found
    assert CLASSES[2] in found["ms_ssim"].note
    with pytest.raises(TooFewImagesError, match="no class"):
        ms_ssim.intra_class(real[:9], real[:9], labels[:9], labels[:9], owners[:9], CLASSES)


# ---------------------------------------------------------------- sliced Wasserstein distance


def test_in_one_dimension_it_is_the_wasserstein_distance():
    x = torch.randn(400, 3, generator=generator(), dtype=torch.float64)
    y = 1.5 * torch.randn(400, 3, generator=generator(1), dtype=torch.float64) + 0.3
    expected = np.mean([scipy.stats.wasserstein_distance(x[:, k].numpy(), y[:, k].numpy()) for k in range(3)])
    assert swd.sliced_wasserstein(x, y) == pytest.approx(expected, rel=1e-12)
    # of unequal numbers: quantiles of the smaller set
    tripled = torch.cat([y, y, y])
    assert swd.sliced_wasserstein(x, tripled) == pytest.approx(expected, rel=1e-12)


def test_identity_symmetry_and_the_closed_form_of_a_shift():
    x = torch.randn(500, 9, generator=generator(), dtype=torch.float64)
    slices = swd.directions(9, 4096, generator(2))
    assert torch.allclose(slices.norm(dim=0), torch.ones(4096, dtype=torch.float64))
    assert swd.sliced_wasserstein(x @ slices, x @ slices) == 0.0
    shift = torch.full((9,), 0.4, dtype=torch.float64)
    # a shift v moves every projection by ⟨v, θ⟩, and E|⟨v, θ⟩| = |v| Γ(d/2) / (√π Γ((d + 1)/2))
    expected = float(shift.norm()) * math.gamma(4.5) / (math.sqrt(math.pi) * math.gamma(5.0))
    moved = swd.sliced_wasserstein(x @ slices, (x + shift) @ slices)
    assert moved == pytest.approx(expected, rel=0.03)
    assert moved == swd.sliced_wasserstein((x + shift) @ slices, x @ slices)


def test_normal_distributions_of_two_widths_have_the_closed_form():
    quantiles = torch.from_numpy(scipy.stats.norm.ppf((np.arange(20_000) + 0.5) / 20_000))[:, None]
    found = swd.sliced_wasserstein(quantiles, 1.7 * quantiles)
    assert found == pytest.approx(0.7 * math.sqrt(2 / math.pi), rel=1e-3)  # |σ − 1| E|z|


def test_the_pyramid_adds_up_to_the_image():
    images = torch.randn(3, 48, 72, generator=generator(), dtype=torch.float64)
    levels = swd.pyramid(images)
    assert [tuple(level.shape[1:]) for level in levels] == [(48, 72), (24, 36)]
    spread = torch.zeros(3, 1, 48, 72, dtype=torch.float64)
    spread[:, :, ::2, ::2] = 4 * levels[1][:, None]
    assert torch.allclose(levels[0] + swd._blur(spread)[:, 0], images)


def test_patches_are_cut_from_where_they_are():
    level = torch.arange(2 * 20 * 17, dtype=torch.float64).reshape(2, 20, 17)
    drawn = swd.descriptors(level, 5, generator())
    # values rise by 1 to the right and by 17 downwards, in units of the set's deviation
    step = drawn[0, 0, 1] - drawn[0, 0, 0]
    patch = drawn.reshape(2, 5, 7, 7)
    assert torch.allclose(patch.diff(dim=3), step.expand(2, 5, 7, 6))
    assert torch.allclose(patch.diff(dim=2), 17 * step.expand(2, 5, 6, 7))
    assert float(drawn.mean()) == pytest.approx(0, abs=1e-12)
    assert float(drawn.std()) == pytest.approx(1)


def test_lost_detail_moves_the_level_where_it_was_and_new_patients_stay_quiet():
    real, _, owners = phantoms(45)
    other, _, _ = phantoms(45, seed=5)
    quiet = swd.swd(real, other, owners, repeats=6)
    assert set(quiet) == {
        f"{kind}swd{level}" for kind in ("", "floor.", "floor_ratio.") for level in ("", ".32", ".16")
    }
    planted = swd.swd(real, lowpassed(other, 0.5), owners, repeats=6)
    for level in ("", ".32", ".16"):
        assert quiet[f"floor_ratio.swd{level}"].low < 1
    assert planted["floor_ratio.swd.32"].low > quiet["floor_ratio.swd.32"].high
    assert planted["swd.32"].low > quiet["swd.32"].high
    assert planted["floor_ratio.swd.16"].value < 2


def test_real_images_in_two_halves_by_patient_share_none():
    _, labels, owners = phantoms(30)
    first, second = real_halves(owners, generator(), 4, labels)
    assert not set(owners[first].tolist()) & set(owners[second].tolist())
    with pytest.raises(TooFewImagesError, match="patient"):
        real_halves(torch.tensor([0] * 20 + [1, 2, 3]), generator(), 4)


# ---------------------------------------------------------------- spectrum


def test_a_wave_has_its_power_at_its_frequency_in_images_that_are_not_square():
    height, width = 48, 80
    down, across = np.mgrid[:height, :width]
    for ky, kx in ((0, 20), (12, 0), (9, 15)):
        wave = torch.from_numpy(np.cos(2 * np.pi * (ky * down / height + kx * across / width)))[None]
        power, frequency = spectrum.radial_power(wave)
        peak = float(frequency[power[0].argmax()])
        assert peak == pytest.approx(math.hypot(ky / height, kx / width), abs=0.5 / 48)


def test_white_noise_has_its_variance_at_every_frequency():
    noise = 0.3 * torch.randn(600, 32, 40, generator=generator(), dtype=torch.float64)
    power, frequency = spectrum.radial_power(noise)
    inner = (frequency > 0.1) & (frequency < 0.6)  # taking off the mean costs the lowest ring something
    assert torch.allclose(power.mean(dim=0)[inner], torch.full((int(inner.sum()),), 0.09).double(), rtol=0.05)


@pytest.mark.parametrize("size", [(32, 32), (33, 48), (48, 31)])
def test_rings_equal_the_slow_average_over_the_whole_plane(size):
    image = torch.randn(1, *size, generator=generator(), dtype=torch.float64)
    power, frequency = spectrum.radial_power(image)
    window = np.outer(*(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(side) / side) for side in size))
    window /= np.sqrt((window**2).mean())
    plane = np.abs(np.fft.fft2((image[0].numpy() - image.mean().item()) * window)) ** 2 / (size[0] * size[1])
    radius = np.hypot(np.fft.fftfreq(size[0])[:, None], np.fft.fftfreq(size[1])[None])
    step = 1 / min(size)
    for ring, middle in enumerate(frequency.tolist()):
        inside = (radius >= middle - step / 2 - 1e-12) & (radius < middle + step / 2 - 1e-12) & (radius > 0)
        if ring == 0:
            inside |= (radius < middle) & (radius > 0)
        assert float(power[0, ring]) == pytest.approx(plane[inside].mean(), rel=1e-9)


def test_a_change_of_contrast_is_the_same_gap_everywhere():
    real, _, owners = phantoms(20)
    measured, curves = spectrum.spectrum(real, 0.5 * real, owners)
    assert np.allclose(curves.gap, 20 * math.log10(0.5), atol=1e-3)
    assert measured["spectrum"].value == pytest.approx(-20 * math.log10(0.5), abs=1e-3)


def test_missing_detail_and_a_checkerboard_are_seen_in_their_bands_and_new_patients_stay_quiet():
    real, _, owners = phantoms(60)
    other, _, _ = phantoms(60, seed=5)
    quiet, _ = spectrum.spectrum(real, other, owners)
    assert quiet["spectrum"].value < 2 * quiet["floor.spectrum"].high
    for band in spectrum.BANDS:
        assert abs(quiet[f"spectrum.{band}"].value) < 0.5
    blurred, _ = spectrum.spectrum(real, lowpassed(other, 0.5), owners)
    assert blurred["spectrum.high"].high < -3
    assert blurred["spectrum.low"].value == pytest.approx(quiet["spectrum.low"].value, abs=0.1)
    assert blurred["spectrum"].low > 3 * quiet["floor.spectrum"].high
    assert quiet["excess.spectrum"].low < 0.0 < quiet["excess.spectrum"].high
    few, _ = spectrum.spectrum(real, other[::4], owners)  # at one n, however few are drawn
    assert few["excess.spectrum"].low < 0.0 < few["excess.spectrum"].high
    assert blurred["excess.spectrum"].low > 2
    tiled, curves = spectrum.spectrum(real, checkerboard(other), owners)
    assert tiled["spectrum.corner"].low > 3
    assert tiled["spectrum.low"].value == pytest.approx(quiet["spectrum.low"].value, abs=0.01)
    assert curves.frequency[curves.gap.argmax()] == pytest.approx(math.sqrt(0.5), abs=0.5 / 32)
    assert bool((curves.low <= curves.high).all())


@pytest.mark.thorough
def test_mednist_classes_are_as_varied_as_themselves_and_a_collapsed_one_is_seen(real_data):
    names = ("CXR", "Hand", "HeadCT")
    shuffled = [mednist(real_data, name, 400)[torch.randperm(400, generator=generator())] for name in names]
    real, other = (torch.cat([images.split(200)[side] for images in shuffled]) for side in (0, 1))
    labels = torch.arange(3).repeat_interleave(200)
    quiet = ms_ssim.intra_class(real, other, labels, labels, None, names)
    assert quiet["excess.ms_ssim"].low < 0 < quiet["excess.ms_ssim"].high
    assert quiet["excess.ms_ssim"].high < 0.05  # from where the scorecard shows it
    for name in names:
        assert quiet[f"excess.ms_ssim.{name}"].low < 0.02
    collapsed = other.clone()
    collapsed[200:400] = other[200:204].repeat(50, 1, 1, 1)  # four hands
    planted = ms_ssim.intra_class(real, collapsed, labels, labels, None, names)
    assert planted["excess.ms_ssim.Hand"].low > quiet["excess.ms_ssim.Hand"].high
    assert planted["excess.ms_ssim.CXR"].low < 0.02


@pytest.mark.thorough
def test_mednist_halves_stay_quiet_and_planted_defects_do_not(real_data):
    images = mednist(real_data, "CXR", 300)
    images = images[torch.randperm(300, generator=generator())]
    real, other = images[:200], images[200:]
    quiet, seen = (spectrum.spectrum(real, drawn)[0] for drawn in (other, lowpassed(other, 0.6)))
    assert quiet["spectrum"].value < 2 * quiet["floor.spectrum"].high
    assert seen["spectrum.high"].high < quiet["spectrum.high"].low - 3
    distances, planted = (swd.swd(real, drawn, repeats=4) for drawn in (other, lowpassed(other, 0.6)))
    assert distances["floor_ratio.swd"].low < 1.1
    assert planted["swd.64"].low > distances["swd.64"].high


# ---------------------------------------------------------------- images


def test_images_that_do_not_fit_are_refused():
    with pytest.raises(MedaugError, match="one size"):
        spectrum.spectrum(torch.zeros(20, 1, 32, 32), torch.zeros(20, 1, 32, 16))
    with pytest.raises(MedaugError, match="NaN"):
        swd.swd(torch.full((20, 1, 32, 32), torch.nan), torch.zeros(20, 1, 32, 32))
    with pytest.raises(MedaugError, match="expected \\[images"):
        spectrum.spectrum(torch.zeros(20, 32, 32), torch.zeros(20, 1, 32, 32))
    with pytest.raises(TooFewImagesError, match="7, expected at least 8"):
        spectrum.spectrum(torch.zeros(20, 1, 32, 32), torch.zeros(7, 1, 32, 32))


def test_pictures():
    assert to_pixels(torch.tensor([[-1.0, 0.0, 1.0, 3.0]])).tolist() == [[0, 128, 255, 255]]
    shown = mosaic([[torch.full((2, 3), -1.0), None], [torch.ones(2, 3)]], gap=1)
    assert shown.shape == (5, 7)
    assert shown[:2, :3].max() == 0
    assert shown[:2, 4:].tolist() == [[128] * 3] * 2
    assert shown[3:, :3].min() == 255
    assert shrink(torch.rand(2, 128, 96), 64).shape == (2, 64, 48)
    assert shrink(torch.rand(2, 30, 20), 64).shape == (2, 30, 20)
