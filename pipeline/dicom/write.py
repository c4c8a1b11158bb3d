"""Writes CT phantoms and synthetic images as DICOM files.

Two kinds of SOP class are written. *CT Image Storage* (PS3.3 A.3) is what every reader takes for Hounsfield units, so
it is used wherever the values are HU and the pixel spacing, which the Image Plane Module (C.7.6.2) requires, is known.
*Secondary Capture Image Storage* (A.8) holds everything else; its optional Modality LUT carries the unit nevertheless.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    SecondaryCaptureImageStorage,
)

from pipeline.records import Progress, ValueRange

TRANSFER_SYNTAXES = {
    "explicit": ExplicitVRLittleEndian,
    "rle": RLELossless,
    "jpegls": JPEGLSLossless,
    "jpeg2000": JPEG2000Lossless,
}

CT_INTERCEPT = -1024
CT_MAX = 4095


@dataclass(frozen=True)
class CtHeader:
    """What the caller decides about one CT file.

    Attributes:
        patient_id: also what the patient's UIDs are made from.
        patient_name: DICOM person name.
        sex: "F", "M" or "O".
        instance: number of the slice in its series, from 1.
        spacing_mm: side of a pixel.
        thickness_mm: slice thickness.
        position_mm: height of the slice along the body.
        manufacturer: vendor.
        kernel: reconstruction kernel.
        inverted: write MONOCHROME1; see :func:`write_ct`.
        transfer_syntax: a key of :data:`TRANSFER_SYNTAXES`.
        uid_root: text that all UIDs are derived from.
    """

    patient_id: str
    patient_name: str
    sex: str
    instance: int
    spacing_mm: float
    thickness_mm: float
    position_mm: float
    manufacturer: str
    kernel: str
    inverted: bool
    transfer_syntax: str
    uid_root: str


def write_ct(path: Path, hu: NDArray[np.floating], header: CtHeader) -> None:
    """Writes one slice as CT Image Storage, 12 bits in 16, unsigned.

    A MONOCHROME1 file stores the complement of the usual values and states a rescale slope of -1, so that its rescaled
    values are Hounsfield units like anybody's (C.8.2.1: CT values are HU unless Rescale Type says otherwise). Since
    MONOCHROME1 shows the lowest value after the VOI transform as white (C.7.6.3.1.2), its VOI LUT descends: on screen,
    too, the slice looks like its MONOCHROME2 twin.

    Args:
        path: file to write.
        hu: [H, W], Hounsfield units; rounded, and clipped to what 12 bits hold (-1024 to 3071).
        header: everything else.
    """
    uid = _Uids(header.uid_root)
    ds = _base(uid, CTImageStorage, f"{header.patient_id}/{header.instance}")
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    _patient_and_study(ds, uid, header.patient_id, header.patient_name, header.sex, study=header.patient_id)
    ds.SeriesInstanceUID = uid("series", header.patient_id)
    ds.FrameOfReferenceUID = uid("frame", header.patient_id)
    ds.Modality, ds.BodyPartExamined, ds.SeriesNumber = "CT", "CHEST", 1
    ds.SeriesDescription = "Procedural chest phantom"
    ds.InstanceNumber = header.instance
    ds.Manufacturer, ds.ManufacturerModelName = header.manufacturer, "Procedural phantom"
    ds.ConvolutionKernel, ds.KVP, ds.AcquisitionNumber = header.kernel, "120", 1
    _image_plane(ds, hu.shape, (header.spacing_mm, header.spacing_mm), header.thickness_mm, header.position_mm)
    stored = np.clip(np.rint(hu) - CT_INTERCEPT, 0, CT_MAX).astype(np.uint16)
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = CT_INTERCEPT, 1, "HU"
    center, width = -200, 1600
    if header.inverted:
        stored = (CT_MAX - stored).astype(np.uint16)
        ds.RescaleIntercept, ds.RescaleSlope = CT_INTERCEPT + CT_MAX, -1
        ds.VOILUTSequence = DicomSequence([_descending_lut(center - width // 2, width)])
    else:
        ds.WindowCenter, ds.WindowWidth = center, width
    _pixels(ds, stored, "MONOCHROME1" if header.inverted else "MONOCHROME2", bits=12)
    syntax = TRANSFER_SYNTAXES[header.transfer_syntax]
    if syntax != ExplicitVRLittleEndian:
        ds.compress(syntax, generate_instance_uid=False)
    ds.save_as(path, enforce_file_format=True)


def write_synthetic(
    images: NDArray[np.float32],
    labels: Sequence[int],
    classes: Sequence[str],
    value_range: ValueRange,
    folder: Path,
    *,
    modality: str = "CT",
    generator_hash: str,
    seed: int,
    pixel_spacing: Sequence[float] | None = None,
    progress: Progress | None = None,
) -> int:
    r"""Writes generated images as DICOM files that say what they are, and ``labels.csv`` (file, label) beside them.

    Every file carries SyntheticData (0008,001C) = YES (PS3.3 C.12.1) and, for readers that do not know that attribute,
    ImageType DERIVED\SECONDARY, SeriesDescription and DerivationDescription. There is no patient: PatientID is
    ``SYNTHETIC-`` and a number, one for each image, with a study and a series of its own. All UIDs are new, and made
    from the images: the same set has the same UIDs again, and two sets share none. The values are physical (rescaled
    16-bit codes that span the value range, so that the quantisation step is 1/65535 of it).

    Args:
        images: float32 [N, H, W] in [-1, 1].
        labels: class index of each image.
        classes: class names.
        value_range: physical values of -1 and +1.
        folder: where to; made if it is not there.
        modality: DICOM modality of the source.
        generator_hash: digest of the generator artifact.
        seed: the seed of the sampling.
        pixel_spacing: mm (between rows, between columns); None where unknown.
        progress: told after each file.

    Returns:
        The number of files written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content = hashlib.sha256(np.ascontiguousarray(images).tobytes()).hexdigest()
    uid = _Uids(f"synthetic/{generator_hash}/{seed}/{content}")
    ct = value_range.unit == "HU" and modality == "CT" and pixel_spacing is not None
    step = (value_range.high - value_range.low) / 65535
    width = len(str(max(len(images) - 1, 0)))
    rows = []
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        name = classes[label]
        ds = _base(uid, CTImageStorage if ct else SecondaryCaptureImageStorage, str(number))
        ds.ImageType = ["DERIVED", "SECONDARY", "AXIAL"] if ct else ["DERIVED", "SECONDARY"]
        ds.SyntheticData = "YES"
        patient = f"SYNTHETIC-{content[:12]}-{number:0{width}d}"
        _patient_and_study(ds, uid, patient, "Synthetic^", "", study=str(number))
        ds.StudyDescription, ds.Laterality = "Synthetic images, no patient", None  # type 2C: the side is unknown
        ds.SeriesInstanceUID = uid("series", str(number))
        ds.SeriesNumber, ds.InstanceNumber, ds.Modality = label + 1, number + 1, modality or "OT"
        ds.SeriesDescription = f"SYNTHETIC {name}"[:64]
        ds.DerivationDescription = (
            f"Drawn by a generative network, depicts no patient; generator {generator_hash}, seed {seed}, class {name}"
        )
        ds.Manufacturer = "medaug"
        if ct:
            assert pixel_spacing is not None
            ds.FrameOfReferenceUID = uid("frame", str(number))
            ds.KVP = ds.AcquisitionNumber = None
            _image_plane(ds, image.shape, pixel_spacing, None, 0.0)
        else:
            ds.ConversionType, ds.PatientOrientation = "SYN", ""  # C.8.6.1: synthetic image; C.7.6.1: unknown
            if pixel_spacing is not None:
                ds.PixelSpacing = [_decimal(value) for value in pixel_spacing]
        ds.RescaleIntercept, ds.RescaleSlope = _decimal(value_range.low), _decimal(step)
        ds.RescaleType = "HU" if value_range.unit == "HU" else "US"
        ds.WindowCenter = _decimal((value_range.low + value_range.high) / 2)
        ds.WindowWidth = _decimal(value_range.high - value_range.low)
        codes = np.rint((np.clip(image, -1, 1).astype(np.float64) + 1) * (65535 / 2)).astype(np.uint16)
        _pixels(ds, codes, "MONOCHROME2", bits=16)
        file = f"{number:0{width}d}-{_safe(name)}.dcm"
        ds.save_as(folder / file, enforce_file_format=True)
        rows.append((file, name))
        if progress is not None:
            progress(number + 1, len(images))
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("file", "label"), *rows])
    return len(rows)


