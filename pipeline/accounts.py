"""The reckoning of an ingest: what became of every file, what lies where, and what a reader must be warned of."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.collect import Collected
from pipeline.labels import first_five
from pipeline.records import SPLITS

LISTED = 200
"""Quarantined and set-aside files that the artifact names one by one."""

MANY_LOST = 0.05
"""Share of unreadable files that is worth a warning."""

FEW = 10
"""Fewer patients of a class in a split than this are worth a warning."""


def count(kept: pd.DataFrame, classes: tuple[str, ...]) -> dict[str, dict[str, dict[str, int]]]:
    """Split → class → slices and patients."""
    counts = {}
    for split in SPLITS:
        side = kept[kept["split"] == split]
        of = {name: side[side["label"] == name] for name in classes}
        counts[split] = {n: {"slices": len(rows), "patients": int(rows["patient"].nunique())} for n, rows in of.items()}
    return counts


FATES = ("kept", "duplicates", "quarantined", "set aside", "unlabelled")
CLASH = "identical pixels under another label"


def fates(
    found: Collected, slices: pd.DataFrame, stays: NDArray[np.bool_], conflicting: NDArray[np.bool_]
) -> pd.DataFrame:
    """What became of every file in the end.

    Args:
        found: what the passes over the source brought.
        slices: its rows, [N].
        stays: which of them are in the dataset, [N].
        conflicting: which are copies of each other under several labels, [N].

    Returns:
        One row a file: key, file (its name: private), fate (one of :data:`FATES`), reason, label.
    """
    frames = pd.DataFrame({"key": slices["file"], "stays": stays, "conflicting": conflicting})
    of_file = frames.groupby("key", sort=False).agg({"stays": "any", "conflicting": "all"})
    table = pd.DataFrame(
        [(row.key, row.name, row.fate, row.reason, row.label) for row in found.files],
        columns=["key", "file", "fate", "reason", "label"],
    )
    images = table["fate"] == "image"
    kept = table["key"].map(of_file["stays"]).eq(True)
    clashing = images & ~kept & table["key"].map(of_file["conflicting"]).eq(True)
    table.loc[images & kept, "fate"] = "kept"
    table.loc[images & ~kept & ~clashing, "fate"] = "duplicates"
    table.loc[clashing, ["fate", "reason"]] = "set aside", CLASH
    return table


def reckon(table: pd.DataFrame, slices: int) -> tuple[dict[str, int], dict[str, Any]]:
    """The sum over all files.

    Args:
        table: see :func:`fates`.
        slices: images kept.

    Returns:
        The tally, in which ``files`` is the sum of ``kept``, ``duplicates``, ``quarantined``, ``set_aside`` and
        ``unlabelled``, and ``slices`` is the number of images kept; and the table of what was quarantined or set aside:
        ``files`` (the first 200: file key, status, reason) and ``reasons`` (all, with counts).
    """
    number = Counter(table["fate"])
    tally = {"files": len(table), **{fate.replace(" ", "_"): number[fate] for fate in FATES}, "slices": slices}
    assert sum(number.values()) == sum(number[fate] for fate in FATES), number
    out = table[table["fate"].isin(("quarantined", "set aside"))].sort_values("fate", kind="stable")
    reasons = Counter(zip(out["fate"], out["reason"], strict=True))
    quarantine = {
        "files": [{"file": row.key, "status": row.fate, "reason": row.reason} for row in out.head(LISTED).itertuples()],
        "reasons": [{"status": what, "reason": why, "count": times} for (what, why), times in reasons.most_common()],
    }
    return tally, quarantine


def warnings_of(
    found: Collected, slices: pd.DataFrame, kept: pd.DataFrame, conflicting: NDArray[np.bool_]
) -> list[str]:
    """What a reader must know about the source, one line each.

    Args:
        found: what the pass over the source brought.
        slices: all its rows, with a given split ("" where there is none).
        kept: those in the dataset.
        conflicting: which rows are copies of each other under several labels.
    """
    warnings = []
    unknown = found.patient_from["file"]
    if unknown:
        warnings.append(
            f"patients unknown for {unknown} file(s): every image counts as its own patient, so that images of one "
            "patient may lie on both sides of the split and results may be too good"
        )
    if found.patient_from["study"]:
        warnings.append(f"no PatientID in {found.patient_from['study']} file(s): the study stands for the patient")
    unlabelled = [row.key for row in found.files if row.fate == "unlabelled"]
    if unlabelled:
        keys = first_five(unlabelled)
        warnings.append(f"{len(unlabelled)} readable file(s) without a label were left out (keys: {keys})")
    lost = sum(row.fate == "quarantined" for row in found.files)
    if lost > MANY_LOST * len(found.files):
        warnings.append(f"{lost} of {len(found.files)} files could not be read: see the reasons before anything else")
    if conflicting.any():
        warnings.append(
            f"{int(conflicting.sum())} slice(s) that are copies of each other under different labels were left out"
        )
    joined = slices.groupby("group")["patient"].nunique()
    if (joined > 1).any():
        warnings.append(
            f"{int(joined[joined > 1].sum())} patients share identical slices or a study and were kept on one side"
        )
    sides = slices.groupby("copies")["split"].nunique()
    if (sides > 1).any():
        astray = int((sides > 1).sum())
        warnings.append(f"{astray} image(s) lay on several sides of the given split; one side kept each")
    known = slices[slices["instance"] != ""]
    contents = known.groupby("instance")["source_hash"].nunique()
    if (contents > 1).any():
        warnings.append(
            f"{int((contents > 1).sum())} SOPInstanceUID(s) stand in several files with different pixels; the first "
            "file was kept"
        )
    modalities = sorted(kept["modality"].unique())
    if len(modalities) > 1:
        warnings.append(f"several modalities in one dataset: {', '.join(name or 'unknown' for name in modalities)}")
    warnings += [f"{note} ({count} file(s))" for note, count in sorted(found.notes.items())]
    return warnings


def doubts(counts: dict[str, dict[str, dict[str, int]]], shares: dict[str, dict[str, float]]) -> list[str]:
    """What the numbers of patients do not carry."""
    lines = []
    for split in ("train", "test"):
        few = {name: count["patients"] for name, count in counts[split].items() if count["patients"] < FEW}
        if few:
            listing = ", ".join(f"{name}: {number}" for name, number in few.items())
            lines.append(f"few patients of a class in {split} ({listing}): figures for it are very uncertain")
    gap, split, name = max(
        (abs(shares[split][name] - share), split, name) for name, share in shares["all"].items() for split in SPLITS
    )
    if gap > 0.05:
        part, whole = shares[split][name], shares["all"][name]
        lines.append(f"stratification is rough: {name} makes up {part:.0%} of {split}, {whole:.0%} of all")
    return lines
