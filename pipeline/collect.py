"""Two passes over a source: the headers of all files, then the pixels of the labelled images."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.codes import encode, image_hash
from pipeline.dicom.deidentify import Keys
from pipeline.files import SetAside
from pipeline.labels import Label, first_five
from pipeline.matching import Labelling
from pipeline.npz import open_npz
from pipeline.pictures import shown_picture
from pipeline.preprocess import finish, to_grey
from pipeline.reading import look, prepare, source_hash
from pipeline.records import SPLITS, MedaugError, Progress
from pipeline.scans import Found, Frame, Header, Prepared, Rules
from pipeline.sources import Source
from pipeline.workers import Lost, Workers


@dataclass(frozen=True, slots=True)
class FileRow:
    """What became of one file.

    Attributes:
        key: keyed hash of its name.
        name: for the private table alone.
        fate: "image", "set aside", "quarantined" or "unlabelled".
        reason: why it is no image; else "".
        label: class, or "".
    """

    key: str
    name: str
    fate: str
    reason: str = ""
    label: str = ""


@dataclass
class Collected:
    """What the passes over a source brought.

    Attributes:
        rows: one a labelled image, in the order of the files; without identities.
        fields: header fields of each row, for the audit alone; see :data:`pipeline.dicom.header.AUDITED`.
        files: one a file.
        notes: remark → number of files.
        patient_from: field that patients were told apart by → number of files.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    fields: list[tuple[str, ...]] = field(default_factory=list)
    files: list[FileRow] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)
    patient_from: Counter[str] = field(default_factory=Counter)

    def add(self, key: str, label: Label, header: Header, prepared: Prepared, keys: Keys) -> None:
        """Takes the images of one file."""
        self.notes.update(prepared.notes)
        self.patient_from["column" if label.patient else header.patient_from] += 1
        for number, frame in enumerate(prepared.frames):
            place = {"spool": prepared.spool, "position": prepared.position + number}
            self.rows.append({**_row(key, header, keys, label), **_frame(frame, header, keys), **place})
            self.fields.append(header.fields)


def collect_files(
    source: Source, labelling: Labelling, rules: Rules, keys: Keys, pool: Workers, spools: Path, progress: Progress
) -> Collected:
    """Reads a source of files.

    Args:
        source: what to read.
        labelling: which file has which label.
        rules: how files are read.
        keys: hides the identities.
        pool: reads them.
        spools: folder that gets the images' codes; see :class:`pipeline.scans.Prepared`.
        progress: told (reads done, reads in all): two a file, one where the header says enough.

    Raises:
        MedaugError: labels that fit no file, or nothing in the source is both readable and labelled.
    """
    total, done = 2 * len(source.entries), 0
    found: list[Found] = []
    for _, seen in pool.map(partial(look, rules=rules), source.entries):
        found.append(seen if isinstance(seen, Found) else Found("quarantined", seen.reason))
        done += 1 if found[-1].status == "image" else 2
        progress(done, total)
    labels = labelling.assign(source.entries, found)

    wanted = [
        (entry, one)
        for entry, one in zip(source.entries, found, strict=True)
        if one.status == "image" and entry.name in labels
    ]
    done = total - len(wanted)
    images = pool.map(partial(prepare, rules=rules, spools=spools), wanted)
    collected = Collected()
    for entry, one in zip(source.entries, found, strict=True):
        key = keys("file", entry.name)
        label = labels.get(entry.name)
        if one.header is None:
            collected.files.append(FileRow(key, entry.name, one.status, one.reason))
        elif label is None:
            collected.files.append(FileRow(key, entry.name, "unlabelled"))
        else:
            prepared = _fate(next(images)[1])
            collected.files.append(FileRow(key, entry.name, prepared.status, prepared.reason, label.name))
            if prepared.status == "image":
                collected.add(key, label, one.header, prepared, keys)
            done += 1
            progress(done, total)
    _refuse_nothing(collected, source)
    return collected


def _fate(result: Prepared | Lost) -> Prepared:
    return result if isinstance(result, Prepared) else Prepared("quarantined", result.reason)


PARTS = ("train", "val", "test")  # MedMNIST's names, in the order of SPLITS