class _Uids:
    """UIDs under 2.25 that depend on nothing but the texts they are made from (PS3.5 B.2)."""

    def __init__(self, root: str):
        self.root = root

    def __call__(self, role: str, name: str) -> str:
        digest = hashlib.sha256(f"{self.root}\0{role}\0{name}".encode()).digest()
        return f"2.25.{int.from_bytes(digest[:16], 'big')}"


def _base(uid: _Uids, sop_class: str, name: str) -> Dataset:
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID = sop_class
    ds.SOPInstanceUID = uid("instance", name)
    return ds


def _patient_and_study(ds: Dataset, uid: _Uids, patient_id: str, name: str, sex: str, study: str) -> None:
    """Patient, General Study, General Series and Equipment: their type 2 attributes stay empty, not absent."""
    ds.PatientID, ds.PatientName, ds.PatientSex, ds.PatientBirthDate = patient_id, name, sex, ""
    ds.StudyInstanceUID = uid("study", study)
    ds.StudyID, ds.AccessionNumber, ds.ReferringPhysicianName = "1", "", ""
    ds.StudyDate = ds.SeriesDate = ds.ContentDate = "20000101"
    ds.StudyTime = ds.SeriesTime = ds.ContentTime = "000000"


def _image_plane(
    ds: Dataset, shape: tuple[int, ...], spacing: Sequence[float], thickness: float | None, height: float
) -> None:
    """Frame of Reference and Image Plane Modules (C.7.4.1, C.7.6.2): axial, its centre on the body's axis."""
    rows, columns = shape
    ds.PatientPosition, ds.PositionReferenceIndicator = "HFS", ""
    ds.PixelSpacing = [_decimal(value) for value in spacing]
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    x, y = -(columns - 1) / 2 * spacing[1], -(rows - 1) / 2 * spacing[0]
    ds.ImagePositionPatient = [_decimal(x), _decimal(y), _decimal(height)]
    ds.SliceThickness = None if thickness is None else _decimal(thickness)


def _pixels(ds: Dataset, stored: NDArray[np.uint16], photometric: str, bits: int) -> None:
    """Image Pixel Module (C.7.6.3)."""
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, photometric
    ds.Rows, ds.Columns = stored.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, bits, bits - 1, 0
    ds.PixelData = stored.astype("<u2").tobytes()


def _descending_lut(first: int, entries: int) -> Dataset:
    """A VOI LUT item (C.11.2): ``entries`` values from ``first`` up, mapped linearly from 65535 down to 0."""
    item = Dataset()
    item.LUTDescriptor = [entries, first, 16]
    item["LUTDescriptor"].VR = "SS"  # the first mapped value is negative
    item.LUTData = np.linspace(65535, 0, entries).round().astype("<u2").tobytes()
    item["LUTData"].VR = "OW"
    item.LUTExplanation = "Chest, wide"
    return item


def _decimal(value: float) -> str:
    """A decimal string of at most 16 characters (VR DS, PS3.5 6.2)."""
    for digits in range(16, 0, -1):
        text = f"{value:.{digits}g}"
        if len(text) <= 16:
            return text
    raise AssertionError(value)


def _safe(name: str) -> str:
    """A class name as part of a file name."""
    return "".join(character if character.isalnum() else "_" for character in name)
