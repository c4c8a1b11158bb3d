"""Plain sentences for the three questions, computed from the rows; never a word without a number."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.report.contrasts import CANNOT_TELL, HARMED, HELPED, Comparison
from pipeline.report.estimates import Estimate, Evidence, Gan
from pipeline.report.numbers import decimals, finite, interval, many, number, probability
from pipeline.report.overview import shown_limitations
from pipeline.report.sentences import plain_words
from pipeline.report.words import metric_of, metric_order

LISTED = 12
"""Up to so many comparisons are told one by one; more are summed up for each GAN."""


@dataclass(frozen=True)
class Point:
    """A sentence about one GAN (or about all, with an empty name)."""

    gan: str
    text: str


@dataclass(frozen=True)
class Answer:
    """A question, its answer in one sentence, the figures behind it, and the same for those who read no figures."""

    question: str
    short: str
    points: tuple[Point, ...]
    plain: tuple[str, ...] = ()

    @property
    def by_gan(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """The points' texts, those about one GAN together."""
        names = dict.fromkeys(point.gan for point in self.points)
        return tuple((name, tuple(point.text for point in self.points if point.gan == name)) for name in names)


def answers(evidence: Evidence, found: tuple[Comparison, ...]) -> tuple[Answer, ...]:
    """The three questions that the report exists for."""
    return _did_it_help(evidence, found), _which_gan(evidence, found), _what_is_wrong(evidence)


def patients(evidence: Evidence, found: tuple[Comparison, ...]) -> str:
    """``23 test patients``, or ``23 test images`` where patients are unknown; "" where the contrasts do not say."""
    sizes = sorted({one.row.n for comparison in found for one in comparison.contrasts if one.row.n is not None})
    if not sizes:
        return ""
    one = f"test {evidence.cases.removesuffix('s')}"
    return many(sizes[0], one) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]} {one}s"


def _did_it_help(evidence: Evidence, found: tuple[Comparison, ...]) -> Answer:
    question = "Did it help?"
    if not found:
        return Answer(question, "Not measured: this run holds 0 contrasts between classifiers.", ())
    tally = {verdict: [one for one in found if one.verdict == verdict] for verdict in (HELPED, HARMED, CANNOT_TELL)}
    of = f"of {many(len(found), 'comparison')} in {metric_of(evidence.endpoint).label}"
    parts = []
    for verdict, word in ((HELPED, "Yes, shown to help"), (HARMED, "Shown to harm")):
        if tally[verdict]:
            names = ", ".join(dict.fromkeys(one.gan for one in tally[verdict]))
            parts.append(f"{word} in {len(tally[verdict])} {of} ({names})")
    if not parts:
        parts = [f"Cannot tell at this n: 0 {of} shown to help, 0 shown to harm"]
    elif tally[CANNOT_TELL]:
        parts.append(f"cannot tell in {len(tally[CANNOT_TELL])}")
    n = f" ({patients(evidence, found)})" if patients(evidence, found) else ""
    points = tuple(point for gan in evidence.gans for point in _usefulness(evidence, gan, found))
    return Answer(question, "; ".join(parts) + n + ".", points, plain_words(evidence, found))


def _usefulness(evidence: Evidence, gan: Gan, found: tuple[Comparison, ...]) -> list[Point]:
    mine = [one for one in found if one.gan == gan.name]
    if not mine:
        return [Point(gan.name, f"not compared ({gan.status}).")]
    if len(found) > LISTED:
        return [Point(gan.name, _summed_up(mine))]
    points = []
    for comparison in mine:
        told = "; ".join(f"{one.arms} {one.figures}" for one in comparison.contrasts)
        where = f"{comparison.name}: " if comparison.name else ""
        points.append(Point(gan.name, f"{where}{told}: {comparison.told}."))
    return points


def _summed_up(mine: list[Comparison]) -> str:
    sentences = []
    for arm in dict.fromkeys(one.row.arm for comparison in mine for one in comparison.contrasts):
        ones = [one for comparison in mine for one in comparison.contrasts if one.row.arm == arm]
        values = [value for one in ones if (value := finite(one.row.value)) is not None]
        if not values:
            continue
        p = [one.holm for one in ones if one.holm is not None]
        smallest = f", smallest Holm p {probability(min(p))}" if p else ""
        sentences.append(
            f"{ones[0].arms} from {number(min(values), 3, True)} to {number(max(values), 3, True)}{smallest}"
        )
    tally = {verdict: sum(one.verdict == verdict for one in mine) for verdict in (HELPED, HARMED, CANNOT_TELL)}
    verdicts = ", ".join(f"{times} {verdict}" for verdict, times in tally.items())
    return f"{'; '.join(sentences)}. Of {many(len(mine), 'comparison')}: {verdicts}."


