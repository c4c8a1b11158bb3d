"""What every stage of an experiment shares: configuration, store and tracking. Small and picklable, for any runner."""

from __future__ import annotations

import contextlib
import errno
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task

from flows.configuration import ExperimentConfig
from flows.devices import share_cores
from flows.tracking import Run, Tracker
from pipeline.store import Recipe, Store


@cache
def _tracker(uri: str, experiment: str, runs: Path) -> Tracker:
    return Tracker(uri, experiment, runs)


@dataclass(frozen=True)
class Context:
    """One experiment under way.

    Attributes:
        config: its configuration.
        uri: MLflow's tracking URI.
        parent_run_id: the experiment's MLflow run; "" before it exists.
    """

    config: ExperimentConfig
    uri: str
    parent_run_id: str = ""

    @property
    def runs(self) -> Path:
        """The runs folder."""
        return self.config.runs

    @property
    def store(self) -> Store:
        """The artifacts' store."""
        return Store(self.runs / "artifacts")

    @property
    def report_folder(self) -> Path:
        """Where report.html and report.json go."""
        return self.runs / "reports" / self.config.name

    @property
    def tracker(self) -> Tracker:
        """The MLflow experiment; one client per process."""
        return _tracker(self.uri, self.config.tracking.experiment or self.config.name, self.runs)

    @property
    def parent(self) -> Run:
        """The experiment's MLflow run."""
        return Run(self.tracker.client, self.parent_run_id, finished=False)

    @contextlib.contextmanager
    def child(self, recipe: Recipe, name: str, tags: Mapping[str, Any]) -> Iterator[Run]:
        """Work on one cell, on this worker's share of the cores, with its MLflow run.

        The run is FINISHED when the block ends, FAILED with the reason when it raises.

        Args:
            recipe: of the artifact that the cell makes; its hash finds the run again.
            name: shown in MLflow.
            tags: ``stage``, ``gan``, ``gan_seed``, ``arm``, ``ratio``, ``classifier``, ``classifier_seed``.
        """
        share_cores()
        texts = {key: str(value) for key, value in tags.items() if value not in (None, "")}
        run = self.tracker.run(recipe.hash, name, texts, self.parent)
        try:
            yield run
        except BaseException as error:
            run.set_tag("failure", one_line(error))
            run.end("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
            raise
        if not run.finished:
            run.end()


def plain(value: Any) -> dict[str, Any]:
    """A dataclass as JSON data (tuples become lists), for recipes and parameters."""
    assert is_dataclass(value)
    assert not isinstance(value, type)
    data: dict[str, Any] = json.loads(json.dumps(asdict(value)))
    return data


def one_line(error: BaseException) -> str:
    """An error's message on one line, its type in front where the message alone says little."""
    text = " ".join(str(error).split())
    return text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}"


def is_io_failure(_task: Task[Any, Any], _run: TaskRun, state: State[Any]) -> bool:
    """Whether a failed task is worth a retry: input or output that may work next time, and nothing else."""
    error = state.result(raise_on_failure=False)
    hopeless = (errno.ENOENT, errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR)
    return isinstance(error, OSError) and error.errno not in hopeless
