"""Waiting for tasks of which some may fail."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from prefect.futures import PrefectFuture

from flows.context import one_line
from flows.progress import say

K = TypeVar("K")
T = TypeVar("T")


def settle(futures: Mapping[K, PrefectFuture[T]], what: Callable[[K], str], failures: list[str]) -> dict[K, T]:
    """Waits for all; a failed one becomes a line in ``failures`` and takes no other along.

    Args:
        futures: submitted tasks by key.
        what: names a key for people.
        failures: gets one line for each failure.

    Returns:
        The results of those that succeeded.
    """
    results = {}
    for key, future in futures.items():
        future.wait()
        if future.state.is_completed():
            results[key] = future.result()
        else:
            error = future.state.result(raise_on_failure=False)
            reason = one_line(error) if isinstance(error, BaseException) else str(future.state.message)
            failures.append(f"{what(key)} failed: {reason}")
            say(failures[-1])
    return results
