"""DICOM files to prepared images: tolerant of what is harmless, with a reason for what is not.

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

import io
import math
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.pixels import apply_modality_lut
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RTDoseStorage,
    SegmentationStorage,
)

from pipeline.dicom.codecs import (
    COLOUR,
    GREY,
    DecodeError,
    check_deflated,
    check_size,
    frames,
    padding_mask,
    stored_range,
)
from pipeline.preprocess import Preparation, Values, finish, linear_window, range_window
from pipeline.scans import Header, Loaded, SetAside, to_grey

NO_PATIENT_IMAGE = {SegmentationStorage: "a segmentation", RTDoseStorage: "a dose distribution"}


def read_dicom(data: bytes, preparation: Preparation, tag: str | None = None) -> Loaded:
    """Reads one DICOM file.

    Args:
        data: the file's bytes.
        preparation: what is done to the pixels.
        tag: keyword of the attribute that holds the label.

    Returns:
        Prepared frames, or status "quarantined" with the reason.

    Raises:
        SetAside: no DICOM file, no image of a patient, or not of the kind asked for.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's remarks quote values
        ds = _parse(data)
        _check_kind(ds, preparation)
        notes: set[str] = set()
        try:
            count = check_size(ds)
            header = _header(ds, count, tag)
            if header.unit == "HU" and _text(ds, "RescaleType") not in ("", "HU", "HU_MOD"):  # C.8.2.1: absent means HU
                notes.add("CT with a Rescale Type other than HU; taken for HU")
            images = tuple(_images(ds, header, preparation, notes))
        except DecodeError as reason:
            return Loaded("quarantined", str(reason))
    return Loaded("read", header=header, images=images, notes=frozenset(notes))


def _parse(data: bytes) -> Dataset:
    """A dataset, with or without the preamble and file meta information of PS3.10 7.1."""
    if data[128:132] == b"DICM":
        if DeflatedExplicitVRLittleEndian.encode() in data[132:1156]:
            length = int.from_bytes(data[140:144], "little")  # File Meta Information Group Length (0002,0000)
            check_deflated(data, 144 + length)
        return dcmread(io.BytesIO(data))
    if data[:2] not in (
        b"\x08\x00",
        b"\x02\x00",
        b"\x00\x08",
    ):  # a group number that files without a preamble open with
        raise SetAside("no DICOM file")
    ds = dcmread(io.BytesIO(data), force=True)
    if "SOPClassUID" not in ds and "Rows" not in ds:
        raise SetAside("no DICOM file")
    if "TransferSyntaxUID" not in ds.file_meta:
        implicit, little = ds.original_encoding
        native = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        ds.file_meta.TransferSyntaxUID = native
    return ds


