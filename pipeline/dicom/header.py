"""A DICOM file's header: what kind of file it is, whom it shows, and how its pixels are to be read and shown."""

from __future__ import annotations

import io
import re
import zlib
from typing import Any, BinaryIO

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RTDoseStorage,
    SegmentationStorage,
)

from pipeline.dicom.codecs import COLOUR, GREY, DecodeError, describe, locate
from pipeline.dicom.display import Display
from pipeline.dicom.elements import items, number, numbers, patient_identity, tag_of, text, texts
from pipeline.dicom.kept import MODALITIES
from pipeline.dicom.transforms import frame_macro, read_palette, read_transforms
from pipeline.files import MAX_BYTES, SetAside
from pipeline.geometry import Size
from pipeline.preprocess import Preparation
from pipeline.scans import Header, Rules

NO_PATIENT_IMAGE = {SegmentationStorage: "a segmentation", RTDoseStorage: "a dose distribution"}
SCREENS = {"SCREEN SAVE", "SCREENSAVE", "SCREEN_SAVE", "DOSE_INFO", "DOSE INFO", "DOSE REPORT", "CT_SOM5 PROT"}
"""What scanners call pictures of their own screens in ImageType."""
DOSE_SHEET = re.compile(r"\bdose (report|info|record|summary|sheet)|patient protocol", re.IGNORECASE)

HEAD = 2**15
"""Bytes in which most headers end."""

AUDITED = (
    "Manufacturer", "ManufacturerModelName", "StationName", "InstitutionName", "SoftwareVersions", "Modality",
    "ImageType", "SeriesDescription", "ProtocolName", "BodyPartExamined", "PatientPosition", "PatientSex",
    "PatientAge", "StudyDate", "ContrastBolusAgent", "ConvolutionKernel", "ScanOptions", "KVP", "XRayTubeCurrent",
    "ExposureTime", "SliceThickness", "ReconstructionDiameter", "PixelSpacing", "Rows", "Columns", "BitsStored",
    "PixelRepresentation", "PhotometricInterpretation", "RescaleIntercept", "PixelPaddingValue", "WindowCenter",
    "LossyImageCompression",
)  # fmt: skip
"""Header fields that may give a label away; looked at across patients, and not kept."""

_READ = (
    *AUDITED, "SpecificCharacterSet", "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID",
    "PatientID", "IssuerOfPatientID", "SamplesPerPixel", "PlanarConfiguration", "NumberOfFrames", "BitsAllocated",
    "HighBit", "PixelPaddingRangeLimit", "PixelAspectRatio", "ImagerPixelSpacing", "BurnedInAnnotation",
    "SyntheticData",
    "RescaleSlope", "RescaleType", "ModalityLUTSequence", "VOILUTSequence", "WindowWidth", "VOILUTFunction",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths", "RedPaletteColorLookupTableDescriptor", "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor", "RedPaletteColorLookupTableData", "GreenPaletteColorLookupTableData",
    "BluePaletteColorLookupTableData", "SegmentedRedPaletteColorLookupTableData",
    "SegmentedGreenPaletteColorLookupTableData", "SegmentedBluePaletteColorLookupTableData",
)  # fmt: skip
READ_TAGS = tuple(tag_of(keyword) for keyword in dict.fromkeys(_READ))
"""What is read of a header; the rest is stepped over, which halves the time."""


