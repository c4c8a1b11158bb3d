"""How many tasks run at once and on what: one training a GPU; on a CPU several, each with a share of the cores."""

from __future__ import annotations

import getpass
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from filelock import FileLock, Timeout

POLL_SECONDS = 1.0
CPU_WORKERS = 4
"""On a CPU small networks gain little from a second thread, and lose much where the cores are shared with other work
(each small operation waits for the slowest thread), so that several trainings of few threads each are faster."""


def workers() -> int:
    """Tasks at once: one for each GPU, else up to four on the CPU."""
    return torch.cuda.device_count() or min(CPU_WORKERS, _cores())


def share_cores() -> None:
    """Limits the calling thread's operations to its share of the cores (PyTorch keeps this number for each thread)."""
    torch.set_num_threads(max(1, _cores() // workers()))


def describe() -> str:
    """What the trainings run on, for reports."""
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return ", ".join(names) or f"CPU, {_cores()} cores, {workers()} tasks at once"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def training_device(configured: str) -> Iterator[str]:
    """A device that no other training of this user on this machine holds.

    The lock is a file lock, which the operating system releases when its process is killed. The CPU is not locked.

    Args:
        configured: "auto", "cpu", "cuda" or "cuda:N".

    Yields:
        "cpu" or "cuda:N".
    """
    count = torch.cuda.device_count() if configured != "cpu" else 0
    if count == 0:
        yield "cpu"
        return
    wanted = [int(configured.partition(":")[2])] if ":" in configured else list(range(count))
    folder = Path(tempfile.gettempdir())
    while True:
        for index in wanted:
            lock = FileLock(folder / f"medaug-{getpass.getuser()}-cuda{index}.lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            try:
                yield f"cuda:{index}"
            finally:
                lock.release()
            return
        time.sleep(POLL_SECONDS)
