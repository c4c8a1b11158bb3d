"""The scorecard as plain data for the template: what is shown of each GAN, then claim by claim."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline.claims import Concern, Verdict
from pipeline.report.criteria import (
    KINDS,
    NO_COMPARISON,
    concerns_of,
    expected_false,
    figure_of,
    judged,
    quantity,
    side_of,
    told_in_line,
    word_of,
)
from pipeline.report.estimates import Evidence, Gan
from pipeline.report.looks import COURSES, Look, courses, look
from pipeline.report.missing import Missing, missing_of, why_untold
from pipeline.report.overview import Overview, overview_of, shared_remedy
from pipeline.report.probe_tables import check_table, figure_table
from pipeline.report.probe_words import BENEFITS
from pipeline.report.tables import Table
from pipeline.report.words import in_words

NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Told:
    """One answer to a claim, of one GAN or of several that have the same.

    Attributes:
        gans: whose, each with what is its own ("" for nothing).
        word: the verdict's, ``no comparison`` or ``not measured``.
        kind: style.
        figure: the number with its interval; "" where nothing was compared.
        what: what the number is, and where it must lie for the claim.
        why: why nothing more can be told.
        also: further checks that are shown.
        looks: pictures of the probes behind it, the twin's beside the GAN's.
    """

    gans: tuple[tuple[Gan, str], ...]
    word: str
    kind: str
    figure: str = ""
    what: str = ""
    why: str = ""
    also: tuple[str, ...] = ()
    looks: tuple[Look, ...] = ()


@dataclass(frozen=True)
class Block:
    """One claim: its words, who made it, what shows it, what is told of GANs, and the pictures that they share."""

    text: str
    source: str
    judged: str
    benefit: bool
    told: tuple[Told, ...]
    looks: tuple[Look, ...]


@dataclass(frozen=True)
class Scorecard:
    """The section's content.

    Attributes:
        overview: for each GAN what is shown, in lines.
        blocks: one a claim that concerns a GAN of the run.
        checks: every check of every claim.
        figures: every figure of every probe.
        missing: what could not be measured, by probe and reason.
        chance: how many of the verdicts chance alone may have made.
        remedy: what holds for every verdict; "" for nothing.
    """

    overview: tuple[Overview, ...]
    blocks: tuple[Block, ...]
    checks: Table
    figures: Table
    missing: tuple[Missing, ...]
    chance: str
    remedy: str

    @property
    def parts(self) -> tuple[tuple[str, tuple[Block, ...]], ...]:
        """Limitations first, then what is said in a GAN's favour."""
        found = (("Limitations", False), ("Promised benefits", True))
        parts = ((name, tuple(one for one in self.blocks if one.benefit == good)) for name, good in found)
        return tuple((name, blocks) for name, blocks in parts if blocks)


def scorecard(evidence: Evidence) -> Scorecard | None:
    """The section; None where the run has no scorecard."""
    verdicts, missing = evidence.data.verdicts, missing_of(evidence.gans)
    if not verdicts and not missing and not evidence.data.concerns:
        return None
    found = concerns_of(evidence.data.concerns, verdicts)
    remedy = shared_remedy(verdicts)
    blocks = tuple(_block(evidence, one, verdicts, f"claim{i}", remedy) for i, one in enumerate(found))
    return Scorecard(
        overview_of(evidence.gans, found, verdicts),
        blocks,
        check_table(found, verdicts),
        figure_table(evidence),
        missing,
        expected_false(verdicts),
        remedy,
    )


def unmeasured(evidence: Evidence) -> list[Mapping[str, str]]:
    """The claims of which nothing can be told for want of a figure: ``claim``, ``text``, ``gan`` and ``reason``."""
    verdicts = evidence.data.verdicts
    leading = {(one.claim, one.gan) for one in verdicts if one.leading}
    return [
        {"claim": one.claim, "text": one.text, "gan": gan.name, "reason": why_untold(gan, one)}
        for one in concerns_of(evidence.data.concerns, verdicts)
        for gan in evidence.gans
        if gan.name in one.gans and (one.claim, gan.name) not in leading
    ]


def _block(evidence: Evidence, concern: Concern, verdicts: Sequence[Verdict], key: str, remedy: str) -> Block:
    told = []
    gans = [gan for gan in evidence.gans if gan.name in concern.gans]
    for i, gan in enumerate(gans):
        mine = [one for one in verdicts if one.claim == concern.claim and one.gan == gan.name]
        one = _told(gan, concern, mine, remedy)
        told.append(replace(one, looks=_looks(evidence, gan, mine, f"{key}-{i}")))
    probes = {one.probe for one in verdicts if one.claim == concern.claim}
    common = courses(gans, "divergence", key) if "divergence" in probes else ()
    benefit = concern.claim in BENEFITS
    return Block(concern.text, concern.source, judged(concern), benefit, _merged(told), common)


def _told(gan: Gan, concern: Concern, mine: Sequence[Verdict], remedy: str) -> Told:
    """What is told of one GAN, without pictures."""
    lead = next((one for one in mine if one.leading), None)
    also = tuple(told_in_line(one) for one in mine if not one.leading and one.verdict == "shown")
    if lead is None:
        return Told(((gan, ""),), NOT_MEASURED, "untold", why=why_untold(gan, concern), also=also)
    why = "" if lead.remedy == remedy else in_words(lead.remedy)
    if lead.alone:
        own = f"{quantity(lead)} {figure_of(lead)}"
        return Told(((gan, own),), NO_COMPARISON, "untold", why=why, also=also)
    what = f"{quantity(lead)}; shown if {side_of(lead)}"
    return Told(((gan, ""),), word_of(lead), KINDS.get(lead.verdict, "cannot-tell"), figure_of(lead), what, why, also)


def _looks(evidence: Evidence, gan: Gan, mine: Sequence[Verdict], key: str) -> tuple[Look, ...]:
    """Pictures of every probe that tells something of the GAN, each with the twin's beside it."""
    looks: list[Look | None] = []
    told = [one for one in mine if not one.alone]
    for probe in dict.fromkeys(one.probe for one in told):
        names = dict.fromkeys(one.against for one in told if one.probe == probe and one.against)
        twins = [twin for name in names if (twin := evidence.gan(name)) is not None]
        if probe == "training":
            looks += [one for twin in twins for one in courses((gan, twin), probe, f"{key}-{twin.name}")]
        elif probe not in COURSES:
            looks += [look(one, probe, f"{key}-{probe}-{i}") for i, one in enumerate((gan, *twins))]
    return tuple(one for one in looks if one is not None)


def _merged(told: Sequence[Told]) -> tuple[Told, ...]:
    """Equal answers as one, with the pictures of all."""
    groups: dict[object, Told] = {}
    for one in told:
        same = (one.word, one.figure, one.what, one.why, one.also)
        first = groups.get(same)
        groups[same] = (
            one if first is None else replace(first, gans=(*first.gans, *one.gans), looks=(*first.looks, *one.looks))
        )
    return tuple(sorted(groups.values(), key=lambda one: one.kind == "untold"))
