"""Experiments' YAML: shipped ones load, faults are one line, overlays reach every entry."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.configuration import ExperimentConfig, load_experiment
from medgan.metrics.separability import MIN_POINTS_PER_DIMENSION
from pipeline.config import preset_folders
from pipeline.records import MedaugError

CONFIGS = preset_folders(None)[0]
QUICKSTART = CONFIGS / "experiment" / "quickstart.yaml"


@pytest.mark.parametrize("file", sorted((CONFIGS / "experiment").glob("*.yaml")), ids=lambda file: file.stem)
def test_shipped_experiments_load_and_survive_json(file: Path) -> None:
    config = load_experiment(file)
    assert config.gans
    again = ExperimentConfig.model_validate_json(config.model_dump_json())
    assert again == config


def test_the_shipped_ablations_draw_enough_for_a_plane_in_every_latent() -> None:
    """Where too few are drawn a probe refuses, and a claim that needs it could never be decided."""
    config = load_experiment(CONFIGS / "experiment" / "limitations.yaml")
    for gan in config.gans:
        options = gan.architecture
        w = options.get("width", 0) if options.get("mapping_layers") else options["latent"] + options["label_width"]
        dimensions = max(options["latent"], w if "width" in options else 0)
        assert config.scorecard.draws >= 2 * MIN_POINTS_PER_DIMENSION * dimensions, gan.name


def test_command_line_values_win() -> None:
    config = load_experiment(QUICKSTART, ["seed=9"], data=Path("scans"), labels=Path("l.csv"), runs=Path("out"))
    assert (config.seed, config.runs) == (9, Path("out"))
    assert str(config.data.source.path) == "scans"
    assert str(config.data.labels.file) == "l.csv"


def test_defaults_lie_under_every_gan(tmp_path: Path) -> None:
    file = tmp_path / "experiment" / "x.yaml"
    file.parent.mkdir()
    file.write_text(
        "name: x\ndata: phantom\nextractor: resnet\ngan_defaults: {images: 100, batch: 4}\n"
        "gans:\n  small: {preset: dcgan, images: 50}\n  dcgan:\n"
    )
    small, plain = load_experiment(file).gans
    assert (small.name, small.network, small.images, small.batch) == ("small", "dcgan", 50, 4)
    assert (plain.name, plain.images, plain.batch) == ("dcgan", 100, 4)


def test_a_list_of_names_will_do() -> None:
    assert [gan.name for gan in load_experiment(QUICKSTART, ["gans=[stylegan2, dcgan]"]).gans] == ["stylegan2", "dcgan"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("gans=[dcgann]", "unknown gan 'dcgann'; did you mean 'dcgan'"),
        ("gans.dcgan.imags=5", r"unknown key 'gans\.0\.imags'; did you mean 'images'"),
        ("gans=[7]", "7 has neither preset nor name"),
        ("sead=1", "unknown key 'sead'; did you mean 'seed'"),
        ("classification.ratios=[0]", "ratios must lie above 0"),
        ("classification.arms=[A, D]", "arm D without B and C"),
        ("classification.arms=[Z]", "classification.arms.0"),
        ("name=a/b", "name: String should match pattern"),
        ("device=tpu", "device: String should match pattern"),
        ("gans.dcgan.batch=many", "gans.0.*found 'many'"),
    ],
)
def test_faults_are_one_line(override: str, message: str) -> None:
    with pytest.raises(MedaugError, match=message) as caught:
        load_experiment(QUICKSTART, [override])
    assert "\n" not in str(caught.value)


def test_arm_e_is_allowed_without_contrasts() -> None:
    config = load_experiment(QUICKSTART, ["classification.arms=[A, E]"])
    assert config.classification.arms == ("A", "E")
