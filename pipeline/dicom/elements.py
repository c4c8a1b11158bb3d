"""Values of a dataset that was read with its elements left raw.

pydicom converts an element when it is first looked at, which takes some 10 µs: with forty elements that is as long as
reading the header. What a header pass needs are short texts and numbers, whose bytes say it all; anything beyond ASCII
goes the long way, for the sake of its character set.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from functools import cache
from typing import Any

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag, Tag

BINARY = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d"}
"""Value representations of fixed size (PS3.5 6.2) and their struct codes."""
TEXT = frozenset(["AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UI"])
"""Those that hold text, several values parted by a backslash."""


def tag_of(keyword: str) -> BaseTag:
    """The tag of a standard keyword."""
    tag = tag_for_keyword(keyword)
    assert tag is not None, f"no DICOM attribute {keyword}"
    return Tag(tag)


@cache
def _known(keyword: str) -> tuple[BaseTag, str]:
    """Tag and value representation of a standard keyword."""
    tag = tag_of(keyword)
    return tag, dictionary_VR(tag)


def texts(ds: Dataset, keyword: str) -> list[str]:
    """An element's values as stripped texts; none where it is absent or empty."""
    tag, usual = _known(keyword)
    element = ds.get_item(tag)
    if element is None:
        return []
    if isinstance(element, RawDataElement):
        vr = element.VR or usual  # implicit files do not say
        value, code = element.value or b"", BINARY.get(vr)
        if isinstance(value, bytes) and vr in TEXT and value.isascii():
            parts = value.decode("ascii").split("\\")
            found = [part.strip(" \0\t\r\n") for part in parts]
            return found if any(found) else []
        if isinstance(value, bytes) and code is not None and value and len(value) % struct.calcsize(code) == 0:
            order = "<" if element.is_little_endian else ">"
            return [
                f"{number:g}" if code in "fd" else str(number) for (number,) in struct.iter_unpack(order + code, value)
            ]
    converted: Any = ds[tag].value
    values: Sequence[Any] = converted if isinstance(converted, MultiValue | list | tuple) else [converted]
    found = ["" if value is None else str(value).strip(" \0\t\r\n") for value in values]
    return found if any(found) else []


def text(ds: Dataset, keyword: str) -> str:
    """All values of an element, backslashes between them; "" where it is absent."""
    return "\\".join(texts(ds, keyword))


def number(ds: Dataset, keyword: str) -> float | None:
    """The first value of a numeric element, or None where it is absent, no number or not finite."""
    found = texts(ds, keyword)
    try:
        value = float(found[0])
    except (IndexError, ValueError):
        return None
    return value if math.isfinite(value) else None


def numbers(ds: Dataset, keyword: str) -> list[float] | None:
    """All values of a numeric element, or None where it is absent or any is no finite number."""
    found = texts(ds, keyword)
    try:
        values = [float(part) for part in found]
    except ValueError:
        return None
    return values if values and all(map(math.isfinite, values)) else None


def items(ds: Dataset, keyword: str) -> Sequence[Dataset]:
    """The items of a sequence; none where it is absent."""
    tag, _ = _known(keyword)
    return (ds[tag].value or ()) if tag in ds else ()


def patient_identity(ds: Dataset) -> str:
    """Whom a file shows, as the ingest tells patients apart: by issuer and number, else by the study; "" if unknown."""
    patient = text(ds, "PatientID")
    return f"{text(ds, 'IssuerOfPatientID')}\0{patient}" if patient else text(ds, "StudyInstanceUID")
