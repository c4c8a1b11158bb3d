"""Physical values to prepared images: window, polarity, padding, resize. Pure array functions.

The order is that of PS3.4 N.2 as far as it goes: the source's values after the Modality LUT, the VOI window, the
polarity; then padding is put to the low end and the image is resized, so that no padding value bleeds into the anatomy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from pipeline.config import nearest
from pipeline.records import MedaugError

Values = NDArray[np.float32]
Fit = Literal["pad", "crop", "stretch"]

HU_WINDOWS: dict[str, tuple[float, float]] = {
    "chest_wide": (-1000.0, 600.0),
    "lung": (-1350.0, 150.0),
    "mediastinum": (-160.0, 240.0),
    "abdomen": (-160.0, 240.0),
    "soft_tissue": (-150.0, 250.0),
    "liver": (-45.0, 105.0),
    "bone": (-450.0, 1050.0),
    "brain": (0.0, 80.0),
}
"""Named windows: Hounsfield units of black and white."""


@dataclass(frozen=True)
class Window:
    """What the network's -1 and +1 will stand for.

    Attributes:
        kind: "hu" (a fixed range of Hounsfield units: CT only), "range" (a fixed range of the source's values),
            "dicom" (what each file's own VOI transform shows) or "full" (all that the source's data type holds).
        low: physical value of black, for "hu" and "range".
        high: physical value of white.
    """

    kind: Literal["hu", "range", "dicom", "full"]
    low: float = 0.0
    high: float = 1.0

    @classmethod
    def parse(cls, setting: str | tuple[float, float]) -> Window:
        """Reads the configuration's window: a name, "dicom", "full", or [low, high].

        Raises:
            MedaugError: unknown name (names the nearest), or low not below high.
        """
        if not isinstance(setting, str):
            low, high = setting
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise MedaugError(f"window: [{low:g}, {high:g}], expected [low, high] with low below high")
            return cls("range", float(low), float(high))
        if setting == "dicom":
            return cls("dicom")
        if setting == "full":
            return cls("full")
        if setting in HU_WINDOWS:
            return cls("hu", *HU_WINDOWS[setting])
        known = [*HU_WINDOWS, "dicom", "full"]
        raise MedaugError(
            f"window: unknown name {setting!r}{nearest(setting, known)}; known: {', '.join(known)}, or [low, high]"
        )


def linear_window(values: Values, center: float, width: float, function: str = "LINEAR") -> Values:
    """DICOM's VOI windows (PS3.3 C.11.2.1.2 and C.11.2.1.3), output scaled to [0, 1].

    Args:
        values: float32, any shape, after the Modality LUT.
        center: Window Center (0028,1050).
        width: Window Width (0028,1051).
        function: VOI LUT Function (0028,1056): LINEAR, LINEAR_EXACT or SIGMOID.

    Returns:
        float32 in [0, 1].

    Raises:
        ValueError: a function or width that the standard does not allow.
    """
    if not (math.isfinite(center) and math.isfinite(width)):
        raise ValueError("window is not finite")
    if function == "LINEAR":
        if width < 1:
            raise ValueError("window width below 1")
        if width == 1:
            return (values > center - 0.5).astype(np.float32)
        return np.clip((values - (center - 0.5)) / (width - 1) + 0.5, 0, 1).astype(np.float32)
    if width <= 0:
        raise ValueError("window width not positive")
    if function == "LINEAR_EXACT":
        return np.clip((values - center) / width + 0.5, 0, 1).astype(np.float32)
    if function == "SIGMOID":
        exponent = np.clip(-4.0 * (values.astype(np.float64) - center) / width, -700, 700)
        return (1.0 / (1.0 + np.exp(exponent))).astype(np.float32)
    raise ValueError("unknown VOI LUT function")


def range_window(values: Values, low: float, high: float) -> Values:
    """``low`` to 0, ``high`` to 1, values outside clipped."""
    return np.clip((values - np.float32(low)) * np.float32(1 / (high - low)), 0, 1).astype(np.float32)


def luma(colour: NDArray[np.integer] | NDArray[np.floating]) -> Values:
    """RGB [..., 3] to grey [...] in the same unit (ITU-R BT.601)."""
    weights = np.array([0.299, 0.587, 0.114], np.float32)
    return np.asarray(colour[..., :3].astype(np.float32) @ weights, np.float32)


@dataclass(frozen=True)
class Geometry:
    """Size and placing of prepared images.

    Attributes:
        height: pixels.
        width: pixels.
        fit: "pad" keeps the whole image and adds black, "crop" cuts the middle out, "stretch" ignores the aspect.
    """

    height: int
    width: int
    fit: Fit = "pad"

    def apply(self, unit: Values, pixel_height: float = 1.0, pixel_width: float = 1.0) -> Values:
        """Resizes to [height, width] with antialiasing.

        Args:
            unit: float32 [H, W] in [0, 1].
            pixel_height: distance between rows, in any unit.
            pixel_width: distance between columns, in the same unit.

        Returns:
            float32 [height, width] in [0, 1].
        """
        rows, columns = unit.shape
        aspect = (columns * pixel_width) / (rows * pixel_height)  # width over height as a person sees it
        target = self.width / self.height
        if self.fit == "crop" and not math.isclose(aspect, target):
            if aspect > target:
                keep = max(1, round(columns * target / aspect))
                start = (columns - keep) // 2
                unit = unit[:, start : start + keep]
            else:
                keep = max(1, round(rows * aspect / target))
                start = (rows - keep) // 2
                unit = unit[start : start + keep]
        if self.fit != "pad" or math.isclose(aspect, target):
            return resize(unit, self.height, self.width)
        height = self.height if aspect < target else max(1, round(self.width / aspect))
        width = self.width if aspect > target else max(1, round(self.height * aspect))
        top, left = (self.height - height) // 2, (self.width - width) // 2
        canvas = np.zeros((self.height, self.width), np.float32)
        canvas[top : top + height, left : left + width] = resize(unit, height, width)
        return canvas

    def pixel_size(self, shape: tuple[int, int], spacing: tuple[float, float]) -> tuple[float, float]:
        """Size of a prepared pixel, given the source's shape [H, W] and spacing (between rows, between columns)."""
        extent_y, extent_x = shape[0] * spacing[0], shape[1] * spacing[1]
        by_height, by_width = extent_y / self.height, extent_x / self.width
        if self.fit == "stretch":
            return by_height, by_width
        side = max(by_height, by_width) if self.fit == "pad" else min(by_height, by_width)
        return side, side


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
    if columns != width:
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


@dataclass(frozen=True)
class Preparation:
    """All that is done to a decoded image; small and picklable, so that worker processes can have it.

    Attributes:
        window: what black and white stand for.
        geometry: size and placing.
        colour: what becomes of colour images: "set_aside" or "grey" (ITU-R BT.601 luma).
    """

    window: Window
    geometry: Geometry
    colour: Literal["set_aside", "grey"] = "set_aside"


def finish(
    unit: Values, padding: NDArray[np.bool_] | None, geometry: Geometry, spacing: tuple[float, float] | None
) -> Values:
    """Padding to black, resize, and [0, 1] to [-1, 1].

    Args:
        unit: float32 [H, W] in [0, 1], polarity settled (0 is black).
        padding: bool [H, W], true where the source holds no image.
        geometry: size and placing.
        spacing: mm between rows and between columns; None for square pixels.

    Returns:
        float32 [height, width] in [-1, 1].
    """
    if padding is not None:
        unit = np.where(padding, np.float32(0), unit)
    row_spacing, column_spacing = spacing or (1.0, 1.0)
    return geometry.apply(unit, row_spacing, column_spacing) * np.float32(2) - np.float32(1)
