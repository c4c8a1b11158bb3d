"""Stage: scans become one dataset artifact."""

from __future__ import annotations

from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from flows.configuration import ExperimentConfig
from flows.context import is_io_failure
from flows.progress import progress_bar
from pipeline.ingest import ingest
from pipeline.records import MedaugError, PrivateError
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

    Raises:
        PrivateError: the source or its labels are wrong. Prefect keeps the text of an error, and file names may hold
            patients' names.
    """
    store = Store(config.runs / "artifacts")
    try:
        with progress_bar("ingest", "reads") as progress:
            return ingest(config.data, store, config.runs / "private", progress).path
    except MedaugError as error:
        raise PrivateError(str(error)) from None
