"""Process environment that must stand before Prefect, MLflow and Ray are imported. Standard library only."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

DEFAULTS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
    # The terminal belongs to the progress bars; Prefect's own pages keep all messages.
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "pipeline,medgan,classifiers,flows",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",  # libraries are used outside flows too
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "RAY_DEDUP_LOGS": "0",  # lines of progress differ in their numbers alone
    "RAY_COLOR_PREFIX": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # what Ray will do by default; without it every worker warns
}
"""Beside these PREFECT_HOME."""


def prepare(runs: Path) -> None:
    """Sets defaults; whatever the user has set in the environment wins.

    Patients' data are near: nothing phones home. Without a Prefect server configured, Prefect's own temporary
    server keeps its database in the runs folder instead of the user's home.

    Args:
        runs: the runs folder.
    """
    for name, value in {**DEFAULTS, "PREFECT_HOME": str(runs.resolve() / "prefect")}.items():
        os.environ.setdefault(name, value)
    with contextlib.suppress(OSError):  # Prefect makes its home but not its parents; preflight says what is wrong
        Path(os.environ["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)


def process_alive(pid: int) -> bool:
    """Whether a process of this host lives."""
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
