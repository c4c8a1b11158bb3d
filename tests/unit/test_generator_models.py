"""Generators as MLflow models: loaded where this project is not installed, registered, served over HTTP."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest

import medgan
from classifiers.config import ClassifierConfig
from flows.classify import Cell
from flows.exports.export import ExportRequest, export
from flows.models import BEST, comparable, log_model, register, save_model
from flows.tracking import Tracker
from medgan import SyntheticDataset
from pipeline.records import MedaugError
from tests.unit.test_synthetic_dataset import saved

LABELS = [0, 1, 1]


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """An MLflow with one generator logged by a run: (tracker, run, generator artifact)."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    tracker = Tracker(uri, "trial", tmp_path)
    run = tracker.run("k", "train", {"stage": "train"})
    folder = saved(tmp_path, "abc")
    log_model(run, folder)
    return tracker, run, folder


@pytest.mark.thorough
def test_a_run_a_version_and_an_alias_name_the_same_generator(registry, tmp_path):
    tracker, run, folder = registry
    assert register(tracker, "trial", "auroc", {run.run_id: {"gan": "g"}}, {}) is None
    assert register(tracker, "trial", "auroc", {run.run_id: {"gan": "g"}}, {run.run_id: 0.75}) == "1"
    expected = medgan.load(folder, device="cpu").sample(LABELS, seed=3)
    for uri in (f"runs:/{run.run_id}/generator", "models:/trial/1", f"models:/trial@{BEST}"):
        assert medgan.load(uri, device="cpu").sample(LABELS, seed=3).equal(expected)
    assert len(SyntheticDataset("models:/trial@best", LABELS)) == 3
    assert SyntheticDataset("models:/trial/1", LABELS).trained_on == "abc"
    (version,) = tracker.client.search_model_versions("name='trial'")
    assert version.tags == {"gan": "g", "validation.auroc": "0.75"}
    out = tmp_path / "out"
    result = export(ExportRequest("models:/trial@best", out, "png", 2, runs=tmp_path / "runs", copy_check=False))
    assert result["images"] == 4


@pytest.mark.thorough
def test_the_alias_moves_to_a_better_one(registry):
    tracker, run, folder = registry
    other = tracker.run("k2", "train", {"stage": "train"})
    log_model(other, folder)
    runs = {run.run_id: {}, other.run_id: {}}
    assert register(tracker, "trial", "auroc", runs, {run.run_id: 0.6, other.run_id: 0.5}) == "1"
    assert register(tracker, "trial", "auroc", runs, {run.run_id: 0.6, other.run_id: 0.7}) == "2"
    assert tracker.client.get_model_version_by_alias("trial", BEST).run_id == other.run_id
    assert len(tracker.client.search_model_versions("name='trial'")) == 2


@pytest.mark.thorough
def test_the_same_generator_trained_again_is_no_new_version(registry):
    tracker, run, _ = registry
    again = tracker.run("k2", "train", {"stage": "train"})
    for one in (run, again):
        assert register(tracker, "trial", "auroc", {one.run_id: {"generator": "abc"}}, {one.run_id: 0.5}) == "1"


def cell(gan, seed=0, kind="copies", fraction=None, arm="D"):
    made = Cell(arm, ClassifierConfig(), seed, 1.0, "uniform", gan, 0, kind, Path(f"{gan}-{kind}"), fraction)
    return made, Path(made.title)


def test_generators_are_compared_by_the_cells_that_all_of_them_have():
    both = [cell(gan, seed) for gan in ("a", "b") for seed in (0, 1)]  # without a single unfiltered set
    found = comparable([*both, cell("a", 2), cell("b", 0, "none"), cell("a", fraction=0.1), cell("a", arm="E")])
    assert found == {
        ("a", 0): [both[0][1], both[1][1]],
        ("b", 0): [both[2][1], both[3][1]],
    }
    assert comparable([cell("a", 0), cell("b", 1)]) == {}
    assert comparable([cell("a", arm="E"), cell("a", fraction=0.1)]) == {}


