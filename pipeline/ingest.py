"""A source of scans to one immutable dataset artifact.

The sum that has to come out: files found = kept + duplicates + quarantined + set aside + unlabelled. A multi-frame file
counts once, as kept if one of its frames is; ``slices`` counts frames.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator

from pipeline.accounts import count, doubts, fates, reckon, warnings_of
from pipeline.audit import audit_headers
from pipeline.audit import describe as describe_audit
from pipeline.collect import Collected, collect_files, collect_npz, spooled
from pipeline.dataset import IMAGES, dataset_meta, write_index
from pipeline.dicom.deidentify import Keys, open_private
from pipeline.fields import fields_table
from pipeline.geometry import Fit, Geometry
from pipeline.labels import LabelConfig, choose_classes
from pipeline.matching import Labelling, open_labels
from pipeline.neighbours import NearDuplicates, near_pairs
from pipeline.neighbours import describe as describe_near
from pipeline.preprocess import Preparation, Window
from pipeline.records import SPLITS, ImageSpec, MedaugError, Progress, ValueRange
from pipeline.scans import Rules
from pipeline.sources import Source, SourceConfig, open_source
from pipeline.splits import SplitConfig, class_shares, describe_split, join_groups, prefer_copy, split_by
from pipeline.store import Artifact, Draft, Recipe, Store
from pipeline.subgroups import Kept, subgroup_columns
from pipeline.versions import code_version
from pipeline.workers import Bounds, Workers, default_workers

CODE = ("pipeline.ingest",)
"""Modules whose code decides what a dataset artifact holds."""


class ReadingConfig(BaseModel):
    """What reading one file may take, and how many are read at once."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    workers: int | None = Field(default=None, ge=1, le=64, description="worker processes; empty: one a core, up to 8")
    seconds: float = Field(default=60.0, gt=0, description="a file that takes longer is quarantined")
    gibibytes: float = Field(default=4.0, gt=0, description="a file that needs more memory is quarantined")


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
    spacing: float | None = Field(
        default=None, gt=0, le=50, description="resample to this many mm a pixel (the frame is padded or cut); else fit"
    )
    crop: Literal["none", "body"] = Field(default="none", description="body: cut to the body first")
    colour: Literal["set_aside", "grey"] = Field(default="set_aside", description="what becomes of colour images")
    burned_in: Literal["set_aside", "keep"] = Field(
        default="set_aside", description="DICOM images with burned-in annotation, which may name the patient"
    )
    keep: tuple[Kept, ...] = Field(
        default=(), description="sex, age_band, manufacturer: groups by which figures are told apart; patient data"
    )
    reading: ReadingConfig = ReadingConfig()
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
        geometry = Geometry(*self.size, self.fit, self.spacing, self.crop == "body")
        return Preparation(Window.parse(self.window), geometry, self.colour)


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
    source = open_source(config.source, store.root, private, base, progress)
    if source.kind != "dicom" and config.preparation.window.kind == "hu":
        raise MedaugError(f"window {config.window!r}: is in Hounsfield units, which images have not; set window: full")
    if source.kind != "dicom" and config.spacing is not None:
        raise MedaugError(f"spacing {config.spacing:g}: in mm, which images do not state; leave it out")
    labelling = open_labels(config.labels, source, base)
    keys = Keys.load(private)
    settings = config.model_dump(
        mode="json",
        exclude={"name": True, "source": True, "labels": {"file", "by"}, "reading": {"workers"}},
    )
    recipe = Recipe(
        kind="dataset",
        name=config.name,
        inputs={"source": source.fingerprint, "labels": labelling.fingerprint, "key": keys.fingerprint},
        config={**settings, "kind": source.kind, "labels_by": labelling.by},
        code=code_version(*CODE),
    )

    def build(draft: Draft) -> None:
        spools = draft.folder / "spools"
        spools.mkdir()
        found = _collect(config, source, labelling, keys, spools, progress)
        table = _assemble(config, found, spools, draft)
        with open_private(private / f"files-{recipe.hash}.csv") as stream:
            table.to_csv(stream, index=False)
        shutil.rmtree(spools)

    return store.get_or_create(recipe, build)


def _collect(
    config: DataConfig, source: Source, labelling: Labelling, keys: Keys, spools: Path, progress: Progress
) -> Collected:
    kind: Literal["dicom", "images"] = "dicom" if source.kind == "dicom" else "images"
    rules = Rules(kind, config.preparation, labelling.tag, config.burned_in)
    if source.kind == "npz":
        return collect_npz(source, labelling, rules, keys, spools, progress)
    reading = config.reading
    bounds = Bounds(reading.seconds, int(reading.gibibytes * 2**30))
    with Workers(reading.workers or default_workers(), bounds) as pool:
        return collect_files(source, labelling, rules, keys, pool, spools, progress)


