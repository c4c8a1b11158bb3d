"""Does a header field give the label away? A first look, across patients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import chi2_contingency

FIELDS = {
    "manufacturer": "Manufacturer",
    "contrast_agent": "ContrastBolusAgent (filled in or not)",
    "kernel": "ConvolutionKernel",
    "source_rows": "Rows",
    "photometric": "PhotometricInterpretation",
}

STRENGTH = 0.3
LEVEL = 0.05


def header_leaks(slices: pd.DataFrame) -> list[dict[str, Any]]:
    """Header fields that go with the label: Cramér's V of at least 0.3 and p of at most 0.05.

    The unit is a patient under a label (a patient with two labels counts once under each), so that many slices of one
    patient do not pass for evidence. Where such a patient's slices differ in a field, the first one's value counts, for
    the contrast agent whether any has one. p is Pearson's chi-squared test's, for one field: with several fields
    tried, one in twenty sounds a false alarm, which is better here than silence.

    Args:
        slices: one row an image, with ``patient``, ``label`` and the columns of :data:`FIELDS`.

    Returns:
        One entry a field, the strongest first: field, cramers_v, p, patients.
    """
    units = slices.groupby(["patient", "label"], sort=False).agg(
        {column: "max" if column == "contrast_agent" else "first" for column in FIELDS}
    )
    leaks = []
    for column, name in FIELDS.items():
        table = pd.crosstab(units.index.get_level_values("label"), units[column]).to_numpy()
        if min(table.shape) < 2:
            continue
        strength, p = cramers_v(table)
        if strength >= STRENGTH and p <= LEVEL:
            entry = {"field": name, "cramers_v": round(strength, 3), "p": float(f"{p:.2g}"), "patients": len(units)}
            leaks.append(entry)
    return sorted(leaks, key=lambda leak: -leak["cramers_v"])


def cramers_v(table: NDArray[np.integer]) -> tuple[float, float]:
    """Cramér's V, corrected for bias (Bergsma 2013, J. Korean Stat. Soc. 42), and the p of chi-squared.

    Without the correction a field with many values looks strong in a small sample.

    Args:
        table: counts [r, k], no empty row or column.

    Returns:
        V in [0, 1] and p.
    """
    n, (r, k) = int(table.sum()), table.shape
    statistic = chi2_contingency(table, correction=False).statistic
    p = chi2_contingency(table, correction=True).pvalue  # Yates, in 2 x 2 tables
    square = max(0.0, float(statistic) / n - (k - 1) * (r - 1) / (n - 1))
    room = min(k - (k - 1) ** 2 / (n - 1), r - (r - 1) ** 2 / (n - 1)) - 1
    return (math.sqrt(min(1.0, square / room)) if room > 0 else 0.0), float(p)


def describe(leaks: Sequence[dict[str, Any]]) -> list[str]:
    """One warning a leak."""
    return [
        f"label leak: the header field {leak['field']} goes with the label (Cramér's V {leak['cramers_v']:.2f}, "
        f"p {leak['p']:.2g}, {leak['patients']} patients): a model may learn the scanner instead of the finding"
        for leak in leaks
    ]
