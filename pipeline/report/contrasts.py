"""Contrasts between classifiers with and without synthetic scans, and what may be said of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.records import LEVEL, ResultRow
from pipeline.report.numbers import MINUS, difference, finite, probability
from pipeline.report.words import metric_of

HELPED = "shown to help"
HARMED = "shown to harm"
CANNOT_TELL = "cannot tell at this n"
HIGHER, LOWER, UNCERTAIN = "shown higher", "shown lower", "cannot tell"
CONTROLS = ("D-B", "D-C")
Key = tuple[str, int | None, float | None, str, float | None, str]
"""GAN, its seed, ratio, classifier, fraction, variant: what D is compared under."""


@dataclass(frozen=True)
class Contrast:
    """One row of stage "contrast" and which way it points; help and harm take both controls: see :class:`Comparison`.

    Attributes:
        row: the row itself.
        p: p-value from the row's note, uncorrected.
        holm: p-value after Holm's correction, from the row's note.
        verdict: :data:`HIGHER`, :data:`LOWER` or :data:`UNCERTAIN`.
        why: what decided, in figures.
        smallest: about the smallest true gain that this n and these runs would have shown in four of five such
            experiments; 1 or more where none could be shown, None where not measured.
    """

    row: ResultRow
    p: float | None
    holm: float | None
    verdict: str
    why: str
    smallest: float | None = None

    @property
    def arms(self) -> str:
        """``D−B`` with a true minus."""
        return self.row.arm.replace("-", MINUS)

    @property
    def spread(self) -> str:
        """``SD over seeds 0.012``, from the row's note; "" where it is not there."""
        found = re.search(r"SD over seeds [0-9.eE+-]+", self.row.note)
        return found.group() if found else ""

    @property
    def runs(self) -> str:
        """``15 runs against 5``, from the row's note; "" where it is not there."""
        found = re.search(r"\d+ runs against \d+", self.row.note)
        return found.group() if found else ""

    @property
    def gan_seeds(self) -> str:
        """``2 of 3 GAN seeds``, from the row's note; "" where it is not there."""
        found = re.search(r"\d+ of \d+ GAN seeds?", self.row.note)
        return found.group() if found else ""

    @property
    def figures(self) -> str:
        """``+0.012 (−0.030 to +0.051), Holm p = 0.62``."""
        text = difference(self.row.value, self.row.low, self.row.high)
        if self.holm is not None:
            return f"{text}, Holm p {_relation(self.holm)}"
        return text + (f", p {_relation(self.p)} uncorrected" if self.p is not None else "")


def _relation(p: float) -> str:
    text = probability(p)
    return text if text.startswith("<") else f"= {text}"


def contrast_of(row: ResultRow, smallest: float | None = None) -> Contrast:
    """Reads a contrast row; its note holds the p-values: ``p=0.62, Holm p=1.00``."""
    holm = _p_value(r"holm\s+p\s*[=<]\s*([0-9.eE+-]+)", row.note)
    p = _p_value(r"(?<!holm )\bp\s*[=<]\s*([0-9.eE+-]+)", row.note)
    verdict, why = _verdict(row, holm)
    if verdict == UNCERTAIN and re.search(r"\b1 of \d+ GAN seed", row.note):
        why += "; one GAN training tells nothing of others"
    return Contrast(row, p, holm, verdict, why, finite(smallest))


def _p_value(pattern: str, note: str) -> float | None:
    found = re.search(pattern, note, re.IGNORECASE)
    try:
        return finite(float(found.group(1).rstrip(".,;"))) if found else None
    except ValueError:
        return None


def _verdict(row: ResultRow, holm: float | None) -> tuple[str, str]:
    low, high, value = finite(row.low), finite(row.high), finite(row.value)
    if value is None:
        return UNCERTAIN, "the difference is not finite"
    if low is None or high is None:
        return UNCERTAIN, "no interval was measured"
    if low <= 0 <= high:
        return UNCERTAIN, "the interval spans zero"
    if holm is None:
        return UNCERTAIN, "the interval excludes zero, but no corrected p-value is recorded"
    if holm >= LEVEL:
        return UNCERTAIN, f"the interval excludes zero, but Holm p {_relation(holm)} is not below {LEVEL}"
    side, verdict = ("above", HIGHER) if low > 0 else ("below", LOWER)
    return verdict, f"the whole interval lies {side} zero, Holm p {_relation(holm)}"