@pytest.mark.parametrize(
    "uri", ["models:/nothing/1", "models:/nothing@best", "runs:/0123456789abcdef/generator", "models:/x"]
)
def test_a_uri_with_nothing_behind_it_is_one_clear_line(uri, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    with pytest.raises(MedaugError, match=f"{uri}: nothing there") as caught:
        medgan.load(uri)
    assert "\n" not in str(caught.value)


def test_a_model_that_is_no_generator_is_refused(tmp_path, monkeypatch):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    tracker = Tracker(uri, "trial", tmp_path)
    run = tracker.run("k", "classify", {})
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "MLmodel").write_text("flavors: {}\n")
    run.log_folder(tmp_path / "model", "classifier")
    with pytest.raises(MedaugError, match=r"classifier: 0 generators there"):
        medgan.load(f"runs:/{run.run_id}/classifier")
    with pytest.raises(MedaugError, match="0 generators there"):
        SyntheticDataset(f"runs:/{run.run_id}/classifier", [0])


ELSEWHERE = """
import json, sys
import mlflow, numpy as np
model = mlflow.pyfunc.load_model(sys.argv[1])
import medgan, pipeline
images = model.predict({"labels": np.array([0, 1, 1])}, params={"seed": 3})
again = model.predict({"labels": np.array([1])}, params={"seed": 3, "start": 2})
narrow = model.predict({"labels": np.array([0, 1, 1])}, params={"seed": 3, "truncation": 0.5})
np.save(sys.argv[2], images)
print(json.dumps([medgan.__file__, pipeline.__file__, images.dtype.name, float(abs(again[0] - images[2]).max()),
                  float(abs(narrow - images).max()), [m for m in sys.modules if m in ("monai", "prefect", "flows")]]))
"""


@pytest.mark.thorough
def test_a_model_needs_nothing_of_this_installation(tmp_path):
    folder, model = saved(tmp_path), tmp_path / "model"
    save_model(folder, model)
    (tmp_path / "elsewhere").mkdir()
    command = [sys.executable, "-c", ELSEWHERE, str(model), str(tmp_path / "images.npy")]
    done = subprocess.run(
        command, cwd=tmp_path / "elsewhere", capture_output=True, text=True, timeout=300,
        env={**os.environ, "PYTHONPATH": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    *packages, dtype, apart, narrowed, others = json.loads(done.stdout.splitlines()[-1])
    assert all(package.startswith(str(model)) for package in packages)
    assert dtype == "float32"
    assert apart < 1e-4
    assert narrowed > 1e-3
    assert others == []
    expected = medgan.load(folder).sample(LABELS, seed=3).numpy()
    np.testing.assert_allclose(np.load(tmp_path / "images.npy"), expected, atol=1e-5)


def post(port, body):
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)["predictions"]


@pytest.mark.thorough
def test_mlflow_serves_it_over_http(registry, tmp_path):
    tracker, run, folder = registry
    register(tracker, "trial", "auroc", {run.run_id: {}}, {run.run_id: 0.5})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/trial@best", "-p", str(port)]
    command += ["--env-manager", "local", "--workers", "1"]
    # MLflow starts uvicorn by its name.
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    with (tmp_path / "server.log").open("w") as output:
        server = subprocess.Popen(
            command, stdout=output, stderr=output, start_new_session=True, cwd=tmp_path, env=environment
        )
    try:
        deadline = time.monotonic() + 240
        while True:
            assert server.poll() is None, (tmp_path / "server.log").read_text()[-3000:]
            assert time.monotonic() < deadline, (tmp_path / "server.log").read_text()[-3000:]
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5) as answer:
                    assert answer.status == 200
                break
            except OSError:
                time.sleep(0.5)
        images = np.array(post(port, {"inputs": {"labels": LABELS}, "params": {"seed": 3, "truncation": 0.7}}))
        assert images.shape == (3, 1, 16, 16)
        expected = medgan.load(folder).sample(LABELS, seed=3, truncation=0.7).numpy()
        np.testing.assert_allclose(images, expected, atol=1e-5)
        with pytest.raises(urllib.error.HTTPError) as refused:
            post(port, {"inputs": {"labels": [5]}})
        assert refused.value.code == 400
        assert "expected 0 to 1 (plain, contrast)" in refused.value.read().decode()
    finally:
        with contextlib.suppress(ProcessLookupError):  # it has ended by itself
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()
