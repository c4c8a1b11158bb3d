"""What of the scorecard could not be measured, and why."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.claims import Concern
from pipeline.report.estimates import Gan
from pipeline.report.looks import read_json
from pipeline.report.probe_words import PROBES


@dataclass(frozen=True)
class Missing:
    """A probe that failed: its name, why, of which GANs (and seeds), and whether the reason's figures differ."""

    probe: str
    reason: str
    whose: tuple[str, ...]
    varied: bool


def missing_of(gans: Sequence[Gan]) -> tuple[Missing, ...]:
    """All that failed, one entry for each probe and reason; reasons that differ in their figures alone count as one."""
    found: dict[tuple[str, str], list[tuple[str, int, str]]] = {}
    for gan in gans:
        for one in gan.trainings:
            for probe, reason in read_json(one.scorecard, "missing.json").items():
                text = str(reason).removeprefix(f"{probe}: ")
                found.setdefault((probe, masked(text)), []).append((gan.name, one.seed, text))
    trainings = {gan.name: len(gan.trainings) for gan in gans}
    return tuple(
        Missing(PROBES.get(probe, probe), ones[0][2], _whose(ones, trainings), len({text for *_, text in ones}) > 1)
        for (probe, _), ones in found.items()
    )


def _whose(ones: Sequence[tuple[str, int, str]], trainings: dict[str, int]) -> tuple[str, ...]:
    """``dcgan`` where all its trainings failed so, else ``dcgan (seeds 0, 2)``."""
    told = []
    for name in dict.fromkeys(gan for gan, *_ in ones):
        seeds = [str(seed) for gan, seed, _ in ones if gan == name]
        some = f" (seed{'s' * (len(seeds) > 1)} {', '.join(seeds)})"
        told.append(name + some * (len(seeds) < trainings[name]))
    return tuple(told)


def masked(text: str) -> str:
    """A reason without its figures."""
    return re.sub(r"\d+(?:[.,]\d+)*", "#", text)


def why_untold(gan: Gan, concern: Concern) -> str:
    """Why a claim's leading figure is not there."""
    probes = {one.probe for one in concern.criteria}
    for training in gan.trainings:
        reasons = read_json(training.scorecard, "missing.json")
        for probe in (one for one in reasons if one in probes):
            return str(reasons[probe]).removeprefix(f"{probe}: ")
    if gan.unfinished:
        return gan.status
    return "its figure is not among this run's"
