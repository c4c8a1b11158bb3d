"""Sizes of images: the pyramid that an image is halved through, and where a growing network stands in it."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.records import MedaugError

SMALLEST, LARGEST = 16, 1024
LARGEST_BASE = 16


@dataclass(frozen=True)
class Pyramid:
    """The sizes an image goes through: ``(height, width)·2^level``, level 0 to ``levels``.

    Attributes:
        height: of the smallest size, 4 pixels or a little more.
        width: of the smallest size.
        levels: number of doublings up to the image.
    """

    height: int
    width: int
    levels: int

    @classmethod
    def of(cls, height: int, width: int) -> Pyramid:
        """Halves an image's size while both sides are even and at least 4 pixels remain.

        Raises:
            MedaugError: the size is not ``(h, w)·2^k`` as the networks need it.
        """
        smallest, largest, levels = min(height, width), max(height, width), 0
        h, w = height, width
        while h % 2 == 0 and w % 2 == 0 and min(h, w) >= 8:
            h, w, levels = h // 2, w // 2, levels + 1
        if smallest < SMALLEST or largest > LARGEST or levels < 2 or max(h, w) > LARGEST_BASE or min(h, w) < 4:
            raise MedaugError(
                f"image size {height}x{width}: no network can make it; expected {SMALLEST} to {LARGEST} pixels, and "
                f"sides of 4 to {LARGEST_BASE} doubled at least twice, e.g. 32x32, 48x64 or 256x256; resize at ingest"
            )
        return cls(h, w, levels)

    def size(self, level: int) -> tuple[int, int]:
        """Height and width at a level."""
        return self.height << level, self.width << level


@dataclass(frozen=True)
class Stage:
    """Where a training stands: in growing (the last level and 1 for networks that do not grow), and with the class.

    Attributes:
        level: the network works at ``(height, width)·2^level`` of its pyramid.
        alpha: 0 to 1, weight of the newest level against the one below it.
        label: 0 to 1, weight of the class in both networks; below 1 in transitional training alone.
    """

    level: int
    alpha: float = 1.0
    label: float = 1.0
