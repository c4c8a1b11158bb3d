"""De-identified DICOM copies of the scans that a dataset artifact was made from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from flows.configuration import ExperimentConfig
from flows.progress import progress_bar
from pipeline.dicom.deidentify import Keys
from pipeline.dicom.export import export_deidentified
from pipeline.files import Entry, SetAside, Unreadable
from pipeline.records import MedaugError
from pipeline.sources import open_source
from pipeline.store import Artifact


def export_scans(config: ExperimentConfig, dataset: Path, out: Path) -> dict[str, Any]:
    """Writes copies of the files that were kept, under the dataset's own pseudonyms.

    Args:
        config: whose source.
        dataset: the artifact that was made from it.
        out: folder to write to; new, empty, or of an export that was broken off.

    Returns:
        "deidentified" (the folder), "written", "refused" (reason → files), and "text" for people.

    Raises:
        MedaugError: the source is not DICOM, or the folder cannot be used.
    """
    private = config.runs / "private"
    with progress_bar("list the source", "files") as progress:
        source = open_source(config.data.source, config.runs / "artifacts", private, None, progress)
    if source.kind != "dicom":
        raise MedaugError(f"--deidentified {out}: the source is {source.kind}, expected DICOM files")
    recipe = Artifact.open(dataset).manifest["recipe"]["hash"]
    table = pd.read_csv(
        private / f"files-{recipe}.csv", dtype=str, keep_default_na=False, encoding_errors="surrogateescape"
    )
    kept = set(table.loc[table["fate"] == "kept", "file"])
    entries = [entry for entry in source.entries if entry.name in kept]
    with progress_bar("de-identify", "files") as progress:
        result = export_deidentified(_read(entries), Keys.load(private), out, lambda n, _: progress(n, len(entries)))
    lines = [f"De-identified: {result.written} of {len(entries)} files in {out}; read its README.txt"]
    lines += [f"{count:>7} refused: {reason}" for reason, count in result.refused.most_common()]
    if result.unchecked:
        lines.append(f"{result.unchecked} of them do not say that nothing is burned into their pixels: look at them")
    return {
        "deidentified": str(out),
        "written": result.written,
        "refused": dict(result.refused),
        "text": "\n".join(lines),
    }


def _read(entries: Sequence[Entry]) -> Iterator[tuple[str, bytes]]:
    for entry in entries:
        try:
            data = entry.read()
        except (SetAside, Unreadable):  # it has changed since; no bytes are refused as such
            data = b""
        yield entry.name, data
