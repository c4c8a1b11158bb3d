"""Progress bars with an estimate of the time left, on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

from pipeline.records import Progress


@contextmanager
def progress_bar(title: str, unit: str) -> Iterator[Progress]:
    """A bar for one stage.

    On a terminal it moves; in a log file it writes a line every ten seconds at most.

    Args:
        title: what is being done.
        unit: of what is counted, e.g. "images".

    Yields:
        ``progress(done, total)``.
    """
    bar = tqdm(
        total=1,
        desc=f"{title:<34}",
        unit=f" {unit}",
        unit_scale=True,
        file=sys.stderr,
        dynamic_ncols=True,
        mininterval=0.2 if sys.stderr.isatty() else 10.0,
        bar_format="{desc} {percentage:3.0f}%|{bar:20}| {n_fmt}/{total_fmt}{unit} [{elapsed}<{remaining}, {rate_fmt}]",
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


def say(text: str) -> None:
    """One line on stderr, between the bars."""
    tqdm.write(text, file=sys.stderr)
