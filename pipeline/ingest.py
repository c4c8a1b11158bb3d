"""A source of scans to one immutable dataset artifact.

The sum that has to come out: files found = kept + duplicates + quarantined + set aside + unlabelled. A multi-frame file
counts once, as kept if one of its frames is; ``slices`` counts frames.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator

from pipeline.accounts import count, doubts, reckon, warnings_of
from pipeline.audit import describe, header_leaks
from pipeline.collect import Collected, collect
from pipeline.dataset import IMAGES, dataset_meta, write_index
from pipeline.dicom.deidentify import Keys
from pipeline.labels import LabelConfig, choose_classes, first_five
from pipeline.preprocess import Fit, Geometry, Preparation, Window
from pipeline.records import SPLITS, ImageSpec, MedaugError, Progress, ValueRange
from pipeline.sources import SourceConfig, open_source
from pipeline.splits import SplitConfig, assign_splits, class_shares, join_groups, prefer_copy
from pipeline.store import Artifact, Draft, Recipe, Store, code_version


class DataConfig(BaseModel):
    """Which scans, and what is made of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(default="data", pattern=r"^[A-Za-z0-9_.-]{1,40}$", description="part of the artifact's name")
    source: SourceConfig = SourceConfig()
    labels: LabelConfig = LabelConfig()
    window: str | tuple[float, float] = Field(
        default="dicom",
        description="a named window in HU, [low, high], dicom (each file's own) or full (the data type's range)",
    )
    size: tuple[int, int] = Field(default=(64, 64), description="height and width of prepared images")
    channels: Literal[1] = 1
    fit: Fit = Field(
        default="pad", description="pad keeps everything, crop cuts the middle out, stretch ignores the aspect"
    )
    colour: Literal["set_aside", "grey"] = Field(default="set_aside", description="what becomes of colour images")
    split: SplitConfig = SplitConfig()

    @field_validator("window")
    @classmethod
    def _known(cls, value: str | tuple[float, float]) -> str | tuple[float, float]:
        Window.parse(value)
        return value

    @field_validator("size")
    @classmethod
    def _drawable(cls, value: tuple[int, int]) -> tuple[int, int]:
        if not all(8 <= side <= 4096 for side in value):
            raise ValueError("expected [height, width], each between 8 and 4096")
        return value

    @property
    def preparation(self) -> Preparation:
        """What the readers need to know."""
        return Preparation(Window.parse(self.window), Geometry(*self.size, self.fit), self.colour)


def ingest(config: DataConfig, store: Store, private: Path, progress: Progress, base: Path | None = None) -> Artifact:
    """Makes the dataset artifact, or finds it: over unchanged data no pixel is read.

    Args:
        config: which scans, and what is made of them.
        store: where the artifact goes, and phantoms.
        private: folder for the key of the hashes and the table that leads from hashes back to files; never shared.
        progress: told how many files are read.
        base: relative paths in the configuration start here; None for the current folder.

    Returns:
        An artifact of kind "dataset" (layout: :mod:`pipeline.dataset`).

    Raises:
        MedaugError: nothing to read, labels that do not fit, or a split by patient is impossible.
    """
    source = open_source(config.source, config.labels, store.root, base)
    if source.kind != "dicom" and config.preparation.window.kind == "hu":
        raise MedaugError(f"window {config.window!r}: is in Hounsfield units, which images have not; set window: full")
    keys = Keys.load(private)
    settings = config.model_dump(mode="json", exclude={"name": True, "source": True, "labels": {"file", "by"}})
    recipe = Recipe(
        kind="dataset",
        name=config.name,
        inputs={"source": source.fingerprint, "labels": source.labels_fingerprint, "key": keys.fingerprint},
        config={**settings, "kind": source.kind, "labels_by": source.labels_by},
        code=code_version(
            *("pipeline.dicom", "pipeline.sources", "pipeline.labels", "pipeline.scans", "pipeline.collect"),
            *("pipeline.preprocess", "pipeline.splits", "pipeline.audit", "pipeline.accounts"),
            *("pipeline.ingest", "pipeline.dataset"),
        ),
    )

    def build(draft: Draft) -> None:
        frames, table = draft.folder / "frames.u16", private / f"files-{recipe.hash}.csv"
        labels = config.labels
        found = collect(source, config.preparation, labels.tag, labels.mapping, keys, frames, table, progress)
        _assemble(config, found, frames, draft)
        frames.unlink()

    return store.get_or_create(recipe, build)


