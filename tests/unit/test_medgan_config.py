"""Configurations: validated where they are made, through YAML, JSON and Python alike."""

import dataclasses
import json

import pytest

from medgan import GanConfig, Regularisation
from pipeline.config import expand_preset, merge, validate
from pipeline.records import MedaugError
from tests.unit.medgan_toys import PRESETS, tiny


def plain(preset="stylegan2", **over):
    return merge(expand_preset("gan", preset, None, preset), over)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_validate_and_survive_json(preset):
    config = validate(GanConfig, plain(preset), preset)
    assert config.name == preset
    again = GanConfig.from_dict(json.loads(json.dumps(dataclasses.asdict(config))))
    assert again == config
    assert validate(GanConfig, dataclasses.asdict(config), preset) == config


def test_defaults_of_the_architecture_are_filled_in():
    config = GanConfig(name="g", network="stylegan2", loss="non_saturating", images=10)
    assert config.architecture["mapping_layers"] == 8
    spelled = GanConfig("g", "stylegan2", "non_saturating", 10, architecture={"mapping_layers": 8})
    assert spelled == config


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ({"ema_decay": 0.9}, "unknown key 'ema_decay'"),
        ({"architecture": {"max_chanels": 4}}, "unknown key 'max_chanels'; did you mean 'max_channels'"),
        ({"architecture": {"mixing": 1.5}}, "mixing: found 1.5, expected 0 to 1"),
        ({"architecture": {"latent": "many"}}, "latent: found 'many', expected a value of type int"),
        ({"architecture": {"noise": "randon"}}, "noise: unknown 'randon'; did you mean 'random'?"),
        ({"architecture": {"demodulate": 1}}, "demodulate: found 1, expected a value of type bool"),
        ({"architecture": {"noise": 1}}, "noise: found 1, expected a value of type str"),
        ({"regularisation": {"r2": 1.0}}, "unknown key 'regularisation.r2'"),
        ({"regularisation": {"r1": -1.0}}, "r1: found -1.0, expected 0"),
        ({"regularisation": {"path_length_shrink": 64}}, "path_length_shrink: found 64"),
        ({"augmentation": {"kind": "adaptve"}}, "kind: unknown 'adaptve'; did you mean 'adaptive'?"),
        (
            {"augmentation": {"transform": ["shift"]}},
            "unknown key 'augmentation.transform'; did you mean 'transforms'?",
        ),
        ({"augmentation": {"kind": "adaptive", "transforms": ["shft"]}}, "unknown 'shft'; did you mean 'shift'?"),
        ({"conditioning": {"generator": "batchnorm"}}, "unknown 'batchnorm'; did you mean 'batch_norm'?"),
        ({"optimiser": {"kind": "adamm"}}, "kind: unknown 'adamm'; did you mean 'adam'?"),
        ({"regularisation": {"clip": 0.01}}, "clip: found 0.01 beside r1 10.0"),
        ({"rollbacks": -1}, "rollbacks: found -1, expected 0 (none) or more"),
        ({"network": "stylegan3"}, "unknown 'stylegan3'; did you mean 'stylegan"),
        ({"loss": "hinges"}, "loss: unknown 'hinges'"),
        ({"batch": 1}, "batch: found 1, expected 2 or more"),
        ({"ema": 1.0}, "ema: found 1.0"),
        ({"precision": "float16"}, "precision"),
    ],
)
def test_faults_are_named(over, message):
    with pytest.raises(MedaugError, match="here") as caught:
        validate(GanConfig, plain(**over), "here")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_batch_norm_refuses_penalties_on_single_images():
    for penalty in ("gradient_penalty", "r1"):
        with pytest.raises(ValueError, match=f"{penalty}: batch norm ties the images"):
            tiny("dcgan", regularisation={penalty: 10.0})
    config = tiny("dcgan", loss="wasserstein", critic_steps=5, regularisation={"gradient_penalty": 10.0},
                  architecture={"discriminator_norm": "none"})  # fmt: skip
    assert config.regularisation == Regularisation(gradient_penalty=10.0)


def test_path_length_needs_w():
    with pytest.raises(ValueError, match="pggan has no w"):
        tiny("pggan", regularisation={"path_length": 2.0})


def test_configurations_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        tiny("dcgan").batch = 8
