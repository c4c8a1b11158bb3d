"""What a killed process leaves behind in Prefect: flow runs that look alive, a temporary server without a master."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

import psutil
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import StateType
from prefect.states import Crashed

from flows.environment import process_alive

MASTER = "MEDAUG_PID"  # in a temporary server's environment: whose it is
SERVER = "prefect.server.api.server:create_app"


def process_tag() -> str:
    """The tag by which a later run recognises this process."""
    return f"process:{os.getpid()}@{socket.gethostname()}"


def stop_orphaned_servers() -> int:
    """Ends temporary Prefect servers of this Prefect home whose medaug process was killed.

    Returns:
        How many were ended.
    """
    home, ended = Path(os.environ["PREFECT_HOME"]).resolve(), 0
    for process in psutil.process_iter(["cmdline"]):
        with contextlib.suppress(psutil.Error):
            if SERVER not in (process.info["cmdline"] or []):
                continue
            environment = process.environ()
            own = Path(environment.get("PREFECT_HOME", "")).resolve() == home
            if own and MASTER in environment and not process_alive(int(environment[MASTER])):
                process.terminate()
                ended += 1
    return ended


def close_dead_flow_runs() -> int:
    """Marks flow runs as crashed that a process of this host began and that is gone.

    Returns:
        How many were marked.
    """
    host, closed = socket.gethostname(), 0
    running = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING])))
    with get_client(sync_client=True) as client:
        for run in client.read_flow_runs(flow_run_filter=running):
            for tag in run.tags:
                kind, _, process = tag.partition(":")
                pid, _, where = process.partition("@")
                if kind == "process" and where == host and not process_alive(int(pid)):
                    client.set_flow_run_state(run.id, Crashed(message="its process was killed"), force=True)
                    closed += 1
    return closed
