"""Does a header field give the label away? Each field on its own, in patients that were not looked at.

A scanner, a kernel or a field that is filled in for one class only can be learned instead of the finding. The figures
are in :mod:`pipeline.separation`; here fields become levels, and p-values become verdicts. No value of a field leaves
this module, since values may identify: results hold names and numbers alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.separation import FOLDS, Separation, Trial

Verdict = Literal["leak", "suspect", "not shown", "cannot tell", "constant"]

MAX_PATIENTS = 300
"""Patients looked at, as many of each class; by chance an AUC then exceeds 0.59 about once in a thousand."""
MAX_LEVELS = 8
"""Commonest values of a category that are told apart, and quantile bins of a number."""
LEVEL = 0.05
RELEVANT = 0.65
"""An AUC interval that ends below it excludes a leak worth a look; one that reaches above it tells nothing."""
PERMUTATIONS = 5_000
LISTED = 15
"""Suspects that a warning names."""

Levels = NDArray[np.intp]


@dataclass(frozen=True)
class FieldAudit:
    """What one header field says of the label.

    Attributes:
        field: its name.
        by: what predicts best: the field's "value", or its "presence" (whether it is filled in).
        auc: cross-validated, each patient counts once under each of its labels; None where nothing was tested.
        low: lower end of its 95 % interval.
        high: upper end.
        p: one-sided permutation p.
        corrected_p: after Holm's correction over all tests of the audit.
        slice_auc: the same, each slice counts.
        slice_low: lower end of its 95 % interval.
        slice_high: upper end.
        presence_auc: of whether it is filled in; None where it is (almost) always or never.
        presence_p: Holm p of that.
        patients: looked at.
        levels: values or bins told apart, rare values together, absence among them.
        filled: share of the slices that have it.
        flagged: the interval and the corrected p both exclude chance: verdict "leak".
        verdict: "suspect" where an interval excludes 0.5 but the corrected p does not exclude chance.
        note: the reason of the verdict, or "".
    """

    field: str
    by: Literal["value", "presence"] = "value"
    auc: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    corrected_p: float | None = None
    slice_auc: float | None = None
    slice_low: float | None = None
    slice_high: float | None = None
    presence_auc: float | None = None
    presence_p: float | None = None
    patients: int = 0
    levels: int = 1
    filled: float = 0.0
    flagged: bool = False
    verdict: Verdict = "constant"
    note: str = ""


def audit_headers(
    fields: pd.DataFrame, labels: NDArray[np.int64], patients: NDArray[np.int64], seed: int = 0
) -> list[FieldAudit]:
    """Tests every field on its own, and whether it is filled in.

    Of more than 300 patients a sample is looked at, evenly over the classes; classes of fewer than five patients are
    left out. Fields that split the slices alike (a maker and its pixel format) are one question, corrected for once.

    Args:
        fields: one row a slice; text, numbers (also as text) or booleans; "" and NaN are absence, [N, fields].
        labels: class index of each slice, [N].
        patients: patient number of each slice, [N].
        seed: of folds, bootstrap and permutations.

    Returns:
        One entry a field, in the order of the columns.
    """
    assert len(fields) == len(labels) == len(patients), "one row a slice"
    filled = {str(name): float(_present(fields[name]).mean()) if len(fields) else 0.0 for name in fields}
    rows, testable = _sample(labels, patients, np.random.default_rng(seed))
    labels, patients = (
        np.unique(labels[rows], return_inverse=True)[1],
        np.unique(patients[rows], return_inverse=True)[1],
    )
    looked_at = int(patients.max(initial=-1)) + 1
    splits = {str(name): _levels(fields[name].iloc[rows], patients) for name in fields}
    if not testable:
        splits = {name: (varies, {}) for name, (varies, _) in splits.items()}
    questions = {key.tobytes(): key for _, tests in splits.values() for key in tests.values()}
    found = {}
    if questions:
        trial = Trial(labels, patients, seed, max(PERMUTATIONS, 60 * len(questions)))
        found = {key: trial.measure(levels) for key, levels in questions.items()}
    corrected = dict(zip(found, _holm([one.p for one in found.values()]), strict=True))
    audits = []
    for name, (varies, tests) in splits.items():
        base = FieldAudit(name, patients=looked_at, filled=round(filled[name], 4))
        measured = {by: (found[key.tobytes()], corrected[key.tobytes()], key) for by, key in tests.items()}
        audits.append(_judge(base, varies, measured))
    return audits


def _judge(base: FieldAudit, varies: bool, measured: Mapping[str, tuple[Separation, float, Levels]]) -> FieldAudit:
    """The verdict on one field from its one or two tests."""
    about: dict[str, Any] = {**vars(base)}
    if not measured:
        about["verdict"] = "cannot tell" if varies else "constant"
        about["note"] = (
            f"cannot tell at this n: no value sets {FOLDS} patients apart, or not two classes have {FOLDS} patients"
            if varies
            else "the same in every slice" if base.filled else "absent from every slice"
        )  # fmt: skip
        return FieldAudit(**about)
    by = min(measured, key=lambda one: (measured[one][0].p, -measured[one][0].auc, one))
    best, corrected_p, levels = measured[by]
    about |= {key: round(value, 4) for key, value in vars(best).items()}
    about |= {"by": by, "corrected_p": round(corrected_p, 4), "levels": int(levels.max()) + 1, "p": best.p}
    if "presence" in measured:
        about |= {"presence_auc": round(measured["presence"][0].auc, 4)}
        about |= {"presence_p": round(measured["presence"][1], 4)}
    if corrected_p <= LEVEL and best.low > 0.5:
        about |= {"flagged": True, "verdict": "leak"}
    elif max(best.low, best.slice_low) > 0.5:
        where = "" if best.low > 0.5 else " over slices"
        about |= {"verdict": "suspect", "note": f"its interval{where} excludes 0.5, its corrected p not chance"}
    elif best.high >= RELEVANT:
        about |= {"verdict": "cannot tell", "note": f"cannot tell at this n: the interval reaches {best.high:.2f}"}
    else:
        note = "below 0.5: what some patients teach does not hold in the others" if best.high < 0.5 else ""
        about |= {"verdict": "not shown", "note": note}
    return FieldAudit(**about)


def describe(audits: Sequence[FieldAudit]) -> list[str]:
    """One warning for each leak, the strongest first, and one for all suspects together."""
    lines = []
    for one in sorted((one for one in audits if one.flagged), key=lambda one: -(one.auc or 0)):
        what = f"whether {one.field} is filled in" if one.by == "presence" else f"the header field {one.field}"
        lines.append(
            f"label leak: {what} predicts the label on its own (cross-validated AUC {one.auc:.2f}, 95 % interval "
            f"{one.low:.2f} to {one.high:.2f}, {one.patients} patients): a model may learn it instead of the finding"
        )
    suspects = sorted((one for one in audits if one.verdict == "suspect"), key=lambda one: one.p or 1)
    if suspects:
        listing = ", ".join(one.field for one in suspects[:LISTED])
        more = f" and {len(suspects) - LISTED} more" if len(suspects) > LISTED else ""
        tested = sum(one.auc is not None for one in audits)
        lines.append(
            f"{len(suspects)} of {tested} header fields may predict the label: an interval excludes chance before "
            f"correction, as it does for about one field in ten by chance alone: {listing}{more}"
        )
    return lines


def _sample(
    labels: NDArray[np.int64], patients: NDArray[np.int64], rng: np.random.Generator
) -> tuple[NDArray[np.intp], bool]:
    """Rows of at most :data:`MAX_PATIENTS` patients, as many of each class that has enough; all where not two have."""
    holders = {int(one): np.unique(patients[labels == one]) for one in np.unique(labels)}
    holders = {label: people for label, people in holders.items() if len(people) >= FOLDS}
    if len(holders) < 2:
        return np.arange(len(labels)), False
    chosen = np.concatenate(list(holders.values()))
    if len(np.unique(chosen)) > MAX_PATIENTS:
        share = max(FOLDS, MAX_PATIENTS // len(holders))
        chosen = np.concatenate([rng.permutation(people)[:share] for people in holders.values()])
    return np.flatnonzero(np.isin(patients, chosen) & np.isin(labels, list(holders))), True


def _present(column: pd.Series) -> NDArray[np.bool_]:
    return (column.notna() & (column.astype(str).str.strip() != "")).to_numpy(bool)


def _levels(column: pd.Series, patients: NDArray[np.int64]) -> tuple[bool, dict[str, Levels]]:
    """Whether a field varies at all, and the questions it can be asked: "value" and "presence" → level of each slice.

    Levels are chosen without a look at the labels, so that folds need not choose them anew.
    """
    present = _present(column)
    number = pd.to_numeric(column.where(present), errors="coerce").to_numpy(float, na_value=np.nan)
    if pd.api.types.is_bool_dtype(column) or not np.isfinite(number[present]).all():
        values = pd.factorize(column.astype(str).str.strip().where(present))[0]
    else:
        values = pd.factorize(number)[0]  # "5" and "5.000000" are one value
        if values.max(initial=-1) >= MAX_LEVELS:
            values = _bins(number, present, patients)
    varies = len(np.unique(values)) > 1
    holders = pd.DataFrame({"value": values, "patient": patients}).drop_duplicates()["value"].value_counts()
    common = [value for value in holders.index if value >= 0 and holders[value] >= FOLDS][:MAX_LEVELS]
    levels = np.where(values < 0, 0, 1)  # 0 absent, 1 rare
    for index, value in enumerate(common):
        levels[values == value] = index + 2
    tests = {"value": _canonical(levels), "presence": _canonical(present)}
    tests = {by: test for by, test in tests.items() if _sets_apart(test, patients)}
    if len(tests) == 2 and np.array_equal(tests["value"], tests["presence"]):
        del tests["value"]
    return varies, tests


def _bins(number: NDArray[np.float64], present: NDArray[np.bool_], patients: NDArray[np.int64]) -> Levels:
    """Quantile bins over patients, about ten in each: thresholds and bands, in whatever direction they predict."""
    weight = 1.0 / np.bincount(patients)[patients[present]]
    order = np.argsort(number[present], kind="stable")
    values, reached = number[present][order], np.cumsum(weight[order]) / weight.sum()
    bins = int(np.clip(len(np.unique(patients)) // 10, 2, MAX_LEVELS))
    at = np.searchsorted(reached, np.arange(1, bins) / bins - 1e-9)
    return np.where(present, np.searchsorted(np.unique(values[at]), number, side="right"), -1)


def _sets_apart(levels: Levels, patients: NDArray[np.int64]) -> bool:
    """Whether enough patients have something else than the commonest level."""
    holders = pd.DataFrame({"level": levels, "patient": patients}).drop_duplicates()
    commonest = holders["level"].value_counts().index[0]
    return holders.loc[holders["level"] != commonest, "patient"].nunique() >= FOLDS


def _canonical(levels: NDArray[Any]) -> Levels:
    """Levels numbered by first appearance, so that equal splits of the slices are equal arrays."""
    return np.asarray(pd.factorize(levels)[0], np.intp)


def _holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction, in the order given."""
    order = np.argsort(p)
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(np.asarray(p)[order] * np.arange(len(p), 0, -1)))
    return [float(one) for one in corrected]