def read_header(stream: BinaryIO, rules: Rules) -> tuple[Header, Display]:
    """Reads one file's header and judges what kind of file it is; no pixel is read.

    Args:
        stream: the file, seekable.
        rules: what kind of images is asked for.

    Returns:
        What is kept of the header, and what the pixel pass needs.

    Raises:
        SetAside: no DICOM file, no image of a patient, or not of the kind asked for.
        DecodeError: a header that says too little, or absurd things, about the pixels.
    """
    ds, offset, length = _parse_to_pixels(inflated(stream), rules.tag)
    _check_kind(ds, rules)
    stored = describe(ds, offset, length)
    modality = text(ds, "Modality")
    unit = "HU" if _in_hounsfield(ds) else "1"
    spacing = _spacing(ds)
    display = Display(
        stored,
        unit,
        read_transforms(ds, stored),
        _padding(ds, stored.signed),
        spacing,
        _pair(numbers(ds, "PixelAspectRatio")) or (1.0, 1.0),
        read_palette(ds) if stored.photometric == "PALETTE COLOR" else None,
    )
    patient, study = text(ds, "PatientID"), text(ds, "StudyInstanceUID")
    header = Header(
        patient=patient_identity(ds),
        patient_from="patient" if patient else "study" if study else "file",
        patient_id=patient,
        study=study,
        series=text(ds, "SeriesInstanceUID"),
        instance=text(ds, "SOPInstanceUID"),
        modality=modality if modality in MODALITIES else "",
        unit=unit,
        photometric=stored.photometric,
        rows=stored.rows,
        columns=stored.columns,
        frames=stored.frames,
        spacing=spacing,
        tag=text(ds, rules.tag) if rules.tag else "",
        fields=tuple(text(ds, keyword)[:64] for keyword in AUDITED),
    )
    return header, display


def inflated(stream: BinaryIO) -> BinaryIO:
    """The stream itself, or that of a deflated dataset (PS3.5 A.5) unpacked, under a bound.

    Raises:
        SetAside: it unpacks to more than a file may hold.
    """
    head = stream.read(1156)
    stream.seek(0)
    if head[128:132] != b"DICM" or DeflatedExplicitVRLittleEndian.encode() not in head[132:]:
        return stream
    data = stream.read()
    start = 144 + int.from_bytes(data[140:144], "little")  # behind the group whose length (0002,0000) says
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    dataset = unpacker.decompress(data[start:], MAX_BYTES)
    if unpacker.unconsumed_tail:
        raise SetAside(f"unpacks to more than {MAX_BYTES // 2**20} MiB")
    return io.BytesIO(dataset)


def _parse(stream: BinaryIO, tag: str | None) -> Dataset:
    """The header, with or without the preamble and file meta information of PS3.10 7.1."""
    head = stream.read(132)
    stream.seek(0)
    whole = head[128:132] == b"DICM"
    # a group number that files without a preamble open with
    if not whole and head[:2] not in (b"\x08\x00", b"\x02\x00", b"\x00\x08"):
        raise SetAside("no DICOM file")
    tags: list[Any] = [*READ_TAGS, tag_of(tag)] if tag else list(READ_TAGS)
    ds = dcmread(stream, stop_before_pixels=True, specific_tags=tags, force=not whole)
    if not whole and "SOPClassUID" not in ds and "Rows" not in ds:
        raise SetAside("no DICOM file")
    if "TransferSyntaxUID" not in ds.file_meta:
        implicit, little = ds.original_encoding
        native = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        ds.file_meta.TransferSyntaxUID = native
    return ds


def _parse_to_pixels(stream: BinaryIO, tag: str | None) -> tuple[Dataset, int, int]:
    """The header, and offset and length of the pixels.

    Nearly every header ends within the first few kilobytes, and parsing them in memory takes two thirds of the time of
    parsing the file; a header that turns out to be longer, or to be something else, is parsed from the file.
    """
    start = io.BytesIO(stream.read(HEAD))
    try:
        ds = _parse(start, tag)
        return (ds, *locate(start))
    except Exception:
        stream.seek(0)
    ds = _parse(stream, tag)
    sop_class = UID(text(ds, "SOPClassUID") or str(ds.file_meta.get("MediaStorageSOPClassUID", "")))
    try:
        return (ds, *locate(stream))
    except DecodeError:
        if "Rows" in ds:
            raise DecodeError("the file ends before its pixels") from None
        if not sop_class:
            raise DecodeError("the header says not even what kind of file it is") from None
        name = sop_class.name if sop_class.name != str(sop_class) else "unknown kind"
        raise SetAside(f"no pixel data ({name})") from None


