"""The flow on a schedule: a YAML becomes a Prefect deployment that this process serves."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from prefect.client.schemas.schedules import CronSchedule
from prefect.deployments.runner import EntrypointType
from prefect.schedules import Cron
from prefect.settings import PREFECT_API_URL, temporary_settings
from pydantic import Field, ValidationError

from flows.configuration import ExperimentConfig, Frozen, load_experiment
from flows.experiment import experiment
from flows.preflight import check_output, check_runner, check_services
from flows.progress import say
from pipeline.config import read_yaml, validate
from pipeline.records import MedaugError

START_SECONDS = 120.0


class DeploymentConfig(Frozen):
    """A schedule.

    Attributes:
        name: the deployment's name in Prefect.
        experiment: an experiment's YAML, relative to this file.
        cron: five fields, e.g. ``0 2 * * *`` for two o'clock every night.
        timezone: IANA name; the schedule follows its daylight saving time.
        data: folder with the scans, in place of the experiment's own.
        labels: labels file, in place of the experiment's own.
        overrides: ``a.b=c`` texts as for ``--set``.
    """

    name: str = Field(min_length=1)
    experiment: Path
    cron: str
    timezone: str = "UTC"
    data: Path | None = None
    labels: Path | None = None
    overrides: tuple[str, ...] = ()


def load_deployment(path: Path, runs: Path) -> tuple[DeploymentConfig, ExperimentConfig]:
    """Reads a deployment and the experiment that it names.

    Raises:
        MedaugError: a fault in either, or a schedule that cron does not know.
    """
    deployment = validate(DeploymentConfig, read_yaml(path), str(path))
    try:
        CronSchedule(cron=deployment.cron, timezone=deployment.timezone)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise MedaugError(
            f"{path}: cron {deployment.cron!r} in {deployment.timezone!r} is no schedule ({reason}); "
            'expected five fields like "0 2 * * *" and a timezone like Europe/Berlin'
        ) from None
    config = load_experiment(
        path.parent / deployment.experiment,
        deployment.overrides,
        deployment.data and deployment.data.resolve(),
        deployment.labels and deployment.labels.resolve(),
        runs,
    )
    return deployment, config


@contextmanager
def prefect_server(runs: Path, port: int) -> Iterator[str]:
    """The configured Prefect server, or one of our own on this machine for as long as the block lasts.

    Args:
        runs: its log goes here.
        port: for a server of our own.

    Yields:
        The API's URL.

    Raises:
        MedaugError: our own server did not start.
    """
    configured = os.environ.get("PREFECT_API_URL")
    if configured:
        yield configured
        return
    url = f"http://127.0.0.1:{port}/api"
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    log = runs / "prefect-server.log"
    with log.open("ab") as output:
        # Without it the page would look for its API on Prefect's usual port.
        environment = {**os.environ, "PREFECT_UI_API_URL": url}
        server = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _answers(url):
            if server.poll() is not None or time.monotonic() > deadline:
                raise MedaugError(f"Prefect's server did not start on port {port}; see {log}, or give another --port")
            time.sleep(0.5)
        with temporary_settings({PREFECT_API_URL: url}):
            yield url
    finally:
        server.terminate()
        try:
            server.wait(timeout=10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _answers(url: str) -> bool:
    try:
        with urlopen(f"{url}/health", timeout=2):
            return True
    except (URLError, OSError):
        return False


def serve(path: Path, runs: Path, port: int) -> None:
    """Registers the deployment and serves it until interrupted; one run at a time.

    Raises:
        MedaugError: a fault in the configuration, or a server that does not answer.
    """
    deployment, config = load_deployment(path, runs)
    check_output(config.runs)
    check_services(config)
    check_runner(config)
    with prefect_server(config.runs, port) as url:
        page = url.removesuffix("/api")
        say(f"serving {deployment.name!r}: {deployment.cron} ({deployment.timezone}); Prefect's UI: {page}")
        experiment.serve(
            name=deployment.name,
            schedule=Cron(deployment.cron, timezone=deployment.timezone),
            parameters={"config": config.model_dump(mode="json")},
            tags=["medaug", config.name],
            limit=1,
            print_starting_message=False,
            entrypoint_type=EntrypointType.MODULE_PATH,
        )
