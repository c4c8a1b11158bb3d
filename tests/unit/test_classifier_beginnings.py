"""What a classifier starts from and is shown: networks, weights from files, MONAI's transforms from YAML."""

import importlib
import inspect

import pytest
import safetensors.torch
import torch
from monai.networks.nets import EfficientNetBN

from classifiers import Augmentation, ClassifierConfig, build_arm, train_classifier
from classifiers.config import MIRRORS, TRANSFORMS, Transform
from classifiers.networks import SeededDropout, build_network, head, patch_side, penultimate
from classifiers.transforms import apply_transforms, build_transforms
from classifiers.weights import load_weights
from pipeline import config as configuration
from pipeline.dataset import ScanDataset
from pipeline.records import ImageSpec, MedaugError
from tests.unit.classifier_scans import CLASSES, QUICK, real_artifact

NETWORKS = {
    "efficientnet": {"scale": "b0", "dropout": 0.2},
    "vit": {"width": 24, "depth": 1, "heads": 2, "dropout": 0.1},
}


def network_for(config, size=28, channels=1, seed=0, classes=CLASSES):
    return build_network(config, ImageSpec(channels, size, size, classes), torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", sorted(NETWORKS))
@pytest.mark.parametrize(("size", "channels"), [(28, 1), (64, 3)])
def test_more_networks_take_small_images_and_have_a_penultimate_layer(name, size, channels):
    torch.manual_seed(1)
    network = network_for(ClassifierConfig(network=name, **NETWORKS[name]), size, channels)
    torch.manual_seed(2)
    again = network_for(ClassifierConfig(network=name, **NETWORKS[name]), size, channels)
    images = torch.randn(3, channels, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        # Training, too, follows from the network's own generator: nothing is dropped by the global one.
        assert torch.equal(network(images), again(images))
        logits = network.eval()(images)
        assert logits.shape == (3, 3)
        assert torch.allclose(head(network)(penultimate(network, images)), logits, atol=1e-5)


def test_efficientnet_is_monais():
    network = network_for(ClassifierConfig(network="efficientnet"), 64)
    theirs = EfficientNetBN("efficientnet-b0", pretrained=False, spatial_dims=2, in_channels=1, num_classes=3)
    assert network.state_dict().keys() == theirs.state_dict().keys()
    assert network.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        assert torch.allclose(network.eval()(images), theirs.eval()(images), atol=1e-5)


def test_patches_divide_the_image():
    config = ClassifierConfig(network="vit")
    sides = [patch_side(config, ImageSpec(1, size, size, CLASSES)) for size in (224, 64, 32, 28, 16)]
    assert sides == [16, 8, 4, 4, 2]
    with pytest.raises(MedaugError, match="set patch, or resize"):
        patch_side(config, ImageSpec(1, 27, 27, CLASSES))


def test_dropout_follows_from_its_seed_and_keeps_the_mean():
    values = torch.ones(200, 200)
    first, again, other = (SeededDropout(0.25, seed).train()(values) for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert float((first == 0).double().mean()) == pytest.approx(0.25, abs=0.01)
    assert float(first.mean()) == pytest.approx(1.0, abs=0.01)
    assert torch.equal(SeededDropout(0.25, 5).eval()(values), values)


@pytest.mark.parametrize("preset", configuration.preset_names("classifier"))
def test_shipped_presets_load(preset):
    data = configuration.expand_preset("classifier", preset, None, "test")
    assert configuration.validate(ClassifierConfig, data, "test").name == preset


@pytest.mark.parametrize("form", ["safetensors", "torch", "wrapped", "parallel"])
def test_weights_from_a_file_are_all_but_the_last_layers(tmp_path, form):
    source = network_for(QUICK, seed=1, channels=3, classes=("one", "two"))
    weights = {name: value.contiguous() for name, value in source.state_dict().items()}
    file = tmp_path / ("weights.safetensors" if form == "safetensors" else "weights.pt")
    if form == "safetensors":
        safetensors.torch.save_file(weights, file)
    elif form == "torch":
        torch.save(weights, file)
    elif form == "wrapped":
        torch.save({"epoch": 3, "state_dict": weights}, file)
    else:
        torch.save({f"module.{name}": value for name, value in weights.items()}, file)
    network = network_for(QUICK, seed=2)
    own_head = head(network).weight.clone()
    load_weights(network, file)
    grey = torch.randn(4, 1, 28, 28)
    with torch.no_grad():
        # The colour stem, summed, answers to a grey image as to its threefold repetition.
        same = penultimate(source.eval(), grey.repeat(1, 3, 1, 1))
        assert torch.allclose(penultimate(network.eval(), grey), same, atol=1e-4)
    assert torch.equal(head(network).weight, own_head)  # two classes there, three here


def test_files_that_are_no_such_weights_are_refused_in_one_line(tmp_path):
    network = network_for(QUICK)
    (tmp_path / "text.pt").write_text("no weights")
    torch.save({"a": 1}, tmp_path / "numbers.pt")
    torch.save(network_for(ClassifierConfig(planes=(4, 4, 4, 4))).state_dict(), tmp_path / "narrow.pt")
    for name, message in (
        ("absent.pt", "no such file"),
        ("text.pt", "not readable"),
        ("numbers.pt", "no table of tensors"),
        ("narrow.pt", r"is \[4, 1, 3, 3\], expected \[8, 1, 3, 3\]"),
    ):
        with pytest.raises(MedaugError, match=message) as caught:
            load_weights(network, tmp_path / name)
        assert "\n" not in str(caught.value)


def test_a_training_starts_from_the_files_weights(tmp_path):
    real = real_artifact(tmp_path / "real")
    train, validation = ScanDataset(real.path, "train"), ScanDataset(real.path, "validation")
    first = train_classifier(QUICK, build_arm("A", train), validation, 0, device="cpu")
    torch.save(first.network.state_dict(), tmp_path / "weights.pt")
    onward = ClassifierConfig(
        **{**vars(QUICK), "steps": 1, "learning_rate": 1e-9, "weights": str(tmp_path / "weights.pt")}
    )
    second = train_classifier(onward, build_arm("A", train), validation, 7, device="cpu")
    name = "layer1.0.conv1.weight"
    assert torch.allclose(second.network.get_parameter(name), first.network.get_parameter(name), atol=1e-6)
    second.save(tmp_path)
    (tmp_path / "weights.pt").unlink()  # what was trained does not need it any more
    assert importlib.import_module("classifiers").load_classifier(tmp_path, "cpu").config == onward


@pytest.mark.parametrize("name", sorted(TRANSFORMS))
def test_allowed_transforms_are_monais_and_take_their_parameters(name):
    make = getattr(importlib.import_module("monai.transforms"), name)
    assert set(inspect.signature(make).parameters) >= TRANSFORMS[name]


PARAMETERS = {
    "RandAffined": {"prob": 1.0, "rotate_range": 0.3, "translate_range": [2, 2], "scale_range": 0.1},
    "RandBiasFieldd": {"prob": 1.0},
    "Rand2DElasticd": {"prob": 1.0, "spacing": [6, 6], "magnitude_range": [1, 2]},
    "RandCoarseDropoutd": {"prob": 1.0, "holes": 2, "spatial_size": 3},
    "RandRotated": {"prob": 1.0, "range_x": 0.3},
    "RandScaleIntensityd": {"prob": 1.0, "factors": 0.2},
    "RandShiftIntensityd": {"prob": 1.0, "offsets": 0.2},
    "RandGaussianNoised": {"prob": 1.0, "std": 0.1},
    "RandZoomd": {"prob": 1.0, "min_zoom": 0.7, "max_zoom": 0.8},
    "RandFlipd": {"prob": 1.0, "spatial_axis": 1},
    "RandRotate90d": {"prob": 1.0, "max_k": 1},
    "RandAdjustContrastd": {"prob": 1.0, "gamma": [2.0, 3.0]},
    "RandGaussianSmoothd": {"prob": 1.0},
}


@pytest.mark.parametrize("name", sorted(TRANSFORMS))
def test_every_allowed_transform_changes_images_by_its_seed_and_keeps_their_size(name):
    images = torch.rand(3, 1, 20, 20, generator=torch.Generator().manual_seed(0)) * 2 - 1
    one = (Transform(name, PARAMETERS[name]),)
    first, again = (apply_transforms(build_transforms(one, 3), images) for _ in range(2))
    assert first.shape == images.shape
    assert type(first) is torch.Tensor
    assert torch.equal(first, again)
    assert not torch.equal(first, images)


def test_a_flip_is_a_flip():
    images = torch.rand(4, 1, 8, 8)
    flip = (Transform("RandFlipd", {"prob": 1.0, "spatial_axis": 1}),)
    assert torch.equal(apply_transforms(build_transforms(flip, 0), images), images.flip(-1))


@pytest.mark.parametrize(
    ("augmentation", "message"),
    [
        ({"transforms": [{"name": "RandFlipd"}]}, "RandFlipd makes a wrong image where sides carry meaning"),
        ({"mirror": True}, "mirror makes a wrong image"),
        ({"transforms": [{"name": "RandCropd"}]}, "'RandCropd': unknown, expected one of RandAdjustContrastd"),
        ({"transforms": [{"name": "RandAffined", "parameters": {"spatial_size": 9}}]}, "no parameter 'spatial_size'"),
    ],
)
def test_senseless_augmentation_is_refused(augmentation, message):
    with pytest.raises(MedaugError, match=message):
        configuration.validate(ClassifierConfig, {"augmentation": augmentation}, "x.yaml")


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("RandAffined", {"scale_range": [[-2, -2], [0, 0]]}),
        ("RandAffined", {"scale_range": 1.0}),
        ("Rand2DElasticd", {"scale_range": [[0, 0.1], [-1.5, 0]]}),
        ("RandAffined", {"rotate_range": 3.1416}),
        ("Rand2DElasticd", {"rotate_range": [[-1.0, 0.0]]}),
        ("RandRotated", {"range_x": [0.0, 3.1416]}),
        ("RandRotated", {"range_x": 0.8}),
        ("RandAffined", {"shear_range": [2.0, 2.0]}),
        ("RandAffined", {"scale_range": float("nan")}),
    ],
)
def test_no_range_mirrors_or_turns_a_patient_over_where_sides_carry_meaning(name, parameters):
    transform = Transform(name, parameters)
    with pytest.raises(MedaugError, match=f"{name}'s .* makes a wrong image where sides carry meaning"):
        Augmentation(transforms=(transform,))
    Augmentation(laterality=False, transforms=(transform,))


def test_such_a_range_does_mirror():
    images = torch.rand(2, 1, 8, 8)
    flip = (Transform("RandAffined", {"prob": 1.0, "scale_range": [[-2, -2], [0, 0]]}),)
    torch.testing.assert_close(apply_transforms(build_transforms(flip, 0), images), images.flip(-2), atol=1e-4, rtol=0)


def test_small_ranges_and_small_turns_are_allowed_where_sides_carry_meaning():
    small = {"rotate_range": [[-0.7, 0.7]], "scale_range": [-0.5, [-0.9, 2.0]], "shear_range": 0.2}
    Augmentation(
        rotation=44.0, transforms=(Transform("RandAffined", small), Transform("RandRotated", {"range_x": 0.7}))
    )
    with pytest.raises(MedaugError, match="rotation 180 makes a wrong image"):
        Augmentation(rotation=180.0)
    Augmentation(rotation=180.0, laterality=False)


def test_mirroring_is_allowed_where_sides_carry_no_meaning():
    assert set(MIRRORS) <= set(TRANSFORMS)
    for name in MIRRORS:
        Augmentation(laterality=False, transforms=(Transform(name),))


def test_values_that_monai_refuses_are_told_in_one_line():
    with pytest.raises(MedaugError, match=r"transform RandZoomd: .* is refused by MONAI") as caught:
        build_transforms((Transform("RandZoomd", {"min_zoom": [0.5, 0.5], "max_zoom": [1.0]}),), 0)
    assert "\n" not in str(caught.value)


def test_a_training_with_declared_transforms_repeats(tmp_path):
    real = real_artifact(tmp_path)
    train, validation = ScanDataset(real.path, "train"), ScanDataset(real.path, "validation")
    declared = (Transform("RandGaussianNoised", {"prob": 0.9, "std": 0.2}), Transform("RandZoomd", {"prob": 0.5}))
    config = ClassifierConfig(**{**vars(QUICK), "steps": 6, "augmentation": Augmentation(transforms=declared)})
    first, again = (train_classifier(config, build_arm("B", train), validation, 0, device="cpu") for _ in range(2))
    plain = train_classifier(config, build_arm("A", train), validation, 0, device="cpu")
    assert first.history == again.history
    assert first.history != plain.history
    first.save(tmp_path)
    assert importlib.import_module("classifiers").load_classifier(tmp_path, "cpu").config == config
