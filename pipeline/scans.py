"""What the two passes over a source bring: first what a file is, then its prepared images. Light records."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from pipeline.geometry import Size
from pipeline.preprocess import Preparation

Fate = Literal["image", "set aside", "quarantined"]


@dataclass(frozen=True)
class Header:
    """What is kept of a file's header. The identities never leave memory: the ingest replaces them by keyed hashes.

    Attributes:
        patient: identity of the patient; "" where the file has none.
        patient_from: which field that was.
        patient_id: PatientID as it stands, for labels that go by it; or "".
        study: StudyInstanceUID, or "".
        series: SeriesInstanceUID, or "".
        instance: SOPInstanceUID, or "".
        modality: DICOM modality, or "".
        unit: "HU" or "1".
        photometric: photometric interpretation.
        rows: of the source.
        columns: of the source.
        frames: of the file.
        spacing: mm between rows and between columns, or None.
        highest: largest value of the data type, for ordinary images.
        tag: the value of the labels' tag, or "".
        fields: values of :data:`pipeline.dicom.header.AUDITED`, in that order; none for ordinary images.
    """

    patient: str = ""
    patient_from: Literal["patient", "study", "file"] = "file"
    patient_id: str = ""
    study: str = ""
    series: str = ""
    instance: str = ""
    modality: str = ""
    unit: str = "1"
    photometric: str = ""
    rows: int = 0
    columns: int = 0
    frames: int = 1
    spacing: Size | None = None
    highest: float = 1.0
    tag: str = ""
    fields: tuple[str, ...] = ()


@dataclass(frozen=True)
class Found:
    """What the header pass made of one file.

    Attributes:
        status: "image", "set aside" (no image of the kind asked for) or "quarantined" (not readable).
        reason: why, where it is no image; without patient data.
        header: of an image.
        display: what the pixel pass needs to know, where it is small enough to be carried; else it is read again.
        notes: short remarks for the warnings, each the same text for the same cause.
    """

    status: Fate
    reason: str = ""
    header: Header | None = None
    display: Any = None
    notes: frozenset[str] = field(default_factory=frozenset)


@dataclass(frozen=True)
class Frame:
    """One prepared image, its pixels lying in a spool file.

    Attributes:
        number: of the frame in its file, from 0.
        hash: :func:`pipeline.codes.image_hash` of the prepared image.
        source: hash of the physical values before they were prepared: equal in whatever encoding.
        pixel: size of a prepared pixel in mm (height, width), or None.
    """

    number: int
    hash: str
    source: str
    pixel: Size | None


@dataclass(frozen=True)
class Prepared:
    """What the pixel pass made of one file.

    Attributes:
        status: as in :class:`Found`.
        reason: why, where there are no images.
        frames: one an image.
        spool: name of the spool file that holds their codes, uint16 [1, h, w] one after the other.
        position: of the first of them, counted in images.
        notes: remarks.
    """

    status: Fate
    reason: str = ""
    frames: tuple[Frame, ...] = ()
    spool: str = ""
    position: int = 0
    notes: frozenset[str] = field(default_factory=frozenset)


@dataclass(frozen=True)
class Rules:
    """How files are read.

    Attributes:
        kind: "dicom" or "images".
        preparation: what is done to the pixels.
        tag: keyword of the DICOM attribute that holds the label, or None.
        burned_in: what becomes of DICOM images with burned-in annotation: "set_aside" or "keep".
    """

    kind: Literal["dicom", "images"]
    preparation: Preparation
    tag: str | None = None
    burned_in: Literal["set_aside", "keep"] = "set_aside"