def _check_kind(ds: Dataset, rules: Rules) -> None:
    """Sets aside what is no image of a patient, or of no use under the configured window."""
    preparation: Preparation = rules.preparation
    sop_class = UID(text(ds, "SOPClassUID"))
    if sop_class in NO_PATIENT_IMAGE:
        raise SetAside(NO_PATIENT_IMAGE[sop_class])
    if text(ds, "SyntheticData").upper() == "YES":
        raise SetAside("a synthetic image (SyntheticData is YES)")
    kinds = {part.upper() for part in texts(ds, "ImageType")}
    if kinds & {"LOCALIZER", "SCOUT"}:
        raise SetAside("a localizer")
    if kinds & SCREENS or DOSE_SHEET.search(text(ds, "SeriesDescription")):
        raise SetAside("a picture of the scanner's screen or a dose sheet")
    if rules.burned_in == "set_aside" and text(ds, "BurnedInAnnotation").upper() == "YES":
        raise SetAside("burned-in annotation, which may name the patient; set burned_in: keep to have it")
    modality = text(ds, "Modality")
    if preparation.window.kind == "hu" and modality != "CT":
        named = modality if modality in MODALITIES else "unknown"  # what is no term of the standard may be anything
        raise SetAside(f"modality {named} has no Hounsfield units; set window: dicom or [low, high]")
    if preparation.window.kind in ("hu", "range") and modality == "CT" and not _in_hounsfield(ds):
        raise SetAside("CT without Hounsfield units (a capture, or rescaled to something else); set window: dicom")
    if text(ds, "PhotometricInterpretation") not in (*GREY, *COLOUR):
        raise SetAside("photometric interpretation missing or unknown")
    if preparation.geometry.mm is not None and _spacing(ds) is None:
        raise SetAside("no pixel spacing in the file, so that it cannot be resampled to spacing")


def _in_hounsfield(ds: Dataset) -> bool:
    """Whether the rescaled values of a CT image are Hounsfield units (C.8.2.1: an absent Rescale Type means HU)."""
    if text(ds, "Modality") != "CT" or text(ds, "PhotometricInterpretation") not in GREY:
        return False
    rescale = frame_macro(ds, 0, "PixelValueTransformationSequence") or ds
    if text(rescale, "RescaleType") not in ("", "HU", "HU_MOD"):
        return False
    return bool(text(rescale, "RescaleIntercept") or items(rescale, "ModalityLUTSequence"))


def _padding(ds: Dataset, signed: bool) -> tuple[int, int] | None:
    """Stored values that the scanner filled in rather than measured (PS3.3 C.7.5.1.1.2).

    The value representation of both attributes depends on Pixel Representation, and writers get it wrong (63536 for
    -2000 in signed data): values out of reach are taken modulo 2^16.
    """
    found = [number(ds, keyword) for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    if found[0] is None:
        return None
    reach = []
    for value in (int(one) for one in found if one is not None):
        wrapped = (
            value - 2**16 if signed and value > 2**15 - 1 else value + 2**16 if not signed and value < 0 else value
        )
        reach.append(wrapped)
    return min(reach), max(reach)


def _spacing(ds: Dataset) -> Size | None:
    """Pixel Spacing, else Imager Pixel Spacing: mm between rows, between columns (10.7.1.3); None if unusable."""
    measures = frame_macro(ds, 0, "PixelMeasuresSequence") or ds
    return _pair(numbers(measures, "PixelSpacing")) or _pair(numbers(ds, "ImagerPixelSpacing"))


def _pair(values: list[float] | None) -> Size | None:
    if values is None or len(values) != 2 or min(values) <= 0:
        return None
    vertical, horizontal = values
    return (vertical, horizontal) if 0.05 < vertical / horizontal < 20 else None
