"""How many times sooner one training reaches a given quality than another (PGGAN, section 2, claims 2 to 6 times).

The given quality is the worse of the two trainings' best, so that both reach it and neither's end decides; what comes
after it does not count. Curves are those of validation patients: FID over images seen, and over seconds where the
training noted them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

Points = Sequence[tuple[float, float]]
Curves = Mapping[str, Points]

QUALITY = "validation.fid.domain"
CLOCKS = ("images_seen", "seconds")


def time_to(curve: Points, target: float) -> float | None:
    """When a falling curve first reaches the target, along straight lines between its points.

    Args:
        curve: (time, value) in the order of time.
        target: the value to reach.

    Returns:
        The time; None where the curve never falls to it. At its first point already there, it is that point's time.
    """
    before: tuple[float, float] | None = None
    for time, value in curve:
        if value <= target:
            if before is None:
                return time
            then, above = before
            return then + (time - then) * (above - target) / (above - value)
        before = (time, value)
    return None


def times_sooner(mine: Curves, others: Curves, clock: str) -> float | None:
    """How many times sooner ``mine`` is where the worse of the two ends; below 1 it is later.

    Args:
        mine: a training's curves; :data:`QUALITY` over images seen, and "seconds" over the same points.
        others: the curves of the training it is compared with.
        clock: one of :data:`CLOCKS`.

    Returns:
        The other's time over mine; None where a curve is missing or a time is 0.
    """
    courses = [_over(clock, curves) for curves in (mine, others)]
    if not all(courses):
        return None
    target = max(min(value for _, value in course) for course in courses)
    first, second = (time_to(course, target) for course in courses)
    assert first is not None
    assert second is not None
    return second / first if first > 0 and second > 0 else None


def _over(clock: str, curves: Curves) -> list[tuple[float, float]]:
    quality = [(x, y) for x, y in curves.get(QUALITY, ()) if math.isfinite(y)]
    if clock == "images_seen":
        return quality
    seconds = dict(curves.get("seconds", ()))
    return [(seconds[x], y) for x, y in quality if x in seconds]
