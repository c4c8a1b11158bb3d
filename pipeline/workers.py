"""Worker processes that a broken file may crash, hang or fill with memory: only that file is lost."""

from __future__ import annotations

import ctypes
import errno
import gc
import itertools
import logging
import os
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import TimeoutError
from dataclasses import dataclass
from multiprocessing import get_all_start_methods, get_context
from typing import Any, TypeVar

from pebble import ProcessExpired, ProcessFuture, ProcessPool

Item = TypeVar("Item")
Result = TypeVar("Result")

CHUNK = 32
"""Files a task. A lost one is tried again file by file."""
STALLED = 8
"""So many files in a row that take too long are no fault of theirs."""
AHEAD = 3
"""Tasks waiting for each worker: enough to keep it busy, few enough to keep memory flat."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's mallopt(3)."""
KEPT = 2**25
"""Bytes up to which freed blocks are kept: the largest threshold that mallopt takes on 64 bits."""
PRELOAD = ["pipeline.reading", "pipeline.dicom.read"]
"""Imported once, in the process that workers are forked from, so that a new worker takes milliseconds."""


@dataclass(frozen=True)
class Bounds:
    """What one file may take.

    Attributes:
        seconds: of wall time.
        memory: bytes beyond what the worker holds at its start.
    """

    seconds: float = 60.0
    memory: int = 2**32


@dataclass(frozen=True)
class Lost:
    """What became of a file whose worker had to be given up.

    Attributes:
        reason: why.
    """

    reason: str


class Workers:
    """A pool of worker processes; a context manager.

    Args:
        count: processes.
        bounds: what one file may take.
    """

    def __init__(self, count: int, bounds: Bounds):
        self.count, self.bounds = count, bounds
        context: Any = get_context("forkserver" if "forkserver" in get_all_start_methods() else "spawn")
        context.set_forkserver_preload(PRELOAD)
        self.pool = ProcessPool(count, initializer=_start, initargs=(bounds.memory,), context=context)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.pool.close()
        else:
            self.pool.stop()
        self.pool.join()

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[tuple[Item, Result | Lost]]:
        """Calls a function for each item, in the items' order; a few ahead and no more.

        Args:
            function: picklable; what it raises ends the whole.
            items: picklable.

        Yields:
            Each item, and what the function returned or why its worker was lost.

        Raises:
            Exception: whatever the function raised.
        """
        stream = iter(items)
        waiting: deque[tuple[Sequence[Item], ProcessFuture[list[Result]]]] = deque()

        def feed() -> None:
            chunk = list(itertools.islice(stream, CHUNK))
            if chunk:
                waiting.append((chunk, self._start(function, chunk)))

        for _ in range(AHEAD * self.count):
            feed()
        while waiting:
            chunk, future = waiting.popleft()
            results: list[Result | Lost]
            try:
                results = list(future.result())
            except (TimeoutError, ProcessExpired):
                results = self._one_by_one(function, chunk)
            feed()
            yield from zip(chunk, results, strict=True)

    def _start(self, function: Callable[[Item], Result], chunk: Sequence[Item]) -> ProcessFuture[list[Result]]:
        future: ProcessFuture[list[Result]] = self.pool.schedule(
            _each, args=(function, chunk), timeout=self.bounds.seconds
        )
        return future

    def _one_by_one(self, function: Callable[[Item], Result], chunk: Sequence[Item]) -> list[Result | Lost]:
        """Each item in a task of its own, since their chunk was lost."""
        results: list[Result | Lost] = []
        late = 0
        for future in [self._start(function, [item]) for item in chunk]:
            try:
                results.append(future.result()[0])
                late = 0
            except TimeoutError:
                results.append(Lost(f"took longer than {self.bounds.seconds:g} s"))
                late += 1
                if late == STALLED:
                    raise OSError(errno.ETIMEDOUT, f"{late} files in a row took too long: the disk stalls") from None
            except ProcessExpired:
                results.append(Lost("crashed its decoder, or needed more memory than a file is given"))
        return results


def _each(function: Callable[[Item], Result], chunk: Sequence[Item]) -> list[Result]:
    return [function(item) for item in chunk]


def _start(beyond: int) -> None:
    gc.freeze()  # what is imported stays: collections need not look at it again, nor as often
    gc.set_threshold(10_000)
    logging.disable()  # the decoders' and parsers' remarks quote values
    warnings.simplefilter("ignore")
    _limit_memory(beyond)
    _keep_memory()


def _keep_memory() -> None:
    """Has the C library reuse freed images instead of handing each back to the system.

    Every image is a block large enough to be mapped and unmapped on its own, and touching fresh pages takes longer than
    all the arithmetic on them: the pixel pass runs three times as fast without.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc
        return
    mallopt(M_MMAP_THRESHOLD, KEPT)
    mallopt(M_TRIM_THRESHOLD, KEPT)


def _limit_memory(beyond: int) -> None:
    """Bounds this process's address space; where the system cannot, the time bound has to do."""
    try:
        import resource

        with open("/proc/self/statm", encoding="ascii") as statm:  # noqa: PTH123
            held = int(statm.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (held + beyond, held + beyond))
    except (ImportError, OSError, ValueError):
        pass


def default_workers() -> int:
    """One a core, up to eight: beyond that the disk is the limit."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, cores)
