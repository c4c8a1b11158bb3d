"""One file in, prepared images out: what the readers hand to the ingest. Light, since worker processes import it."""

from __future__ import annotations

import io
import zipfile
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from pipeline.preprocess import Preparation, Values, finish, luma, range_window
from pipeline.records import Progress

MAX_BYTES = 2**31
"""Files above this are refused unread."""

POOL_FROM = 1500
"""Files from which on worker processes are used: two take about two seconds to start."""

WORKERS = 2
CHUNK = 64


class SetAside(Exception):  # noqa: N818
    """A file that is in order but no image of the kind asked for; the text is the reason, without patient data."""


@dataclass(frozen=True)
class Entry:
    """A file of the source.

    Attributes:
        name: its path relative to the source, with "/" between the parts.
        path: the file itself, or the archive that holds it.
        member: its name in the archive, or None.
        size: bytes.
        modified: modification time in ns (in an archive: its checksum).
    """

    name: str
    path: Path
    member: str | None
    size: int
    modified: int

    def read(self) -> bytes:
        """The file's bytes.

        Raises:
            SetAside: it is too large to be an image of one patient, or no ordinary file.
        """
        if self.size > MAX_BYTES:
            raise SetAside(f"larger than {MAX_BYTES // 2**20} MiB")
        if self.member is None:
            if not self.path.is_file():
                raise SetAside("no ordinary file (a broken link, a pipe or a device)")
            return self.path.read_bytes()
        return _archive(self.path).read(self.member)


