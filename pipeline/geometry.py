"""Size and placing of prepared images: body crop, resampling to a pixel size, fit, resize. Pure array functions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import csr_array

Values = NDArray[np.float32]
Fit = Literal["pad", "crop", "stretch"]
Size = tuple[float, float]
"""Height and width of a pixel."""

BODY_MARGIN = 0.02
"""Share of the body's extent that a crop to it leaves on each side."""
BODY_GRID = 128
"""The body is looked for on a grid of about this many points a side."""


@dataclass(frozen=True)
class Geometry:
    """Size and placing of prepared images.

    Attributes:
        height: pixels.
        width: pixels.
        fit: "pad" keeps the whole image and adds black, "crop" cuts the middle out, "stretch" ignores the aspect.
        mm: side of a prepared pixel in mm, or None: the image fills the frame whatever its scale. With it, what is
            smaller than the frame is padded and what is larger is cut, whatever ``fit`` says.
        body: whether to cut to the body first.
    """

    height: int
    width: int
    fit: Fit = "pad"
    mm: float | None = None
    body: bool = False

    def apply(self, image: Values, black: float, pixel: Size = (1.0, 1.0)) -> tuple[Values, Size]:
        """Resizes to [height, width] with antialiasing.

        Args:
            image: float32 [H, W].
            black: value of what is added around the image.
            pixel: distance between rows and between columns, in any one unit; in mm where :attr:`mm` is set.

        Returns:
            float32 [height, width], and the size of its pixels in the unit of ``pixel``.
        """
        rows, columns = image.shape
        extent = rows * pixel[0], columns * pixel[1]
        if self.mm is not None:
            shape = tuple(max(1, round(length / self.mm)) for length in extent)
            return self._frame(resize(image, *shape), black), (self.mm, self.mm)
        by_frame = extent[0] / self.height, extent[1] / self.width
        if self.fit == "stretch" or math.isclose(*by_frame):
            return resize(image, self.height, self.width), by_frame
        side = max(by_frame) if self.fit == "pad" else min(by_frame)
        if self.fit == "crop":
            keep = (
                min(rows, max(1, round(self.height * side / pixel[0]))),
                min(columns, max(1, round(self.width * side / pixel[1]))),
            )
            top, left = (rows - keep[0]) // 2, (columns - keep[1]) // 2
            return resize(image[top : top + keep[0], left : left + keep[1]], self.height, self.width), (side, side)
        shape = tuple(max(1, round(length / side)) for length in extent)
        return self._frame(resize(image, *shape), black), (side, side)

    def _frame(self, image: Values, black: float) -> Values:
        """The image in the middle of a black frame, cut where it is larger."""
        canvas = np.full((self.height, self.width), black, np.float32)
        into, out_of = zip(
            *(_middle(have, want) for have, want in zip(image.shape, canvas.shape, strict=True)), strict=True
        )
        canvas[into] = image[out_of]
        return canvas


def _middle(have: int, want: int) -> tuple[slice, slice]:
    """Where the middle of ``have`` pixels goes in ``want``, and which of them."""
    size = min(have, want)
    return slice((want - size) // 2, (want - size) // 2 + size), slice((have - size) // 2, (have - size) // 2 + size)


def body_box(inside: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Bounding box of the largest connected piece, with a small margin; everything where there is none.

    Args:
        inside: bool [H, W], true in the body and in whatever else is as bright (a table, a letter marker).

    Returns:
        Rows and columns.
    """
    rows, columns = inside.shape
    step = max(1, max(rows, columns) // BODY_GRID)
    # Opened, so that a table that touches the back is a piece of its own.
    pieces, count = ndimage.label(ndimage.binary_opening(inside[::step, ::step]))
    if count == 0:
        return slice(0, rows), slice(0, columns)
    largest = 1 + int(np.argmax(np.bincount(pieces.ravel())[1:]))
    box = ndimage.find_objects(pieces)[largest - 1]
    ends = []
    for side, length in zip(box, (rows, columns), strict=True):
        margin = step + round(BODY_MARGIN * (side.stop - side.start) * step)
        ends.append(slice(max(0, side.start * step - margin), min(length, side.stop * step + margin)))
    return ends[0], ends[1]


def resize(image: Values, height: int, width: int) -> Values:
    """Separable resampling: the mean over each target pixel's area when shrinking, linear when enlarging.

    Args:
        image: float32 [H, W].
        height: target rows.
        width: target columns.

    Returns:
        float32 [height, width].
    """
    rows, columns = image.shape
    if rows != height:
        image = _weights(rows, height) @ image
    if columns % width == 0:  # the usual case; the same weights, without the detour over the transpose
        factor = columns // width
        image = image.reshape(-1, width, factor) @ np.full(factor, 1 / factor, np.float32)
    elif columns != width:
        image = (_weights(columns, width) @ image.T).T
    return np.ascontiguousarray(image, np.float32)


@lru_cache(maxsize=64)
def _weights(source: int, target: int) -> csr_array:
    """Resampling matrix [target, source]; rows sum to 1.

    Sparse, since nearly all of it is zero, and because a dense product of this size sets off BLAS's threads, which cost
    far more than the product where cores are shared.
    """
    if target < source:  # overlap of each target pixel's interval with each source pixel's
        edges = np.arange(target + 1) * (source / target)
        pixel = np.arange(source)
        overlap = np.minimum(edges[1:, None], pixel + 1.0) - np.maximum(edges[:-1, None], pixel)
        weights = np.clip(overlap, 0, None)
    else:
        position = np.clip((np.arange(target) + 0.5) * (source / target) - 0.5, 0, source - 1)
        weights = np.clip(1 - np.abs(position[:, None] - np.arange(source)), 0, None)
    return csr_array((weights / weights.sum(axis=1, keepdims=True)).astype(np.float32))
