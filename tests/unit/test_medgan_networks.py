"""Every shipped preset: shapes, conditioning, growing; and the papers' parameter counts."""

import copy
import dataclasses
from itertools import pairwise

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from medgan import GanConfig, registry
from medgan.growing import Growth
from medgan.layers import double, halve
from medgan.optimise import average
from medgan.sizes import Pyramid, Stage
from medgan.styles import StyleGenerator, mix
from pipeline.config import expand_preset
from pipeline.records import ImageSpec, MedaugError
from tests.unit.medgan_toys import CLASSES, CONDITIONAL, PRESETS, built, randomised, spec, tiny

GROWING = ["pggan", "stylegan"]


def drawn(architecture, stage, labels, seed=0):
    rng = torch.Generator().manual_seed(seed)
    z = torch.randn(len(labels), architecture.generator.latent, generator=rng)
    noise = [torch.randn(len(labels), 1, h, w, generator=rng) for h, w in architecture.generator.noise_layers(stage)]
    with torch.no_grad():
        return architecture.generator(z, labels, stage, lambda layer, height, width: noise[layer])


def test_every_network_has_a_preset():
    assert {expand_preset("gan", preset, None, preset)["network"] for preset in PRESETS} == set(registry.NETWORKS)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(("height", "width", "channels"), [(16, 16, 1), (24, 40, 3), (32, 16, 4)])
def test_shapes(preset, height, width, channels):
    architecture = built(tiny(preset), spec(height, width, channels)).eval()
    labels = torch.tensor([0, 1, 1])
    stage = architecture.stage_at(10**9)
    images = drawn(architecture, stage, labels)
    assert images.shape == (3, channels, height, width)
    assert images.dtype == torch.float32
    logits = architecture.discriminator(images, labels, stage)
    assert logits.shape == (3,)
    assert torch.isfinite(images).all()
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("preset", CONDITIONAL)
def test_the_label_changes_image_and_logit(preset):
    architecture = built(tiny(preset), spec()).eval()
    stage = architecture.stage_at(10**9)
    zeros, ones = torch.zeros(4, dtype=torch.int64), torch.ones(4, dtype=torch.int64)
    images = drawn(architecture, stage, zeros)
    assert float((images - drawn(architecture, stage, ones)).abs().max()) > 1e-4
    with torch.no_grad():
        difference = architecture.discriminator(images, zeros, stage) - architecture.discriminator(images, ones, stage)
    assert float(difference.abs().max()) > 1e-7


@pytest.mark.parametrize("preset", CONDITIONAL)
def test_a_single_class_is_the_unconditional_network(preset):
    config = tiny(preset)
    count = {
        classes: sum(p.numel() for p in built(config, spec(classes=classes)).parameters())
        for classes in (("all",), CLASSES)
    }
    assert count[("all",)] < count[CLASSES]


@pytest.mark.parametrize("preset", PRESETS)
def test_weights_follow_from_the_seed_alone(preset):
    config = tiny(preset)
    first = built(config, spec(), seed=1).state_dict()
    torch.manual_seed(99)  # the global generator has no say
    second, other = built(config, spec(), seed=1).state_dict(), built(config, spec(), seed=2).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("preset", GROWING)