@dataclass(frozen=True)
class Comparison:
    """One GAN at one ratio under one classifier: D against B and against C.

    Attributes:
        gan: preset name.
        gan_seed: its seed where the contrasts name one.
        ratio: synthetic to real scans.
        classifier: classifier preset name.
        contrasts: usually D−B and D−C.
        fraction: of the training patients; None for all.
        variant: what sets the arm apart beside its ratio; "" for the plain one.
    """

    gan: str
    gan_seed: int | None
    ratio: float | None
    classifier: str
    contrasts: tuple[Contrast, ...]
    fraction: float | None = None
    variant: str = ""

    @property
    def verdict(self) -> str:
        """Help and harm both need D−B and D−C, wholly on the same side of zero; everything else cannot be told."""
        sides = {one.verdict for one in self.contrasts}
        better = {metric_of(one.row.metric).better for one in self.contrasts}
        if not set(CONTROLS) <= {one.row.arm for one in self.contrasts} or len(sides) != 1 or len(better) != 1:
            return CANNOT_TELL
        gain = {"higher": HIGHER, "lower": LOWER}.get(better.pop())
        (side,) = sides
        if gain is None or side == UNCERTAIN:
            return CANNOT_TELL
        return HELPED if side == gain else HARMED

    @property
    def told(self) -> str:
        """The verdict and, where only part of it was shown, which: ``cannot tell (D−B cannot tell, D−C shown lower)``.

        A control that was not measured is named too.
        """
        if self.verdict != CANNOT_TELL or {one.verdict for one in self.contrasts} == {UNCERTAIN}:
            return self.verdict
        absent = sorted(set(CONTROLS) - {one.row.arm for one in self.contrasts})
        parts = [f"{one.arms} {one.verdict}" for one in self.contrasts]
        parts += [f"{arm.replace('-', MINUS)} not measured" for arm in absent]
        return f"{CANNOT_TELL} ({', '.join(parts)})"

    @property
    def name(self) -> str:
        """``ratio 1, densenet121``, without the GAN's name."""
        return ", ".join(part for part in (self.setting, self.classifier) if part)

    @property
    def setting(self) -> str:
        """``10 % of the patients, ratio 1, GAN seed 0``, as far as known."""
        return ", ".join(part for part in (patients_of(self.fraction), self.dose) if part)

    @property
    def dose(self) -> str:
        """``ratio 1, balanced, GAN seed 0``: the setting without the fraction."""
        ratio = f"ratio {self.ratio:g}" if self.ratio is not None else ""
        seed = f"GAN seed {self.gan_seed}" if self.gan_seed is not None else ""
        return ", ".join(part for part in (ratio, self.variant, seed) if part)


def patients_of(fraction: float | None) -> str:
    """``10 % of the patients``; "" for all."""
    return "" if fraction is None else f"{fraction * 100:g} % of the patients"


def comparisons(rows: Sequence[ResultRow], endpoint: str) -> tuple[Comparison, ...]:
    """All contrast rows of one metric, grouped; in the order in which the rows come."""
    grouped: dict[Key, list[Contrast]] = {}
    smallest = {(_key(row), row.arm): row.value for row in rows if row.stage == "power" and row.metric == endpoint}
    for row in rows:
        if row.stage == "contrast" and row.metric == endpoint:
            key = _key(row)
            grouped.setdefault(key, []).append(contrast_of(row, smallest.get((key, row.arm))))
    return tuple(
        Comparison(gan, seed, ratio, classifier, tuple(sorted(found, key=lambda one: one.row.arm)), fraction, variant)
        for (gan, seed, ratio, classifier, fraction, variant), found in grouped.items()
    )


def _key(row: ResultRow) -> Key:
    return row.gan, row.gan_seed, row.ratio, row.classifier, row.fraction, row.variant
