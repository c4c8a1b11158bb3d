"""DICOM files in two passes: the header of each, then the pixels of those that are wanted."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from pipeline.dicom.codecs import DecodeError
from pipeline.dicom.display import Display
from pipeline.dicom.header import inflated, read_header
from pipeline.files import Unreadable
from pipeline.geometry import Values
from pipeline.preprocess import Preparation, Shown, finish
from pipeline.scans import Found, Header, Rules


def look_at_dicom(stream: BinaryIO, rules: Rules) -> Found:
    """The header pass over one file.

    Args:
        stream: the file, seekable.
        rules: what is asked for.

    Raises:
        SetAside: no DICOM file, no image of a patient, or not of the kind asked for.
        Unreadable: a header that says too little, or absurd things, about the pixels.
    """
    try:
        header, display = read_header(stream, rules)
    except DecodeError as reason:
        raise Unreadable(str(reason)) from None
    return Found("image", header=header, display=display if display.small else None)


def dicom_frames(data: bytes, found: Found, rules: Rules, notes: set[str]) -> Iterator[Shown]:
    """The pixel pass over one file: frame by frame, as it is to be shown.

    Args:
        data: the file's bytes.
        found: what the header pass brought.
        rules: as in the header pass.
        notes: gets remarks.

    Raises:
        SetAside: colours where grey was not asked for.
        Unreadable: pixels that cannot be had.
    """
    try:
        display: Display = found.display or read_header(io.BytesIO(data), rules)[1]
        yield from display.frames(inflated(io.BytesIO(data)).read(), rules.preparation, notes)
    except DecodeError as reason:
        raise Unreadable(str(reason)) from None


@dataclass(frozen=True)
class Scan:
    """One DICOM file, read whole.

    Attributes:
        header: what is kept of its header.
        images: prepared frames, float32 [h, w] in [-1, 1].
        notes: remarks.
    """

    header: Header
    images: tuple[Values, ...]
    notes: frozenset[str]


def read_dicom(data: bytes, preparation: Preparation, tag: str | None = None) -> Scan:
    """Both passes over one file at once.

    Args:
        data: the file's bytes.
        preparation: what is done to the pixels.
        tag: keyword of the attribute that holds the label.

    Raises:
        SetAside: no DICOM file, no image of a patient, or not of the kind asked for.
        Unreadable: not readable, with the reason.
    """
    rules = Rules("dicom", preparation, tag)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's remarks quote values
        found = look_at_dicom(io.BytesIO(data), rules)
        assert found.header is not None
        notes = set(found.notes)
        images = tuple(finish(shown, preparation.geometry)[0] for shown in dicom_frames(data, found, rules, notes))
    return Scan(found.header, images, frozenset(notes))
