"""An experiment's tasks on Ray: how Ray is started, and what each task asks it for.

Imports the optional packages ray and prefect-ray; :mod:`flows.runner` imports this module where they are needed.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import ray
from prefect.context import FlowRunContext
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect_ray import RayTaskRunner
from prefect_ray.context import remote_options

from flows.context import Context
from flows.devices import RAY_WORKER, SHARES, cores, share_of_cores
from flows.environment import DEFAULTS
from flows.features import train_extractor
from flows.fractions import prepare_fraction
from flows.progress import say
from flows.ray_worker import FOLDER
from flows.runner import cluster_address
from flows.scorecard import fill_scorecard
from flows.train_gan import train_gan
from pipeline.records import MedaugError

WHOLE_GPU = frozenset(task.name for task in (train_gan, fill_scorecard, train_extractor, prepare_fraction))
"""Tasks that have a GPU to themselves, as on threads; the others share one."""
OBJECT_STORE = 100 * 2**20
"""Bytes. Tasks pass paths and hashes."""
PASSED_ON = (*DEFAULTS, "PREFECT_HOME", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "MEDAUG_TRACEBACK")
"""Variables that reach workers on other machines too. Passwords do not: Ray would show them on its pages."""


class ExperimentRayRunner(RayTaskRunner):
    """Prefect's runner on Ray, which knows what each task of an experiment needs.

    Args:
        address: HOST:PORT of a cluster's head; None starts Ray on this machine.
        init_kwargs: for ``ray.init``.
        gpus: whether the tasks may have GPUs.
    """

    def __init__(self, address: str | None = None, init_kwargs: dict[str, Any] | None = None, gpus: bool = True):
        super().__init__(address, init_kwargs)
        self.gpus = gpus

    def duplicate(self) -> ExperimentRayRunner:
        """A runner with the same settings."""
        return type(self)(self.address, self.init_kwargs, self.gpus)

    def submit(self, task: Any, *arguments: Any, **keywords: Any) -> Any:
        """Submits a task with what it asks for."""
        with remote_options(**resources(task.name, ray.nodes(), self.gpus)):
            return super().submit(task, *arguments, **keywords)


def resources(task: str, nodes: Sequence[Mapping[str, Any]], gpus: bool) -> dict[str, float]:
    """Ray's ``num_cpus`` and ``num_gpus`` for a task.

    The cores are those that the task would have on threads, on the machine with the fewest for each: a request that no
    machine can meet would wait for ever.

    Args:
        task: its name in Prefect.
        nodes: as ``ray.nodes()`` lists them.
        gpus: whether GPUs may be used.
    """
    sizes = [
        (int(node["Resources"].get("CPU", 0)), int(node["Resources"].get("GPU", 0)) if gpus else 0)
        for node in nodes
        if node["Alive"]
    ]
    if any(count for _, count in sizes):
        sizes = [size for size in sizes if size[1]]
        share = 1.0 if task in WHOLE_GPU else 1 / SHARES
    else:
        share = 0.0
    return {"num_cpus": min((share_of_cores(*size) for size in sizes if size[0]), default=1), "num_gpus": share}


@contextmanager
def tasks_run_on_ray(context: Context) -> Iterator[None]:
    """Connects to Ray, or starts it on this machine for as long as the block lasts; submitted tasks run there.

    Args:
        context: the experiment.

    Raises:
        MedaugError: several machines, and a server that only this one reaches.
    """
    flow_run = FlowRunContext.get()
    assert flow_run is not None, "outside a flow"
    # The temporary server's address is known to the flow's client alone; without it each worker would start another.
    api = str(flow_run.client.api_url).rstrip("/")
    address = cluster_address(context.config.runner)
    with ExitStack() as stack:
        arguments = ray_arguments(api, None if address else stack.enter_context(session_folder()))
        runner = ExperimentRayRunner(address, arguments, gpus=context.config.device != "cpu")
        stack.enter_context(temporary_settings({PREFECT_API_URL: api}))
        stack.enter_context(redirect_stdout(sys.stderr))  # Ray tells there of workers that died; --json owns it
        stack.enter_context(runner)
        stack.enter_context(flow_run.model_copy(update={"task_runner": runner}))
        nodes = [node for node in ray.nodes() if node["Alive"]]
        check_reach(len(nodes), api, context.uri)
        found = ray.cluster_resources()
        say(f"Ray: {len(nodes)} machines, {found.get('CPU', 0):g} cores, {found.get('GPU', 0):g} GPUs")
        yield


@contextmanager
def session_folder() -> Iterator[Path]:
    """A folder for the logs and sockets of a Ray on this machine, which Ray itself would leave open to all users.

    It goes with the run; MEDAUG_TRACEBACK keeps it. Not under the runs folder: a socket's path has 107 bytes at most.
    """
    folder = Path(tempfile.mkdtemp(prefix="medaug-ray-", dir=os.environ.get("RAY_TMPDIR", "/tmp")))
    try:
        yield folder
    finally:
        if not os.environ.get("MEDAUG_TRACEBACK"):
            shutil.rmtree(folder, ignore_errors=True)


def ray_arguments(api: str, folder: Path | None) -> dict[str, Any]:
    """What ``ray.init`` is told.

    Args:
        api: the URL of Prefect's API, which workers need.
        folder: for a Ray that is started on this machine; None for a cluster that runs already.
    """
    variables = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    variables |= {"PREFECT_API_URL": api, RAY_WORKER: "1", FOLDER: os.getcwd()}  # noqa: PTH109
    arguments: dict[str, Any] = {
        "logging_level": logging.ERROR,
        "runtime_env": {"env_vars": variables, "worker_process_setup_hook": "flows.ray_worker.prepare_worker"},
    }
    if folder is not None:
        # Ray listens on all interfaces, to those who know this token; of its own it would leave one in the user's home.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        arguments |= {
            "num_cpus": cores(),
            "object_store_memory": OBJECT_STORE,
            "include_dashboard": False,
            "_temp_dir": str(folder),
        }
    return arguments


def check_reach(machines: int, api: str, tracking: str) -> None:
    """Prefect's and MLflow's servers can be reached from all of Ray's machines.

    Args:
        machines: how many there are.
        api: the URL of Prefect's API.
        tracking: MLflow's URI.

    Raises:
        MedaugError: one cannot; names the remedy.
    """
    if machines < 2:
        return
    if urlparse(api).hostname in ("127.0.0.1", "localhost", "::1"):
        raise MedaugError(
            f"Ray has {machines} machines, and only this one reaches Prefect at {api}; start a Prefect server that all "
            "reach and set PREFECT_API_URL"
        )
    if tracking.startswith("sqlite:"):
        raise MedaugError(
            f"Ray has {machines} machines, and MLflow's SQLite is for one; start an MLflow server and set tracking.uri"
        )
