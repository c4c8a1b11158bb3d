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


def reckon(
    found: Collected, slices: pd.DataFrame, stays: NDArray[np.bool_], conflicting: NDArray[np.bool_]
) -> tuple[dict[str, int], dict[str, Any]]:
    """What became of every file.

    Args:
        found: what the pass over the source brought.
        slices: its rows, [N].
        stays: which of them are in the dataset, [N].
        conflicting: which have identical pixels under several labels, [N].

    Returns:
        The tally, in which ``files`` is the sum of ``kept``, ``duplicates``, ``quarantined``, ``set_aside`` and
        ``unlabelled``, and ``slices`` is the number of images kept; and the table of what was quarantined or set aside:
        ``files`` (the first 200: file key, status, reason) and ``reasons`` (all, with counts).
    """
    frames = pd.DataFrame({"file": slices["file"], "stays": stays, "conflicting": conflicting})
    fates = frames.groupby("file", sort=False).agg({"stays": "any", "conflicting": "all"})
    clashing = list(fates.index[~fates["stays"] & fates["conflicting"]])
    left_out = [
        *found.left_out,
        *({"file": key, "status": "set aside", "reason": "identical pixels under another label"} for key in clashing),
    ]
    status = Counter(entry["status"] for entry in left_out)
    kept = int(fates["stays"].sum())
    tally = {
        "files": found.files,
        "kept": kept,
        "duplicates": len(fates) - kept - len(clashing),
        "quarantined": status["quarantined"],
        "set_aside": status["set aside"],
        "unlabelled": len(found.unlabelled),
        "slices": int(stays.sum()),
    }
    parts = ("kept", "duplicates", "quarantined", "set_aside", "unlabelled")
    assert tally["files"] == sum(tally[part] for part in parts), tally
    reasons = Counter((entry["status"], entry["reason"]) for entry in left_out)
    quarantine = {
        "files": sorted(left_out, key=lambda entry: entry["status"] != "quarantined")[:LISTED],
        "reasons": [{"status": what, "reason": why, "count": times} for (what, why), times in reasons.most_common()],
    }
    return tally, quarantine


def warnings_of(
    found: Collected, slices: pd.DataFrame, kept: pd.DataFrame, conflicting: NDArray[np.bool_]
) -> list[str]:
    """What a reader must know about the source, one line each.

    Args:
        found: what the pass over the source brought.
        slices: all its rows, with the source's own split ("" where it has none).
        kept: those in the dataset.
        conflicting: which rows have identical pixels under several labels.
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
    if found.unlabelled:
        keys = first_five(found.unlabelled)
        warnings.append(f"{len(found.unlabelled)} readable file(s) without a label were left out (keys: {keys})")
    if conflicting.any():
        warnings.append(f"{int(conflicting.sum())} slice(s) with identical pixels but different labels were left out")
    joined = slices.groupby("group")["patient"].nunique()
    if (joined > 1).any():
        warnings.append(f"{int(joined[joined > 1].sum())} patients share identical slices and were kept on one side")
    sides = slices.groupby("hash")["split"].nunique()
    if (sides > 1).any():
        astray = int((sides > 1).sum())
        warnings.append(f"{astray} image(s) lay on several sides of the source's own split; one side kept each")
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