def test_fading_ends_at_the_smaller_and_the_larger_network(preset):
    architecture = randomised(built(tiny(preset), spec(32, 16)))
    labels = torch.tensor([0, 1])
    small, large = Stage(1), Stage(2)

    def images(stage):
        return drawn(architecture, stage, labels)

    torch.testing.assert_close(images(Stage(2, 0.0)), double(images(small)))
    torch.testing.assert_close(images(Stage(2, 0.5)), (double(images(small)) + images(large)) / 2)
    torch.testing.assert_close(images(Stage(2, 1.0)), images(large))
    real = torch.randn(2, 1, 32, 16)
    with torch.no_grad():
        logits = architecture.discriminator(real, labels, Stage(2, 0.0))
        torch.testing.assert_close(logits, architecture.discriminator(halve(real), labels, small), rtol=1e-3, atol=1e-3)
        logits = [
            architecture.discriminator(real, labels, stage) for stage in (Stage(2, 1.0), Stage(2, 1 - 1e-7), large)
        ]
        torch.testing.assert_close(logits[0], logits[2])
        torch.testing.assert_close(logits[1], logits[2], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("preset", GROWING)
def test_real_images_fade_like_the_networks(preset):
    architecture = built(tiny(preset), spec(32, 32))
    real = torch.randn(2, 1, 32, 32)
    assert architecture.reals(real, Stage(1)).shape == (2, 1, 8, 8)
    torch.testing.assert_close(architecture.reals(real, Stage(3)), real)
    torch.testing.assert_close(architecture.reals(real, Stage(3, 0.0)), double(halve(real)))
    torch.testing.assert_close(architecture.reals(real, Stage(2, 1.0)), halve(real))


def test_growth_schedule():
    growth = Growth(start=4, share=0.6, fade=0.5)  # 3 doublings in 600 of 1000 images: 100 stable, 100 fading each
    stages = {seen: growth.stage_at(seen, 1000, 3) for seen in (0, 99, 150, 199, 200, 350, 500, 550, 600, 5000)}
    assert stages[0] == stages[99] == Stage(0)
    assert stages[150] == Stage(1, 0.5)
    assert stages[199].level == 1
    assert stages[199].alpha == pytest.approx(0.99)
    assert stages[200] == Stage(1)
    assert stages[350].level == 2
    assert stages[350].alpha == pytest.approx(0.5)
    assert stages[500] == Stage(2)
    assert stages[550].alpha == pytest.approx(0.5)
    assert stages[600] == stages[5000] == Stage(3)
    assert Growth(8, 0.6, 0.5).stage_at(0, 1000, 3) == Stage(1)
    assert Growth(4, 0.0, 0.5).stage_at(0, 1000, 3) == Stage(3)


def paper(preset):
    """A shipped preset as it is."""
    return GanConfig.from_dict(expand_preset("gan", preset, None, preset))


def parameters(preset):
    """Of generator and discriminator at 1024x1024 with three channels and without classes."""
    with torch.device("meta"):
        architecture = registry.build(paper(preset), ImageSpec(3, 1024, 1024, ("all",)))
    return [sum(p.numel() for p in net.parameters()) for net in (architecture.generator, architecture.discriminator)]


def test_parameter_counts_of_the_papers():
    """PGGAN's networks have 23.1 M each (its table 2), StyleGAN's generator has 26.2 M (StyleGAN, section 2)."""
    assert [count / 1e6 for count in parameters("pggan")] == pytest.approx([23.1, 23.1], abs=0.05)
    assert [count / 1e6 for count in parameters("stylegan")] == pytest.approx([26.2, 23.1], abs=0.05)


def test_parameter_counts_of_stylegan2_layer_by_layer():
    """Its paper gives none: the sum of configuration F's layers, written out here."""
    widths = [512, 512, 512, 512, 512, 256, 128, 64, 32]
    convs = [(512, 512), *[pair for i, o in pairwise(widths) for pair in ((i, o), (o, o))]]
    mapping = 8 * (512 * 512 + 512)
    styled = sum(9 * i * o + (512 * i + i) + o + 1 for i, o in convs)
    to_rgb = sum(3 * width + (512 * width + width) + 3 for width in widths)
    blocks = sum(9 * i * i + i + 9 * i * o + o + i * o for o, i in pairwise(widths))
    last = 9 * 513 * 512 + 512 + 16 * 512 * 512 + 512 + 512 + 1
    generator, discriminator = parameters("stylegan2")
    assert generator == mapping + 16 * 512 + styled + to_rgb
    assert discriminator == 3 * 32 + 32 + blocks + last
    assert [generator / 1e6, discriminator / 1e6] == pytest.approx([30.4, 29.0], abs=0.05)


@pytest.mark.parametrize("preset", [name for name in PRESETS if name not in ("gan", "cgan")])
@pytest.mark.parametrize(("height", "width", "channels"), [(1024, 1024, 1), (640, 1024, 4), (16, 16, 3), (28, 28, 2)])
def test_every_size_is_built(preset, height, width, channels):
    with FakeTensorMode():  # shapes and dtypes without the work
        architecture = registry.build(paper(preset), ImageSpec(channels, height, width, CLASSES)).eval()
        stage, labels = architecture.stage_at(10**12), torch.zeros(2, dtype=torch.int64)
        images = architecture.generator(torch.zeros(2, architecture.generator.latent), labels, stage, None)
        assert images.shape == (2, channels, height, width)
        assert architecture.discriminator(images, labels, stage).shape == (2,)


def test_dcgan_has_the_channels_of_its_figure():
    with torch.device("meta"):
        generator = registry.build(paper("dcgan"), ImageSpec(3, 64, 64, ("all",))).generator
    assert [tuple(conv.weight.shape) for conv in generator.convs] == [
        (1024, 512, 4, 4),
        (512, 256, 4, 4),
        (256, 128, 4, 4),
        (128, 3, 4, 4),
    ]


def test_dcgan_starts_from_narrow_normal_weights():
    architecture = built(tiny("dcgan", architecture={"base_channels": 1024, "max_channels": 64}), spec(32, 32))
    weights = torch.cat([conv.weight.flatten() for conv in architecture.discriminator.convs])
    assert float(weights.std().detach()) == pytest.approx(0.02, rel=0.03)


@pytest.mark.parametrize("preset", ["stylegan", "stylegan2"])
def test_noise_changes_detail_only_where_its_scale_is_not_zero(preset):
    architecture = built(tiny(preset), spec())
    stage = architecture.stage_at(10**9)
    generator = architecture.generator
    w = generator.mapping(torch.randn(2, 8), torch.tensor([0, 1]))
    ws = generator.truncate(w, torch.tensor([0, 1]), stage, 1.0)
    ones, zeros = (lambda layer, h, w, v=v: torch.full((2, 1, h, w), v).cumsum(-1) for v in (1.0, 0.0))
    torch.testing.assert_close(generator.synthesis(ws, stage, ones), generator.synthesis(ws, stage, zeros))
    randomised(generator)
    difference = generator.synthesis(ws, stage, ones) - generator.synthesis(ws, stage, zeros)
    assert float(difference.detach().abs().max()) > 1e-3
    sizes = {(h, w) for h, w in generator.noise_layers(stage)}
    assert sizes == {(4, 4), (8, 8), (16, 16)}


@pytest.mark.parametrize("preset", ["stylegan", "stylegan2"])
def test_truncation_goes_to_the_classes_own_mean(preset):
    architecture = built(tiny(preset), spec())
    generator, stage = architecture.generator, architecture.stage_at(10**9)
    assert isinstance(generator, StyleGenerator)
    for _ in range(2000):
        labels = torch.tensor([0, 1])
        generator.track_average(torch.tensor([[1.0], [3.0]]).expand(2, 8), labels)
    torch.testing.assert_close(generator.w_average[:, 0], torch.tensor([1.0, 3.0]), rtol=1e-3, atol=1e-3)
    w = torch.full((2, 8), 5.0)
    ws = generator.truncate(w, torch.tensor([0, 1]), stage, 0.5)
    torch.testing.assert_close(ws[:, 0, 0], torch.tensor([3.0, 4.0]), rtol=1e-3, atol=1e-3)
    absent = generator.w_average.clone()
    generator.track_average(w[:1], torch.tensor([0]))
    assert torch.equal(generator.w_average[1], absent[1])


def test_the_mean_of_w_has_no_share_of_its_start():
    """After t batches it is the mean of theirs with weights 0.995^age, for each class by itself and in the average."""
    newest = built(tiny("stylegan2"), spec()).generator
    averaged = copy.deepcopy(newest)
    for value, label in ((2.0, 0), (5.0, 0), (3.0, 1)):
        newest.track_average(torch.full((1, 8), value), torch.tensor([label]))
        average(averaged, newest, 0.999)
    both = (2.0 * 0.995 + 5.0) / 1.995
    torch.testing.assert_close(newest.w_average, torch.tensor([[both], [3.0]]).expand(2, 8))
    ws = newest.truncate(torch.randn(1, 8), torch.tensor([1]), Stage(2), 0.0)
    torch.testing.assert_close(ws, torch.full_like(ws, 3.0))  # seen once
    # 2 counts 0.995^0 + 0.995 + 0.995 times 0.999^(2, 1, 0) in the averaged network, 5 as often as it was there.
    twos, fives = 0.999**2 + 0.995 * 0.999 + 0.995, 0.999 + 1
    mean = (2 * twos + 5 * fives) / (twos + fives)
    torch.testing.assert_close(averaged.w_average, torch.tensor([[mean], [3.0]]).expand(2, 8))


def test_stylegan_truncates_the_layers_up_to_32_pixels():
    small = {"base_channels": 256, "max_channels": 4}
    architecture = built(tiny("stylegan", architecture=small), spec(128, 128))
    generator, stage = architecture.generator, Stage(5)
    ws = generator.truncate(torch.ones(1, 8), torch.tensor([0]), stage, 0.0)
    assert ws[0, :, 0].tolist() == [0.0] * 8 + [1.0] * 4


def test_style_mixing_crosses_once():
    first, second = torch.zeros(4000, 1), torch.ones(4000, 6, 1)
    mixed = mix(first, second, 0.9, torch.Generator().manual_seed(0))[:, :, 0]
    assert bool((mixed.diff(dim=1) >= 0).all())  # zeros, then ones
    assert bool((mixed[:, 0] == 0).all())
    crossings = (mixed == 0).sum(dim=1)
    assert float((crossings < 6).float().mean()) == pytest.approx(0.9, abs=0.02)
    assert [float((crossings == k).float().mean()) for k in range(1, 6)] == pytest.approx([0.18] * 5, abs=0.03)


def test_pyramid():
    assert dataclasses.astuple(Pyramid.of(32, 32)) == (4, 4, 3)
    assert dataclasses.astuple(Pyramid.of(28, 28)) == (7, 7, 2)
    assert dataclasses.astuple(Pyramid.of(24, 40)) == (6, 10, 2)
    assert Pyramid.of(256, 128).size(5) == (256, 128)
    for size in [(30, 30), (8, 8), (2048, 2048), (33, 32), (500, 500)]:
        with pytest.raises(MedaugError, match=f"image size {size[0]}x{size[1]}"):
            registry.check(tiny("dcgan"), spec(*size))
    with pytest.raises(MedaugError, match="5 channels"):
        registry.check(tiny("dcgan"), spec(channels=5))