def _which_gan(evidence: Evidence, found: tuple[Comparison, ...]) -> Answer:
    question = "Which GAN?"
    bases = sorted({base for _, base, name in evidence.scores if not name}, key=metric_order)
    base = next((one for one in bases if metric_of(one).better), "")
    ranked = _ranked(evidence, base)
    label = metric_of(base).label
    points = []
    if not ranked:
        short = "Not measured: 0 GANs have a fidelity score."
    elif len(ranked) == 1:
        short = f"Only {ranked[0][0]} was scored: {label} {_told(ranked[0][1])}."
    elif evidence.leader(base):
        short = f"By {label}, {ranked[0][0]} leads: {_told(ranked[0][1])}; its interval overlaps no other."
    else:
        short = f"No clear lead: {ranked[0][0]} has the best {label}, {_told(ranked[0][1])}, without a gap to the next."
    rest = ", ".join(f"{name} {_told(one)}" for name, one in ranked[1:])
    if rest:
        points.append(Point("", f"Next by {label}: {rest}."))
    if ranked and all(one.seeds == 1 for _, one in ranked):
        told = "1 seed for each GAN: the variation between trainings was not measured and may reorder them."
        points.append(Point("", told))
    points += _most_useful(evidence, found)
    return Answer(question, short, tuple(points))


def _most_useful(evidence: Evidence, found: tuple[Comparison, ...]) -> list[Point]:
    gains = [
        (one, comparison)
        for comparison in found
        for one in comparison.contrasts
        if one.row.arm == "D-B" and finite(one.row.value) is not None
    ]
    if len({comparison.gan for _, comparison in gains}) < 2:
        return []
    sign = -1.0 if metric_of(evidence.endpoint).better == "lower" else 1.0
    top, where = max(gains, key=lambda pair: sign * pair[0].row.value)
    place = f"{where.gan}{f' ({where.name})' if where.name else ''}"
    return [
        Point(
            "", f"Largest of {len(gains)} values of D−B: {place}, {top.figures}. D−B and D−C together: {where.told}."
        ),
        Point(
            "", "The largest of many is flattered by chance, and a better KID or FID need not be the more useful GAN."
        ),
    ]


def _ranked(evidence: Evidence, base: str) -> list[tuple[str, Estimate]]:
    scored = [(gan.name, evidence.score(gan.name, base)) for gan in evidence.gans]
    measured = [(name, one) for name, one in scored if one is not None and one.value is not None]
    return sorted(measured, key=lambda pair: pair[1].value or 0.0, reverse=metric_of(base).better == "higher")


def _what_is_wrong(evidence: Evidence) -> Answer:
    question = "What is wrong with each GAN, in numbers?"
    points = tuple(Point(gan.name, _faults(evidence, gan)) for gan in evidence.gans)
    trainings = [one for gan in evidence.gans for one in gan.trainings]
    if not trainings:
        return Answer(question, "Not measured: 0 trainings are recorded.", points)
    broken = sum(one.status != "done" for one in trainings)
    short = f"{broken} of {many(len(trainings), 'training')} diverged or failed. How far each GAN is from real scans:"
    return Answer(question, short, points)


def _faults(evidence: Evidence, gan: Gan) -> str:
    bases = sorted({base for name, base, _ in evidence.scores if name == gan.name}, key=metric_order)
    distances: list[str] = []
    shares: list[str] = []
    for base in bases:
        one = evidence.score(gan.name, base)
        if one is None or one.value is None:
            continue
        beside = _beside(evidence, gan, base)
        figure = f"{metric_of(base).label} {number(one.value)}" + (f" ({beside})" if beside else "")
        (distances if base.split(".")[0] in ("fid", "kid") else shares).append(figure)
    told = ([gan.status] if gan.unfinished else []) + [", ".join(part) for part in (distances, shares) if part]
    told += [part for part in (_worst_class(evidence, gan, bases), shown_limitations(evidence, gan.name)) if part]
    return "; ".join(told or ["0 metrics were measured"]) + "."


def _beside(evidence: Evidence, gan: Gan, base: str) -> str:
    """What a figure is read against: FID's ratio to the floor, else the floor's range, or its value without one."""
    ratio, floor = evidence.ratio(gan.name, base), evidence.floor(base)
    if ratio is not None:
        return f"{number(ratio)} × floor"
    if floor is None or floor.value is None:
        return ""
    places = decimals(floor.low, floor.high, digits=2)
    return f"real against real {interval(floor.low, floor.high, places) or number(floor.value)}"


def _worst_class(evidence: Evidence, gan: Gan, bases: list[str]) -> str:
    for base in (one for one in bases if metric_of(one).better):
        found = [(evidence.score(gan.name, base, name), name) for name in evidence.classes]
        by_class = [(one, name) for one, name in found if one is not None and one.value is not None]
        if len(by_class) > 1:
            by_class.sort(key=lambda pair: pair[0].value or 0.0, reverse=metric_of(base).better == "lower")
            (worst, weak), (best, strong) = by_class[0], by_class[-1]
            if worst.value == best.value:
                return ""
            return f"{metric_of(base).label} by class: worst {weak} {_told(worst)}, best {strong} {_told(best)}"
    return ""


def _told(one: Estimate) -> str:
    places = decimals(one.value, one.low, one.high)
    ends = interval(one.low, one.high, places)
    return number(one.value, places) + (f" ({ends})" if ends else " (no interval)")
