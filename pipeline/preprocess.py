"""Physical values to prepared images: window, padding, geometry, polarity. Pure array functions.

The order is that of PS3.4 N.2 as far as it goes: the source's values after the Modality LUT, the VOI window, the
polarity. Padding is put to black before the image is resized, so that no padding value bleeds into the anatomy. What is
linear (the scale to [-1, 1], the polarity) comes last, on the small image: it commutes with resampling.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.config import nearest
from pipeline.files import SetAside
from pipeline.geometry import Geometry, Size, Values, body_box
from pipeline.records import MedaugError

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


@dataclass
class Shown:
    """An image and how it is shown: physical values, and the two of them that are black and white.

    Attributes:
        values: float32 [H, W]; :func:`finish` may write into it.
        low: value of black (of white, if inverted).
        high: value of white.
        inverted: whether the highest value is black.
        padding: bool [H, W], true where the source holds no image; or None.
        spacing: mm between rows and between columns, or None where unknown.
        aspect: the same without a unit, where the spacing is unknown.
        body: values from here on are the body's; None where only the picture tells.
    """

    values: Values
    low: float
    high: float
    inverted: bool = False
    padding: NDArray[np.bool_] | None = None
    spacing: Size | None = None
    aspect: Size = (1.0, 1.0)
    body: float | None = None


def voi_window(values: Values, center: float, width: float, function: str = "LINEAR") -> tuple[Values, float, float]:
    """DICOM's VOI windows (PS3.3 C.11.2.1.2 and C.11.2.1.3).

    Args:
        values: float32, any shape, after the Modality LUT.
        center: Window Center (0028,1050).
        width: Window Width (0028,1051).
        function: VOI LUT Function (0028,1056): LINEAR, LINEAR_EXACT or SIGMOID.

    Returns:
        Values, and the ones that are black and white: what a linear window clips at, unchanged values; for the others
        the window's output, 0 and 1.

    Raises:
        ValueError: a function or width that the standard does not allow.
    """
    if not (math.isfinite(center) and math.isfinite(width)):
        raise ValueError("window is not finite")
    if function == "LINEAR":
        if width < 1:
            raise ValueError("window width below 1")
        if width == 1:
            return (values > center - 0.5).astype(np.float32), 0.0, 1.0
        return values, center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2
    if width <= 0:
        raise ValueError("window width not positive")
    if function == "LINEAR_EXACT":
        return values, center - width / 2, center + width / 2
    if function == "SIGMOID":
        exponent = np.clip(-4.0 * (values.astype(np.float64) - center) / width, -700, 700)
        return (1.0 / (1.0 + np.exp(exponent))).astype(np.float32), 0.0, 1.0
    raise ValueError("unknown VOI LUT function")


def luma(colour: NDArray[np.integer] | NDArray[np.floating]) -> Values:
    """RGB [..., 3] to grey [...] in the same unit (ITU-R BT.601)."""
    weights = np.array([0.299, 0.587, 0.114], np.float32)
    return np.asarray(colour[..., :3].astype(np.float32) @ weights, np.float32)


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


def to_grey(colour: NDArray[np.integer], preparation: Preparation) -> Values:
    """Colour to grey, where that loses nothing or is asked for.

    Args:
        colour: [H, W, 3].
        preparation: says what becomes of colour images.

    Returns:
        float32 [H, W] in the same unit.

    Raises:
        SetAside: the image has colours and grey was not asked for.
    """
    red, green, blue = (colour[..., channel] for channel in range(3))
    if np.array_equal(red, green) and np.array_equal(red, blue):
        return red.astype(np.float32)
    if preparation.colour != "grey":
        raise SetAside("a colour image; set colour: grey to have it converted")
    return luma(colour)


BRIGHT = 0.1
"""From this share of the shown range on, a pixel without a physical unit counts as body."""


def finish(shown: Shown, geometry: Geometry) -> tuple[Values, Size | None]:
    """Clips to the window, puts padding to black, crops, resizes, and scales to [-1, 1] with black at -1.

    Args:
        shown: the image; its values are overwritten.
        geometry: size and placing.

    Returns:
        float32 [height, width] in [-1, 1], and the size of its pixels in mm where it is known.
    """
    values, low, high = shown.values, np.float32(shown.low), np.float32(shown.high)
    box = body_box(_body(shown)) if geometry.body else ...
    values = np.clip(values, low, high, out=values if values.flags.writeable else None)
    black = high if shown.inverted else low
    if shown.padding is not None:
        values[shown.padding] = black
    values = values[box]
    image, pixel = geometry.apply(values, float(black), shown.spacing or shown.aspect)
    scale = np.float32(2.0 / (float(shown.high) - float(shown.low)))
    image = np.clip((image - low) * scale - np.float32(1), -1, 1)
    return -image if shown.inverted else image, pixel if shown.spacing else None


def _body(shown: Shown) -> NDArray[np.bool_]:
    """Where the body is: by physical value where it has one, else by what is bright on the picture."""
    if shown.body is not None:
        inside = shown.values > shown.body
    else:
        share = (shown.values - shown.low) / (shown.high - shown.low)
        inside = (1 - share if shown.inverted else share) > BRIGHT
    return inside if shown.padding is None else inside & ~shown.padding
