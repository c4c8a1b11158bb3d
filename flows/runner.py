"""What runs an experiment's tasks: the flow's own threads, or Ray where the configuration says so."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from flows.configuration import RunnerConfig
from flows.context import Context


def cluster_address(runner: RunnerConfig) -> str | None:
    """HOST:PORT of the Ray cluster that is asked for; None for a Ray on this machine alone."""
    return runner.address or os.environ.get("RAY_ADDRESS")


@contextmanager
def tasks_run_on(context: Context) -> Iterator[None]:
    """Within the block, inside a flow, submitted tasks run where the configuration says.

    Prefect ties a runner to a flow before the flow has seen its parameters. Here it is a parameter, so that a command,
    a schedule and a form on a server's page choose it in the same way.

    Args:
        context: the experiment.

    Raises:
        MedaugError: Ray's machines cannot reach what they need.
    """
    if context.config.runner.kind == "threads":
        yield
        return
    from flows.on_ray import tasks_run_on_ray  # an optional package

    with tasks_run_on_ray(context):
        yield
