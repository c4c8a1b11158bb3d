"""The whole way at 16x16 for a few steps: run, run again, break one GAN, kill and go on."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

import medgan
from pipeline import ScanDataset
from tests.whole_report import faults

GANS = ("dcgan", "pggan", "stylegan", "stylegan2")
SETTINGS = {
    "name": "tiny",
    "data": {
        "preset": "phantom",
        "size": [16, 16],
        "source": {"phantom": {"patients": 30, "size": 32}},
        "split": {"train": 0.5, "validation": 0.25},  # enough validation images to tell a copy
    },
    "gan_defaults": {
        "images": 64,
        "batch": 8,
        "snapshots": 1,
        "architecture": {"base_channels": 128, "max_channels": 16},
    },
    "gans": {gan: {} for gan in GANS},
    "extractor": {"preset": "resnet", "steps": 6, "evaluate_every": 3},
    "synthesis": {"per_class": 40, "dicom": 2},
    "scorecard": {"images": 100, "draws": 100},
    "classifiers": {"resnet": {"steps": 6, "evaluate_every": 3}},
    "classification": {"seeds": [0], "resamples": 2000},
}


def write_experiment(folder: Path, **changes: object) -> Path:
    file = folder / "experiment" / "tiny.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump({**SETTINGS, **changes}))
    return file


def medaug(*arguments: str) -> tuple[int, dict[str, object], str]:
    """Runs the command in a process of its own; returns exit code, its JSON and stderr."""
    command = [sys.executable, "-m", "flows.cli", *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.stdout.count("\n") == 1, done.stdout + done.stderr[-3000:]
    return done.returncode, json.loads(done.stdout), done.stderr


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, object]]:
    """(experiment file, runs folder, result) of a finished run."""
    folder = tmp_path_factory.mktemp("experiment")
    file, runs = write_experiment(folder), folder / "runs"
    code, result, errors = medaug("run", str(file), "--runs", str(runs))
    assert code == 0, errors[-3000:]
    return file, runs, result


def children(runs: Path, stage: str) -> list[Run]:
    client = MlflowClient(f"sqlite:///{runs}/mlflow.db")
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    return client.search_runs([experiment.experiment_id], f"tags.stage = '{stage}'", max_results=1000)


def test_the_report_is_whole(finished: tuple[Path, Path, dict[str, object]]) -> None:
    _, runs, result = finished
    assert result["status"] == "done"
    assert faults(runs / "reports" / "tiny", set(GANS), {"A", "B", "C", "D"}) == []


def test_mlflow_holds_one_flat_run_for_each_cell(finished: tuple[Path, Path, dict[str, object]]) -> None:
    _, runs, _ = finished
    (parent,) = children(runs, "experiment")
    trainings, scores, cells = (children(runs, stage) for stage in ("train", "score", "classify"))
    assert sorted(run.data.tags["gan"] for run in trainings) == sorted(GANS)
    assert all(run.data.tags["mlflow.parentRunId"] == parent.info.run_id for run in [*trainings, *scores, *cells])
    assert {run.info.status for run in [parent, *trainings, *scores, *cells]} == {"FINISHED"}
    by_gan = [run.data.metrics for run in scores if "gan" in run.data.tags]
    assert len(by_gan) == len(GANS)
    shared = set.intersection(*(set(metrics) for metrics in by_gan))
    assert {"kid.domain", "recall", "duplicates", "ppl.z", "swd"} <= shared, "GANs compare only under the same names"
    assert sorted(run.data.tags["arm"] for run in cells) == ["A", "B", "C", "D", "D", "D", "D"]
    assert all(run.inputs.dataset_inputs for run in [*trainings, *scores, *cells])
    assert {run.data.params["gan.network"] for run in trainings} == set(GANS)
    assert {run.data.params["classifier.network"] for run in cells} == {"resnet"}
    assert all({"loss.generator", "seconds"} <= set(run.data.metrics) for run in trainings)


def test_a_generator_loads_again_from_mlflow(
    finished: tuple[Path, Path, dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, runs, _ = finished
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{runs}/mlflow.db")
    run = next(run for run in children(runs, "train") if run.data.tags["gan"] == "stylegan2")
    logged = medgan.load(f"runs:/{run.info.run_id}/generator")
    (folder,) = (runs / "artifacts" / "generator").glob("stylegan2-*")
    assert logged.sample([0, 1, 2], seed=5).equal(medgan.load(folder).sample([0, 1, 2], seed=5))


def test_generators_are_registered_and_the_best_has_its_alias(
    finished: tuple[Path, Path, dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, runs, _ = finished
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{runs}/mlflow.db")
    client = MlflowClient()
    versions = client.search_model_versions("name='tiny'")
    assert sorted(version.tags["gan"] for version in versions) == sorted(GANS)
    values = {version.version: float(version.tags["validation.auroc"]) for version in versions}
    best = client.get_model_version_by_alias("tiny", "best")
    assert values[best.version] == max(values.values())
    (folder,) = (runs / "artifacts" / "generator").glob(f"{best.tags['gan']}-*")
    drawn = medgan.load("models:/tiny@best").sample([0, 1], seed=5)
    assert drawn.equal(medgan.load(folder).sample([0, 1], seed=5))


def test_synthetic_artifacts_read_like_datasets_and_lie_there_as_dicom(
    finished: tuple[Path, Path, dict[str, object]],
) -> None:
    _, runs, _ = finished
    for folder in (runs / "artifacts" / "synthetic").iterdir():
        data = ScanDataset(folder)
        assert len(data) == 120
        assert data[0]["synthetic"] is True
        assert data[0]["image"].shape == (1, 16, 16)
        left_out = re.match(r"(\d) of 6 images left out as copies", data.meta["dicom"])
        assert left_out is not None, data.meta["dicom"]
        assert len(list((folder / "dicom").glob("*.dcm"))) == 6 - int(left_out[1])


def test_a_second_run_finds_everything_done(finished: tuple[Path, Path, dict[str, object]]) -> None:
    file, runs, _ = finished
    before = len(children(runs, "train"))
    code, result, _ = medaug("run", str(file), "--runs", str(runs))
    assert (code, result["new_artifacts"]) == (0, 0)
    assert len(children(runs, "train")) == before


def test_compare_prints_the_tables(finished: tuple[Path, Path, dict[str, object]]) -> None:
    file, runs, _ = finished
    command = [sys.executable, "-m", "flows.cli", "compare", str(file), "--runs", str(runs)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert all(gan in text for gan in GANS)
    assert "kid.domain" in text


def test_one_gan_that_fails_takes_no_other_along(
    finished: tuple[Path, Path, dict[str, object]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken_architecture.py"
    broken.write_text(
        "from medgan.networks.dcgan import Dcgan\n"
        "class Broken(Dcgan):\n"
        "    def phases(self):\n"
        "        raise RuntimeError('planted fault')\n"
    )
    # Registered in the subprocess by sitecustomize, as an add-on package would.
    (tmp_path / "sitecustomize.py").write_text(
        "import medgan.registry\nmedgan.registry.NETWORKS['broken'] = 'broken_architecture:Broken'\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    _, runs, _ = finished
    gans = {"dcgan": {}, "faulty": {"preset": "dcgan", "network": "broken"}}
    other = write_experiment(tmp_path, gans=gans, name="partly")
    code, result, _ = medaug("run", str(other), "--runs", str(runs))
    assert (code, result["status"]) == (1, "failed in part")
    (failure,) = result["failures"]  # type: ignore[misc]
    assert "faulty" in failure
    assert "planted fault" in failure
    assert faults(runs / "reports" / "partly", {"dcgan"}, {"A", "B", "C", "D"}) == []
    assert "planted fault" in (runs / "reports" / "partly" / "report.html").read_text()


def test_a_refused_source_is_told_to_the_user_and_to_no_server(tmp_path: Path) -> None:
    scans, labels = tmp_path / "scans", tmp_path / "labels.csv"
    scans.mkdir()
    (scans / "present.dcm").write_bytes(b"no DICOM")
    labels.write_text("file,label\nSmith_John_001.dcm,ill\n")
    file = write_experiment(tmp_path, data={"preset": "folder", "labels": {"by": "file"}})
    arguments = ["run", str(file), "--data", str(scans), "--labels", str(labels), "--runs", str(tmp_path / "runs")]
    code, _, errors = medaug(*arguments)
    assert code == 2
    assert "Smith_John_001.dcm" in errors
    database = Path(os.environ["PREFECT_HOME"]) / "prefect.db"
    kept = b"".join(part.read_bytes() for part in database.parent.glob("prefect.db*"))
    assert b"the scans or their labels were refused" in kept
    assert b"Smith_John" not in kept


def test_killed_and_started_again_it_ends_where_an_unbroken_run_ends(tmp_path: Path) -> None:
    gans = {"dcgan": {"images": 3200, "checkpoint_seconds": 0.2}}
    file = write_experiment(tmp_path, gans=gans, classification={"seeds": [0], "resamples": 2000, "arms": ["A"]})
    runs, unbroken = tmp_path / "runs", tmp_path / "unbroken"
    command = [sys.executable, "-m", "flows.cli", "run", str(file), "--runs", str(runs), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    unfinished = runs / "artifacts" / "unfinished"
    deadline = time.monotonic() + 120
    while not list(unfinished.glob("generator-*/step-*")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (runs / "reports" / "tiny" / "report.json").exists()
    assert {run.info.status for run in children(runs, "train")} == {"RUNNING"}
    (dataset,) = (runs / "artifacts" / "dataset").glob("*/manifest.json")
    ingested = dataset.stat().st_mtime_ns

    code, _, errors = medaug("run", str(file), "--runs", str(runs))
    assert code == 0, errors[-3000:]
    assert dataset.stat().st_mtime_ns == ingested
    (training,) = children(runs, "train")
    assert training.info.status == "FINISHED"
    assert faults(runs / "reports" / "tiny", {"dcgan"}, {"A"}) == []
    assert not list(unfinished.glob("generator-*"))

    with sqlite3.connect(Path(os.environ["PREFECT_HOME"]) / "prefect.db") as database:
        states = {state for (state,) in database.execute("select state_type from flow_run")}
    assert "CRASHED" in states
    assert "RUNNING" not in states

    shutil.copytree(runs / "private", unbroken / "private")  # the key of the patients' hashes orders the split
    code, _, errors = medaug("train", str(file), "--runs", str(unbroken))
    assert code == 0, errors[-3000:]
    broken_off, straight = (next(r.glob("artifacts/generator/*/generator.safetensors")) for r in (runs, unbroken))
    assert broken_off.read_bytes() == straight.read_bytes()


def test_ctrl_c_ends_a_training_at_its_next_step_and_keeps_it(tmp_path: Path) -> None:
    file = write_experiment(tmp_path, gans={"dcgan": {"images": 10**8, "checkpoint_seconds": 3600}})
    runs, log = tmp_path / "runs", tmp_path / "log.txt"
    command = [sys.executable, "-m", "flows.cli", "train", str(file), "--runs", str(runs)]
    with log.open("w") as stream:
        process = subprocess.Popen(
            command,
            stderr=stream,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # whatever this process does with it
        )
    deadline = time.monotonic() + 180
    while "train dcgan" not in log.read_text():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert not list(runs.glob("artifacts/unfinished/generator-*/step-*"))
    os.killpg(process.pid, signal.SIGINT)  # a terminal's Ctrl-C reaches Prefect's temporary server, too
    assert process.wait(timeout=120) == 130
    assert "goes on where it stopped" in log.read_text()
    assert list(runs.glob("artifacts/unfinished/generator-*/step-*"))
    statuses = {run.info.status for stage in ("train", "experiment") for run in children(runs, stage)}
    assert statuses == {"KILLED"}
