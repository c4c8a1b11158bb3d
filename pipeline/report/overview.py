"""What the scorecard shows of each GAN, in a few lines: for the answers and for the top of the section."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.claims import Concern, Verdict
from pipeline.report.criteria import KINDS, NO_COMPARISON, told_in_line, word_of
from pipeline.report.estimates import Evidence, Gan
from pipeline.report.probe_words import BENEFITS
from pipeline.report.words import in_words


@dataclass(frozen=True)
class Overview:
    """One GAN: headings with their lines, and how often which word was said."""

    gan: Gan
    parts: tuple[tuple[str, tuple[str, ...]], ...]
    tally: str


def overview_of(gans: Sequence[Gan], concerns: Sequence[Concern], verdicts: Sequence[Verdict]) -> tuple[Overview, ...]:
    """What is shown of each GAN that a claim concerns."""
    found = []
    for gan in gans:
        about = sum(gan.name in one.gans for one in concerns)
        mine = [one for one in verdicts if one.gan == gan.name]
        if about:
            found.append(Overview(gan, _parts(mine), _tally(mine, about)))
    return tuple(found)


def shown_limitations(evidence: Evidence, gan: str) -> str:
    """``shown: “a GAN merely memorises” (copies ... 0.2, ...); also shown: ...``: what speaks against a GAN; or ""."""
    verdicts = evidence.data.verdicts
    mine = [one for one in verdicts if one.gan == gan]
    told = [f"{name}: {'; '.join(lines)}" for name, lines in _parts(mine) if name != BENEFIT]
    remedy = shared_remedy(verdicts)
    return "; ".join(told)[:1].lower() + "; ".join(told)[1:] + (f" ({remedy})" if told and remedy else "")


SHOWN, ALSO, BROKEN, BENEFIT = "shown", "also shown, by further checks", "promised and not there", "benefit shown"


def _parts(mine: Sequence[Verdict]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Headings with their lines; those without any are left out."""
    bad = [one for one in mine if one.claim not in BENEFITS]
    good = [one for one in mine if one.claim in BENEFITS]
    found = (
        (SHOWN, [one for one in bad if one.leading and one.verdict == "shown"]),
        (ALSO, [one for one in bad if not one.leading and one.verdict == "shown"]),
        (BROKEN, [one for one in good if one.leading and one.verdict == "not shown"]),
        (BENEFIT, [one for one in good if one.leading and one.verdict == "shown"]),
    )
    return tuple((name, _lines(ones)) for name, ones in found if ones)


def _lines(ones: Sequence[Verdict]) -> tuple[str, ...]:
    """One a claim: ``“binary cross-entropy collapses modes” (coverage ... 0.42 (0.3 to 0.5), below 0.8)``."""
    lines = []
    for key in dict.fromkeys(one.claim for one in ones):
        mine = [one for one in ones if one.claim == key]
        figures = "; ".join(told_in_line(one) for one in mine)
        lines.append(f"“{mine[0].text}” ({figures})")
    return tuple(lines)


def _tally(mine: Sequence[Verdict], about: int) -> str:
    """``Of 9 claims about it 2 shown, 3 not shown, 3 cannot tell, 1 without comparison``."""
    words = [word_of(one) for one in mine if one.leading]
    counts = {word: words.count(word) for word in KINDS}
    counts["without comparison"] = words.count(NO_COMPARISON)
    counts["cannot tell"] = len(words) - sum(counts.values())
    counts["not measured"] = about - len(words)
    told = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    return f"Of {about} claims about it: {told}."


def shared_remedy(verdicts: Sequence[Verdict]) -> str:
    """What is said of every verdict that says anything, so that it need not stand with each; "" for nothing."""
    remedies = {one.remedy for one in verdicts if one.verdict in KINDS and not one.against}
    return in_words(remedies.pop()) if len(remedies) == 1 else ""
