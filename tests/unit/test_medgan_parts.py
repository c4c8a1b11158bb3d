"""Parts of the networks, each switched alone: what it does is there when it is on and gone when it is off."""

import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from medgan.growing import Growth
from medgan.layers import Equalised, double, minibatch_stddev
from medgan.networks.stylegan2 import DownBlock
from medgan.sizes import Stage
from medgan.train import Trainer
from tests.unit.medgan_toys import built, ignore, randomised, scans, spec, tiny

pytestmark = pytest.mark.thorough

LABELS = torch.tensor([0, 1, 1, 0])
STYLES = ["stylegan", "stylegan2"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return scans(tmp_path_factory.mktemp("data"))


def drawn(architecture, stage, seed=0):
    rng = torch.Generator().manual_seed(seed)
    z = torch.randn(4, architecture.generator.latent, generator=rng)

    def noise(layer, height, width):
        return torch.randn(4, 1, height, width, generator=torch.Generator().manual_seed(seed + 100 * layer))

    with torch.no_grad():
        return architecture.generator(z, LABELS, stage, noise)


SWITCHES = [
    ("pggan", {"equalised": False}),
    ("pggan", {"pixel_norm": False}),
    ("pggan", {"stddev_group": 0}),
    ("pggan", {"growth_share": 0.0}),
    ("pggan", {"growth_fade": 0.0}),
    *((name, {"equalised": False}) for name in STYLES),
    *((name, {"stddev_group": 0}) for name in STYLES),
    *((name, {"mapping_layers": depth}) for name in STYLES for depth in (0, 1, 8)),
    *((name, {"noise": mode}) for name in STYLES for mode in ("fixed", "none")),
    *((name, {"noise_from": 8, "noise_to": 8}) for name in STYLES),
    *((name, {"mixing": 0.0}) for name in STYLES),
    ("stylegan", {"growth_share": 0.0}),
    ("stylegan2", {"demodulate": False}),
    *(("stylegan2", {"generator_form": form}) for form in ("plain", "residual")),
    *(("stylegan2", {"discriminator_form": form}) for form in ("plain", "skip")),
]


@pytest.mark.parametrize(("preset", "switch"), SWITCHES)
def test_every_switch_trains(preset, switch, data):
    trainer = Trainer(tiny(preset, architecture=switch), data, 0, torch.device("cpu"), ignore)
    trainer.architecture.train().requires_grad_(False)
    for _ in range(8):
        trainer.step()
    assert float(trainer.skipped) == 0
    assert all(bool(torch.isfinite(p).all()) for p in trainer.architecture.parameters())


@pytest.mark.parametrize("preset", ["pggan", *STYLES])
def test_without_equalisation_the_start_is_the_same_and_the_weights_are_hes(preset):
    on = built(tiny(preset), spec())
    off = built(tiny(preset, architecture={"equalised": False}), spec())
    stage = Stage(2)
    torch.testing.assert_close(drawn(on, stage), drawn(off, stage), rtol=1e-3, atol=1e-4)
    images = torch.randn(4, 1, 16, 16)
    logits = [architecture.discriminator(images, LABELS, stage) for architecture in (on, off)]
    torch.testing.assert_close(*logits, rtol=1e-3, atol=1e-4)
    for layer, other in zip(on.discriminator.modules(), off.discriminator.modules(), strict=True):
        if isinstance(layer, Equalised):
            assert other.scale == 1.0
            torch.testing.assert_close(other.weight, layer.weight * layer.scale)
            assert layer.scale != 1.0
    mapping = [layer for layer in off.generator.modules() if isinstance(layer, Equalised) and layer.rate != 1.0]
    assert all(layer.scale == layer.rate == 0.01 for layer in mapping)  # the mapping network stays slow
    assert bool(mapping) == (preset in STYLES)


def test_without_equalisation_clamping_is_welcome_with_it_refused():
    over = {"loss": "wasserstein", "regularisation": {"clip": 0.01, "gradient_penalty": 0.0}}
    with pytest.raises(ValueError, match=r"architecture\.equalised: false"):
        tiny("pggan", **over)
    assert tiny("pggan", **over, architecture={"equalised": False}).regularisation.clip == 0.01


def test_no_fading_jumps():
    growth = Growth(start=4, share=0.6, fade=0.0)
    stages = [growth.stage_at(seen, 1000, 3) for seen in range(0, 1001, 50)]
    assert {stage.alpha for stage in stages} == {1.0}
    assert [stage.level for stage in stages] == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 9


@pytest.mark.parametrize("preset", ["pggan", *STYLES])
def test_minibatch_stddev_sees_the_others_only_where_it_is_on(preset):
    for group, sees in ((4, True), (0, False)):
        architecture = randomised(built(tiny(preset, architecture={"stddev_group": group}), spec()))
        images = torch.randn(4, 1, 16, 16)
        moved = torch.cat([images[:1], images[1:] * 2])
        first, second = (architecture.discriminator(x, LABELS, Stage(2))[0].item() for x in (images, moved))
        assert (abs(first - second) > 1e-4 * abs(first)) == sees


def test_pixel_norm_of_pggan():
    for on in (True, False):
        generator = randomised(built(tiny("pggan", architecture={"pixel_norm": on}), spec())).generator
        seen = []
        generator.to_rgb[2].register_forward_pre_hook(lambda module, inputs, seen=seen: seen.append(inputs[0]))
        generator(torch.randn(4, 8), LABELS, Stage(2), None)
        square = seen[0].square().mean(dim=1)
        assert bool((square - 1).abs().max() < 1e-3) == on


# -- styles ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", STYLES)
@pytest.mark.parametrize("depth", [0, 1, 8])
def test_mapping_depth(preset, depth):
    architecture = built(tiny(preset, architecture={"mapping_layers": depth, "width": 12}), spec())
    generator = architecture.generator
    z = torch.randn(4, 8)
    w = generator.mapping(z, LABELS)
    assert len(generator.mapping.layers) == depth
    assert w.shape == (4, 12 if depth else 16)  # with none: 8 of z, 8 of the class
    if depth == 0:
        torch.testing.assert_close(w[:, :8], z / z.square().mean(dim=1, keepdim=True).add(1e-8).sqrt())
        table = generator.mapping.embedding.weight[LABELS]
        torch.testing.assert_close(w[:, 8:], table / table.square().mean(dim=1, keepdim=True).add(1e-8).sqrt())
    assert drawn(architecture, Stage(2)).shape == (4, 1, 16, 16)


def effect_of_noise(architecture, layers):
    """Whether another draw for these layers changes the image."""
    generator = architecture.generator
    w = generator.mapping(torch.randn(4, 8, generator=torch.Generator().manual_seed(1)), LABELS)
    ws = generator.truncate(w, LABELS, Stage(2), 1.0)

    def image(seed):
        def noise(layer, height, width):
            rng = torch.Generator().manual_seed(seed if layer in layers else 0)
            return torch.randn(4, 1, height, width, generator=rng)

        return generator.synthesis(ws, Stage(2), noise)

    with torch.no_grad():
        return not torch.equal(image(5), image(6))


@pytest.mark.parametrize("preset", STYLES)
def test_noise_random_fixed_none_and_by_layer(preset):
    layers = {"stylegan": {4: [0, 1], 8: [2, 3], 16: [4, 5]}, "stylegan2": {4: [0], 8: [1, 2], 16: [3, 4]}}[preset]
    everywhere = [layer for group in layers.values() for layer in group]

    def made(**switch):
        return randomised(built(tiny(preset, architecture=switch), spec()))

    assert all(effect_of_noise(made(), [layer]) for layer in everywhere)
    assert not effect_of_noise(made(noise="none"), everywhere)
    only = made(noise_from=8, noise_to=8)
    assert all(effect_of_noise(only, [layer]) == (layer in layers[8]) for layer in everywhere)
    fixed = made(noise="fixed")
    assert not effect_of_noise(fixed, everywhere)
    buffers = [buffer for name, buffer in fixed.generator.named_buffers() if name.startswith("layer_noise.")]
    assert len(buffers) == len(everywhere)
    assert torch.cat([buffer.flatten() for buffer in buffers]).std().item() == pytest.approx(1.0, abs=0.1)
    before = drawn(fixed, Stage(2))
    fixed.generator.layer_noise.layer1.neg_()
    assert not torch.equal(drawn(fixed, Stage(2)), before)  # it is there, only not drawn again


def test_no_mixing_gives_every_layer_the_same_w(data):
    for mixing, alike in ((0.0, True), (1.0, False)):
        trainer = Trainer(tiny("stylegan2", architecture={"mixing": mixing}), data, 0, torch.device("cpu"), ignore)
        seen = []
        generator = trainer.architecture.generator
        synthesis = generator.synthesis
        generator.synthesis = lambda ws, *rest, seen=seen, inner=synthesis: seen.append(ws.detach()) or inner(ws, *rest)
        trainer.architecture.train().requires_grad_(False)
        trainer.step()
        assert all(bool((ws == ws[:, :1]).all()) == alike for ws in seen)


def test_demodulation_keeps_the_scale_whatever_the_style_says():
    for on in (True, False):
        generator = built(tiny("stylegan2", architecture={"demodulate": on}), spec()).generator
        conv = generator.convs[0]
        x = torch.randn(2, 8, 4, 4, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            conv.conv.style.weight.zero_()
            outputs = []
            for level in (1.0, 10.0):
                conv.conv.style.bias.fill_(level)
                outputs.append(conv(x, torch.zeros(2, 8), None))
        ratio = 1.0 if on else 10.0
        torch.testing.assert_close(outputs[1], outputs[0] * ratio, rtol=1e-3, atol=1e-3)


def test_plain_block_is_two_convolutions_and_the_residual_one_adds_a_shortcut():
    plain, residual = DownBlock(3, 4, residual=False), randomised(DownBlock(3, 4))
    missing = plain.load_state_dict(residual.state_dict(), strict=False)
    assert missing.unexpected_keys == ["shortcut.weight"]
    x = torch.randn(2, 3, 8, 8)
    expected = (plain(x) + residual.shortcut(residual.blur(x)) * math.sqrt(2)) / math.sqrt(2)
    torch.testing.assert_close(residual(x), expected, rtol=1e-4, atol=1e-4)


def test_forms_of_the_generator_against_figure_7_written_out():
    for form in ("skip", "plain", "residual"):
        generator = randomised(built(tiny("stylegan2", architecture={"generator_form": form}), spec())).generator
        with torch.no_grad():
            for parameter in generator.parameters():
                parameter.mul_(0.5)
        ws = torch.randn(2, generator.style_layers(Stage(2)), 8)
        up = generator.double_image
        with torch.no_grad():
            x = generator.convs[0](generator.constant.expand(2, -1, -1, -1), ws[:, 0], None)
            image = generator.to_rgb[0](x, ws[:, 1]) if form == "skip" else None
            for level, (first, second) in enumerate([(1, 2), (3, 4)], start=1):
                y = generator.convs[second](generator.convs[first](x, ws[:, first], None), ws[:, second], None)
                if form == "residual":  # the 1x1 convolution after the doubling: the two commute
                    shortcut = generator.shortcuts[level - 1]
                    y = (y + F.conv2d(up(x), shortcut.weight * shortcut.scale)) / math.sqrt(2)
                x = y
                if form == "skip":
                    image = up(image) + generator.to_rgb[level](x, ws[:, second + 1])
            if form != "skip":
                image = generator.to_rgb[0](x, ws[:, 5])
            torch.testing.assert_close(generator.synthesis(ws, Stage(2), None), image, rtol=1e-4, atol=1e-4)


def test_a_skip_discriminator_reads_the_image_at_every_size():
    config = tiny("stylegan2", architecture={"discriminator_form": "skip"})
    discriminator = randomised(built(config, spec())).discriminator
    seen = []
    for layer in discriminator.from_rgb:
        layer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    images = torch.randn(4, 1, 16, 16)
    discriminator(images, LABELS, Stage(2))
    assert [tuple(x.shape[2:]) for x in seen] == [(16, 16), (8, 8), (4, 4)]
    for larger, smaller in pairwise(seen):
        line = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        kernel = torch.outer(line, line)[None, None]
        torch.testing.assert_close(smaller, F.conv2d(larger, kernel, padding=1, stride=2), rtol=1e-4, atol=1e-5)


def test_path_length_goes_with_every_generator_that_has_w(data):
    over = {"regularisation": {"path_length": 2.0, "path_length_every": 2}}
    trainer = Trainer(tiny("stylegan", **over), data, 0, torch.device("cpu"), ignore)
    trainer.architecture.train().requires_grad_(False)
    for _ in range(3):
        trainer.step()
    assert len(trainer.pending["penalty.path_length"]) == 2
    assert float(trainer.architecture.path_length_mean) > 0


def test_fixed_noise_is_left_alone_by_training_and_averaging(data):
    trainer = Trainer(tiny("stylegan2", architecture={"noise": "fixed"}), data, 0, torch.device("cpu"), ignore)
    trainer.architecture.train().requires_grad_(False)
    before = [buffer.clone() for buffer in trainer.architecture.generator.layer_noise.buffers()]
    for _ in range(3):
        trainer.step()
    for generator in (trainer.architecture.generator, trainer.averaged):
        after = list(generator.layer_noise.buffers())
        assert len(after) == 5
        assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))


def test_doubling_and_stddev_keep_their_dtype():
    x = torch.randn(4, 3, 4, 4).to(torch.bfloat16)
    assert double(x).dtype == minibatch_stddev(x).dtype == torch.bfloat16
