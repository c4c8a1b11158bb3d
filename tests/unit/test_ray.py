"""An experiment's tasks on Ray: what the configuration may say, and what each task asks Ray for."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import torch

from flows import devices
from flows.configuration import ExperimentConfig, load_experiment
from flows.devices import SHARES, share_cores, share_of_cores, training_device
from flows.on_ray import check_reach, ray_arguments, resources
from flows.preflight import check_runner
from flows.runner import cluster_address
from pipeline.config import preset_folders
from pipeline.records import MedaugError

QUICKSTART = preset_folders(None)[0] / "experiment" / "quickstart.yaml"


def experiment(*overrides: str) -> ExperimentConfig:
    return load_experiment(QUICKSTART, list(overrides))


def node(cores: int, gpus: int = 0, alive: bool = True) -> dict[str, Any]:
    found = {"CPU": float(cores), "memory": 1e9} | ({"GPU": float(gpus)} if gpus else {})
    return {"Alive": alive, "Resources": found}


def test_threads_are_the_default_and_nothing_is_checked_for_them() -> None:
    config = experiment()
    assert config.runner.kind == "threads"
    check_runner(config)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (["runner.kind=dask"], "runner.kind: .*'threads' or 'ray'"),
        (["runner.adress=head:6379"], "unknown key 'runner.adress'; did you mean 'address'"),
        (["runner.address=head:6379"], "address goes with kind ray"),
        (["runner.kind=ray", "runner.address=ray://head:10001"], "expected HOST:PORT"),
        (["runner.kind=ray", "runner.address=head"], "expected HOST:PORT"),
        (["runner.kind=ray", "device=cuda:1"], "cuda:1 cannot be had on Ray, which chooses the GPUs"),
    ],
)
def test_faults_of_the_configuration_are_one_line(override: list[str], message: str) -> None:
    with pytest.raises(MedaugError, match=message) as caught:
        experiment(*override)
    assert "\n" not in str(caught.value)


def test_a_cluster_that_does_not_answer_is_refused_beforehand(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"  # nobody listens
        with pytest.raises(MedaugError, match=f"Ray at {address} does not answer.*ray start --head"):
            check_runner(experiment("runner.kind=ray", f"runner.address={address}"))
        taken.listen()
        check_runner(experiment("runner.kind=ray", f"runner.address={address}"))
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with pytest.raises(MedaugError, match=r"Ray at auto does not answer.*HOST:PORT"):
        check_runner(experiment("runner.kind=ray"))


def test_without_the_packages_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.preflight.importlib.util.find_spec", lambda name: None)
    with pytest.raises(MedaugError, match=r"runner\.kind: .*pip install 'medaug\[ray\]'"):
        check_runner(experiment("runner.kind=ray"))


def test_the_address_in_the_environment_is_second(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cluster_address(experiment("runner.kind=ray").runner) is None
    monkeypatch.setenv("RAY_ADDRESS", "other:6379")
    assert cluster_address(experiment("runner.kind=ray").runner) == "other:6379"
    assert cluster_address(experiment("runner.kind=ray", "runner.address=head:6379").runner) == "head:6379"


@pytest.mark.parametrize("task", ["train GAN", "scorecard", "extractor of a fraction", "train feature extractor"])
def test_what_fills_a_gpu_asks_for_a_whole_one(task: str) -> None:
    assert resources(task, [node(16, gpus=2)], gpus=True) == {"num_cpus": 2, "num_gpus": 1.0}


@pytest.mark.parametrize("task", ["classify", "score", "synthesize", "filter"])
def test_small_tasks_ask_for_a_share(task: str) -> None:
    assert resources(task, [node(16, gpus=2)], gpus=True) == {"num_cpus": 2, "num_gpus": 1 / SHARES}


@pytest.mark.parametrize(
    ("nodes", "gpus", "expected"),
    [
        ([node(2)], True, {"num_cpus": 1, "num_gpus": 0.0}),
        ([node(16)], True, {"num_cpus": 4, "num_gpus": 0.0}),
        ([node(16, gpus=2)], False, {"num_cpus": 4, "num_gpus": 0.0}),
        ([node(64), node(8, gpus=2)], True, {"num_cpus": 1, "num_gpus": 1.0}),  # a head without a GPU does not count
        ([node(64, gpus=1), node(16, gpus=1)], True, {"num_cpus": 4, "num_gpus": 1.0}),  # one that both can meet
        ([node(16), node(64, gpus=4, alive=False)], True, {"num_cpus": 4, "num_gpus": 0.0}),
        ([node(0), node(8)], True, {"num_cpus": 2, "num_gpus": 0.0}),  # a head that runs no tasks
        ([], True, {"num_cpus": 1, "num_gpus": 0.0}),  # a cluster that grows when it is asked
    ],
)
def test_a_gan_asks_for_what_a_machine_has(nodes: list[dict[str, Any]], gpus: bool, expected: dict[str, float]) -> None:
    assert resources("train GAN", nodes, gpus) == expected


def test_all_tasks_of_a_gpu_fit_on_its_machine_at_once() -> None:
    for cores in (1, 4, 10, 96):
        for gpus in (0, 1, 8):
            at_once = devices.tasks_at_once(cores, gpus)
            assert share_of_cores(cores, gpus) * at_once <= max(cores, at_once)


class Granted:
    """Stands for what Ray says of the running task."""

    def __init__(self, cpus: float, gpus: list[str]):
        self.cpus, self.gpus = cpus, gpus

    def get_assigned_resources(self) -> dict[str, float]:
        return {"CPU": self.cpus}

    def get_accelerator_ids(self) -> dict[str, list[str]]:
        return {"GPU": self.gpus}


def test_a_worker_takes_what_ray_gave_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(devices.RAY_WORKER, "1")
    monkeypatch.setattr(devices.torch.cuda, "device_count", lambda: 4)  # a task without GPUs sees them all
    monkeypatch.setattr(devices, "_granted", lambda: Granted(3.0, ["2"]))
    with training_device("auto") as first, training_device("auto") as second:  # no lock holds the second up
        assert (first, second) == ("cuda:0", "cuda:0")
    with training_device("cpu", small=True) as device:
        assert device == "cpu"
    monkeypatch.setattr(devices, "_granted", lambda: Granted(3.0, []))
    with training_device("auto") as device:
        assert device == "cpu"


def test_a_worker_computes_with_as_many_threads_as_it_has_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(devices.RAY_WORKER, "1")
    before = torch.get_num_threads()
    try:
        for cpus, threads in ((3.0, 3), (1.0, 1), (0.0, 1)):
            monkeypatch.setattr(devices, "_granted", lambda cpus=cpus: Granted(cpus, []))
            share_cores()
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_workers_get_the_servers_address_and_no_password(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for folder in (tmp_path, None):
        variables = ray_arguments("http://server/api", folder)["runtime_env"]["env_vars"]
        assert variables["PREFECT_API_URL"] == "http://server/api"
        assert (variables["DO_NOT_TRACK"], variables["RAY_USAGE_STATS_ENABLED"]) == ("1", "0")
        assert variables["OMP_NUM_THREADS"] == "1"
        assert "secret" not in variables.values()


def test_several_machines_need_servers_that_all_reach() -> None:
    check_reach(1, "http://127.0.0.1:8000/api", "sqlite:///mlflow.db")
    check_reach(2, "http://prefect:4200/api", "http://mlflow:5000")
    with pytest.raises(MedaugError, match=r"2 machines.*PREFECT_API_URL"):
        check_reach(2, "http://127.0.0.1:8000/api", "http://mlflow:5000")
    with pytest.raises(MedaugError, match=r"2 machines.*tracking\.uri"):
        check_reach(2, "http://prefect:4200/api", "sqlite:///mlflow.db")
