"""MLflow: one parent run for an experiment, one flat child run for each cell.

Only this module and :mod:`flows.models` import MLflow.

MLflow's fluent API is not thread-safe, so all goes through ``MlflowClient`` with run ids. A parent run is found again
by a key (the experiment's configuration and dataset), a child by the recipe hash of the artifact it tells of: a run
that is killed and started again goes on in the same MLflow runs, and unchanged work adds none.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from filelock import FileLock
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from numpy.typing import NDArray

from flows.environment import process_alive
from pipeline.records import MedaugError, ResultRow

logging.getLogger("mlflow").setLevel(logging.WARNING)  # its table-making is no news to users
PARENT_TAG = "mlflow.parentRunId"  # what MLflow's UI groups by
MAX_BATCH = 1000  # metrics in one log_batch call (MLflow's limit)


def tracking_uri(configured: str | None, runs: Path) -> str:
    """The URI in force: configured, then MLFLOW_TRACKING_URI, then SQLite in the runs folder."""
    return configured or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{runs.resolve() / 'mlflow.db'}"


def metric_name(name: str) -> str:
    """A name that MLflow takes: what it does not allow becomes an underscore."""
    return re.sub(r"[^\w\-. :/]", "_", name)


class Run:
    """One MLflow run, open for logging. Safe to use from several threads."""

    def __init__(self, client: MlflowClient, run_id: str, finished: bool):
        self.client = client
        self.run_id = run_id
        self.finished = finished

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Logs finite values at a step; a value that is not finite is left out, since SQLite cannot order it."""
        now = int(time.time() * 1000)
        metrics = [Metric(metric_name(k), float(v), now, step) for k, v in values.items() if np.isfinite(v)]
        for start in range(0, len(metrics), MAX_BATCH):
            self.client.log_batch(self.run_id, metrics=metrics[start : start + MAX_BATCH])

    def log_curves(self, curves: Mapping[str, Sequence[tuple[float, float]]]) -> None:
        """Logs whole courses, metric → (step, value), at once."""
        by_step: dict[int, dict[str, float]] = {}
        for name, points in curves.items():
            for step, value in points:
                by_step.setdefault(int(step), {})[name] = value
        for step, values in by_step.items():
            self.log(values, step)

    def log_rows(self, rows: Sequence[ResultRow]) -> None:
        """Final figures: the value and, where there is one, its interval as ``<metric>.low`` and ``.high``."""
        values: dict[str, float] = {}
        for row in rows:
            values[row.metric] = row.value
            if row.low is not None and row.high is not None:
                values[f"{row.metric}.low"], values[f"{row.metric}.high"] = row.low, row.high
        self.log(values, 0)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Logs nested plain data as dotted parameters; a run that is taken up again keeps its own."""
        flat = [Param(key, str(value)[:6000]) for key, value in flatten(params).items()]
        for start in range(0, len(flat), 100):
            self.client.log_batch(self.run_id, params=flat[start : start + 100])

    def log_grid(self, images: NDArray[np.uint8], step: int) -> None:
        """A sample grid [H, W] at a training step; MLflow's UI shows them on a slider."""
        self.client.log_image(self.run_id, images, key="samples", step=step)

    def log_folder(self, folder: Path, name: str) -> None:
        """Uploads a folder's files under ``name``."""
        self.client.log_artifacts(self.run_id, str(folder), name)

    def log_file(self, file: Path, name: str | None = None) -> None:
        """Uploads one file."""
        self.client.log_artifact(self.run_id, str(file), name)

    def log_dataset(self, name: str, digest: str, source: str, context: str) -> None:
        """Records which dataset artifact went in (MLflow's dataset tracking)."""
        dataset = Dataset(name=name, digest=digest[:32], source_type="local", source=f'{{"uri": "{source}"}}')
        self.client.log_inputs(self.run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", context)])])

    def set_tag(self, key: str, value: str) -> None:
        """Sets one tag."""
        self.client.set_tag(self.run_id, key, value)

    def end(self, status: str = "FINISHED") -> None:
        """Ends the run as FINISHED, FAILED or KILLED."""
        self.client.set_terminated(self.run_id, status)
        self.finished = status == "FINISHED"


class Tracker:
    """The MLflow experiment.

    Args:
        uri: tracking URI.
        experiment: experiment name; created where it does not exist.
        runs: runs folder; with a SQLite URI, artifacts go to ``<runs>/mlflow-artifacts``.

    Raises:
        MedaugError: MLflow does not answer.
    """

    def __init__(self, uri: str, experiment: str, runs: Path):
        self.uri = uri
        # MLflow resolves artifact repositories through the process-wide URI.
        mlflow.set_tracking_uri(uri)
        # Two processes that make MLflow's SQLite tables at the same time would leave them half made.
        with FileLock(runs / "mlflow.lock"):
            try:
                self.client = MlflowClient(uri)
                self.experiment_id = self._experiment(experiment, runs)
            except (MlflowException, OSError) as error:
                raise MedaugError(
                    f"MLflow at {uri} does not answer: {' '.join(str(error).split())[:200]}; "
                    "start it or change tracking.uri"
                ) from None

    def _experiment(self, name: str, runs: Path) -> str:
        """The experiment's id; made where it is not there."""
        found = self.client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        location = (runs.resolve() / "mlflow-artifacts").as_uri() if self.uri.startswith("sqlite:") else None
        # MLflow's page opens on training runs rather than on its tools for language models.
        kind = {"mlflow.experimentKind": "custom_model_development"}
        return str(self.client.create_experiment(name, artifact_location=location, tags=kind))

    def close_dead_runs(self) -> int:
        """Marks runs as KILLED whose process on this host is gone; a killed run must not look alive.

        Returns:
            How many were marked.
        """
        closed = 0
        host = socket.gethostname()
        query = f"attributes.status = 'RUNNING' and tags.`medaug.host` = '{host}'"
        for run in self.client.search_runs([self.experiment_id], query, max_results=1000):
            if not process_alive(int(run.data.tags.get("medaug.pid", "0"))):
                self.client.set_terminated(run.info.run_id, "KILLED")
                closed += 1
        return closed

    def run(
        self, key: str, name: str, tags: Mapping[str, str], parent: Run | None = None, description: str = ""
    ) -> Run:
        """The run with this key under this parent: taken up again, or created.

        A run that another living process of this host is writing counts as finished: only one process tells of a cell.

        Args:
            key: what identifies the work, e.g. a recipe hash.
            name: shown in the UI.
            tags: to filter and group by.
            parent: the experiment's parent run.
            description: shown at the head of the run's page, Markdown.
        """
        for found in self._search(key, parent):
            again = Run(self.client, found.info.run_id, found.info.status == "FINISHED")
            owner = int(found.data.tags.get("medaug.pid", "0"))
            here = found.data.tags.get("medaug.host") == socket.gethostname()  # on Ray a run may move between machines
            if again.finished or (here and owner == os.getpid()):
                return again
            if found.info.status == "RUNNING" and here and process_alive(owner):
                return Run(self.client, found.info.run_id, finished=True)  # the other process tells its course
            self.client.update_run(again.run_id, status="RUNNING")
            self.tag_run(again, {"medaug.host": socket.gethostname(), "medaug.pid": str(os.getpid())})
            return again
        all_tags = {
            **tags,
            "medaug.key": key,
            "medaug.host": socket.gethostname(),
            "medaug.pid": str(os.getpid()),
            "mlflow.source.name": "medaug",
            "mlflow.source.type": "LOCAL",
            **({PARENT_TAG: parent.run_id} if parent else {}),
            **({"mlflow.note.content": description} if description else {}),
        }
        created = self.client.create_run(self.experiment_id, run_name=name, tags=all_tags)
        return Run(self.client, created.info.run_id, finished=False)

    def _search(self, key: str, parent: Run | None) -> Sequence[Any]:
        query = f"tags.`medaug.key` = '{key}'"
        if parent is not None:
            query += f" and tags.`{PARENT_TAG}` = '{parent.run_id}'"
        return list(self.client.search_runs([self.experiment_id], query, max_results=1))

    def log_rows_once(self, key: str, parent: Run, rows: Sequence[ResultRow], tag: str, mark: str) -> None:
        """Adds figures to the run with this key under this parent, if it is there and does not have them already.

        Args:
            key: what identifies the run.
            parent: the experiment's parent run.
            rows: the figures.
            tag: kept beside them.
            mark: what identifies them, the tag's value.
        """
        for found in self._search(key, parent):
            if found.data.tags.get(tag) != mark:
                run = Run(self.client, found.info.run_id, finished=True)
                run.log_rows(rows)
                run.set_tag(tag, mark)

    def tag_run(self, run: Run, tags: Mapping[str, str]) -> None:
        """Sets several tags at once."""
        self.client.log_batch(run.run_id, tags=[RunTag(key, value) for key, value in tags.items()])


def flatten(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} to {"a.b": 1}; lists stay whole."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
