"""Probes of style generators with planted defects: droplets, noise, mixing, truncation."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from medgan import explore
from medgan.metrics import droplets, mixing, noise, truncation
from medgan.metrics.drawing import classes_in_turn
from medgan.metrics.measured import TooFewImagesError
from pipeline.records import MedaugError
from tests.unit.latent_toys import LATENT, disc, enlarged, linear, toy
from tests.unit.medgan_toys import PRESETS
from tests.unit.test_medgan_explore import generator

STYLES = ["stylegan", "stylegan2"]


def flat(images):
    return images.flatten(1)


# -- droplets ----------------------------------------------------------------------------------------------------------


def activations(n=30, seed=0, size=64):
    """Smooth maps with a bright body on a dim ground, as feature maps are."""
    rng = torch.Generator().manual_seed(seed)
    rough = torch.randn(n, 8, size // 8, size // 8, generator=rng)
    x = torch.nn.functional.interpolate(rough, size=(size, size), mode="bicubic") + 1.0
    x[:, :, 16:48, 16:48] *= 2.5
    return x


def test_peak_of_a_known_map():
    x = torch.ones(2, 4, 64, 64)  # norm 2 everywhere
    x[1, :, 10:13, 20:23] = 50.0
    peaks, norms = droplets.norm_peaks(x)
    torch.testing.assert_close(peaks, torch.tensor([1.0, 50.0], dtype=torch.float64))
    assert float(norms[0, 0, 0]) == 2.0
    x[1, :, 10:23, 20:33] = 50.0  # 169 of 3600 pixels within the frame: still fewer than 5 %
    x[0, :, :2] = x[0, :, :, -1] = 50.0  # a bright border is no droplet
    torch.testing.assert_close(droplets.norm_peaks(x)[0], torch.tensor([1.0, 50.0], dtype=torch.float64))


@pytest.mark.parametrize(("size", "side"), [(64, 2), (64, 4), (128, 7)])
def test_painted_droplets_are_counted_and_clean_activations_are_not(size, side):
    clean = droplets.norm_peaks(activations(size=size))[0]
    painted = activations(size=size)
    painted[:10, :, 30 : 30 + side, 40 : 40 + side] *= 20.0
    peaks = droplets.norm_peaks(painted)[0]
    for found, share in ((clean, 0.0), (peaks, 1 / 3)):
        measured = droplets.droplets(droplets.Peaks(((size, size),), found[:, None], torch.zeros(1, 1)))
        assert measured.value == pytest.approx(share)
        assert measured.low <= share <= measured.high


@pytest.mark.thorough
@pytest.mark.parametrize("preset", STYLES)
def test_droplets_in_a_generator(preset):
    gan = generator(preset, 64, 64, architecture={"base_channels": 512})  # of 4 channels a norm scatters too much
    quiet = droplets.observe(gan, 24)
    assert quiet.sizes == ((64, 64), (64, 64))
    assert droplets.droplets(quiet).value == 0.0
    layers = [layer for layer in gan.network.modules() if hasattr(layer, "noise_scale")]

    def paint(module, inputs, output):
        output = output.clone()
        output[:, :, 31:34, 8:11] += 60 * output.std()
        return output

    hook = layers[-1].register_forward_hook(paint)
    planted = droplets.observe(gan, 24)
    hook.remove()
    assert droplets.droplets(planted).value == 1.0
    assert float(planted.peaks[:, 0].max()) == pytest.approx(float(quiet.peaks[:, 0].max()), rel=1e-4)  # the last alone
    sheet = droplets.picture(planted)
    assert (sheet.dtype, sheet.shape) == (np.uint8, (64, 64))
    row, column = np.unravel_index(sheet.argmax(), sheet.shape)
    assert (31 <= row < 34, 8 <= column < 11) == (True, True)
    assert not any(layer._forward_hooks for layer in layers)


@pytest.mark.thorough
def test_droplets_at_any_size_and_where_there_are_none():
    gan = generator("stylegan2")
    with pytest.raises(MedaugError, match="no layer of 64x64 or more in images of 16x24"):
        droplets.observe(gan, 4)
    few = droplets.observe(gan, 19, smallest=8)
    assert few.sizes == ((8, 12), (8, 12), (16, 24), (16, 24))
    with pytest.raises(TooFewImagesError, match="19 images, expected at least 20"):
        droplets.droplets(few)
    with pytest.raises(MedaugError, match="dcgan has no w"):
        droplets.observe(generator("dcgan"), 4)


# -- noise -------------------------------------------------------------------------------------------------------------


def noisy(layer, strength=0.05, size=32):
    """The disc, and one layer's noise enlarged to the image."""

    def render(factors, source):
        side = 4 << layer
        return 0.5 * disc(factors) + strength * enlarged(source(layer, side, side), size)

    return toy(render, noise="random")