def _assemble(config: DataConfig, found: Collected, frames: Path, draft: Draft) -> None:
    """Duplicates, splits, and everything into the draft."""
    slices = pd.DataFrame(found.rows)
    if slices["unit"].nunique() > 1 and config.preparation.window.kind == "range":
        raise MedaugError(
            f"window {config.window}: the source mixes CT (in HU) with modalities that have no unit; ingest them apart"
        )
    classes = choose_classes(list(slices["label"]), config.labels)
    slices["class"] = slices["label"].map(classes.index)
    slices["group"] = join_groups(list(slices["patient"]), list(slices["hash"]))
    official = None if (slices["split"] == "").all() else slices["split"].map(SPLITS.index).to_numpy(np.uint8)

    conflicting = slices.groupby("hash")["label"].transform("nunique").to_numpy() > 1
    stays = prefer_copy(list(slices["hash"]), official) & ~conflicting
    kept = slices[stays].copy()
    choose_classes(list(kept["label"]), config.labels.model_copy(update={"classes": classes}))
    labels = kept["class"].to_numpy(np.int64)
    if official is None:
        groups = np.unique(kept["group"], return_inverse=True)[1].astype(np.int64)
        splits = assign_splits(groups, labels, classes, config.split)
    else:
        splits = official[stays]
        _check_official(splits, labels, classes)
    kept["split"] = [SPLITS[split] for split in splits]

    codes = _copy_frames(config, frames, np.flatnonzero(stays), draft.folder / IMAGES)
    patients = pd.factorize(kept["patient"])[0]
    write_index(draft.folder, codes, labels.tolist(), splits.tolist(), patients.tolist())
    leaks = header_leaks(kept)
    tally, quarantine = reckon(found, slices, stays, conflicting)
    counts = count(kept, classes)
    shares = class_shares(labels, splits, classes)
    height, width = config.size
    draft.meta = dataset_meta(
        ImageSpec(config.channels, height, width, classes),
        _value_range(config, kept),
        synthetic=False,
        counts=counts,
        stratification=shares,
        test_hashes=sorted(kept.loc[kept["split"] == "test", "hash"]),
        warnings=[*warnings_of(found, slices, kept, conflicting), *doubts(counts, shares), *describe(leaks)],
        found=tally,
        quarantine=quarantine,
        modality=str(kept["modality"].mode()[0]) or "OT",  # DICOM's word for what it has no word for
        split=_describe_split(config, official is not None),
        window=config.window if isinstance(config.window, str) else list(config.window),
        pixel_spacing=_prepared_spacing(config, kept),
        header_leaks=leaks,
    )
    kept.drop(columns=["class", "group", "highest"]).to_parquet(draft.folder / "slices.parquet", index=False)


def _describe_split(config: DataConfig, official: bool) -> str:
    if official:
        return "the source's own"
    shares = " / ".join(f"{share:.0%}" for share in config.split.fractions)
    return f"by patient, {' / '.join(SPLITS)} {shares}, seed {config.split.seed}"


def _copy_frames(config: DataConfig, frames: Path, rows: NDArray[np.intp], target: Path) -> NDArray[np.uint16]:
    """The chosen rows of the flat file as ``images.npy``; mapped, so that memory does not grow with the source."""
    shape = (config.channels, *config.size)
    everything = np.memmap(frames, "<u2", mode="r").reshape(-1, *shape)
    images = np.lib.format.open_memmap(target, mode="w+", dtype=np.uint16, shape=(len(rows), *shape))
    for position, row in enumerate(rows):
        images[position] = everything[row]
    images.flush()
    return images


def _check_official(splits: NDArray[np.uint8], labels: NDArray[np.int64], classes: tuple[str, ...]) -> None:
    for index, split in enumerate(SPLITS):
        lacking = [name for number, name in enumerate(classes) if not (labels[splits == index] == number).any()]
        if lacking:
            raise MedaugError(
                f"the source's own split has no {first_five(lacking)} in {split}; expected every class there"
            )


def _value_range(config: DataConfig, kept: pd.DataFrame) -> ValueRange:
    """The physical values of -1 and +1; 0 and 1 where each file has its own."""
    window = config.preparation.window
    if window.kind in ("hu", "range"):
        return ValueRange(window.low, window.high, str(kept["unit"].iloc[0]))
    highest = kept["highest"].unique()
    return ValueRange(0.0, float(highest[0]) if len(highest) == 1 else 1.0)


def _prepared_spacing(config: DataConfig, kept: pd.DataFrame) -> list[float] | None:
    """Median size of a prepared pixel in mm (height, width), where the source states one."""
    known = kept.dropna(subset=["row_spacing_mm", "column_spacing_mm"])
    if known.empty:
        return None
    geometry = config.preparation.geometry
    columns = ["source_rows", "source_columns", "row_spacing_mm", "column_spacing_mm"]
    sizes = [
        geometry.pixel_size((int(rows), int(cols)), (float(down), float(across)))
        for rows, cols, down, across in known[columns].itertuples(index=False)
    ]
    return [round(float(value), 4) for value in np.median(np.asarray(sizes), axis=0)]
