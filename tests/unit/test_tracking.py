"""MLflow runs are found again, written by one process, and closed when their process is gone."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import numpy as np
import pytest

from flows.tracking import PARENT_TAG, Tracker, flatten, metric_name, tracking_uri
from pipeline.records import ResultRow


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    runs = tmp_path_factory.mktemp("runs")
    return Tracker(tracking_uri(None, runs), "test", runs)


def test_a_run_is_found_again_by_its_key(tracker: Tracker) -> None:
    parent = tracker.run("parent", "parent", {"stage": "experiment"})
    first = tracker.run("a", "first", {"stage": "train"}, parent)
    again = tracker.run("a", "first", {"stage": "train"}, parent)
    assert (again.run_id, again.finished) == (first.run_id, False)
    first.end()
    assert tracker.run("a", "first", {}, parent).finished
    assert tracker.client.get_run(first.run_id).data.tags[PARENT_TAG] == parent.run_id


def test_curves_rows_and_params_come_back(tracker: Tracker) -> None:
    run = tracker.run("b", "b", {})
    run.log_curves({"loss": [(1, 0.5), (2, 0.25)], "kid": [(2, 3.0)]})
    run.log({"bad": float("nan"), "<x>": 1.0}, 0)
    run.log_rows([ResultRow("score", "fid.domain", 4.0, low=3.0, high=5.0)])
    run.log_params({"gan": {"batch": 8}})
    run.log_params({"gan": {"batch": 8}})
    run.log_dataset("data", "d" * 40, "somewhere", "training")
    stored = tracker.client.get_run(run.run_id)
    assert [(m.step, m.value) for m in tracker.client.get_metric_history(run.run_id, "loss")] == [(1, 0.5), (2, 0.25)]
    assert stored.data.metrics["fid.domain.low"] == 3.0
    assert "bad" not in stored.data.metrics
    assert stored.data.params == {"gan.batch": "8"}
    assert [one.dataset.name for one in stored.inputs.dataset_inputs] == ["data"]


def test_a_grid_becomes_an_image(tracker: Tracker) -> None:
    run = tracker.run("c", "c", {})
    run.log_grid(np.zeros((8, 8), np.uint8), 100)
    assert any("samples" in entry.path for entry in tracker.client.list_artifacts(run.run_id, "images"))


def test_a_run_that_another_machine_left_is_taken_up_here(tracker: Tracker) -> None:
    left = tracker.run("e", "e", {})
    tracker.tag_run(left, {"medaug.host": "elsewhere", "medaug.pid": str(os.getppid())})  # a number that lives here
    again = tracker.run("e", "e", {})
    assert (again.run_id, again.finished) == (left.run_id, False)
    tags = tracker.client.get_run(left.run_id).data.tags
    assert (tags["medaug.host"], tags["medaug.pid"]) == (socket.gethostname(), str(os.getpid()))


def test_a_living_process_keeps_its_run_and_a_dead_one_loses_it(tracker: Tracker) -> None:
    other = subprocess.Popen(["sleep", "60"])
    run = tracker.run("d", "d", {})
    run.set_tag("medaug.pid", str(other.pid))
    assert tracker.run("d", "d", {}).finished
    assert tracker.client.get_run(run.run_id).info.status == "RUNNING"
    other.kill()
    other.wait()
    assert tracker.close_dead_runs() == 1
    assert tracker.client.get_run(run.run_id).info.status == "KILLED"
    taken = tracker.run("d", "d", {})
    assert not taken.finished
    stored = tracker.client.get_run(run.run_id)
    assert (stored.info.status, stored.data.tags["medaug.pid"]) == ("RUNNING", str(os.getpid()))


def test_names_and_flattening(monkeypatch: pytest.MonkeyPatch) -> None:
    assert metric_name("auroc.<script>") == "auroc._script_"
    assert flatten({"a": {"b": {"c": 1}}, "d": [1, 2]}) == {"a.b.c": 1, "d": [1, 2]}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://elsewhere")
    assert tracking_uri(None, Path("runs")) == "http://elsewhere"
    assert tracking_uri("sqlite:///mine.db", Path("runs")) == "sqlite:///mine.db"