def test_white_noise_is_detail_and_coarse_noise_is_not():
    """Of white noise a block mean keeps one part in 16 pixels; noise of whole blocks it keeps whole."""
    fine, coarse = noise.observe(noisy(3)), noise.observe(noisy(1))
    white = noise.low_pass_share(fine)
    assert white.value == pytest.approx(1 / 16, rel=0.1)
    assert white.low < 1 / 16 < white.high
    assert noise.low_pass_share(coarse).value == pytest.approx(1.0, rel=1e-3)
    assert noise.amplitude(fine).value == pytest.approx(0.05, rel=0.05)
    torch.testing.assert_close(fine.map.mean().item(), 0.05, rtol=0.05, atol=0)  # the clamp takes a little
    sheet = noise.picture(fine)
    assert (sheet.shape, sheet.max()) == ((32, 32), 255)


def test_share_of_structure_that_noise_makes():
    """Latents scatter block means by a known variance: noise of the same variance makes half of it."""
    direction = torch.zeros(1024, LATENT)
    direction[:, 0] = 0.1

    def render(factors, source, strength):
        return linear(direction)(factors) + strength * enlarged(source(1, 8, 8), 32)

    half = toy(lambda f, source: render(f, source, 0.1), noise="random")
    little = toy(lambda f, source: render(f, source, 0.01), noise="random")
    shares = [noise.structure_share(noise.observe(gan, 300)) for gan in (half, little)]
    assert shares[0].value == pytest.approx(0.5, abs=0.08)
    assert shares[0].low < 0.5 < shares[0].high
    assert shares[1].value == pytest.approx(0.01, rel=0.25)


def test_how_classes_differ_is_no_variance_of_latents():
    rng = torch.Generator().manual_seed(0)
    latent, shifts = 0.1 * torch.randn(60, 1, 1, 8, 8, generator=rng), 0.1 * torch.randn(60, 6, 1, 8, 8, generator=rng)
    labels = torch.arange(60) % 2
    one = F.interpolate((latent + shifts).flatten(0, 1), 32).unflatten(0, (60, 6))
    two = one + labels[:, None, None, None, None].float()  # classes apart by ten standard deviations
    alone, both = (noise.structure_share(noise.variances(images, labels)) for images in (one, two))
    assert alone.value == pytest.approx(0.5, abs=0.08)
    assert both.value == pytest.approx(alone.value, rel=1e-3)


def test_noise_that_is_not_there_has_an_amplitude_of_nothing_and_no_share():
    silent = noise.observe(noisy(3, 0.0), 20, 2)
    assert noise.changes_nothing(silent)
    assert (noise.amplitude(silent).value, noise.amplitude(silent).high) == (0.0, 0.0)
    with pytest.raises(MedaugError, match="draws no noise"):
        noise.observe(toy(disc))
    with pytest.raises(MedaugError, match="it changes nothing"):
        noise.low_pass_share(noise.observe(noisy(3, 0.0), 20, 2))
    with pytest.raises(TooFewImagesError, match="19 latents"):
        noise.structure_share(noise.observe(noisy(3), 19, 2))


@pytest.mark.thorough
@pytest.mark.parametrize("preset", STYLES)
def test_noise_of_a_generator(preset):
    """Its latents are held: the noise's variance is what a second drawing of the same latents shows."""
    gan = generator(preset)
    found = noise.observe(gan, 20, 6)
    assert 0.0 < noise.low_pass_share(found).value < 1.0
    for parameter in (p for name, p in gan.network.named_parameters() if name.endswith("noise_scale")):
        parameter.fill_(0.0)
    assert float(noise.observe(gan, 20, 2).fine.max()) < 1e-10


# -- mixing ------------------------------------------------------------------------------------------------------------


def test_one_latent_is_a_sample_and_several_take_turns():
    gan = generator("stylegan2")
    labels = torch.tensor([0, 1, 1])
    torch.testing.assert_close(mixing.mixed_images(gan, labels, 1, 5), gan.sample(labels, 5), rtol=1e-4, atol=1e-4)
    layers = gan.network.style_layers(gan.stage)
    for number in range(20):
        order = mixing._stretches(layers, 4, 0, number)
        assert order.unique().tolist() == [0, 1, 2, 3]
        assert bool((order.diff() >= 0).all())
    cuts = {tuple(mixing._stretches(6, 2, 0, number).tolist()) for number in range(60)}
    assert cuts == {(0,) * k + (1,) * (6 - k) for k in range(1, 6)}
    with pytest.raises(MedaugError, match="expected 1 to"):
        mixing.mixed_images(gan, labels, layers + 1)


def factors_of(matrix):
    """Images that are linear in the factors, and an extractor that finds these again."""
    back = torch.linalg.pinv(matrix)
    return linear(matrix), lambda images: flat(images) @ back.T


