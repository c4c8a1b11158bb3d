"""What the contrasts say, in sentences for a clinician: helped, harmed or cannot tell, for whom, by how much."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.report.contrasts import CANNOT_TELL, HARMED, HELPED, Comparison, Contrast
from pipeline.report.estimates import Evidence
from pipeline.report.numbers import MINUS, finite, number
from pipeline.report.words import metric_of

TOLD = 6
"""Sentences at most: what was decided comes first, then the plain arms on all training patients."""
VERDICTS = {HELPED: "helped", HARMED: "harmed", CANNOT_TELL: "cannot tell"}
MEANINGS = {
    "auroc": "the chance that a scan of a class ranks above a scan of another",
    "balanced_accuracy": "the share of scans recognised, averaged over the classes,",
}


def plain_words(evidence: Evidence, found: tuple[Comparison, ...]) -> tuple[str, ...]:
    """The sentences that matter most; the others are in the report's JSON."""

    def weight(one: Comparison) -> tuple[bool, float, bool]:
        return one.verdict == CANNOT_TELL, -(one.fraction or 1.0), one.variant != ""

    ranked = sorted(found, key=weight)
    left = len(ranked) - TOLD
    more = (f"{left} more comparisons are in the table of contrasts.",) if left > 0 else ()
    return (*(sentence(evidence, one) for one in ranked[:TOLD]), *more)


def sentence(evidence: Evidence, one: Comparison) -> str:
    """One comparison: ``With 10 % of the training patients, adding dcgan's scans …: cannot tell. …``."""
    share = "all" if one.fraction is None else f"{one.fraction * 100:g} % of the"
    dose = f" ({one.ratio:g} for each real one{f', {one.variant}' if one.variant else ''})" if one.ratio else ""
    head = (
        f"With {share} training patients, adding {one.gan}'s scans{dose} to what {one.classifier or 'it'} learns from"
    )
    parts = [
        f"{_change(contrast)} against {_control(contrast)}"
        for contrast in one.contrasts
        if finite(contrast.row.value) is not None
    ]
    meaning = MEANINGS.get(evidence.endpoint, metric_of(evidence.endpoint).label)
    text = f"{head}: {VERDICTS[one.verdict]}."
    if parts:
        text += f" On {_whom(evidence, one)}, {meaning} changed by {' and by '.join(parts)}."
    unseen = [contrast.smallest for contrast in one.contrasts if contrast.smallest is not None]
    if one.verdict == CANNOT_TELL and unseen:
        text += f" A true change below {_points(max(unseen), sign=False)} points would probably have been missed."
    return text


def _change(one: Contrast) -> str:
    """``−1.2 points (95 % interval −4.0 to +1.6)``; endpoints lie between 0 and 1, points are hundredths."""
    low, high = finite(one.row.low), finite(one.row.high)
    ends = "" if low is None or high is None else f" (95 % interval {_points(low)} to {_points(high)})"
    return f"{_points(one.row.value)} points{ends}"


def _points(value: float, sign: bool = True) -> str:
    return number(value * 100, 1, sign=sign)


def _control(one: Contrast) -> str:
    controls = {
        f"D{MINUS}B": "classical augmentation alone",
        f"D{MINUS}C": "as many repeated real scans",
    }
    return controls.get(one.arms, one.arms)


def _whom(evidence: Evidence, one: Comparison) -> str:
    """``155 real test patients (42 malignant, 113 benign)``."""
    n = next((contrast.row.n for contrast in one.contrasts if contrast.row.n is not None), None)
    counts = evidence.data.dataset.get("counts", {})
    test = counts.get("test", {}) if isinstance(counts, Mapping) else {}
    of = ", ".join(f"{entry['patients']} {name}" for name, entry in test.items())
    who = f"{n} real test patients" if n is not None else "the real test patients"
    return who + (f" ({of})" if of else "")
