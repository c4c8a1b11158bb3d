"""The datasheet in every export: what the images are, how they were made, what was checked, what they are for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from flows.exports.gate import CopyCheck
from flows.exports.writers import ImageSet, describe
from pipeline.records import ResultRow, read_rows
from pipeline.store import MANIFEST, Artifact, file_sha256

SHEET, DATA = "DATASHEET.md", "datasheet.json"
SCORE = ("metric", "value", "low", "high", "n_real", "n_synthetic", "note")  # what is told of each figure
INTENDED = (
    "Additional training images for classifiers of the classes named here, beside real training images of the same "
    "source; method development and teaching."
)
WARNINGS = (
    "Drawn by a generative network: the images depict no patient and no anatomy that exists.",
    "The class of an image is the one that was asked for, and no diagnosis; nobody has confirmed it.",
    "Never put them into a validation or test set, and never report a classifier's figures on them.",
    "They carry the biases of the training images (scanner, site, population, size of the finding) and may add some.",
    "Not a medical device and not for any clinical decision.",
)


def make_datasheet(
    title: str,
    form: str,
    images: ImageSet,
    making: Mapping[str, Any],
    check: CopyCheck,
    scores: Sequence[ResultRow],
    licence: str,
    source_warnings: Sequence[str],
) -> dict[str, Any]:
    """The datasheet as JSON data.

    Args:
        title: of the set.
        form: the export's format.
        images: what is exported.
        making: generator, seeds and hashes, name → value.
        check: what the gate did.
        scores: figures of this set or of another draw, see :func:`scores_of`.
        licence: of the source data, as the user states it; "" where he does not.
        source_warnings: what the dataset's own manifest warns of.
    """
    not_checked = (
        () if check.checked else ("The images were not compared with the training images; some may be copies.",)
    )
    return {
        "title": title,
        "format": form,
        "content": describe(images),
        "made": {"software": f"medaug {version('medaug')}", **making},
        "copies": {**vars(check), "text": check.text},
        "scores": [{name: getattr(row, name) for name in SCORE} for row in scores],
        "licence_of_the_source": licence or "not stated",
        "intended_use": INTENDED,
        "warnings": [*not_checked, *WARNINGS],
        "warnings_about_the_source": list(source_warnings),
    }


def write_datasheet(sheet: Mapping[str, Any], folder: Path) -> None:
    """Writes the datasheet for people and as JSON, the latter with the hash of every file of the export."""
    files = {
        file.relative_to(folder).as_posix(): file_sha256(file) for file in sorted(folder.rglob("*")) if file.is_file()
    }
    data = {**sheet, "files_sha256": files}
    text = json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False)
    (folder / DATA).write_text(text + "\n", encoding="utf-8")
    (folder / SHEET).write_text(_markdown(sheet), encoding="utf-8")


def scores_of(store: Path, images: Artifact) -> list[ResultRow]:
    """Fidelity over all classes of this synthetic set, or else of another draw from the same distribution.

    That is a set from the same generator with the same truncation, neither of them filtered: figures of any other set
    would tell nothing of this one.

    Args:
        store: the artifacts' folder.
        images: the synthetic artifact.
    """
    alike, source = [], _distribution(images)
    for manifest in sorted((store / "synthetic").glob(f"*/{MANIFEST}")):
        artifact = Artifact.open(manifest.parent)
        if source is not None and _distribution(artifact) == source:
            alike.append(artifact.digest)
    scored = {}
    for manifest in sorted((store / "score").glob(f"*/{MANIFEST}")):
        artifact = Artifact.open(manifest.parent)
        scored[artifact.manifest["recipe"]["inputs"].get("synthetic")] = artifact.path / "rows.jsonl"
    for digest in (images.digest, *sorted(alike)):
        if digest in scored:
            classes = set(images.meta["classes"])
            return [row for row in read_rows(scored[digest]) if row.metric.rpartition(".")[2] not in classes]
    return []


def _distribution(synthetic: Artifact) -> tuple[str, float] | None:
    """What a set is drawn from: generator and truncation; None where that is unknown or a filter has chosen from it."""
    meta = synthetic.meta
    if not meta.get("generator") or "truncation" not in meta or "filter" in meta:
        return None
    return str(meta["generator"]), float(meta["truncation"])


def _markdown(sheet: Mapping[str, Any]) -> str:
    content, made = sheet["content"], sheet["made"]
    span, spacing = content["value_range"], content["pixel_spacing_mm"]
    unit = "" if span["unit"] == "1" else f" {span['unit']}"
    lines = [
        f"# {sheet['title']}",
        "",
        "**Synthetic images. No patient is depicted.**",
        "",
        "## What it holds",
        "",
        f"- {content['images']} images of {content['height']}x{content['width']} pixels, {content['channels']} "
        f"channel(s), as {sheet['format']}",
        *[f"- class {name}: {count}" for name, count in content["classes"].items()],
        f"- black stands for {span['low']:g}{unit}, white for {span['high']:g}{unit}; modality {content['modality']}",
        f"- pixel size {spacing[0]:g} x {spacing[1]:g} mm" if spacing else "- pixel size unknown",
        "",
        "## How it was made",
        "",
        *[f"- {name.replace('_', ' ')}: {value}" for name, value in made.items()],
        "",
        "## Copies of training images",
        "",
        sheet["copies"]["text"] + ".",
        "",
        "## Figures",
        "",
    ]
    if sheet["scores"]:
        lines += [
            "Of this set, or of one from the same generator with the same truncation, against its training images:",
            "",
        ]
        lines += ["| metric | value | 95 % interval | real | synthetic |", "|---|---|---|---|---|"]
        for row in sheet["scores"]:
            interval = "" if row["low"] is None else f"{row['low']:.4g} to {row['high']:.4g}"
            counts = f"{row['n_real'] or ''} | {row['n_synthetic'] or ''}"
            lines.append(f"| {row['metric']} | {row['value']:.4g} | {interval} | {counts} |")
    else:
        lines.append("None at hand.")
    lines += [
        "",
        "## Licence",
        "",
        f"Licence of the source data: {sheet['licence_of_the_source']}.",
        "",
        "## Intended use",
        "",
        sheet["intended_use"],
        "",
        "## Warnings",
        "",
        *[f"- {warning}" for warning in sheet["warnings"]],
    ]
    if sheet["warnings_about_the_source"]:
        lines += ["", "About the source data:", "", *[f"- {one}" for one in sheet["warnings_about_the_source"]]]
    return "\n".join([*lines, ""])
