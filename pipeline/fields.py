"""Header fields as a table for the leak audit: numbers as numbers, everything else as categories."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.dicom.header import AUDITED

NUMBERS = {
    "KVP", "XRayTubeCurrent", "ExposureTime", "SliceThickness", "ReconstructionDiameter", "PixelSpacing", "Rows",
    "Columns", "RescaleIntercept", "PixelPaddingValue", "WindowCenter",
}  # fmt: skip
AGE_UNITS = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0}
"""Units of an age string (VR AS, PS3.5 6.2) in years."""


def fields_table(values: NDArray[Any], slices: pd.DataFrame) -> pd.DataFrame:
    """What the audit looks at; lives as long as the ingest and goes into no artifact.

    Args:
        values: header fields, one row an image, in the order of :data:`pipeline.dicom.header.AUDITED`; no columns for
            ordinary images.
        slices: rows of the same images, for what ordinary images have: their size.

    Returns:
        One row an image, one column a field; "" and NaN where the file has none.
    """
    if values.ndim < 2 or values.shape[1] == 0:
        sizes = slices[["source_rows", "source_columns"]].reset_index(drop=True)
        return sizes.set_axis(["Rows", "Columns"], axis=1)
    columns: dict[str, Any] = {}
    for name, column in zip(AUDITED, values.T, strict=True):
        texts = pd.Series(column, dtype=object).str.upper()
        if name in NUMBERS:
            columns[name] = pd.to_numeric(texts.str.split("\\", regex=False).str[0], errors="coerce")
        elif name == "PatientAge":
            columns[name] = texts.map(_years)
        elif name == "StudyDate":
            columns[name] = pd.to_datetime(texts, format="%Y%m%d", errors="coerce").map(_day)
        else:
            columns[name] = texts
    return pd.DataFrame(columns)


def _years(text: str) -> float:
    digits, unit = text[:-1], text[-1:]
    return int(digits) * AGE_UNITS[unit] if digits.isdigit() and unit in AGE_UNITS else np.nan


def _day(date: pd.Timestamp) -> float:
    return np.nan if pd.isna(date) else float(date.toordinal())
