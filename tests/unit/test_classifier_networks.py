"""Configuration, networks and augmentation of classifiers."""

import math

import pytest
import torch
from monai.networks.nets import DenseNet121
from monai.transforms import AdjustContrast, Affine

from classifiers import Augmentation, ClassifierConfig
from classifiers.augment import RESAMPLE, affine, augment, contrast
from classifiers.networks import build_network, head, penultimate, stem_stride
from pipeline import config as configuration
from pipeline.records import ImageSpec, MedaugError
from tests.unit.classifier_scans import CLASSES, QUICK


def test_shipped_presets_are_valid_and_named():
    for name, network in (("densenet121", "densenet"), ("resnet", "resnet")):
        data = configuration.expand_preset("classifier", name, None, "test")
        config = configuration.validate(ClassifierConfig, data, "test")
        assert (config.name, config.network) == (name, network)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"learning_rat": 0.1}, "did you mean 'learning_rate'"),
        ({"augmentation": {"rotaton": 1}}, "did you mean 'rotation'"),
        ({"network": "resnet", "growth_rate": 12}, "growth_rate: not an option of network 'resnet'"),
        ({"layers": [1, 2]}, "expected four numbers"),
        ({"steps": 0}, "steps: 0, expected at least 1"),
        ({"augmentation": {"shift": 0.9}}, "expected 0 (off) to 0.5"),
        ({"sampling": "random"}, "sampling"),
        ({"learning_rate": float("nan")}, "expected a positive number"),
    ],
)
def test_wrong_configuration_is_refused_in_one_line(data, message):
    with pytest.raises(MedaugError) as caught:
        configuration.validate(ClassifierConfig, data, "x.yaml")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def network_for(config, size, channels=1):
    return build_network(config, ImageSpec(channels, size, size, CLASSES), torch.Generator().manual_seed(0))


def test_densenet_is_monais_densenet121():
    network = network_for(ClassifierConfig(network="densenet", stem_stride=4), 64)
    assert network.state_dict().keys() == DenseNet121(2, 1, 3).state_dict().keys()
    assert penultimate(network.eval(), torch.zeros(1, 1, 64, 64)).shape == (1, 1024)


@pytest.mark.parametrize("network", ["densenet", "resnet"])
@pytest.mark.parametrize(("size", "channels"), [(16, 1), (28, 3), (32, 1), (64, 2)])
def test_networks_take_small_images(network, size, channels):
    small = {"layers": (1, 1, 1, 1), "growth_rate": 4} if network == "densenet" else {"planes": (4, 4, 8, 8)}
    built = network_for(ClassifierConfig(network=network, **small), size, channels).eval()
    images = torch.randn(3, channels, size, size)
    with torch.no_grad():
        logits = built(images)
        assert logits.shape == (3, 3)
        assert torch.isfinite(logits).all()
        # The penultimate layer is what the last layer reads.
        assert torch.allclose(head(built)(penultimate(built, images)), logits, atol=1e-6)


def test_stem_shrinks_large_images_more_and_too_small_ones_are_refused():
    strides = [stem_stride(ClassifierConfig(), ImageSpec(1, size, size, CLASSES)) for size in (16, 32, 64, 128, 512)]
    assert strides == [1, 1, 2, 4, 4]
    with pytest.raises(MedaugError, match="expected at least 16 pixels"):
        network_for(ClassifierConfig(stem_stride=2), 12)


def test_weights_come_from_the_given_generator_alone():
    torch.manual_seed(1)
    first = network_for(QUICK, 16).state_dict()
    torch.manual_seed(2)
    second = network_for(QUICK, 16).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    # He's initialisation: variance 2 / fan_out
    big = network_for(ClassifierConfig(planes=(64, 64, 64, 64)), 16).get_parameter("layer1.0.conv1.weight")
    assert float(big.detach().std()) == pytest.approx(math.sqrt(2 / (64 * 9)), rel=0.02)


@pytest.mark.parametrize(
    ("angle", "scale", "shift"),
    [(0.3, 1.0, (0.0, 0.0)), (0.0, 1.2, (0.0, 0.0)), (0.0, 1.0, (0.1, 0.05)), (0.2, 0.9, (0.1, -0.05))],
)
def test_batched_affine_equals_monais_single_image_transform(angle, scale, shift):
    height, width = 24, 32
    image = torch.rand(2, height, width, generator=torch.Generator().manual_seed(0))
    matrix = affine(torch.tensor([angle]), torch.tensor([scale]), torch.tensor([shift]), torch.ones(1), height / width)
    single = Affine(
        rotate_params=angle,
        scale_params=(1 / scale, 1 / scale),
        translate_params=(shift[0] * height, shift[1] * width),
        padding_mode="border",
        mode="bilinear",
        image_only=True,
    )
    assert torch.allclose(RESAMPLE(image[None], matrix)[0], torch.as_tensor(single(image)), atol=1e-5)


def test_contrast_equals_monais():
    image = torch.rand(1, 9, 9) * 2 - 1
    expected = torch.as_tensor(AdjustContrast(gamma=1.4)(image))
    assert torch.allclose(contrast(image[None], torch.tensor([1.4]))[0], expected, atol=1e-6)


def test_augmentation_is_mild_different_for_each_image_and_reproducible():
    image = torch.zeros(1, 1, 32, 32)
    image[:, :, 12:20, 4:12] = 1.0
    batch = image.repeat(64, 1, 1, 1)
    first = augment(batch, Augmentation(), torch.Generator().manual_seed(0))
    assert torch.equal(first, augment(batch, Augmentation(), torch.Generator().manual_seed(0)))
    assert not torch.equal(first[0], first[1])
    # Nothing is mirrored: the square stays left of the middle in every draw.
    left, right = first[..., :16].clamp(min=0).sum((1, 2, 3)), first[..., 16:].clamp(min=0).sum((1, 2, 3))
    assert bool((left > right).all())


def test_mirroring_is_an_option_and_flips_half_of_the_images():
    batch = torch.zeros(200, 1, 8, 8)
    batch[..., 0] = 1.0
    only = Augmentation(rotation=0, shift=0, zoom=0, gamma=0, noise=0, mirror=True, laterality=False)
    flipped = augment(batch, only, torch.Generator().manual_seed(0))[:, 0, 0, 7] > 0.5
    assert 60 < int(flipped.sum()) < 140


def test_augmentation_switched_off_changes_nothing():
    batch = torch.rand(4, 1, 16, 16)
    off = Augmentation(rotation=0, shift=0, zoom=0, gamma=0, noise=0)
    assert torch.allclose(augment(batch, off, torch.Generator().manual_seed(0)), batch, atol=1e-5)
