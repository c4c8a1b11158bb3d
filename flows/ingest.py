"""Stage: scans become one dataset artifact."""

from __future__ import annotations

from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from flows.configuration import ExperimentConfig
from flows.context import is_io_failure
from flows.progress import progress_bar
from pipeline.ingest import ingest
from pipeline.store import Store


@task(
    name="ingest",
    tags=["ingest"],
    retries=2,
    retry_delay_seconds=[2, 10],
    retry_condition_fn=is_io_failure,
    cache_policy=NO_CACHE,
)
def ingest_scans(config: ExperimentConfig) -> Path:
    """Reads, prepares and splits the scans; unchanged ones are not read again.

    Returns:
        The dataset artifact's folder.
    """
    store = Store(config.runs / "artifacts")
    with progress_bar("ingest", "files") as progress:
        return ingest(config.data, store, config.runs / "private", progress).path
