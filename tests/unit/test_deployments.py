"""A schedule's configuration, and what Prefect needs to start a scheduled run."""

from __future__ import annotations

from pathlib import Path

import cloudpickle
import pytest

from flows.deployments import load_deployment
from flows.experiment import experiment
from pipeline.config import preset_folders
from pipeline.records import MedaugError

CONFIGS = preset_folders(None)[0]


def test_the_flow_travels_to_a_scheduled_process(tmp_path: Path) -> None:
    # Prefect pickles flow and tasks by value; a module such as torch.classes among their names would not travel.
    travelled = cloudpickle.loads(cloudpickle.dumps(experiment))
    _, config = load_deployment(CONFIGS / "deployment" / "nightly.yaml", tmp_path)
    given = travelled.validate_parameters({"config": config.model_dump(mode="json"), "until": "report"})
    assert given["config"] == config


def test_the_form_is_the_configuration() -> None:
    schema = experiment.parameters.model_dump()
    assert {"config", "until"} <= set(schema["properties"])
    assert {"ExperimentConfig", "GanConfig", "DataConfig"} <= set(schema["definitions"])


def test_the_shipped_schedule(tmp_path: Path) -> None:
    deployment, config = load_deployment(CONFIGS / "deployment" / "nightly.yaml", tmp_path)
    assert (deployment.name, deployment.cron) == ("nightly", "0 2 * * *")
    assert (config.name, config.runs) == ("quickstart", tmp_path)


def test_overrides_and_paths(tmp_path: Path) -> None:
    file = tmp_path / "weekly.yaml"
    experiment_file = CONFIGS / "experiment" / "quickstart.yaml"
    file.write_text(
        f"name: weekly\nexperiment: {experiment_file}\ncron: '0 2 * * 0'\ndata: scans\noverrides: ['seed=4']\n"
    )
    _, config = load_deployment(file, tmp_path)
    assert config.seed == 4
    assert config.data.source.path == Path("scans").resolve()


def test_an_unknown_key(tmp_path: Path) -> None:
    file = tmp_path / "weekly.yaml"
    file.write_text("name: weekly\nexperiment: x.yaml\ncorn: '0 2 * * 0'\n")
    with pytest.raises(MedaugError, match="unknown key 'corn'; did you mean 'cron'"):
        load_deployment(file, tmp_path)