def test_mixing_harms_layers_that_belong_together_and_no_others():
    """Known answer: layers that take independent numbers of w are as good from several latents as from one."""
    matrix = torch.linalg.qr(torch.randn(1024, LATENT, generator=torch.Generator().manual_seed(0)))[0] * 0.2
    render, extractor = factors_of(matrix)
    apart = toy(render)
    together = toy(render, lambda z: z[:, :1].expand(-1, LATENT))  # all layers must take the same number
    labels = torch.zeros(300, dtype=torch.int64)
    patients = torch.arange(300)
    penalties = {}
    for name, gan in (("apart", apart), ("together", together)):
        real = extractor(gan.sample(labels, seed=77)).double()
        one, four = (mixing.mixed_features(gan, extractor, labels, latents) for latents in (1, 4))
        found = mixing.mixing(real, patients, one, four)
        penalties[name] = found.penalty
        assert found.fid.low <= found.fid.value <= found.fid.high
    assert penalties["apart"].low < 0.0 < penalties["apart"].high
    assert penalties["together"].low > 0.0
    with pytest.raises(TooFewImagesError, match="300 real and 49 synthetic"):
        mixing.mixing(real, patients, one, four[:49])
    sheet = mixing.picture(apart, rows=2, columns=3)
    assert (sheet.dtype, sheet.shape) == (np.uint8, (3 * 32, 4 * 32))


# -- truncation --------------------------------------------------------------------------------------------------------


def test_truncation_of_normal_points_trades_variety_for_quality():
    """Real points are those of ψ = 0.8, so that ψ = 1 draws too far out and ψ = 0 draws one image alone."""
    rng = torch.Generator().manual_seed(0)
    z = torch.randn(400, 6, generator=rng, dtype=torch.float64)
    real = 0.8 * torch.randn(400, 6, generator=rng, dtype=torch.float64)
    psis = (0.0, 0.25, 0.5, 0.75, 1.0)
    found = truncation.truncation(real, torch.arange(400), torch.stack([psi * z for psi in psis]), psis)
    assert found.recall_slope.low > 0.5
    assert found.precision_slope.high < 0.0
    assert "Kendall's τ (+1.00)" in found.recall_slope.note
    assert found.recall[0].value == 0.0
    assert [one.n_synthetic for one in found.recall] == [400] * 5
    same = truncation.truncation(real, torch.arange(400), torch.stack([z] * 5), psis)
    assert (same.recall_slope.value, same.precision_slope.value) == pytest.approx((0.0, 0.0), abs=1e-12)
    # one image at ψ = 0, and all others alike: recall rises from 0, and nothing is traded
    alone = truncation.truncation(real, torch.arange(400), torch.stack([0 * z, z, z, z, z]), psis)
    assert alone.recall[0].value < 0.1 < alone.recall[1].value
    assert alone.recall_slope.value == pytest.approx(0.0, abs=1e-12)
    with pytest.raises(TooFewImagesError, match="49 synthetic"):
        truncation.truncation(real, torch.arange(400), z[None, :49].repeat(5, 1, 1))
    with pytest.raises(MedaugError, match="2 ψ for 5 sets"):
        truncation.truncation(real, torch.arange(400), torch.stack([z] * 5), (0.0, 1.0))


def test_kendalls_tau():
    assert truncation.kendall([1.0, 2.0, 5.0]) == 1.0
    assert truncation.kendall([3.0, 2.0, 1.0]) == -1.0
    assert truncation.kendall([1.0, 3.0, 2.0]) == pytest.approx(1 / 3)
    assert truncation.kendall([1.0, 1.0]) == 0.0


def test_features_of_truncated_images_are_those_of_the_same_latents():
    matrix = torch.linalg.qr(torch.randn(1024, LATENT, generator=torch.Generator().manual_seed(0)))[0] * 0.2
    render, extractor = factors_of(matrix)
    gan = toy(render)
    gan.network.track_average(torch.full((1, LATENT), 0.5), torch.tensor([0]))
    labels = torch.zeros(60, dtype=torch.int64)
    zero, half, whole = truncation.truncated_features(gan, extractor, labels, (0.0, 0.5, 1.0)).float()
    torch.testing.assert_close(whole, explore.points(gan, labels), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(half, 0.5 + 0.5 * (whole - 0.5), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(zero, torch.full_like(zero, 0.5), rtol=1e-3, atol=1e-3)
    assert truncation.picture(gan).shape == (32, 5 * 32)


@pytest.mark.thorough
@pytest.mark.parametrize("preset", [preset for preset in PRESETS if preset not in ("gan", "cgan")])
def test_what_needs_styles_says_so(preset):
    gan = generator(preset)
    labels = classes_in_turn(gan, 4)
    asks = (
        lambda: mixing.mixed_features(gan, flat, labels, 2),
        lambda: truncation.truncated_features(gan, flat, labels, (0.5, 1.0)),
        lambda: noise.observe(gan, 2, 2),
    )
    for ask in asks:
        if gan.has_w:
            ask()
        else:
            with pytest.raises(MedaugError, match=f"{gan.config.network} has no w"):
                ask()


def test_extractors_that_fail_are_named():
    labels = torch.zeros(3, dtype=torch.int64)
    for extractor, message in (
        (lambda images: flat(images) / 0, "NaN or infinity"),
        (lambda images: flat(images)[:2], "2 vectors for 3 images"),
    ):
        with pytest.raises(MedaugError, match=message):
            mixing.mixed_features(toy(disc), extractor, labels, 1)
