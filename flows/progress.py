"""Progress with an estimate of the time left, on stderr: bars on a terminal, now and then a line in a log file.

Where a stage tells its progress it is stopped, too: an interrupt reaches the main thread alone, and a pool's threads
would train on for days before the process could end.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

from pipeline.records import Progress

LINE_SECONDS = 10.0
FORMAT = "{desc} {percentage:3.0f}% |{bar:20}| {n_fmt}/{total_fmt}{unit} [{elapsed}<{remaining}, {rate_fmt}]"

_stopping = threading.Event()


class Stopped(KeyboardInterrupt):
    """The run was interrupted, in another thread than this stage's."""


def stop_stages() -> None:
    """Makes every stage in this process raise :class:`Stopped` where it next tells its progress."""
    _stopping.set()


def let_stages_run() -> None:
    """Takes :func:`stop_stages` back."""
    _stopping.clear()


def go_on() -> None:
    """Nothing, or the end of a stage that is to stop.

    Raises:
        Stopped: after :func:`stop_stages`.
    """
    if _stopping.is_set():
        raise Stopped("interrupted")


@contextmanager
def progress_bar(title: str, unit: str) -> Iterator[Progress]:
    """Shows one stage's progress.

    Args:
        title: what is being done.
        unit: of what is counted, e.g. "images".

    Yields:
        ``progress(done, total)``, which raises :class:`Stopped` after :func:`stop_stages`.
    """
    if sys.stderr.isatty():
        with _bar(title, unit) as update:
            yield _stoppable(update)
    else:
        yield _stoppable(_lines(title, unit))


def _stoppable(update: Progress) -> Progress:
    def update_or_stop(done: int, total: int) -> None:
        update(done, total)
        go_on()

    return update_or_stop


@contextmanager
def _bar(title: str, unit: str) -> Iterator[Progress]:
    bar = tqdm(
        total=1,
        desc=f"{title:<38}",
        unit=f" {unit}",
        unit_scale=True,
        dynamic_ncols=True,
        bar_format=FORMAT,
        file=sys.stderr,
    )

    def update(done: int, total: int) -> None:
        bar.total = total
        if bar.n == 0:
            bar.initial = done  # a resumed training starts late: the rate counts what this process did
        bar.n = done
        bar.update(0)

    try:
        yield update
    finally:
        bar.refresh()
        bar.close()


def _lines(title: str, unit: str) -> Progress:
    started = last = time.monotonic()
    first: int | None = None

    def update(done: int, total: int) -> None:
        nonlocal last, first
        now = time.monotonic()
        first = done if first is None else first
        if done >= total or now - last >= LINE_SECONDS:
            last = now
            line = tqdm.format_meter(
                done,
                total,
                now - started,
                ncols=120,
                prefix=f"{title:<38}",
                unit=f" {unit}",
                unit_scale=True,
                bar_format=FORMAT,
                initial=first if first < done else 0,
            )
            sys.stderr.write(line + "\n")
            sys.stderr.flush()

    return update


def say(text: str) -> None:
    """One line on stderr, between the bars."""
    tqdm.write(text, file=sys.stderr)
