"""The scorecard as plain data for the template: claims against GANs, every check, every figure, and what is missing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from pipeline.records import ResultRow, Verdict
from pipeline.report.estimates import Evidence, Gan, estimate
from pipeline.report.figures import small_figure
from pipeline.report.images import Picture, sheet
from pipeline.report.numbers import MINUS, MISSING, decimals, interval, number
from pipeline.report.tables import Cell, Group, Line, Table

STAGE = "probe"
LARGEST = 320
"""Pixels of a picture's longer side, at most: it stands in a table."""

COLUMNS = 5
"""GANs beside each other, at most."""

SHOWS = {
    "spectrum": "power over spatial frequency",
    "resolution": "spectral gap by resolution: real halves, synthetic",
    "ms_ssim": "most alike class: real above, synthetic below",
    "ndb": "bins that lack scans: real above, synthetic below",
    "duplicates": "most alike synthetic scans, each above its nearest",
    "conditional": "a class's scans: real above, synthetic below",
    "leak": "most transformed-looking synthetic scans",
    "copies": "synthetic scans above the nearest training scans",
    "path_length": "path lengths of single pairs",
    "edits": "one scan moved along each attribute, −2 to 2 SD",
    "noise": "where noise changes the scan",
    "mixing": "coarse from the left, fine from the top",
    "truncation": "precision and recall over ψ",
    "droplets": "norm of the feature map with the highest peak",
    "pinning": "a line of pixels along a latent walk: detail that stays is pinned",
}
"""What a probe's picture shows."""

KINDS = {"shown": "shown", "not shown": "not-shown"}
"""Style of a verdict; the others cannot tell."""


@dataclass(frozen=True)
class Told:
    """One claim about one GAN.

    Attributes:
        verdict: in words; "" where the claim does not concern the GAN.
        kind: style.
        figure: the number with its interval.
        against: what it is compared with, and why nothing can be told.
        why: the reason where nothing was measured.
        picture: what a reader can see.
        svg: a small figure instead.
        shows: what either shows.
    """

    verdict: str = ""
    kind: str = ""
    figure: str = ""
    against: str = ""
    why: str = ""
    picture: Picture | None = None
    svg: Markup | None = None
    shows: str = ""


@dataclass(frozen=True)
class ClaimLine:
    """One claim: its words, what it is judged by, and what is told of each GAN."""

    text: str
    source: str
    judged: str
    told: tuple[Told, ...]


@dataclass(frozen=True)
class Scorecard:
    """The section's content.

    Attributes:
        gans: the columns.
        lines: one a claim that concerns a GAN of the run.
        checks: every check of every claim.
        figures: every figure of every probe.
        missing: (GAN, probe, reason) of what could not be measured.
        chance: how many of the verdicts chance alone may have made.
    """

    gans: tuple[Gan, ...]
    lines: tuple[ClaimLine, ...]
    checks: Table
    figures: Table
    missing: tuple[tuple[str, str, str], ...]
    chance: str

    @property
    def wide(self) -> bool:
        """Whether a column for each GAN is more than a page holds: then each claim lists the GANs that it concerns."""
        return len(self.gans) > COLUMNS


def scorecard(evidence: Evidence) -> Scorecard | None:
    """The section; None where the run has no scorecard."""
    verdicts = evidence.data.verdicts
    missing = tuple(
        (f"{gan.name} (seed {one.seed})" if len(gan.trainings) > 1 else gan.name, probe, str(reason))
        for gan in evidence.gans
        for one in gan.trainings
        for probe, reason in _read_json(one.scorecard, "missing.json").items()
    )
    if not verdicts and not missing:
        return None
    lines = tuple(_claim(evidence, key, verdicts, i) for i, key in enumerate(dict.fromkeys(v.claim for v in verdicts)))
    return Scorecard(evidence.gans, lines, _checks(verdicts), _figures(evidence), missing, expected_false(verdicts))


def shown_limitations(evidence: Evidence, gan: str) -> str:
    """``shown: "a GAN merely memorises" (copies 0.2, 0.1 to 0.3)``: the leading checks that were shown; "" for none."""
    found = [v for v in evidence.data.verdicts if v.gan == gan and v.leading and v.verdict == "shown"]
    return "; ".join(f"shown: “{v.text}” ({v.metric} {figure_of(v)}{', ' * bool(v.remedy)}{v.remedy})" for v in found)


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


def figure_of(verdict: Verdict) -> str:
    """``0.31 (0.22 to 0.41)``; an end that is not bounded is told in words."""
    places = decimals(verdict.value, verdict.low, verdict.high)
    low, high = verdict.low, verdict.high
    if low == high:  # both unbounded, or a plain fact
        ends = "no interval"
    elif low is None or high is None:
        ends = f"{number(low, places)} or more" if high is None else f"{number(high, places)} or less"
    else:
        ends = interval(low, high, places)
    return f"{number(verdict.value, places)} ({ends})"


