"""The scorecard's figures and criteria in words, the same on the page and in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.claims import Concern, Criterion, Verdict
from pipeline.report.metric import POSITIVE
from pipeline.report.numbers import MINUS, decimals, interval, number
from pipeline.report.words import in_words, metric_of

NO_COMPARISON = "no comparison"
KINDS = {"shown": "shown", "not shown": "not-shown"}
"""Style of a verdict; the others cannot tell."""

RULES = ("any rise", "any fall")
"""Reasons that only repeat a criterion "higher (lower) than the twin's"."""


def figure_of(verdict: Verdict) -> str:
    """``0.31 (0.22 to 0.41)``; an end that is not bounded is told in words, an impossible one cut."""
    least, greatest = _possible(verdict)
    low = None if verdict.low is None else min(max(verdict.low, least), greatest)
    high = None if verdict.high is None else min(max(verdict.high, least), greatest)
    places = decimals(verdict.value, low, high)
    if verdict.low == verdict.high:  # both unbounded, or a plain fact
        ends = "no interval"
    elif low is None or high is None:
        ends = f"{number(low, places)} or more" if high is None else f"{number(high, places)} or less"
    else:
        ends = interval(low, high, places)
    return f"{number(verdict.value, places)} ({ends})"


def _possible(verdict: Verdict) -> tuple[float, float]:
    """The least and the greatest value that a verdict's figure can have."""
    relation = "value" if verdict.alone else verdict.relation
    if relation in ("ratio", "speedup"):
        return POSITIVE
    if relation == "correlation":
        return -1.0, 1.0
    low, high = metric_of(verdict.of or verdict.metric).ends
    return (low - high, high - low) if relation == "difference" else (low, high)


def quantity(verdict: Verdict) -> str:
    """What a verdict's figure is: ``difference in domain KID``; of a GAN without a twin the metric itself."""
    one = verdict.criterion
    label, over = metric_of(one.of).label, metric_of(one.over).label if one.over else ""
    if verdict.alone or one.relation == "value":
        return label
    if one.relation == "speedup":
        return f"times sooner in {label}"
    if one.relation == "correlation":
        return f"rank correlation of {label} with {over} over all GANs"
    if not one.twin:
        return f"{label} {_sign(one)} {over}"
    beside = f"{over} of {verdict.against}" if over else f"{verdict.against}'s"
    return f"difference of {label} to {beside}" if one.relation == "difference" else f"{label} over {beside}"


def side_of(one: Verdict | Criterion) -> str:
    """``above 0.05``."""
    return f"{one.side} {one.threshold:g}".replace("-", MINUS)


def criterion_of(one: Criterion) -> str:
    """What must hold, as a sentence's second half: ``recall is lower than its twin's``."""
    label, over = metric_of(one.of).label, metric_of(one.over).label if one.over else ""
    if one.relation == "value":
        return f"{label} {side_of(one)}"
    if one.relation == "speedup":
        times = "" if one.threshold == 1.0 else f"more than {one.threshold:g} times "
        return f"reaching the quality that both reach {times}sooner than its twin, in {label}"
    if one.relation == "correlation":
        return f"rank correlation of {label} with {over} over all GANs {side_of(one)}"
    if not one.twin:
        return f"{label} {_sign(one)} {over} {side_of(one)}"
    word = "higher" if one.side == "above" else "lower"
    whose = f"{over} of its twin" if over else "its twin's"
    if one.threshold == (1.0 if one.relation == "ratio" else 0.0):
        return f"{label} {word} than {whose}"
    relation = "times" if one.relation == "ratio" else "by"
    return f"{label} {word} than {whose} {relation} {one.threshold:g}"


def reason_of(one: Criterion) -> str:
    """Why the threshold stands there; "" where the criterion says it already."""
    return "" if one.twin and one.reason.startswith(RULES) else in_words(one.reason)


def judged(concern: Concern) -> str:
    """One sentence on what shows a claim."""
    told = [criterion_of(one) + (f" ({reason})" if (reason := reason_of(one)) else "") for one in concern.criteria]
    if len(told) == 1:
        return f"Shown by {told[0]}."
    return f"Shown by {', and by '.join(told)}."


def concerns_of(concerns: Sequence[Concern], verdicts: Sequence[Verdict]) -> tuple[Concern, ...]:
    """The claims to list: those given, else those of the verdicts, as reports of earlier versions have them."""
    known = {one.claim for one in concerns}
    found = list(concerns)
    for key in dict.fromkeys(one.claim for one in verdicts if one.claim not in known):
        mine = [one for one in verdicts if one.claim == key]
        lead = next((one for one in mine if one.leading), mine[0])
        gans = tuple(dict.fromkeys(one.gan for one in mine))
        found.append(Concern(key, lead.text, lead.source, gans, (lead.criterion,)))
    return tuple(found)


def word_of(verdict: Verdict) -> str:
    """The verdict's word; ``no comparison`` where there is nothing to set the figure against."""
    return NO_COMPARISON if verdict.alone else verdict.verdict


def told_in_line(verdict: Verdict) -> str:
    """Figure, name and criterion in a line: ``recall of ... 0.31 (0.22 to 0.41), shown if below 0.5``."""
    return f"{quantity(verdict)} {figure_of(verdict)}, shown if {side_of(verdict)}"


def expected_false(verdicts: Sequence[Verdict]) -> str:
    """How many leading verdicts there are, and how many of them chance alone may have made; "" for none."""
    leading = [v for v in verdicts if v.leading]
    if not leading:
        return ""
    told = sum(v.verdict in KINDS for v in leading)
    return (
        f"{len(leading)} leading verdicts, {told} of them shown or not shown. Each rests on a 95 % interval of its "
        "own, without correction for their number: were every figure at its threshold, "
        f"{0.025 * len(leading):.1f} would be “shown” by chance and as many “not shown”."
    )


def _sign(one: Criterion) -> str:
    return "over" if one.relation == "ratio" else "less"