def _assemble(config: DataConfig, found: Collected, spools: Path, draft: Draft) -> pd.DataFrame:
    """Duplicates, splits, and everything into the draft.

    Returns:
        What became of every file, with its name: private.
    """
    slices = pd.DataFrame(found.rows)
    if slices["unit"].nunique() > 1 and config.preparation.window.kind == "range":
        raise MedaugError(
            f"window {config.window}: the source mixes CT (in HU) with modalities that have no unit; ingest them apart"
        )
    classes = choose_classes(list(slices["label"]), config.labels)
    slices["class"] = slices["label"].map(classes.index)
    identities = [list(slices[name]) for name in ("hash", "source_hash", "instance")]
    slices["copies"] = join_groups(*identities)
    # A study is of one patient, however many of its files lack the number or name another issuer.
    slices["group"] = join_groups(list(slices["patient"]), list(slices["study"]), *identities)
    given = _given_split(config, slices)

    conflicting = slices.groupby("copies")["label"].transform("nunique").to_numpy() > 1
    stays = prefer_copy(slices["copies"].to_numpy(), given) & ~conflicting
    kept = slices[stays].copy()
    choose_classes(list(kept["label"]), config.labels.model_copy(update={"classes": classes}))
    labels = kept["class"].to_numpy(np.int64)
    groups = np.unique(kept["group"], return_inverse=True)[1].astype(np.int64)
    splits = split_by(config.split, groups, labels, classes, None if given is None else given[stays])
    kept["split"] = [SPLITS[split] for split in splits]

    codes = _copy_frames(config, kept, spools, draft.folder / IMAGES)
    patients = groups  # what shares a study or a slice is one patient in every figure
    write_index(draft.folder, codes, labels.tolist(), splits.tolist(), patients.tolist())
    fields = fields_table(np.array(found.fields, object)[stays], kept)
    audits = audit_headers(fields, labels, patients)
    if config.source.kind == "phantom":
        near = NearDuplicates("not looked for", len(codes), note="procedural phantoms, each drawn on its own")
    else:
        near = near_pairs(codes, patients, splits)
    table = fates(found, slices, stays, conflicting)
    tally, quarantine = reckon(table, int(stays.sum()))
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
        warnings=[
            *warnings_of(found, slices, kept, conflicting),
            *doubts(counts, shares),
            *describe_audit(audits),
            *describe_near(near),
        ],
        found=tally,
        quarantine=quarantine,
        modality=str(kept["modality"].mode()[0]) or "OT",  # DICOM's word for what it has no word for
        split=describe_split(config.split, given is not None),
        window=config.window if isinstance(config.window, str) else list(config.window),
        pixel_spacing=_prepared_spacing(kept),
        audit=[asdict(one) for one in audits],
        near_duplicates=asdict(near),
    )
    unwanted = ["class", "group", "copies", "instance", "spool", "position", "highest"]
    groups_kept = subgroup_columns(fields, config.keep).set_index(kept.index)
    kept.drop(columns=unwanted).join(groups_kept).to_parquet(draft.folder / "slices.parquet", index=False)
    return table


def _given_split(config: DataConfig, slices: pd.DataFrame) -> NDArray[np.uint8] | None:
    """The side of each image where the labels' file or the source gives one, or None.

    Raises:
        MedaugError: given for some images only, or asked for and not given.
    """
    given = slices["split"] != ""
    if config.split.by != "given" and "npz.u16" not in set(slices["spool"]):
        return None
    if not given.all():
        raise MedaugError(
            f"split.by given: {int((~given).sum())} of {len(slices)} labelled images have no side; expected a column "
            "split (train, validation, test) in the labels' file, filled in for each row"
        )
    return slices["split"].map(SPLITS.index).to_numpy(np.uint8)


def _copy_frames(config: DataConfig, kept: pd.DataFrame, spools: Path, target: Path) -> NDArray[np.uint16]:
    """The kept images as ``images.npy``; mapped, so that memory does not grow with the source."""
    shape = (config.channels, *config.size)
    images = np.lib.format.open_memmap(target, mode="w+", dtype=np.uint16, shape=(len(kept), *shape))
    for position, codes in enumerate(spooled(zip(kept["spool"], kept["position"], strict=True), spools, shape)):
        images[position] = codes
    images.flush()
    return images


def _value_range(config: DataConfig, kept: pd.DataFrame) -> ValueRange:
    """The physical values of -1 and +1; 0 and 1 where each file has its own."""
    window = config.preparation.window
    if window.kind in ("hu", "range"):
        return ValueRange(window.low, window.high, str(kept["unit"].iloc[0]))
    highest = kept["highest"].unique()
    return ValueRange(0.0, float(highest[0]) if len(highest) == 1 else 1.0)


def _prepared_spacing(kept: pd.DataFrame) -> list[float] | None:
    """Median size of a prepared pixel in mm (height, width), where the source states one."""
    sizes = kept[["pixel_height_mm", "pixel_width_mm"]].dropna()
    return None if sizes.empty else [round(float(value), 4) for value in sizes.median()]
