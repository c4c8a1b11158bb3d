"""Modality and VOI transforms and palettes of a header, frame by frame (PS3.3 C.7.6.16, C.11)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydicom.dataset import Dataset

from pipeline.dicom.codecs import DecodeError, Stored
from pipeline.dicom.display import Table, Transform
from pipeline.dicom.elements import items, number, numbers, text


def read_transforms(ds: Dataset, stored: Stored) -> tuple[Transform, ...]:
    """One transform for all frames, or one a frame where an enhanced file states them frame by frame."""
    groups = items(ds, "PerFrameFunctionalGroupsSequence")
    if not groups:
        return (_transform(ds, 0, stored.signed),)
    if len(groups) < stored.frames:
        raise DecodeError(f"functional groups of {len(groups)} frames, expected {stored.frames}")
    frames = tuple(_transform(ds, frame, stored.signed) for frame in range(stored.frames))
    alike = all(one == frames[0] for one in frames if one.modality is None and one.voi is None)
    return frames[:1] if alike and frames[0].modality is None and frames[0].voi is None else frames


def _transform(ds: Dataset, frame: int, signed: bool) -> Transform:
    rescale = frame_macro(ds, frame, "PixelValueTransformationSequence") or ds
    voi = frame_macro(ds, frame, "FrameVOILUTSequence") or ds
    slope, intercept = number(rescale, "RescaleSlope"), number(rescale, "RescaleIntercept")
    for keyword, value in (("RescaleSlope", slope), ("RescaleIntercept", intercept)):
        if value is None and text(rescale, keyword):
            raise DecodeError(f"{keyword} is no number")
    if slope == 0:
        raise DecodeError("RescaleSlope is 0")
    centers, widths = numbers(voi, "WindowCenter"), numbers(voi, "WindowWidth")
    window = None
    if centers and widths:
        window = centers[0], widths[0], text(voi, "VOILUTFunction") or "LINEAR"
    slope, intercept = 1.0 if slope is None else slope, intercept or 0.0
    modality = _table(items(rescale, "ModalityLUTSequence"), signed)
    # The first mapped value of a VOI LUT has the sign of what the Modality LUT puts out (C.11.2.1.1).
    negative = modality is None and (signed or intercept < 0 or slope < 0)
    return Transform(slope, intercept, modality, window, _table(items(voi, "VOILUTSequence"), negative))


def _table(tables: Sequence[Dataset], signed: bool) -> Table | None:
    """The first item of a LUT sequence: descriptor (entries, first value mapped, bits) and data (C.11.1.1.1).

    An empty item is no table.

    Raises:
        DecodeError: a table with fewer entries than it says, or of an impossible depth.
    """
    if not tables:
        return None
    item = tables[0]
    if not item.get("LUTDescriptor") or not item.get("LUTData"):
        return None
    try:
        entries, first, bits = (int(value) for value in item.LUTDescriptor)
    except (TypeError, ValueError):
        raise DecodeError("lookup table damaged") from None
    entries = entries % 2**16 or 2**16
    if signed and first > 2**15 - 1:
        first -= 2**16
    raw = item.LUTData
    if isinstance(raw, bytes):
        order = ">u2" if item.original_encoding[1] is False else "<u2"
        data = np.frombuffer(raw, "u1" if len(raw) == entries else order)
    else:
        data = np.asarray(raw)
    if data.size < entries or not 8 <= bits <= 16:
        raise DecodeError("lookup table damaged")
    return Table(first, data[:entries].astype(np.uint16), bits)


def frame_macro(ds: Dataset, frame: int, sequence: str) -> Dataset | None:
    """A functional group of an enhanced multi-frame file (C.7.6.16): the frame's own, else the shared one."""
    own, shared = items(ds, "PerFrameFunctionalGroupsSequence"), items(ds, "SharedFunctionalGroupsSequence")
    for group in ([own[frame]] if frame < len(own) else []) + list(shared[:1]):
        found = items(group, sequence)
        if found:
            return found[0]
    return None


PALETTE = tuple(
    f"{kind}{colour}PaletteColorLookupTable{part}"
    for colour in ("Red", "Green", "Blue")
    for kind, part in (("", "Descriptor"), ("", "Data"), ("Segmented", "Data"))
)


def read_palette(ds: Dataset) -> Dataset:
    """The palette's attributes (C.7.9) alone, as ``pydicom.pixels.apply_color_lut`` wants them."""
    palette = Dataset()
    palette.file_meta = ds.file_meta  # for the byte order of the tables
    palette.set_original_encoding(*ds.original_encoding)
    for keyword in PALETTE:
        if keyword in ds:
            palette[keyword] = ds[keyword]
    return palette
