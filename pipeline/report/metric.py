"""A metric in words."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """A metric's name for readers.

    Attributes:
        label: short name.
        better: "higher", "lower" or "" where neither is better.
        meaning: one line.
        ends: the least and the greatest value that it can have; an interval's end beyond them is printed as them.
    """

    label: str
    better: str
    meaning: str
    ends: tuple[float, float] = (-math.inf, math.inf)


SHARE, POSITIVE = (0.0, 1.0), (0.0, math.inf)