def side_of(verdict: Verdict) -> str:
    """``above 0.05``."""
    return f"{verdict.side} {verdict.threshold:g}".replace("-", MINUS)


def _claim(evidence: Evidence, key: str, verdicts: tuple[Verdict, ...], position: int) -> ClaimLine:
    mine = [v for v in verdicts if v.claim == key]
    lead = next((v for v in mine if v.leading), mine[0])
    told = tuple(
        _told(evidence, gan, [v for v in mine if v.gan == gan.name], f"claim{position}") for gan in evidence.gans
    )
    return ClaimLine(lead.text, lead.source, f"{lead.check} {side_of(lead)}: {lead.reason}", told)


def _told(evidence: Evidence, gan: Gan, mine: list[Verdict], key: str) -> Told:
    lead = next((v for v in mine if v.leading), None)
    if not mine:
        return Told()
    if lead is None:
        missing = [_read_json(one.scorecard, "missing.json") for one in gan.trainings]
        reasons = [str(reasons[v.probe]) for reasons in missing for v in mine if v.probe in reasons]
        return Told(verdict=MISSING, why=reasons[0] if reasons else "the leading figure was not measured")
    against = f"against {lead.against}" if lead.against else ""
    told = Told(lead.verdict, KINDS.get(lead.verdict, "cannot-tell"), figure_of(lead), against, lead.remedy)
    for probe in dict.fromkeys(v.probe for v in mine):
        for training in gan.trainings:
            picture, data = (
                _picture(training.scorecard, probe),
                _read_json(training.scorecard, "figures.json").get(probe),
            )
            shows = SHOWS.get(probe, "")
            if picture is not None:
                return replace(told, picture=picture, shows=shows)
            if isinstance(data, dict) and {"lines", "x", "y", "log", "steps"} <= set(data):
                place = f"{key}-{[one.name for one in evidence.gans].index(gan.name)}"
                return replace(told, svg=small_figure(data, gan.colour, place, f"{shows}, {gan.name}"), shows=shows)
    return told


def _picture(folder: Path | None, probe: str) -> Picture | None:
    try:
        array = np.load(folder / "pictures" / f"{probe}.npy", allow_pickle=False) if folder is not None else None
    except (OSError, ValueError, EOFError):
        return None
    if array is None or array.dtype != np.uint8 or array.ndim != 2 or not array.size:
        return None
    return sheet(array[None], 1, largest=LARGEST)


def _read_json(folder: Path | None, name: str) -> dict[str, Any]:
    """A JSON object of a scorecard artifact; empty where it is not there."""
    try:
        found = json.loads((folder / name).read_text(encoding="utf-8")) if folder is not None else {}
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _checks(verdicts: tuple[Verdict, ...]) -> Table:
    groups = []
    for key in dict.fromkeys(v.claim for v in verdicts):
        mine = [v for v in verdicts if v.claim == key]
        lines = []
        for v in mine:
            name = f"{v.metric}, {v.gan}" + (f" against {v.against}" if v.against else "")
            seeds = f"{v.seeds} training" + ("s" if v.seeds != 1 else "")
            counts = [
                f"{n:,} {what}" for n, what in ((v.n_real, "real"), (v.n_synthetic, "synthetic")) if n is not None
            ]
            cells = (
                Cell(v.verdict, ("leads",) if v.leading else ()),
                Cell(number(v.value), (figure_of(v).partition(" ")[2].strip("()"),)),
                Cell(side_of(v), (v.reason,)),
                Cell(seeds, tuple(counts)),
                Cell("; ".join(filter(None, (v.remedy, v.note)))),
            )
            lines.append(Line(name, cells))
        groups.append(Group(f"{mine[0].text} ({mine[0].source})", tuple(lines)))
    columns = tuple((name, "") for name in ("verdict", "figure", "shown if", "rests on", "note"))
    return Table("check", columns, tuple(groups))


def _figures(evidence: Evidence) -> Table:
    """Every probe's figure: metric × GAN, mean over seeds, with its interval."""
    found: dict[tuple[str, str], list[ResultRow]] = {}
    for row in evidence.data.rows:
        if row.stage == STAGE:
            found.setdefault((row.metric, row.gan), []).append(row)
    gans = [gan for gan in evidence.gans if any(name == gan.name for _, name in found)]
    lines = []
    for metric in sorted({metric for metric, _ in found}):
        cells = []
        for gan in gans:
            rows = found.get((metric, gan.name))
            if rows is None:
                cells.append(Cell(MISSING, why="not measured, or it does not concern this GAN"))
                continue
            one = estimate(rows)
            places = decimals(one.value, one.low, one.high)
            ends = interval(one.low, one.high, places)
            cells.append(Cell(number(one.value, places), (ends,) if ends else ()))
        lines.append(Line(metric, tuple(cells)))
    return Table("metric", tuple((gan.name, "") for gan in gans), (Group("", tuple(lines)),) if lines else ())
