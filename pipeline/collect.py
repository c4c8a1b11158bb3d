"""Every file of a source read once: frames into a flat file, their facts into rows, the rest into a reckoning."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.dataset import encode, image_hash
from pipeline.dicom.deidentify import Keys, open_private
from pipeline.labels import first_five
from pipeline.preprocess import Preparation
from pipeline.records import SPLITS, MedaugError, Progress
from pipeline.scans import Header, Loaded, Rules, SetAside, load_entries, prepare_picture, to_grey
from pipeline.sources import Source, open_npz


@dataclass
class Collected:
    """What a pass over a source brought.

    Attributes:
        rows: one a labelled frame, in the order of the files; without identities.
        left_out: one an unreadable or set-aside file: {"file": key, "status", "reason"}.
        unlabelled: keys of readable files without a label.
        unlabelled_names: the names of the first of them, for messages to the user alone.
        files: how many files there were.
        notes: remark → number of files.
        patient_from: field that patients were told apart by → number of files.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[dict[str, str]] = field(default_factory=list)
    unlabelled: list[str] = field(default_factory=list)
    unlabelled_names: list[str] = field(default_factory=list)
    files: int = 0
    notes: Counter[str] = field(default_factory=Counter)
    patient_from: Counter[str] = field(default_factory=Counter)


def collect(
    source: Source,
    preparation: Preparation,
    tag: str | None,
    mapping: Mapping[str, str] | None,
    keys: Keys,
    frames: Path,
    table: Path,
    progress: Progress,
) -> Collected:
    """Reads a source.

    Args:
        source: what to read.
        preparation: what is done to the pixels.
        tag: keyword of the DICOM attribute that holds the labels, or None.
        mapping: label as found → class; None to take labels as they are.
        keys: hides the identities.
        frames: written: the stored codes of each row, uint16 [1, h, w], one after the other.
        table: written with mode 0600: key → file name.
        progress: told after each file.

    Raises:
        MedaugError: nothing in the source is both readable and labelled.
    """
    found = Collected()
    with frames.open("wb") as pixels, open_private(table) as paths:
        writer = csv.writer(paths)
        writer.writerow(("key", "file"))
        for name, label, loaded in _read(source, preparation, tag, progress):
            key = keys("file", name)
            writer.writerow((key, name))
            found.files += 1
            if loaded.header is None:
                found.left_out.append({"file": key, "status": loaded.status, "reason": loaded.reason})
                continue
            label = loaded.header.tag if source.labels_by == "tag" else label
            label = label if mapping is None else mapping.get(label, "")
            if not label:
                found.unlabelled.append(key)
                found.unlabelled_names += [name] if len(found.unlabelled_names) <= 5 else []
                continue
            found.notes.update(loaded.notes)
            found.patient_from[loaded.header.patient_from] += 1
            official = SPLITS[_PARTS.index(name.split("/")[0])] if source.kind == "npz" else ""
            for number, image in enumerate(loaded.images):
                codes = encode(image[None])
                pixels.write(codes.astype("<u2").tobytes())
                row = _row(key, loaded.header, keys, label, official)
                found.rows.append({**row, "frame": number, "hash": image_hash(codes).decode()})
    if not found.rows:
        raise MedaugError(f"data {source.path}: {_why_nothing(found, source)}")
    return found


_PARTS = ("train", "val", "test")  # MedMNIST's names, in the order of SPLITS


def _read(
    source: Source, preparation: Preparation, tag: str | None, progress: Progress
) -> Iterator[tuple[str, str, Loaded]]:
    """(name, label as found, what was read) of each file."""
    if source.kind != "npz":
        rules = Rules(source.kind, preparation, tag)
        for entry, loaded in load_entries(source.entries, rules, progress):
            yield entry.name, source.labels.get(entry.name, ""), loaded
        return
    arrays = open_npz(source.path)
    total, done = sum(map(len, arrays.labels)), 0
    for part, images, labels in zip(_PARTS, arrays.images, arrays.labels, strict=True):
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            read: Loaded
            try:
                grey = to_grey(image, preparation) if image.ndim == 3 else image.astype(np.float32)
                read = prepare_picture(grey, float(np.iinfo(image.dtype).max), preparation)
            except SetAside as reason:
                read = Loaded("set aside", str(reason))
            yield f"{part}/{number:06d}", str(label), read
            done += 1
            progress(done, total)


def _row(key: str, header: Header, keys: Keys, label: str, official: str) -> dict[str, Any]:
    """Facts of one frame with the identities hidden; a patient that is not known is the file."""
    spacing = header.spacing or (float("nan"), float("nan"))
    return {
        "file": key,
        "patient": keys("patient", header.patient) if header.patient else key,
        "study": keys("study", header.study) if header.study else "",
        "label": label,
        "split": official,
        "modality": header.modality,
        "unit": header.unit,
        "manufacturer": header.manufacturer,
        "kernel": header.kernel,
        "contrast_agent": header.contrast_agent,
        "photometric": header.photometric,
        "source_rows": header.rows,
        "source_columns": header.columns,
        "row_spacing_mm": spacing[0],
        "column_spacing_mm": spacing[1],
        "highest": header.highest,
    }


def _why_nothing(found: Collected, source: Source) -> str:
    if found.unlabelled:
        return (
            f"none of {len(found.unlabelled)} readable file(s) has a label (first: "
            f"{first_five(found.unlabelled_names)}); check labels.file, labels.tag or labels.mapping"
        )
    reasons = Counter(entry["reason"] for entry in found.left_out)
    if set(reasons) <= {"no DICOM file"}:
        return f"holds no DICOM file among {found.files} file(s); for PNG or JPEG set source.kind: images"
    if set(reasons) <= {"no image file"}:
        return f"holds no image among {found.files} file(s); for DICOM set source.kind: dicom"
    listing = "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common(3))
    return f"none of {found.files} file(s) can be used as {source.kind}: {listing}"
