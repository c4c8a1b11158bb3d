"""What worker processes do with one file: look at its header, prepare its images; what is wrong becomes its fate."""

from __future__ import annotations

import itertools
import os
import secrets
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
import xxhash

from pipeline.codes import encode, image_hash
from pipeline.files import OF_THE_FILE, Entry, SetAside, Unreadable
from pipeline.preprocess import Shown, finish
from pipeline.scans import Found, Frame, Prepared, Rules


def look(entry: Entry, rules: Rules) -> Found:
    """The header pass over one file.

    Args:
        entry: the file.
        rules: what is asked for.

    Raises:
        OSError: the disk or the network fails, as against one file.
    """
    try:
        with entry.open() as stream:
            if rules.kind == "dicom":
                from pipeline.dicom.read import look_at_dicom

                return look_at_dicom(stream, rules)
            from pipeline.pictures import look_at_picture

            return look_at_picture(stream)
    except SetAside as reason:
        return Found("set aside", str(reason))
    except BaseException as error:
        return Found("quarantined", _reason(error))


def prepare(task: tuple[Entry, Found], rules: Rules, spools: Path) -> Prepared:
    """The pixel pass over one file; its images go to this process's spool file, so that no memory grows with them.

    Args:
        task: the file, and what the header pass brought.
        rules: as in the header pass.
        spools: folder of the spool files.

    Raises:
        OSError: the disk or the network fails, as against one file.
    """
    entry, found = task
    geometry = rules.preparation.geometry
    notes = set(found.notes)
    frames: list[Frame] = []
    images = _images(entry, found, rules, notes)
    name, pixels = _spool(spools, os.getpid())
    position = pixels.tell() // (2 * geometry.height * geometry.width)
    for number in itertools.count():
        try:
            shown = next(images, None)
            if shown is None:
                break
            source = source_hash(shown)
            image, pixel = finish(shown, geometry)
        except SetAside as reason:
            return Prepared("set aside", str(reason))
        except BaseException as error:
            return Prepared("quarantined", _reason(error))
        if image.min() == image.max():  # all such images would pass for copies of each other
            continue
        codes = encode(image[None])
        pixels.write(codes.astype("<u2", copy=False).tobytes())
        frames.append(Frame(number, image_hash(codes).decode(), source, pixel))
    if not frames:
        return Prepared("set aside", "nothing to see under this window")
    if len(frames) < number:
        notes.add("frames with nothing to see under this window were left out")
    pixels.flush()  # what a task has reported is on disk, whatever becomes of this process
    return Prepared("image", "", tuple(frames), name, position, frozenset(notes))


@lru_cache(maxsize=1)
def _spool(folder: Path, process: int) -> tuple[str, BinaryIO]:
    """This process's spool file; a process number may come again after a crash, the rest of the name does not."""
    file = folder / f"{process}-{secrets.token_hex(4)}.u16"
    return file.name, file.open("ab")


def source_hash(shown: Shown) -> str:
    """Identifies an image by its physical values: equal values, equal hash, in whatever encoding.

    XXH3 (128 bits) runs at the memory's speed, where a cryptographic hash would take longer than all the rest of the
    reading; the seal of the test set, which must hold against more than chance, is SHA-256 over the prepared image.
    """
    digest = xxhash.xxh3_128(np.ascontiguousarray(shown.values).data)
    digest.update(str(shown.values.shape).encode())
    return digest.hexdigest()


def _images(entry: Entry, found: Found, rules: Rules, notes: set[str]) -> Iterator[Shown]:
    data = entry.read()
    if rules.kind == "dicom":
        from pipeline.dicom.read import dicom_frames

        yield from dicom_frames(data, found, rules, notes)
    else:
        from pipeline.pictures import picture_frame

        yield picture_frame(data, rules.preparation)


def _reason(error: BaseException) -> str:
    """Why a file is quarantined; without patient data, which the text of a foreign error may quote.

    The widest net is right around one file: decoders raise whatever they like (one of them a BaseException of its own),
    and no file may end an ingest. What concerns more than one file is raised again.
    """
    if isinstance(error, KeyboardInterrupt | SystemExit):
        raise error
    if isinstance(error, OSError) and error.errno not in (None, *OF_THE_FILE):  # a broken picture has no number
        raise error
    if isinstance(error, Unreadable):
        return str(error)
    if isinstance(error, MemoryError):
        return "needs more memory than a file is given"
    return f"not readable ({type(error).__name__})"
