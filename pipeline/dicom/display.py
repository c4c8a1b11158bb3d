"""Stored values to shown ones: Modality LUT, VOI, polarity, palette (PS3.3 C.11, PS3.4 N.2).

Polarity, the one thing about which readers disagree. Photometric Interpretation speaks about display: MONOCHROME1 shows
the lowest value *after the VOI transform* as white (PS3.3 C.7.6.3.1.2). Physical values know no polarity.

* Window "dicom" (and "full") is the display pipeline of PS3.4 N.2: Modality LUT, VOI, then MONOCHROME1 is inverted.
* A window in Hounsfield units looks at physical values. After the Modality LUT a CT's values are HU whatever the
  Photometric Interpretation (C.8.2.1), so equal HU give equal arrays and nothing is inverted. Files that break that
  rule (the complement stored under an ordinary rescale, so that air comes out far above bone) are recognised by the
  air around the body and turned back, with a remark.
* A numeric window on values without a physical unit (a radiograph) inverts MONOCHROME1, as such files store the
  complement.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut

from pipeline.dicom.codecs import DecodeError, Stored, stored_frames
from pipeline.geometry import Size, Values
from pipeline.preprocess import Preparation, Shown, to_grey, voi_window

BODY_HU = -500.0
"""Between air and fat: what is denser belongs to the body (or its table)."""
FEW_FRAMES = 16
"""Files with more frames that differ in their transforms are looked at again rather than remembered."""


@dataclass(frozen=True)
class Table:
    """A lookup table (C.11.1.1.1, C.11.2.1.1).

    Attributes:
        first: the value that is mapped to the first entry; all below it go there, too.
        data: entries, uint16.
        bits: of an entry.
    """

    first: int
    data: NDArray[np.uint16]
    bits: int

    def __call__(self, values: NDArray[Any]) -> Values:
        """The entries for values of any shape, float32."""
        index = np.clip(np.rint(values).astype(np.int64) - self.first, 0, len(self.data) - 1)
        return self.data[index].astype(np.float32)


@dataclass(frozen=True)
class Transform:
    """What turns stored values into physical and shown ones.

    Attributes:
        slope: Rescale Slope.
        intercept: Rescale Intercept.
        modality: a table instead of the two, or None.
        window: (center, width, function) of the first VOI window, or None.
        voi: a VOI table, which goes before the window, or None.
    """

    slope: float = 1.0
    intercept: float = 0.0
    modality: Table | None = None
    window: tuple[float, float, str] | None = None
    voi: Table | None = None

    def physical(self, stored: NDArray[Any]) -> Values:
        """Stored values to physical ones, float32, a fresh array.

        Raises:
            DecodeError: values that are not finite.
        """
        if self.modality is not None:
            return self.modality(stored)
        wide = stored.dtype.itemsize > 2 or stored.dtype.kind == "f"
        values: NDArray[np.floating[Any]] = stored.astype(np.float64 if wide else np.float32)
        if self.slope != 1:
            values *= self.slope
        values += self.intercept
        if wide and not np.isfinite(values).all():
            raise DecodeError("values that are not finite")
        return values.astype(np.float32, copy=False)


@dataclass(frozen=True)
class Display:
    """All that the pixel pass needs to know of a file's header.

    Attributes:
        stored: how and where the pixels are.
        unit: "HU" or "1".
        transforms: one for all frames, or one a frame.
        padding: stored values from .. to that stand for no image, or None.
        spacing: mm between rows and between columns, or None.
        aspect: the same without a unit.
        palette: the palette's attributes, or None.
    """

    stored: Stored
    unit: str
    transforms: tuple[Transform, ...]
    padding: tuple[int, int] | None = None
    spacing: Size | None = None
    aspect: Size = (1.0, 1.0)
    palette: Dataset | None = None

    @property
    def small(self) -> bool:
        """Whether it may be kept in memory between the two passes."""
        tables = any(one.modality is not None or one.voi is not None for one in self.transforms)
        return self.palette is None and not tables and len(self.transforms) <= FEW_FRAMES

    def frames(self, data: bytes, preparation: Preparation, notes: set[str]) -> Iterator[Shown]:
        """Decodes and shows frame by frame.

        Args:
            data: the file's bytes (of a deflated file: the inflated ones).
            preparation: window and what becomes of colours.
            notes: gets remarks.

        Raises:
            DecodeError: pixels that cannot be had.
            SetAside: colours where grey was not asked for.
        """
        for number, stored in enumerate(stored_frames(self.stored, data)):
            transform = self.transforms[min(number, len(self.transforms) - 1)]
            if self.stored.photometric == "PALETTE COLOR":
                stored = apply_color_lut(stored, self.palette)
            shown = (
                self._colour(stored, preparation)
                if stored.ndim == 3
                else self._grey(stored, transform, preparation, notes)
            )
            shown.spacing, shown.aspect = self.spacing, self.aspect
            yield shown

    def _colour(self, stored: NDArray[Any], preparation: Preparation) -> Shown:
        window = preparation.window
        highest = float(np.iinfo(stored.dtype).max) if self.palette is not None else float(self._range[1])
        grey = to_grey(stored, preparation)
        return Shown(grey, *((window.low, window.high) if window.kind == "range" else (0.0, highest)))

    def _grey(self, stored: NDArray[Any], transform: Transform, preparation: Preparation, notes: set[str]) -> Shown:
        window = preparation.window
        padding = self._padding(stored, transform, preparation)
        inverted = self.stored.photometric == "MONOCHROME1"
        values = transform.physical(stored)
        body = BODY_HU if self.unit == "HU" else None
        if window.kind == "dicom":
            return Shown(*_voi(values, transform, padding, notes), inverted, padding)
        if window.kind == "full":
            if stored.dtype.kind == "f":
                raise DecodeError("floating point pixels have no full range; set window: [low, high]")
            ends = transform.physical(np.array(self._range))
            return Shown(values, float(ends.min()), float(ends.max()), inverted, padding, body=body)
        if self.unit == "HU":
            if inverted and _is_complement(values, padding):
                values = np.float32(transform.physical(np.array(self._range)).sum()) - values
                notes.add("MONOCHROME1 with the complement of Hounsfield units; turned back")
            inverted = False
        return Shown(values, window.low, window.high, inverted, padding, body=body)

    def _padding(
        self, stored: NDArray[Any], transform: Transform, preparation: Preparation
    ) -> NDArray[np.bool_] | None:
        """Where the scanner filled in; None where nothing need be told apart: CT padding darker than the window."""
        if self.padding is None:
            return None
        low, high = self.padding
        ct_window = self.unit == "HU" and preparation.window.kind in ("hu", "range")
        if ct_window and self.stored.photometric == "MONOCHROME2" and not preparation.geometry.body:
            shown = transform.physical(np.array(self.padding))
            if transform.modality is None and shown.max() <= preparation.window.low:
                return None
        return stored == low if low == high else (stored >= low) & (stored <= high)

    @property
    def _range(self) -> tuple[int, int]:
        """The smallest and largest value that the stored bits can hold (PS3.3 C.7.6.3.1.1)."""
        bits = self.stored.bits
        return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if self.stored.signed else (0, 2**bits - 1)


def _is_complement(values: Values, padding: NDArray[np.bool_] | None) -> bool:
    """Whether the border of a CT slice, which is air (-1000 HU), comes out denser than any tissue."""
    border = np.ones(values.shape, bool)
    border[1:-1, 1:-1] = False
    if padding is not None:
        border &= ~padding
    return bool(border.any()) and float(np.median(values[border])) > 500


def _voi(
    values: Values, transform: Transform, padding: NDArray[np.bool_] | None, notes: set[str]
) -> tuple[Values, float, float]:
    """The file's VOI LUT or first window (C.11.2); without one, the range of its values."""
    if transform.voi is not None:
        return transform.voi(values), 0.0, float(2**transform.voi.bits - 1)
    if transform.window is None:
        notes.add("no VOI window in the file; the range of its own values was taken")
        return _own_range(values, padding)
    try:
        return voi_window(values, *transform.window)
    except ValueError:
        notes.add("a VOI window that the standard does not know; the range of its own values was taken")
        return _own_range(values, padding)


def _own_range(values: Values, padding: NDArray[np.bool_] | None) -> tuple[Values, float, float]:
    inside = values if padding is None or padding.all() else values[~padding]
    low, high = float(inside.min()), float(inside.max())
    return values, low, high if high > low else low + 1
