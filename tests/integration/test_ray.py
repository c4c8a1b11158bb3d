"""The same small experiment on threads and on a Ray of this machine, with one GAN that fails: the same comes out."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import ray

from flows.devices import SHARES
from flows.on_ray import ray_arguments, resources, session_folder
from tests.integration.test_experiment import medaug, write_experiment
from tests.whole_report import faults

pytestmark = pytest.mark.service
BROKEN = """
from medgan.networks.dcgan import Dcgan
class Broken(Dcgan):
    def phases(self):
        raise RuntimeError('planted fault')
"""
REGISTERED = "import medgan.registry\nmedgan.registry.NETWORKS['broken'] = 'broken_architecture:Broken'\n"
SETTINGS = {
    "gans": {"dcgan": {}, "faulty": {"preset": "dcgan", "network": "broken"}},
    "classification": {"seeds": [0], "resamples": 2000, "arms": ["A", "B"]},
}
MARK = "MEDAUG_TEST_RUN"


@dataclass
class Ended:
    """A run: where it worked, what it said, and what was left of it."""

    runs: Path
    code: int
    result: dict[str, object]
    errors: str
    left: list[str]

    @property
    def digests(self) -> set[tuple[str, str]]:
        """Kind and digest of each artifact but the registration, which names the runs folder's own MLflow."""
        manifests = (json.loads(file.read_text()) for file in self.runs.glob("artifacts/*/*/manifest.json"))
        pairs = {(found["recipe"]["kind"], found["digest"]) for found in manifests}
        return {(kind, digest) for kind, digest in pairs if kind != "registration"}

    def states(self) -> Counter[str]:
        with sqlite3.connect(self.runs / "prefect" / "prefect.db") as database:
            return Counter(state for (state,) in database.execute("select state_type from task_run"))

    def tracked(self) -> set[tuple[str, str, int]]:
        """Name and state of each MLflow run, and how many figures it has."""
        query = (
            "select runs.name, runs.status, count(metrics.key) from runs left join metrics "
            "on runs.run_uuid = metrics.run_uuid group by runs.run_uuid"
        )
        with sqlite3.connect(self.runs / "mlflow.db") as database:
            return set(database.execute(query))


def run(folder: Path, kind: str, key: Path | None) -> Ended:
    """Runs the experiment in a runs folder of its own, with the key of another run's patients' hashes."""
    runs, sessions = folder / kind, Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    if key is not None:
        shutil.copytree(key, runs / "private")
    (folder / "broken_architecture.py").write_text(BROKEN)
    (folder / "sitecustomize.py").write_text(REGISTERED)  # as an add-on package would
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    environment = {"PYTHONPATH": path, "PREFECT_HOME": str(runs / "prefect"), "RAY_TMPDIR": str(sessions)}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**environment, MARK: str(runs)}.items():
            patch.setenv(name, value)
        file = write_experiment(folder, **SETTINGS)
        code, result, errors = medaug("run", str(file), "--runs", str(runs), "--set", f"runner.kind={kind}")
    left = [*map(str, sessions.iterdir()), *processes_of(runs)]
    shutil.rmtree(sessions)
    return Ended(runs, code, result, errors, left)


@pytest.fixture
def one_gpu() -> Iterator[None]:
    """A Ray on this machine that believes in eight cores and one GPU."""
    with session_folder() as folder:
        ray.init(**{**ray_arguments("http://127.0.0.1:1/api", folder), "num_cpus": 8, "num_gpus": 1})
        yield
        ray.shutdown()


def test_a_gan_has_the_gpu_alone_and_small_tasks_share_it(one_gpu: None) -> None:
    def hold(task: str) -> tuple[str, str, str, int, float, float]:
        import torch

        from flows.devices import share_cores, training_device

        with training_device("auto", small=task == "classify") as device:
            began = time.time()
            share_cores()
            time.sleep(1)
            return task, device, os.environ["CUDA_VISIBLE_DEVICES"], torch.get_num_threads(), began, time.time()

    tasks = ["train GAN", *["classify"] * (SHARES + 1), "train GAN"]
    asked = [ray.remote(**resources(task, ray.nodes(), gpus=True))(hold).remote(task) for task in tasks]
    held = ray.get(asked, timeout=120)
    assert {found[1:4] for found in held} == {("cuda:0", "0", 8 // SHARES)}
    gans = [found for found in held if found[0] == "train GAN"]
    small = [found for found in held if found[0] == "classify"]
    for gan in gans:
        assert not any(overlap(gan, other) for other in held if other is not gan)
    for one in small:
        assert sum(other[-2] <= one[-2] < other[-1] for other in small) <= SHARES
    assert any(overlap(one, other) for one in small for other in small if other is not one)


def overlap(one: tuple[object, ...], other: tuple[object, ...]) -> bool:
    """Whether two were held at the same time; the last two of each are its begin and end."""
    return one[-2] < other[-1] and other[-2] < one[-1]  # type: ignore[operator]


def processes_of(runs: Path) -> list[str]:
    """Command lines of what still runs ten seconds after the command that started it."""
    deadline = time.monotonic() + 10
    while True:
        alive = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == str(runs):
                    alive.append(" ".join(process.cmdline()))
            except psutil.Error:  # gone, or another user's
                continue
        if not alive or time.monotonic() > deadline:
            return alive
        time.sleep(0.2)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Ended, Ended]:
    """On threads, and on Ray."""
    folder = tmp_path_factory.mktemp("runners")
    threads = run(folder, "threads", None)
    return threads, run(folder, "ray", threads.runs / "private")


def test_a_failing_gan_is_a_missing_one_and_the_rest_is_done(both: tuple[Ended, Ended]) -> None:
    for ended in both:
        assert (ended.code, ended.result["status"]) == (1, "failed in part"), ended.errors[-3000:]
        (failure,) = ended.result["failures"]  # type: ignore[misc]
        assert "training faulty (seed 0) failed: RuntimeError: planted fault" in failure
        assert faults(ended.runs / "reports" / "tiny", {"dcgan"}, {"A", "B"}) == []


def test_the_artifacts_are_the_same(both: tuple[Ended, Ended]) -> None:
    threads, ray = both
    kinds = Counter(kind for kind, _ in threads.digests)
    assert {"dataset", "extractor", "generator", "synthetic", "score", "scorecard", "classifier"} <= set(kinds)
    assert threads.digests == ray.digests


def test_mlflow_and_prefect_know_the_same_runs(both: tuple[Ended, Ended]) -> None:
    threads, ray = both
    assert threads.tracked() == ray.tracked()
    assert ("train faulty s0", "FAILED") in {row[:2] for row in ray.tracked()}
    assert threads.states() == ray.states()
    assert set(ray.states()) == {"COMPLETED", "FAILED"}


def test_the_terminal_shows_the_workers_progress_and_no_garbage(both: tuple[Ended, Ended]) -> None:
    ray = both[1]
    assert "Ray: 1 machines" in ray.errors
    assert "train dcgan s0" in ray.errors
    assert "\x1b" not in ray.errors
    lines = [line for line in ray.errors.splitlines() if line and "%" not in line]
    assert len(lines) <= 6, "a warning of each worker, or a traceback"


def test_nothing_of_ray_is_left(both: tuple[Ended, Ended]) -> None:
    assert both[1].left == []
