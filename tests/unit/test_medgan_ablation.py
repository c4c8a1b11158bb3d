"""StyleGAN's steps from a traditional generator (table 1): the learned constant and AdaIN switched off."""

import pytest
import torch
import torch.nn.functional as F

from medgan.layers import pixel_norm
from medgan.sizes import Stage
from tests.unit.medgan_toys import built, randomised, spec, tiny

LABELS = torch.tensor([0, 1, 1, 0])
FULL = Stage(2)


def generator(**switch):
    config = tiny("stylegan", architecture={"noise": "none", **switch})
    return randomised(built(config, spec())).generator


def draw(net, z, labels=LABELS):
    with torch.no_grad():
        return net(z, labels, FULL, None)


@pytest.fixture
def z():
    return torch.randn(4, 8, generator=torch.Generator().manual_seed(1))


def test_defaults_are_the_papers():
    net = generator()
    assert net.constant is not None
    assert net.dense is None
    assert all(epilogue.style is not None for epilogue in net.epilogues)


def test_without_the_constant_the_first_block_is_a_dense_layer_of_w(z):
    """Where the dense layer's output is one map whatever w is, the image is the one with that map as the constant."""
    without, paper = generator(constant=False), generator()
    shared = {name: value for name, value in paper.state_dict().items() if name != "constant"}
    without.load_state_dict(shared, strict=False)
    assert without.constant is None
    with torch.no_grad():
        without.dense.weight.zero_()
        without.dense.bias.copy_(paper.constant.flatten())
    torch.testing.assert_close(draw(without, z), draw(paper, z))
    with torch.no_grad():
        without.dense.weight.normal_(generator=torch.Generator().manual_seed(2))
    assert not torch.allclose(draw(without, z), draw(paper, z))


def test_without_adain_it_is_the_traditional_generator(z):
    """Dense layer of w, then doublings, convolutions, leaky rectifiers and pixel norms, written out."""
    net = generator(constant=False, adain=False, mixing=0.0)
    assert not [name for name, _ in net.named_parameters() if ".style." in name]
    w = net.mapping(z, LABELS)
    x = (w @ (net.dense.weight * net.dense.scale).T + net.dense.bias).reshape(4, -1, 4, 4)

    def finish(x, layer):
        return pixel_norm(F.leaky_relu(x + net.epilogues[layer].bias, 0.2))

    def convolve(x, conv):
        return F.conv2d(x, conv.weight * conv.scale, padding=1)

    x = finish(convolve(finish(x, 0), net.conv1[0]), 1)
    line = torch.tensor([1.0, 2.0, 1.0]) / 4
    for level in (1, 2):
        x = convolve(F.interpolate(x, scale_factor=2, mode="nearest"), net.conv0[level - 1])
        x = F.conv2d(x, torch.outer(line, line).expand(x.shape[1], 1, 3, 3), padding=1, groups=x.shape[1])
        x = finish(x, 2 * level)
        x = finish(convolve(x, net.conv1[level]), 2 * level + 1)
    rgb = net.to_rgb[2]
    expected = F.conv2d(x, rgb.weight * rgb.scale, rgb.bias)
    torch.testing.assert_close(draw(net, z), expected.detach(), rtol=1e-4, atol=1e-4)


def test_no_mapping_network_is_configuration_b(z):
    net = generator(constant=False, adain=False, mixing=0.0, mapping_layers=0)
    assert len(net.mapping.layers) == 0
    assert net.dense.weight.shape[1] == 16  # z and the class's vector beside it
    moved = z.clone()
    moved[0] += 1.0
    changed = (draw(net, moved) - draw(net, z)).abs().amax(dim=(1, 2, 3)) > 0
    assert changed.tolist() == [True, False, False, False]


@pytest.mark.parametrize(
    ("switch", "message"),
    [
        ({"adain": False, "mixing": 0.0}, "constant: found true beside adain: false.*no way in"),
        ({"adain": False, "constant": False}, "mixing: found 0.9, expected 0"),
    ],
)
def test_what_makes_no_sense_is_refused(switch, message):
    with pytest.raises(ValueError, match=message):
        tiny("stylegan", architecture=switch)


@pytest.mark.parametrize("switch", [{"constant": False}, {"constant": False, "adain": False, "mixing": 0.0}])
def test_they_learn(switch):
    """A gradient reaches every weight of the generator that the stage uses."""
    architecture = built(tiny("stylegan", architecture={**switch, "growth_share": 0.0}), spec())
    net = architecture.generator
    with torch.no_grad():
        for epilogue in net.epilogues:
            epilogue.bias.normal_(generator=torch.Generator().manual_seed(0))
    noise = torch.Generator().manual_seed(0)
    images = net(
        torch.randn(4, 8, generator=noise), LABELS, FULL, lambda layer, h, w: torch.randn(4, 1, h, w, generator=noise)
    )
    images.square().mean().backward()
    unused = {f"to_rgb.{level}" for level in (0, 1)}
    silent = [
        name
        for name, weight in net.named_parameters()
        if name.rpartition(".")[0] not in unused and (weight.grad is None or not weight.grad.abs().sum() > 0)
    ]
    assert silent == []
