"""What broken files make decoders do; worker processes import it."""

from __future__ import annotations

import ctypes
import os
import time
from pathlib import Path


def misbehave(item: str | int) -> str:
    """Crashes, hangs, grabs memory, raises, or answers."""
    match item:
        case "crash":
            ctypes.string_at(0)
        case "abort":
            os.abort()
        case "exit":
            os._exit(3)
        case "hang":
            time.sleep(600)
        case "memory":
            try:
                return str(len(bytearray(2**36)))
            except MemoryError:
                return "refused"
        case "raise":
            raise OSError(5, "Input/output error")
    return f"{item} done"


def count_calls(item: tuple[Path, int]) -> int:
    """Leaves a mark, so that a test can see how far ahead the work is done."""
    folder, number = item
    (folder / str(number)).touch()
    return number
