"""Figures as text, the same way everywhere: three significant digits, true minus signs, never ``nan``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

MISSING = "–"
MINUS = "−"


def finite(value: float | None) -> float | None:
    """The value, or None where there is none or it is NaN or infinite."""
    return None if value is None or not math.isfinite(value) else float(value)


def decimals(*values: float | None, digits: int = 3) -> int:
    """Decimal places that show the largest of the values with ``digits`` significant digits."""
    largest = max((abs(v) for v in map(finite, values) if v is not None), default=0.0)
    return 0 if largest == 0 else max(0, digits - 1 - math.floor(math.log10(largest)))


def number(value: float | None, places: int | None = None, sign: bool = False) -> str:
    """A figure with three significant digits, or with the given decimal places.

    Args:
        value: the figure; None, NaN and infinities give "–".
        places: decimal places; None chooses them from the value.
        sign: whether a positive value carries a plus.
    """
    value = finite(value)
    if value is None:
        return MISSING
    if value == 0 and places is None:
        return "0"
    if places is None and abs(value) < 1e-5:
        text = f"{value:.1e}"
    else:
        text = f"{value:,.{min(decimals(value) if places is None else places, 8)}f}"
        if float(text.replace(",", "")) == 0:  # -0.000 is 0.000
            text = text.removeprefix("-")
    plus = "+" if sign and value > 0 else ""
    return plus + text.replace("-", MINUS)


def interval(low: float | None, high: float | None, places: int | None = None, sign: bool = False) -> str:
    """``low to high``, or "" where an end is missing."""
    if finite(low) is None or finite(high) is None:
        return ""
    places = decimals(low, high) if places is None else places
    return f"{number(low, places, sign)} to {number(high, places, sign)}"


def difference(value: float | None, low: float | None, high: float | None) -> str:
    """A signed difference with its interval: ``+0.012 (−0.030 to +0.051)``."""
    places = 3 if max(map(abs, (finite(v) or 0.0 for v in (value, low, high)))) < 10 else 1
    ends = interval(low, high, places, sign=True)
    return number(value, places, sign=True) + (f" ({ends})" if ends else " (no interval)")


def probability(value: float | None) -> str:
    """A p-value: two decimals, three below 0.1, never "0.000"."""
    value = finite(value)
    if value is None:
        return MISSING
    if value < 0.001:
        return "< 0.001"
    return f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def duration(seconds: float | None) -> str:
    """Seconds below two minutes, else minutes, else hours: ``45 s``, ``3.2 min``, ``14.1 h``."""
    seconds = finite(seconds)
    if seconds is None:
        return MISSING
    if seconds < 120:
        return f"{number(seconds, 0 if seconds >= 10 else 1)} s"
    return f"{number(seconds / 60, 1)} min" if seconds < 7200 else f"{number(seconds / 3600, 1)} h"


def count(value: int | None) -> str:
    """``18,000``."""
    return MISSING if value is None else f"{value:,}"


def many(value: int, noun: str, plural: str = "") -> str:
    """``1 patient``, ``23 patients``."""
    return f"{value:,} {noun if value == 1 else plural or noun + 's'}"


def plain(value: Any) -> Any:
    """JSON data without NaN: mappings, lists, texts, numbers, booleans, null; everything else as its text.

    NaN and infinities become null, numpy's numbers become Python's.
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(entry) for entry in value]
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return plain(value.tolist())
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return finite(value)
    return str(value)
