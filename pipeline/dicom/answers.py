"""What DICOMweb servers send back (PS3.18): search results in the DICOM JSON model, files in multipart messages."""

from __future__ import annotations

from collections.abc import Mapping
from email.message import Message
from typing import Any

from pipeline.files import Unreadable


class BrokenOffError(Exception):
    """An answer without its end."""


def first_value(result: Mapping[str, Any], tag: str) -> str:
    """The first value of an attribute in the DICOM JSON model (PS3.18 F.2) if it is a text, or ""."""
    element = result.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    first = values[0] if isinstance(values, list) and values else None
    return first if isinstance(first, str) else ""


def only_part(content_type: str, body: bytearray) -> memoryview:
    """The file in an answer: its one part (RFC 2387), or all of it from servers that send it bare.

    Args:
        content_type: the answer's header.
        body: the answer.

    Raises:
        Unreadable: something else than a DICOM file.
        BrokenOffError: the line that ends the part is missing: servers that state no length may stop anywhere.
    """
    header = Message()
    header["Content-Type"] = content_type
    boundary = header.get_boundary()
    if header.get_content_type() == "application/dicom" or (boundary is None and _is_related(header)):
        return memoryview(body)
    if boundary is None or not _is_related(header):
        raise Unreadable("the server delivered something else than a DICOM file")
    marker = b"--" + boundary.encode()
    start = body.find(b"\r\n\r\n", max(body.find(marker), 0)) + 4
    end = body.find(b"\r\n" + marker, start)
    if start < 4 or end < 0:
        raise BrokenOffError
    return memoryview(body)[start:end]


def _is_related(header: Message) -> bool:
    return header.get_content_type() == "multipart/related"
