"""Ordinary images (PNG, JPEG, TIFF, BMP) in the same two passes as DICOM files."""

from __future__ import annotations

import io
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from pipeline.files import SetAside, Unreadable
from pipeline.geometry import Values
from pipeline.preprocess import Preparation, Shown, to_grey
from pipeline.scans import Found, Header

HIGHEST = {"1": 255.0, "L": 255.0, "LA": 255.0, "F": 1.0}
"""White of each of Pillow's grey modes but the integer ones, whose depth varies."""


def look_at_picture(stream: BinaryIO) -> Found:
    """The header pass: size and depth, no pixel.

    Args:
        stream: the file, seekable.

    Raises:
        SetAside: no image, or several in one file.
        Unreadable: a size beyond reason.
    """
    picture = _open(stream)
    columns, rows = picture.size
    return Found("image", header=Header(rows=rows, columns=columns, highest=_highest(picture)))


def _highest(picture: Image.Image) -> float:
    """The largest value of the data type; TIFF says how many bits it uses (tag 258)."""
    if not picture.mode.startswith("I"):
        return HIGHEST.get(picture.mode, 255.0)
    bits = getattr(picture, "tag_v2", {}).get(258, (16,))[0]
    return float(2 ** min(bits, 31) - 1)


def _open(stream: BinaryIO) -> Image.Image:
    try:
        picture = Image.open(stream)
    except UnidentifiedImageError:
        raise SetAside("no image file") from None
    except Image.DecompressionBombError:
        raise Unreadable("image size beyond the limits") from None
    if getattr(picture, "n_frames", 1) > 1:
        raise SetAside("an animation or a stack of images")
    return picture


def picture_frame(data: bytes, preparation: Preparation) -> Shown:
    """The pixel pass.

    Args:
        data: the file's bytes.
        preparation: what is done to the pixels.

    Raises:
        SetAside: colours where grey was not asked for.
        Unreadable: floating point values without a window of their own.
    """
    picture = _open(io.BytesIO(data))
    picture.load()
    if picture.mode == "F" and preparation.window.kind != "range":
        raise Unreadable("floating point pixels have no full range; set window: [low, high]")
    shown = shown_picture(*_grey(picture, preparation), preparation)
    # TIFF's WhiteIsZero (tag 262): Pillow turns 8 bits round, and leaves 16 as they are.
    shown.inverted = picture.mode.startswith("I") and getattr(picture, "tag_v2", {}).get(262) == 0
    return shown


def shown_picture(values: Values, highest: float, preparation: Preparation) -> Shown:
    """How an image that is not DICOM is shown.

    Args:
        values: float32 [H, W].
        highest: largest value of the data type: white for the windows "full" and "dicom".
        preparation: what is done to it.
    """
    window = preparation.window
    return Shown(values, *((window.low, window.high) if window.kind == "range" else (0.0, highest)))


def _grey(picture: Image.Image, preparation: Preparation) -> tuple[Values, float]:
    if picture.mode == "1":
        picture = picture.convert("L")
    if picture.mode in ("L", "LA"):
        return np.array(picture.convert("L"), np.float32), 255.0
    if picture.mode.startswith("I;16") or picture.mode in ("I", "F"):
        return np.array(picture, np.float32), _highest(picture)
    return to_grey(np.asarray(picture.convert("RGB")), preparation), 255.0
