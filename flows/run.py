"""Runs the experiment's flow in this process and says in plain words how it ended."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prefect import tags

from flows.configuration import ExperimentConfig
from flows.experiment import Until, experiment, preflight
from flows.progress import let_stages_run
from flows.stale import MASTER, close_dead_flow_runs, process_tag, stop_orphaned_servers
from flows.tables import ingest_tables
from pipeline.store import Artifact


def run_experiment(config: ExperimentConfig, until: Until) -> dict[str, Any]:
    """Checks, runs and sums up.

    Returns:
        ``status`` "done" or "failed in part", the flow's summary, and ``text`` for people.

    Raises:
        MedaugError: input or configuration is wrong.
        Exception: whatever else stopped the flow as a whole.
    """
    preflight(config)  # before Prefect's server starts: a typo should cost no ten seconds
    os.environ[MASTER] = str(os.getpid())
    stop_orphaned_servers()
    with tags("medaug", process_tag()):
        with interrupts_not_inherited():  # by Prefect's temporary server, which starts here
            close_dead_flow_runs()
        try:
            state = experiment(config, until, return_state=True)
        finally:
            let_stages_run()  # whoever was stopped has ended; what this process does next is another matter
    result = state.result(raise_on_failure=False)
    if isinstance(result, BaseException):
        raise result
    if not isinstance(result, dict):
        raise RuntimeError(f"the flow ended as {state.name}: {state.message}")
    return {**result, "text": _text(result, until)}


@contextmanager
def interrupts_not_inherited() -> Iterator[None]:
    """Processes that start within the block do not notice Ctrl-C, which a terminal sends to all of a command's.

    The server has to outlive it: else Prefect asks it for minutes to take down how the run ended.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _text(summary: dict[str, Any], until: Until) -> str:
    lines = [f"{summary['status']}: {summary['message']}"]
    if until == "ingest":
        lines.append(ingest_tables(Artifact.open(summary["dataset"]).meta))
    lines += [f"  {failure}" for failure in summary["failures"]]
    if summary["new_artifacts"] == 0:
        lines.append("Data and configuration are unchanged: everything was done already.")
    if summary.get("report"):
        lines.append(f"Report:  {summary['report']}")
    if summary.get("mlflow"):
        lines.append(f"MLflow:  mlflow ui --backend-store-uri {summary['mlflow']}")
    return "\n".join(lines)