@lru_cache(maxsize=4)
def _archive(path: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


@dataclass(frozen=True)
class Header:
    """What is kept of a file's header. The identities never leave memory: the ingest replaces them by keyed hashes.

    Attributes:
        patient: identity of the patient; "" where the file has none.
        patient_from: which field that was.
        study: StudyInstanceUID, or "".
        instance: SOPInstanceUID, or "".
        modality: DICOM modality, or "".
        unit: "HU" or "1".
        manufacturer: vendor, or "".
        kernel: reconstruction kernel, or "".
        contrast_agent: whether ContrastBolusAgent is filled in.
        photometric: photometric interpretation.
        rows: of the source.
        columns: of the source.
        frames: of the file.
        spacing: mm between rows and between columns, or None.
        highest: largest value of the data type, for ordinary images.
        tag: the value of the labels' tag, or "".
    """

    patient: str = ""
    patient_from: Literal["patient", "study", "file"] = "file"
    study: str = ""
    instance: str = ""
    modality: str = ""
    unit: str = "1"
    manufacturer: str = ""
    kernel: str = ""
    contrast_agent: bool = False
    photometric: str = ""
    rows: int = 0
    columns: int = 0
    frames: int = 1
    spacing: tuple[float, float] | None = None
    highest: float = 1.0
    tag: str = ""


@dataclass(frozen=True)
class Loaded:
    """What became of one file.

    Attributes:
        status: "read", "set aside" (no image of the kind asked for) or "quarantined" (not readable).
        reason: why, where it was not read; without patient data.
        header: None where it was not read.
        images: prepared frames, float32 [h, w] in [-1, 1].
        notes: short remarks for the warnings, each the same text for the same cause.
    """

    status: Literal["read", "set aside", "quarantined"]
    reason: str = ""
    header: Header | None = None
    images: tuple[Values, ...] = ()
    notes: frozenset[str] = field(default_factory=frozenset)


@dataclass(frozen=True)
class Rules:
    """How files are read.

    Attributes:
        kind: "dicom" or "images".
        preparation: what is done to the pixels.
        tag: keyword of the DICOM attribute that holds the label, or None.
    """

    kind: Literal["dicom", "images"]
    preparation: Preparation
    tag: str | None = None


def load(entry: Entry, rules: Rules) -> Loaded:
    """Reads and prepares one file; whatever is wrong with it becomes its status.

    Args:
        entry: the file.
        rules: how to read it.
    """
    # The widest net is right around one file: decoders raise whatever they like, and no file may end an ingest. The
    # text of a foreign error may quote the header, so that only its type is told.
    try:
        data = entry.read()
        if rules.kind == "dicom":
            from pipeline.dicom.read import read_dicom

            return read_dicom(data, rules.preparation, rules.tag)
        return read_picture(data, rules.preparation)
    except SetAside as reason:
        return Loaded("set aside", str(reason))
    except Exception as error:
        return Loaded("quarantined", f"not readable ({type(error).__name__})")


def load_entries(entries: Sequence[Entry], rules: Rules, progress: Progress) -> Iterator[tuple[Entry, Loaded]]:
    """:func:`load` for many files, in their order; in two worker processes where there are enough to pay for them.

    Args:
        entries: the files.
        rules: how to read them.
        progress: told after each.
    """
    total = len(entries)
    if total < POOL_FROM:
        for done, entry in enumerate(entries, start=1):
            yield entry, load(entry, rules)
            progress(done, total)
        return
    chunks = iter([entries[start : start + CHUNK] for start in range(0, total, CHUNK)])
    done = 0
    with ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn")) as pool:
        ahead = deque((chunk, pool.submit(_load_chunk, chunk, rules)) for chunk in islice(chunks, 2 * WORKERS))
        while ahead:  # a few chunks ahead and no more, so that memory stays flat
            chunk, future = ahead.popleft()
            loaded = future.result()
            for following in islice(chunks, 1):
                ahead.append((following, pool.submit(_load_chunk, following, rules)))
            yield from zip(chunk, loaded, strict=True)
            done += len(chunk)
            progress(done, total)


def _load_chunk(entries: Sequence[Entry], rules: Rules) -> list[Loaded]:
    return [load(entry, rules) for entry in entries]


def read_picture(data: bytes, preparation: Preparation) -> Loaded:
    """Reads a PNG, JPEG or the like.

    Args:
        data: the file's bytes.
        preparation: what is done to the pixels.

    Raises:
        SetAside: no image, or a colour image where grey is asked for.
    """
    try:
        picture = Image.open(io.BytesIO(data))
    except UnidentifiedImageError:
        raise SetAside("no image file") from None
    if getattr(picture, "n_frames", 1) > 1:
        raise SetAside("an animation or a stack of images")
    picture.load()
    return prepare_picture(*_grey(picture, preparation), preparation)


def prepare_picture(values: Values, highest: float, preparation: Preparation) -> Loaded:
    """Windows and resizes an image that is not DICOM.

    Args:
        values: float32 [H, W].
        highest: largest value of the data type: white for the window "full".
        preparation: what is done to it.
    """
    window = preparation.window
    low, high = (window.low, window.high) if window.kind == "range" else (0.0, highest)
    image = finish(range_window(values, low, high), None, preparation.geometry, None)
    rows, columns = values.shape
    return Loaded("read", header=Header(rows=rows, columns=columns, highest=highest), images=(image,))


def _grey(picture: Image.Image, preparation: Preparation) -> tuple[Values, float]:
    if picture.mode == "1":
        picture = picture.convert("L")
    if picture.mode in ("L", "LA"):
        return np.asarray(picture.convert("L"), np.float32), 255.0
    if picture.mode.startswith("I;16") or picture.mode == "I":
        return np.asarray(picture, np.float32), 65535.0
    return to_grey(np.asarray(picture.convert("RGB")), preparation), 255.0


def to_grey(colour: NDArray[np.integer], preparation: Preparation) -> Values:
    """Colour to grey, where that loses nothing or is asked for.

    Args:
        colour: [H, W, 3].
        preparation: says what becomes of colour images.

    Returns:
        float32 [H, W] in the same unit.

    Raises:
        SetAside: the image has colours and grey was not asked for.
    """
    red, green, blue = (colour[..., channel] for channel in range(3))
    if np.array_equal(red, green) and np.array_equal(red, blue):
        return red.astype(np.float32)
    if preparation.colour != "grey":
        raise SetAside("a colour image; set colour: grey to have it converted")
    return luma(colour)
