"""Shared blocks against slow formulations written out here."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from medgan.layers import (
    Blur,
    DoublingConv2d,
    EqualConv2d,
    EqualLinear,
    HalvingConv2d,
    StridedConv2d,
    double,
    halve,
    minibatch_stddev,
    pixel_norm,
    project_logits,
)
from medgan.networks.modulated import DoubleImage, ModulatedConv2d, StyledConv
from medgan.networks.pggan import FirstConv
from medgan.networks.stylegan import adaptive_instance_norm
from medgan.networks.stylegan2 import DownBlock
from tests.unit.medgan_toys import built, randomised, spec, tiny

RNG = torch.Generator().manual_seed(0)


def normal(*shape):
    return torch.randn(*shape, generator=RNG)


def filtered(x, taps, padding, gain=1.0):
    """Direct two-dimensional filtering of one [H, W] array, pixel by pixel."""
    line = np.array(taps) / sum(taps)
    kernel = np.outer(line, line) * gain
    padded = np.pad(x, padding)
    n = len(taps)
    height, width = padded.shape[0] - n + 1, padded.shape[1] - n + 1
    return np.array([[(padded[i : i + n, j : j + n] * kernel).sum() for j in range(width)] for i in range(height)])


@pytest.mark.parametrize(("taps", "padding"), [((1, 2, 1), 1), ((1, 3, 3, 1), 2), ((1, 3, 3, 1), 1)])
def test_blur_is_direct_filtering(taps, padding):
    x = normal(2, 3, 6, 5)
    blurred = Blur(taps, padding)(x)
    for n in range(2):
        for c in range(3):
            np.testing.assert_allclose(blurred[n, c], filtered(x[n, c].numpy(), taps, padding), atol=1e-6)


def test_blur_gradients_are_those_of_finite_differences():
    blur = Blur((1, 3, 3, 1), 2).double()
    x = torch.randn(1, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(blur, x)
    assert torch.autograd.gradgradcheck(blur, x)


def test_pixel_norm_makes_the_mean_square_one_at_every_pixel():
    x = normal(2, 6, 3, 4)
    expected = x / np.sqrt((x.numpy() ** 2).mean(axis=1, keepdims=True) + 1e-8)
    torch.testing.assert_close(pixel_norm(x), expected)
    tiny = torch.full((1, 4), 1e-4)  # epsilon 1e-8 counts here: the mean square is 1e-8
    torch.testing.assert_close(pixel_norm(tiny), torch.full((1, 4), 1 / math.sqrt(2)))


def test_minibatch_stddev_by_hand():
    x = normal(8, 3, 2, 2)
    appended = minibatch_stddev(x, group=4)
    assert appended.shape == (8, 4, 2, 2)
    torch.testing.assert_close(appended[:, :3], x)
    for n in range(8):
        members = x[[n % 2, n % 2 + 2, n % 2 + 4, n % 2 + 6]].numpy()  # 8 images in 2 groups of 4
        expected = np.sqrt(members.var(axis=0) + 1e-8).mean()
        np.testing.assert_allclose(appended[n, 3], np.full((2, 2), expected), rtol=1e-5)


def test_minibatch_stddev_sees_a_collapse():
    same = normal(1, 3, 4, 4).expand(4, -1, -1, -1)
    assert float(minibatch_stddev(same)[:, 3].max()) < 2e-4
    assert float(minibatch_stddev(normal(4, 3, 4, 4))[:, 3].min()) > 0.3


def test_equalised_layers_keep_unit_variance_at_the_start():
    linear = EqualLinear(256, 512, rate=0.01)
    conv = EqualConv2d(64, 256, 3)
    for layer in (linear, conv):
        layer.draw_weights(RNG)
        layer.requires_grad_(False)
    assert float(linear.weight.std()) == pytest.approx(100.0, rel=0.02)  # N(0, 1) over the rate
    assert float(conv.weight.std()) == pytest.approx(1.0, rel=0.02)
    assert float(linear(normal(200, 256)).std()) == pytest.approx(1.0, rel=0.03)
    assert float(conv(normal(4, 64, 8, 8))[:, :, 1:-1, 1:-1].std()) == pytest.approx(1.0, rel=0.03)


def test_the_first_layer_has_the_fan_in_of_a_4x4_convolution():
    first = FirstConv(512, 64, 4, 4)
    assert first.scale == pytest.approx(0.015625)  # √2/(4√512) = 1/64
    first.draw_weights(RNG)
    y = first(normal(64, 512)).detach()
    assert float(y.std()) == pytest.approx(math.sqrt(2) / 4, rel=0.03)
    config = tiny("stylegan", architecture={"constant": False, "width": 8})
    assert built(config, spec()).generator.dense.scale == pytest.approx(0.125)  # √2/(4√8)


def test_equalised_rate_slows_the_function_not_the_parameter():
    fast, slow = EqualLinear(4, 3, rate=1.0), EqualLinear(4, 3, rate=0.01)
    x = normal(2, 4)
    for layer in (fast, slow):
        randomised(layer)
    with torch.no_grad():
        before = [layer(x) for layer in (fast, slow)]
        for layer in (fast, slow):
            layer.weight += 0.1
            layer.bias += 0.1
        change = [layer(x) - old for layer, old in zip((fast, slow), before, strict=True)]
    torch.testing.assert_close(change[1], change[0] * 0.01, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("size", [(4, 4), (5, 3)])
def test_fused_doubling_and_halving_are_exact(size):
    doubling, halving = randomised(DoublingConv2d(3, 5, 3)), randomised(HalvingConv2d(3, 5, 3))
    x = normal(2, 3, *size)
    large = normal(2, 3, size[0] * 2, size[1] * 2)
    torch.testing.assert_close(doubling(x), EqualConv2d.forward(doubling, double(x)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(halving(large), halve(EqualConv2d.forward(halving, large)), rtol=1e-4, atol=1e-5)


def test_leaky_gain_in_the_weights_is_the_gain_after_the_activation():
    plain, gained = EqualConv2d(3, 4, 3), EqualConv2d(3, 4, 3, gain=math.sqrt(2), bias_gain=math.sqrt(2))
    randomised(plain), randomised(gained)
    x = normal(2, 3, 5, 5)
    expected = F.leaky_relu(plain(x), 0.2) * math.sqrt(2)
    torch.testing.assert_close(F.leaky_relu(gained(x), 0.2), expected, rtol=1e-4, atol=1e-5)


def test_adain_leaves_the_styles_statistics():
    x = normal(3, 4, 6, 5) * 3 + 7
    scale, bias = normal(3, 4), normal(3, 4)
    y = adaptive_instance_norm(x, scale, bias)
    torch.testing.assert_close(y.mean(dim=(2, 3)), bias, rtol=1e-4, atol=1e-4)  # over height and width alone
    torch.testing.assert_close(y.std(dim=(2, 3), unbiased=False), scale.abs(), rtol=1e-4, atol=1e-4)
    mean, deviation = x.mean((2, 3), keepdim=True), x.std((2, 3), unbiased=False, keepdim=True)
    expected = scale[:, :, None, None] * (x - mean) / deviation + bias[:, :, None, None]
    torch.testing.assert_close(y, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("level", "sigma"), [(1.0, 0.0), (-3.171875, 0.0), (1.0, 0.02)])
@pytest.mark.parametrize(("height", "width"), [(4, 4), (6, 5)])
def test_adain_in_bfloat16_keeps_the_styles_bias(level, sigma, height, width):
    # Where an image hardly varies, 1/sigma is huge (10⁴ for a constant) and any rounding before centring shows.
    x = (level + sigma * normal(8, 16, height, width)).to(torch.bfloat16)
    scale, bias = normal(8, 16) + 1, normal(8, 16)
    y = adaptive_instance_norm(x, scale, bias)
    assert y.dtype == torch.bfloat16
    wide = x.double()
    variance = wide.var((2, 3), unbiased=False, keepdim=True)
    normed = (wide - wide.mean((2, 3), keepdim=True)) / (variance + 1e-8).sqrt()
    expected = scale[:, :, None, None] * normed + bias[:, :, None, None]
    torch.testing.assert_close(y.double(), expected, rtol=2**-8, atol=1e-3)


def per_sample_convolution(layer, x, w, up):
    """Equations 1 and 3 of StyleGAN2, one image at a time with weights of its own."""
    images = []
    for image, latent in zip(x, w, strict=True):
        style = latent @ (layer.style.weight * layer.style.scale).T + layer.style.bias
        weight = layer.weight * layer.scale * style[None, :, None, None]
        if layer.demodulate:
            weight = weight / torch.sqrt((weight**2).sum(dim=(1, 2, 3), keepdim=True) + 1e-8)
        if not up:
            images.append(F.conv2d(image[None], weight, padding=weight.shape[-1] // 2)[0])
            continue
        channels, height, width = image.shape
        spread = torch.zeros(channels, 2 * height - 1, 2 * width - 1)
        spread[:, ::2, ::2] = image  # zeros between the pixels
        wide = F.conv2d(spread[None], weight, padding=2)[0]
        images.append(torch.stack([torch.tensor(filtered(c.numpy(), (1, 3, 3, 1), 1, gain=4.0)) for c in wide]).float())
    return torch.stack(images)


@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize("demodulate", [False, True])
def test_modulated_convolution_against_a_loop_over_images(up, demodulate):
    layer = randomised(ModulatedConv2d(3, 4, 3, width=5, demodulate=demodulate, up=up)).requires_grad_(False)
    x, w = normal(3, 3, 4, 5), normal(3, 5)
    y, factor = layer(x, w)
    y = y if factor is None else y * factor
    torch.testing.assert_close(y, per_sample_convolution(layer, x, w, up), rtol=1e-4, atol=1e-4)


def test_styled_convolution_adds_noise_and_bias_before_a_scaled_activation():
    layer = randomised(StyledConv(3, 4, width=5, up=False)).requires_grad_(False)
    x, w, noise = normal(2, 3, 4, 4), normal(2, 5), normal(2, 1, 4, 4)
    inner = per_sample_convolution(layer.conv, x, w, up=False) + layer.noise_scale * noise + layer.bias
    expected = F.leaky_relu(inner, 0.2) * math.sqrt(2)
    torch.testing.assert_close(layer(x, w, noise), expected, rtol=1e-4, atol=1e-4)


def test_image_doubling_of_the_skip_generator():
    images = normal(2, 3, 3, 4)
    doubled = DoubleImage()(images)
    for n in range(2):
        for c in range(3):
            spread = np.zeros((6, 8))
            spread[::2, ::2] = images[n, c].numpy()
            expected = filtered(np.pad(spread, ((1, 0), (1, 0))), (1, 3, 3, 1), 1, gain=4.0)
            np.testing.assert_allclose(doubled[n, c], expected, atol=1e-6)


def test_residual_block_is_the_sum_over_root_two():
    block = randomised(DownBlock(3, 4)).requires_grad_(False)
    x = normal(2, 3, 8, 6)

    def convolved(y, conv, padding, stride):
        blurred = torch.stack(
            [torch.stack([torch.tensor(filtered(c.numpy(), (1, 3, 3, 1), padding)) for c in n]) for n in y]
        ).float()
        weight = conv.weight / math.sqrt(conv.weight[0].numel())
        return F.conv2d(blurred, weight, conv.bias, stride=stride)

    inner = EqualConv2d(3, 3, 3)
    inner.load_state_dict(block.conv0.state_dict())
    y = F.leaky_relu(inner(x).detach(), 0.2) * math.sqrt(2)
    y = F.leaky_relu(convolved(y, block.conv1, 2, 2), 0.2) * math.sqrt(2)
    expected = (y + convolved(x, block.shortcut, 1, 2)) / math.sqrt(2)
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-4)
    assert isinstance(block.conv1, StridedConv2d)


def test_projection_picks_the_own_class():
    features, psi, vectors = normal(5, 7), normal(7), normal(3, 7)
    labels = torch.tensor([0, 2, 1, 1, 0])
    outputs = torch.cat([features @ psi[:, None], features @ vectors.T], dim=1)
    expected = features @ psi + (features * vectors[labels]).sum(dim=1)
    torch.testing.assert_close(project_logits(outputs, labels), expected)
