"""Groups of patients whose figures are told apart, where the dataset artifact keeps what they go by.

The columns are there only if the data's configuration asks for them (``keep``): sex and age are patient data.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.dataset import INDEX
from pipeline.records import SPLITS

Kept = Literal["sex", "age_band", "manufacturer"]
SUBGROUPS: tuple[Kept, ...] = ("sex", "age_band", "manufacturer")
AGE_BANDS = ((0.0, "under 40"), (40.0, "40 to 64"), (65.0, "65 and over"))
"""From which age in years on; three bands, since finer ones would be empty in small test sets and tell more."""


def subgroup_columns(fields: pd.DataFrame, keep: tuple[Kept, ...]) -> pd.DataFrame:
    """Coarse groups from header fields.

    Args:
        fields: of :func:`pipeline.fields.fields_table`; ordinary images lack the fields, and get no groups.
        keep: which are wanted.

    Returns:
        One row an image, one text column for each that is wanted and known; "" where the header does not say.
    """
    columns: dict[str, pd.Series] = {}
    for name, field in (("sex", "PatientSex"), ("manufacturer", "Manufacturer")):
        if name in keep and field in fields:
            texts = fields[field].fillna("").astype(str).str.strip().str.upper()
            # Of a maker the first word: "GE MEDICAL SYSTEMS" and "GE HEALTHCARE" are one.
            columns[name] = texts.str.split().str[0].fillna("") if name == "manufacturer" else texts
    if "age_band" in keep and "PatientAge" in fields:
        columns["age_band"] = pd.to_numeric(fields["PatientAge"], errors="coerce").map(_band)
    return pd.DataFrame(columns, index=fields.index)


def _band(age: float) -> str:
    return "" if np.isnan(age) else [name for start, name in AGE_BANDS if age >= start][-1]


def read_subgroups(dataset: Path, split: str) -> dict[str, NDArray[np.str_]]:
    """The groups of each image of a split, in the order of :class:`pipeline.dataset.ScanDataset`.

    Args:
        dataset: a dataset artifact's folder.
        split: "train", "validation" or "test".

    Returns:
        Name of the grouping → text [N], "" where unknown; no entry where the artifact does not keep it.
    """
    table = dataset / "slices.parquet"
    if not table.is_file():
        return {}
    slices = pd.read_parquet(table)
    with np.load(dataset / INDEX) as index:
        rows = index["split"] == SPLITS.index(split)
    return {name: slices.loc[rows, name].to_numpy(str) for name in SUBGROUPS if name in slices}
