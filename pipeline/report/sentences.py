"""What the contrasts say, in sentences for a clinician: helped, harmed or cannot tell, for whom, by how much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.report.contrasts import CANNOT_TELL, HARMED, HELPED, Comparison, Contrast
from pipeline.report.estimates import Evidence
from pipeline.report.numbers import finite, number
from pipeline.report.words import metric_of

TOLD = 6
"""Sentences at most: what was decided comes first, then the plain arms on all training patients."""
VERDICTS = {HELPED: "helped", HARMED: "harmed", CANNOT_TELL: "cannot tell"}
CONTROLS = {"D-B": "classical augmentation alone", "D-C": "as many repeated real scans"}
MEANINGS = {
    "auroc": "the chance that a scan of a class ranks above a scan of another",
    "balanced_accuracy": "the share of scans recognised, averaged over the classes",
}


def plain_words(evidence: Evidence, found: Sequence[Comparison]) -> tuple[str, ...]:
    """For whom and in what, then the comparisons that matter most; the others are in the table of contrasts."""
    if not found:
        return ()

    def weight(one: Comparison) -> tuple[bool, float, bool]:
        return one.verdict == CANNOT_TELL, -(one.fraction or 1.0), one.variant != ""

    ranked = sorted(found, key=weight)
    meaning = MEANINGS.get(evidence.endpoint, metric_of(evidence.endpoint).label)
    opening = f"Measured on {whom(evidence, found)}; points are hundredths of {meaning}."
    left = len(ranked) - TOLD
    more = (f"{left} more comparisons are in the table of contrasts.",) if left > 0 else ()
    return (opening, *(sentence(one) for one in ranked[:TOLD]), *more)


def sentence(one: Comparison) -> str:
    """One comparison: ``10 % of the training patients, dcgan's scans added …: cannot tell. +1.0 points against …``."""
    share = "All" if one.fraction is None else f"{one.fraction * 100:g} % of the"
    dose = f" {one.ratio:g} for each real scan" if one.ratio else ""
    variant = f" ({one.variant})" if one.variant else ""
    head = f"{share} training patients, {one.gan}'s scans added{dose}{variant}, {one.classifier or 'classifier'}"
    parts = [_change(contrast) for contrast in one.contrasts if finite(contrast.row.value) is not None]
    told = [f"{head}: {VERDICTS[one.verdict]}.", *([" and ".join(parts) + "."] if parts else [])]
    unseen = [contrast.smallest for contrast in one.contrasts if contrast.smallest is not None]
    if one.verdict == CANNOT_TELL and unseen:
        told.append(_power(max(unseen)))
    return " ".join(told)


def _change(one: Contrast) -> str:
    """``−1.2 points against classical augmentation alone (95 % interval −4.0 to +1.6)``."""
    low, high = finite(one.row.low), finite(one.row.high)
    ends = "" if low is None or high is None else f" (95 % interval {_points(low)} to {_points(high)})"
    return f"{_points(one.row.value)} points against {CONTROLS.get(one.row.arm, one.arms)}{ends}"


def _power(smallest: float) -> str:
    if smallest >= 1.0:
        return "With so few patients, runs or GAN trainings no gain could have been shown."
    return (
        f"A true gain of about {number(smallest * 100, 1)} points would have been shown in four of five such "
        "experiments, a smaller one less often."
    )


def _points(value: float) -> str:
    return number(value * 100, 1, sign=True)


def whom(evidence: Evidence, found: Sequence[Comparison]) -> str:
    """``155 real test patients (42 malignant, 113 benign)``, or ``155 real test images, patients unknown (…)``."""
    n = next((one.row.n for comparison in found for one in comparison.contrasts if one.row.n is not None), None)
    counts = evidence.data.dataset.get("counts", {})
    test = counts.get("test", {}) if isinstance(counts, Mapping) else {}
    of = ", ".join(f"{entry['patients']} {name}" for name, entry in test.items())
    who = " ".join(part for part in ("the" if n is None else str(n), "real test", evidence.cases) if part)
    who += ", patients unknown" if evidence.patients_unknown else ""
    return who + (f" ({of})" if of else "")
