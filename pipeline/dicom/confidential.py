"""One image without its patient: what is refused, what is replaced, and what is said about it afterwards.

The rules for each attribute are in :mod:`pipeline.dicom.profile`.
"""

from __future__ import annotations

import warnings
from importlib.metadata import version

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels.utils import get_expected_length
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from pipeline.dicom.deidentify import Keys
from pipeline.dicom.elements import patient_identity, text
from pipeline.dicom.kept import PHOTOMETRIC
from pipeline.dicom.profile import EDITION, Profile
from pipeline.files import SetAside, Unreadable

PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


def deidentify(ds: Dataset, keys: Keys) -> Dataset:
    """A copy of an image without what identifies the patient, by the Basic Application Level Confidentiality Profile.

    Args:
        ds: an image as read from a file; not changed.
        keys: make pseudonyms and UIDs: the same in every file and every run, under another key others.

    Returns:
        A new dataset with new file meta information, the pixels as they were, and a preamble of zeros.

    Raises:
        SetAside: no image, or the pixels may name the patient.
        Unreadable: it lacks what no image can be without, or that does not read.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's remarks quote values
        sop_class, syntax = _sop_class(ds), _transfer_syntax(ds)
        _check_pixels(ds, syntax)
        if not all(text(ds, keyword) for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")):
            raise Unreadable("no study, series or instance UID")
        clean = Profile(keys, ds).clean(ds)
        _state(clean, keys("patient", patient_identity(ds)))
        clean.SOPClassUID = sop_class
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop_class, clean.SOPInstanceUID
        meta.TransferSyntaxUID = syntax
        clean.file_meta, clean.preamble = meta, bytes(128)
    return clean


def _check_pixels(ds: Dataset, syntax: UID) -> None:
    """Refuses what has no pixels or too few, or such as may name the patient."""
    pixels = next(filter(None, map(ds.get, PIXELS)), None)
    if not isinstance(pixels, bytes):
        raise SetAside("no pixel data")
    if text(ds, "BurnedInAnnotation").upper() not in ("", "NO"):
        raise SetAside("burned-in annotation, which may name the patient")
    if text(ds, "PhotometricInterpretation") not in PHOTOMETRIC:
        raise Unreadable("photometric interpretation missing or unknown")
    if not syntax.is_encapsulated and len(pixels) < get_expected_length(ds):
        raise Unreadable("fewer pixels than the header says")
    for group in range(0x6000, 0x6100, 2):
        # PS3.3 C.9.2 of 2004 and before: an overlay in bits of the pixels that the image leaves unused
        if (group, 0x0010) in ds and (group, 0x3000) not in ds:
            raise SetAside("an overlay inside the pixels, which may name the patient")
    if b"Exif\0\0" in pixels[: 2**16]:
        raise SetAside("a camera's notes (Exif) inside the pixels, which may say where and when")


def _sop_class(ds: Dataset) -> UID:
    sop_class = UID(text(ds, "SOPClassUID"))
    if sop_class.name == sop_class or sop_class.type != "SOP Class":
        raise Unreadable("no SOP class, or none of the standard's")
    return sop_class


def _transfer_syntax(ds: Dataset) -> UID:
    """What the file meta information says; files without one are in one of the native syntaxes (PS3.10 7.1)."""
    stated = UID(text(getattr(ds, "file_meta", Dataset()), "TransferSyntaxUID"))
    if not stated:
        implicit, little = ds.original_encoding
        return ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    if stated.name == stated or not stated.is_transfer_syntax:
        raise Unreadable("unknown transfer syntax")
    return stated


def _state(ds: Dataset, pseudonym: str) -> None:
    """Says whose file it is now, and what was done to it (PS3.15 E.1.1, PS3.3 C.7.1.1 and C.12.1)."""
    ds.PatientID = ds.PatientName = pseudonym
    ds.SpecificCharacterSet = "ISO_IR 192"  # UTF-8: what is kept was decoded, and is written anew
    ds.PatientIdentityRemoved = "YES"
    ds.DeidentificationMethod = [
        f"DICOM PS3.15 {EDITION} Annex E, basic profile",
        f"medaug {version('medaug')}, dicom-anonymizer {version('dicom-anonymizer')}",
    ]
    profile = Dataset()
    profile.CodeValue, profile.CodingSchemeDesignator = "113100", "DCM"
    profile.CodeMeaning = "Basic Application Confidentiality Profile"
    ds.DeidentificationMethodCodeSequence = Sequence([profile])
    ds.LongitudinalTemporalInformationModified = "REMOVED"
