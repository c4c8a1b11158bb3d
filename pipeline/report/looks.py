"""What a reader can see of a probe: its picture or small figure, and the courses of quality during training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from pipeline.records import GanSummary
from pipeline.report.curves import FIDELITY
from pipeline.report.estimates import Gan
from pipeline.report.images import Picture, sheet
from pipeline.report.probe_words import SHOWS
from pipeline.report.small_figures import FIELDS, Course, course_figure, small_figure
from pipeline.report.words import metric_of

LARGEST = 320
"""Pixels of a picture's longer side, at most: several stand beside each other."""

COURSES = {"divergence": ("images",), "training": ("images", "seconds")}
"""Probes that look at trainings: over what their quality is drawn."""


@dataclass(frozen=True)
class Look:
    """One figure.

    Attributes:
        caption: what it shows, and of which GAN.
        colour: the GAN's.
        picture: pixels, or
        svg: a drawing.
    """

    caption: str
    colour: str
    picture: Picture | None = None
    svg: Markup | None = None


def look(gan: Gan, probe: str, key: str) -> Look | None:
    """A probe's picture of the first training that has one.

    Args:
        gan: whose.
        probe: which.
        key: unique in the page.
    """
    for training in gan.trainings:
        card = training.scorecard
        told = read_json(card, "captions.json").get(probe) or SHOWS.get(probe, "")
        caption = f"{gan.name}: {told}"
        picture = _picture(card, probe)
        if picture is not None:
            return Look(caption, gan.colour, picture)
        data = read_json(card, "figures.json").get(probe)
        if isinstance(data, dict) and set(data) >= FIELDS:
            return Look(caption, gan.colour, svg=small_figure(data, gan.colour, key, f"{told}, {gan.name}"))
    return None


def courses(gans: Sequence[Gan], probe: str, key: str) -> tuple[Look, ...]:
    """Quality on validation patients over images seen, and over seconds where a probe compares those, too.

    Args:
        gans: whose trainings.
        probe: of :data:`COURSES`.
        key: unique in the page.
    """
    metric = _quality(gans)
    if not metric:
        return ()
    label = metric_of(metric.removeprefix("validation.")).label
    names = ", ".join(gan.name for gan in gans)
    looks = []
    for unit in COURSES[probe]:
        lines = [
            Course(gan.name if len(gans) < 3 and i == 0 else "", gan.colour, points)
            for gan in gans
            for i, one in enumerate(gan.trainings)
            if (points := _over(one, metric, unit))
        ]
        if lines:
            x = "images seen" if unit == "images" else "seconds"
            caption = f"{label} on validation patients over {x}, one line a training; lower is better"
            svg = course_figure(lines, x, label, f"{key}-{unit}", f"{caption}: {names}")
            looks.append(Look(caption, "", svg=svg))
    return tuple(looks)


def _quality(gans: Sequence[Gan]) -> str:
    """The curve by which trainings are judged: FID, else KID."""
    found = {key for gan in gans for one in gan.trainings for key in one.curves if FIDELITY.search(key)}
    return min(found, key=lambda key: ("fid." not in key, key), default="")


def _over(one: GanSummary, metric: str, unit: str) -> list[tuple[float, float]]:
    points = list(one.curves.get(metric, ()))
    if unit == "images" or not points:
        return points
    if not one.timeline:
        return []
    seen, seconds = zip(*one.timeline, strict=True)
    return [(float(np.interp(x, seen, seconds)), y) for x, y in points]


def _picture(folder: Path | None, probe: str) -> Picture | None:
    try:
        array = np.load(folder / "pictures" / f"{probe}.npy", allow_pickle=False) if folder is not None else None
    except (OSError, ValueError, EOFError):
        return None
    if array is None or array.dtype != np.uint8 or array.ndim != 2 or not array.size:
        return None
    return sheet(array[None], 1, largest=LARGEST)


def read_json(folder: Path | None, name: str) -> dict[str, Any]:
    """A JSON object of a scorecard artifact; empty where it is not there."""
    try:
        found = json.loads((folder / name).read_text(encoding="utf-8")) if folder is not None else {}
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
