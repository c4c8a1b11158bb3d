"""Codestreams of frames from the items of an encapsulated pixel data element (PS3.5 A.4)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from pydicom.uid import RLELossless

from pipeline.dicom.codecs import DEFLATED_FRAMES, UNDEFINED, DecodeError, Stored

ITEM, DELIMITER = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
END = b"\xff\xd9"
"""The end marker of JPEG, JPEG-LS and JPEG 2000 codestreams."""


def encoded_frames(stored: Stored, data: bytes | memoryview) -> Iterator[bytes]:
    """Codestreams, one a frame, from the items of the pixel data element (PS3.5 A.4).

    Offset tables are believed only where they point at items: many writers leave them empty or get them wrong.

    Args:
        stored: how and where.
        data: the whole file.

    Yields:
        As many as the file has frames; items beyond these are left alone.

    Raises:
        DecodeError: items are damaged or too few.
    """
    view = memoryview(data)
    (first, last), *items = _items(view, stored)
    basic = np.frombuffer(view[first : last - (last - first) % 4], "<u4").tolist()
    extended = stored.extended[0] if stored.extended else b""
    tables = [np.frombuffer(extended[: len(extended) // 8 * 8], "<u8").tolist(), basic]
    numbers = {start - last - 8: number for number, (start, _) in enumerate(items)}  # by offset behind the first table
    for frame in _grouped(stored, view, items, [[numbers.get(offset, -1) for offset in table] for table in tables]):
        yield b"".join(view[start:end] for start, end in frame)


Item = tuple[int, int]


def _items(view: memoryview, stored: Stored) -> list[Item]:
    """Start and end of the value of every item that has one, behind those of the Basic Offset Table."""
    at, items = stored.offset, []
    stop = len(view) if stored.length == UNDEFINED else min(len(view), stored.offset + stored.length)
    while at + 8 <= stop and view[at : at + 4] != DELIMITER:  # without a delimiter whole items are still whole
        if view[at : at + 4] != ITEM:
            raise DecodeError("encapsulated pixel data without an item where one should be")
        length = int.from_bytes(view[at + 4 : at + 8], "little")
        if length > stop - at - 8:
            raise DecodeError(f"encapsulated pixel data cut off: expected {length} bytes, found {stop - at - 8}")
        items.append((at + 8, at + 8 + length))
        at += 8 + length
    if all(start == end for start, end in items[1:]):
        raise DecodeError("no frame in the pixel data")
    return [items[0], *((start, end) for start, end in items[1:] if end > start)]


def _grouped(stored: Stored, view: memoryview, items: list[Item], tables: list[list[int]]) -> list[list[Item]]:
    """The items of each frame.

    Args:
        stored: how many frames, and the syntax.
        view: the file.
        items: at least one.
        tables: the number of each frame's first item as each offset table has it; -1 where it points at none.
    """
    frames = stored.frames
    if len(items) < frames:
        raise DecodeError(f"expected {frames} frames, found {len(items)} fragments")
    if len(items) == frames:  # whatever the tables say, no frame is without a fragment
        return [[item] for item in items]
    if frames == 1:
        return [items]
    for table in tables:
        edges = [*table, len(items)]
        if len(table) == frames and table[0] == 0 and all(left < right for left, right in pairwise(edges)):
            return [items[left:right] for left, right in pairwise(edges)]
    if stored.syntax in (RLELossless, DEFLATED_FRAMES):  # never more than one fragment a frame (A.4.2)
        return [[item] for item in items[:frames]]
    groups: list[list[Item]] = [[]]
    for start, end in items:
        groups[-1].append((start, end))
        if END in bytes(view[max(start, end - 10) : end]):
            groups.append([])
    groups = [group for group in groups if group]
    if len(groups) < frames:
        raise DecodeError(f"expected {frames} frames, found {len(groups)} ends of codestreams")
    return groups[:frames]
