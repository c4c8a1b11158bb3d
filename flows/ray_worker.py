"""What each process does in which Ray runs tasks, before its first task. Standard library only."""

from __future__ import annotations

import contextlib
import os

FOLDER = "MEDAUG_FOLDER"
"""In the environment: the working directory of the process that runs the flow."""


def prepare_worker() -> None:
    """Relative paths mean what they mean in the flow's process, and nothing goes to its stdout.

    Ray prints its workers' stdout and stderr on those of the flow's process, whose stdout belongs to ``--json``.
    """
    with contextlib.suppress(OSError):  # a machine without that folder: tasks say which path they do not find
        os.chdir(os.environ[FOLDER])
    os.dup2(2, 1)