def collect_npz(
    source: Source, labelling: Labelling, rules: Rules, keys: Keys, spools: Path, progress: Progress
) -> Collected:
    """Reads a MedMNIST file; its arguments are those of :func:`collect_files`.

    Raises:
        MedaugError: not such a file, or no image in it has a label.
    """
    arrays = open_npz(source.path)
    total = sum(map(len, arrays.labels))
    collected = Collected()
    spool = spools / "npz.u16"
    with spool.open("wb") as pixels:
        for part, side, images, labels in zip(PARTS, SPLITS, arrays.images, arrays.labels, strict=True):
            for number, (image, found) in enumerate(zip(images, labels, strict=True)):
                name = f"{part}/{number:06d}"
                key = keys("file", name)
                label = labelling.class_of(str(found))
                progress(len(collected.files) + 1, total)
                if not label:
                    collected.files.append(FileRow(key, name, "unlabelled"))
                    continue
                try:
                    grey = to_grey(image, rules.preparation) if image.ndim == 3 else image.astype(np.float32)
                except SetAside as reason:
                    collected.files.append(FileRow(key, name, "set aside", str(reason), label))
                    continue
                highest = float(np.iinfo(image.dtype).max)
                shown = shown_picture(grey, highest, rules.preparation)
                identity = source_hash(shown)
                prepared, pixel = finish(shown, rules.preparation.geometry)
                codes = encode(prepared[None])
                frame = Frame(0, image_hash(codes).decode(), identity, pixel)
                result = Prepared("image", "", (frame,), spool.name, len(collected.rows))
                pixels.write(codes.astype("<u2").tobytes())
                collected.files.append(FileRow(key, name, "image", "", label))
                header = Header(rows=image.shape[0], columns=image.shape[1], highest=highest)
                collected.add(key, Label(label, "", side), header, result, keys)
    _refuse_nothing(collected, source)
    return collected


def _row(key: str, header: Header, keys: Keys, label: Label) -> dict[str, Any]:
    """Facts of one file with the identities hidden; a patient that is not known is the file."""
    spacing = header.spacing or (float("nan"), float("nan"))
    patient = f"column\0{label.patient}" if label.patient else header.patient
    return {
        "file": key,
        "patient": keys("patient", patient) if patient else key,
        "study": keys("study", header.study) if header.study else "",
        "label": label.name,
        "split": label.side,
        "modality": header.modality,
        "unit": header.unit,
        "photometric": header.photometric,
        "source_rows": header.rows,
        "source_columns": header.columns,
        "row_spacing_mm": spacing[0],
        "column_spacing_mm": spacing[1],
        "highest": header.highest,
    }


def _frame(frame: Frame, header: Header, keys: Keys) -> dict[str, Any]:
    """What tells the images of a file apart, and copies from originals."""
    pixel = frame.pixel or (float("nan"), float("nan"))
    return {
        "frame": frame.number,
        "hash": frame.hash,
        "source_hash": frame.source,
        # Of one patient: anonymisers have been seen to give strangers one UID.
        "instance": keys("instance", f"{header.patient}\0{header.instance}\0{frame.number}") if header.instance else "",
        "pixel_height_mm": pixel[0],
        "pixel_width_mm": pixel[1],
    }


def _refuse_nothing(collected: Collected, source: Source) -> None:
    """Raises where not one image is left, with the reason."""
    if collected.rows:
        return
    total = len(collected.files)
    unlabelled = [row.name for row in collected.files if row.fate == "unlabelled"]
    reasons = Counter(row.reason for row in collected.files if row.fate != "unlabelled")
    if unlabelled:
        why = (
            f"none of {len(unlabelled)} readable file(s) has a label (first: {first_five(unlabelled)}); "
            "check labels.file, labels.tag or labels.mapping"
        )
    elif set(reasons) <= {"no DICOM file"}:
        why = f"holds no DICOM file among {total} file(s); for PNG or JPEG set source.kind: images"
    elif set(reasons) <= {"no image file"}:
        why = f"holds no image among {total} file(s); for DICOM set source.kind: dicom"
    else:
        listing = "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common(3))
        why = f"none of {total} file(s) can be used as {source.kind}: {listing}"
    raise MedaugError(f"data {source.path}: {why}")


def spooled(
    places: Iterable[tuple[str, int]], spools: Path, shape: tuple[int, int, int]
) -> Iterator[NDArray[np.uint16]]:
    """The codes of images, uint16 [C, h, w] each, by spool file and position; the files are mapped, not read whole."""
    maps: dict[str, NDArray[np.uint16]] = {}
    for name, position in places:
        if name not in maps:
            flat = np.memmap(spools / name, "<u2", mode="r")
            whole = len(flat) - len(flat) % math.prod(shape)  # a worker killed in mid-write leaves a part
            maps[name] = flat[:whole].reshape(-1, *shape)
        yield maps[name][position]