def _check_kind(ds: Dataset, preparation: Preparation) -> None:
    """Sets aside what is no image of a patient, or of no use under the configured window."""
    sop_class = UID(str(ds.get("SOPClassUID", "")))
    if not any(keyword in ds for keyword in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        name = sop_class.name if sop_class and sop_class.name != str(sop_class) else "unknown kind"
        raise SetAside(f"no pixel data ({name})")
    if sop_class in NO_PATIENT_IMAGE:
        raise SetAside(NO_PATIENT_IMAGE[sop_class])
    if "LOCALIZER" in _values(ds.get("ImageType")):
        raise SetAside("a localizer")
    if preparation.window.kind == "hu" and _text(ds, "Modality") != "CT":
        modality = _text(ds, "Modality") or "unknown"
        raise SetAside(f"modality {modality[:16]} has no Hounsfield units; set window: dicom or [low, high]")
    photometric = _text(ds, "PhotometricInterpretation")
    if photometric not in (*GREY, *COLOUR):
        raise SetAside("photometric interpretation missing or unknown")
    if photometric in COLOUR and preparation.colour != "grey":
        raise SetAside("a colour image; set colour: grey to have it converted")


def _images(ds: Dataset, header: Header, preparation: Preparation, notes: set[str]) -> Iterator[Values]:
    for number, stored in enumerate(frames(ds)):
        if stored.ndim == 3:
            unit, padding = _colour(ds, stored, preparation), None
        else:
            padding = padding_mask(ds, stored)
            unit = _grey(ds, number, stored, padding, preparation, header.unit, notes)
        yield finish(unit, padding, preparation.geometry, header.spacing or _aspect(ds))


def _colour(ds: Dataset, stored: NDArray[Any], preparation: Preparation) -> Values:
    window, grey = preparation.window, to_grey(stored, preparation)
    highest = (
        float(np.iinfo(stored.dtype).max) if ds.PhotometricInterpretation == "PALETTE COLOR" else stored_range(ds)[1]
    )
    return range_window(grey, *((window.low, window.high) if window.kind == "range" else (0.0, float(highest))))


def _grey(
    ds: Dataset,
    number: int,
    stored: NDArray[Any],
    padding: NDArray[np.bool_] | None,
    preparation: Preparation,
    unit: str,
    notes: set[str],
) -> Values:
    """Stored values of one frame to [0, 1], 0 black."""
    window = preparation.window
    inverted = ds.PhotometricInterpretation == "MONOCHROME1"
    values = _rescale(ds, number, stored)
    if not np.isfinite(values).all():
        raise DecodeError("values that are not finite")
    if window.kind == "dicom":
        shown = _voi(ds, number, values, padding, notes)
    elif window.kind == "full":
        if not np.issubdtype(stored.dtype, np.integer):
            raise DecodeError("floating point pixels have no full range; set window: [low, high]")
        ends = _rescale(ds, number, np.array(stored_range(ds)))
        shown = range_window(values, float(ends.min()), float(ends.max()))
    elif unit == "HU":
        if inverted and _is_complement(values, padding):
            ends = _rescale(ds, number, np.array(stored_range(ds)))
            values = np.float32(ends.sum()) - values
            notes.add("MONOCHROME1 with the complement of Hounsfield units; turned back")
        return range_window(values, window.low, window.high)
    else:
        shown = range_window(values, window.low, window.high)
    return 1 - shown if inverted else shown


def _is_complement(values: Values, padding: NDArray[np.bool_] | None) -> bool:
    """Whether the border of a CT slice, which is air (-1000 HU), comes out denser than any tissue."""
    border = np.ones(values.shape, bool)
    border[1:-1, 1:-1] = False
    if padding is not None:
        border &= ~padding
    return bool(border.any()) and float(np.median(values[border])) > 500


def _rescale(ds: Dataset, number: int, stored: NDArray[Any]) -> Values:
    """The Modality LUT (C.11.1), or the frame's own Pixel Value Transformation (C.7.6.16.2.9)."""
    source = _macro(ds, number, "PixelValueTransformationSequence") or ds
    tables = source.get("ModalityLUTSequence")
    if tables and tables[0].get("LUTDescriptor") and tables[0].get("LUTData"):  # an empty item is no table
        return np.asarray(apply_modality_lut(stored, source), np.float32)
    slope, intercept = _first(source.get("RescaleSlope")), _first(source.get("RescaleIntercept"))
    values = stored.astype(np.float64) * (1.0 if slope is None else slope) + (intercept or 0.0)
    return np.asarray(values, np.float32)


def _voi(ds: Dataset, number: int, values: Values, padding: NDArray[np.bool_] | None, notes: set[str]) -> Values:
    """The file's VOI LUT or first window (C.11.2); without one, the range of its values."""
    source = _macro(ds, number, "FrameVOILUTSequence") or ds
    tables = source.get("VOILUTSequence")
    if tables and tables[0].get("LUTDescriptor") and tables[0].get("LUTData"):
        return _lookup(tables[0], values, bool(ds.get("PixelRepresentation", 0)))
    center, width = (_first(source.get(keyword)) for keyword in ("WindowCenter", "WindowWidth"))
    if center is None or width is None:
        notes.add("no VOI window in the file; the range of its own values was taken")
        inside = values if padding is None or padding.all() else values[~padding]
        low, high = float(inside.min()), float(inside.max())
        return range_window(values, low, high if high > low else low + 1)
    function = _text(source, "VOILUTFunction") or "LINEAR"
    try:
        return linear_window(values, center, width, function)
    except ValueError as error:
        raise DecodeError(str(error)) from None


def _lookup(table: Dataset, values: Values, signed: bool) -> Values:
    """A VOI LUT item: descriptor (entries, first value mapped, bits) and data (C.11.2.1.1)."""
    entries, first, bits = (int(number) for number in table.LUTDescriptor)
    entries = entries or 2**16
    if signed and first > 2**15 - 1:
        first -= 2**16
    raw = table.LUTData
    data = np.frombuffer(raw, "<u2") if isinstance(raw, bytes) else np.asarray(raw)
    if data.size < entries or not 8 <= bits <= 16:
        raise DecodeError("VOI LUT damaged")
    index = np.clip(np.rint(values).astype(np.int64) - first, 0, entries - 1)
    return (data[:entries].astype(np.float32) / np.float32(2**bits - 1))[index].clip(0, 1)


def _macro(ds: Dataset, number: int, sequence: str) -> Dataset | None:
    """A functional group of an enhanced multi-frame file (C.7.6.16): the frame's own, else the shared one."""
    own, shared = ds.get("PerFrameFunctionalGroupsSequence"), ds.get("SharedFunctionalGroupsSequence")
    groups = ([own[number]] if own and number < len(own) else []) + ([shared[0]] if shared else [])
    for group in groups:
        items = group.get(sequence)
        if items:
            macro: Dataset = items[0]
            return macro
    return None


def _header(ds: Dataset, count: int, tag: str | None) -> Header:
    patient, study = _text(ds, "PatientID"), _text(ds, "StudyInstanceUID")
    modality = _text(ds, "Modality")
    return Header(
        patient=f"{_text(ds, 'IssuerOfPatientID')}\0{patient}" if patient else study,
        patient_from="patient" if patient else "study" if study else "file",
        study=study,
        instance=_text(ds, "SOPInstanceUID"),
        modality=modality[:16],
        unit="HU" if modality == "CT" else "1",
        manufacturer=_text(ds, "Manufacturer"),
        kernel=" ".join(_values(ds.get("ConvolutionKernel"))),
        contrast_agent=_text(ds, "ContrastBolusAgent").upper() not in ("", "NONE", "NO"),
        photometric=_text(ds, "PhotometricInterpretation"),
        rows=int(ds.Rows),
        columns=int(ds.Columns),
        frames=count,
        spacing=_spacing(ds),
        tag="\\".join(_values(ds.get(tag))) if tag else "",
    )


def _spacing(ds: Dataset) -> tuple[float, float] | None:
    """Pixel Spacing, else Imager Pixel Spacing: mm between rows, between columns (10.7.1.3); None if unusable."""
    measures = _macro(ds, 0, "PixelMeasuresSequence") or ds
    return _pair(measures.get("PixelSpacing")) or _pair(ds.get("ImagerPixelSpacing"))


def _aspect(ds: Dataset) -> tuple[float, float] | None:
    """Pixel Aspect Ratio (C.7.6.3.1.7): vertical and horizontal interval, without a unit."""
    return _pair(ds.get("PixelAspectRatio"))


def _pair(value: Any) -> tuple[float, float] | None:
    try:
        vertical, horizontal = (float(number) for number in value)
    except (TypeError, ValueError):
        return None
    usable = all(math.isfinite(number) and number > 0 for number in (vertical, horizontal))
    return (vertical, horizontal) if usable and 0.05 < vertical / horizontal < 20 else None


def _first(value: Any) -> float | None:
    numbers = value if isinstance(value, MultiValue | list | tuple) else [value]
    try:
        return float(numbers[0])
    except (TypeError, ValueError, IndexError):
        return None


def _values(value: Any) -> list[str]:
    if value is None:
        return []
    return (
        [str(item).strip() for item in value] if isinstance(value, MultiValue | list | tuple) else [str(value).strip()]
    )


def _text(ds: Dataset, keyword: str) -> str:
    return str(ds.get(keyword) or "").strip()
