"""Stage: scans become one dataset artifact."""

from __future__ import annotations

import contextlib
import os
import traceback
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from flows.configuration import ExperimentConfig
from flows.context import is_io_failure
from flows.progress import progress_bar, say
from pipeline.dicom.deidentify import open_private
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
        PrivateError: the source or its labels are wrong.
        OSError: the disk or the network failed.
        RuntimeError: anything else.

    Prefect keeps the text of an error, and file names may hold patients' names: what others know about them goes to a
    private file, and only the kind of error to the server.
    """
    store = Store(config.runs / "artifacts")
    try:
        with progress_bar("ingest", "reads") as progress:
            return ingest(config.data, store, config.runs / "private", progress).path
    except MedaugError as error:
        raise PrivateError(str(error)) from None
    except Exception as error:
        where = config.runs / "private" / "ingest-error.txt"
        with contextlib.suppress(OSError):  # a full disk, say: the kind of error is told all the same
            where.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with open_private(where) as stream:
                stream.write(traceback.format_exc())
            say(f"ingest failed; what and where: {where}")
        if isinstance(error, OSError) and error.errno is not None:
            raise OSError(error.errno, os.strerror(error.errno)) from None
        raise RuntimeError(f"the ingest failed ({type(error).__name__}); see private/ingest-error.txt") from None
