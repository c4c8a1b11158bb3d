"""How many tasks run at once and on what.

A GAN has a GPU to itself; of the many short trainings of classifiers several share one, since none of them fills it. On
a CPU several tasks run side by side, each with a share of the cores. Threads of one or more processes agree about it by
file locks; on Ray each task has asked for its share beforehand, and takes what it was given.
"""

from __future__ import annotations

import getpass
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from flows.progress import go_on

POLL_SECONDS = 1.0
RAY_WORKER = "MEDAUG_RAY_WORKER"
"""Set in the environment of the processes in which Ray runs tasks."""
SHARES = 4
"""Small trainings at once on a GPU."""
CPU_WORKERS = 4
"""On a CPU small networks gain little from a second thread, and lose much where the cores are shared with other work
(each small operation waits for the slowest thread), so that several trainings of few threads each are faster."""


def workers() -> int:
    """Tasks at once: as many as the GPUs have shares, else up to four on the CPU."""
    return tasks_at_once(cores(), torch.cuda.device_count())


def tasks_at_once(cores: int, gpus: int) -> int:
    """Tasks at once on a machine with so many cores and GPUs."""
    return gpus * SHARES or min(CPU_WORKERS, cores)


def share_of_cores(cores: int, gpus: int) -> int:
    """Cores for each task on a machine with so many cores and GPUs."""
    return max(1, cores // tasks_at_once(cores, gpus))


def share_cores() -> None:
    """Limits the calling thread's operations to its share of the cores (PyTorch keeps this number for each thread)."""
    if RAY_WORKER in os.environ:
        torch.set_num_threads(max(1, int(_granted().get_assigned_resources().get("CPU", 1))))
    else:
        torch.set_num_threads(share_of_cores(cores(), torch.cuda.device_count()))


def describe() -> str:
    """What the trainings run on, for reports."""
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return ", ".join(names) or f"CPU, {cores()} cores, {workers()} tasks at once"


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _granted() -> Any:
    """What Ray has given to the running task."""
    import ray

    return ray.get_runtime_context()


@contextmanager
def training_device(configured: str, small: bool = False) -> Iterator[str]:
    """A device, or a share of one, that no other training of this user on this machine holds.

    Each share is a file lock, which the operating system releases when its process is killed. The CPU is not locked.
    A task on Ray holds what it asked for already: Ray shows its process that GPU alone, which is number 0 there.

    Args:
        configured: "auto", "cpu", "cuda" or "cuda:N".
        small: whether a share of a GPU will do; else all its shares are taken.

    Yields:
        "cpu" or "cuda:N".

    Raises:
        Stopped: interrupted while it waited.
    """
    if RAY_WORKER in os.environ:
        given = _granted().get_accelerator_ids().get("GPU", []) if configured != "cpu" else []
        yield "cuda:0" if given else "cpu"
        return
    count = torch.cuda.device_count() if configured != "cpu" else 0
    if count == 0:
        yield "cpu"
        return
    wanted = [int(configured.partition(":")[2])] if ":" in configured else list(range(count))
    # First shares of all GPUs before second ones, so that small trainings spread.
    choices = [[(gpu, share)] for share in range(SHARES) for gpu in wanted]
    if not small:
        choices = [[(gpu, share) for share in range(SHARES)] for gpu in wanted]
    while True:
        for choice in choices:
            with ExitStack() as held:
                if all(_taken(gpu, share, held) for gpu, share in choice):
                    yield f"cuda:{choice[0][0]}"
                    return
        go_on()
        time.sleep(POLL_SECONDS)


def _taken(gpu: int, share: int, held: ExitStack) -> bool:
    """Takes a share of a GPU, to be given back with the stack; False where another training has it."""
    lock = FileLock(Path(tempfile.gettempdir()) / f"medaug-{getpass.getuser()}-cuda{gpu}-{share}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    held.callback(lock.release)
    return True
