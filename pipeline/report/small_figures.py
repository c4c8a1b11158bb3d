"""Figures of thumbnail size: what a probe of the scorecard saw, and how quality came during training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from pipeline.report.figures import DASHES, GRID, INK, MARKERS, SIZE, as_svg, calm, literal, thousands
from pipeline.report.numbers import finite, number

WIDTH, HEIGHT = 2.3, 1.6
LEFT, RIGHT, BELOW, ABOVE = 0.62, 0.1, 0.42, 0.26  # inches around the axes
FEW = 8
"""Up to so many points are marked one by one, for a line alone would hide where anything was measured."""

FIELDS = frozenset({"lines", "x", "y", "log", "steps"})
"""What a probe's figure holds."""


@dataclass(frozen=True)
class Course:
    """A quality over what it took: its line's name ("" for none), colour and points."""

    name: str
    colour: str
    points: Sequence[tuple[float, float]]


def small_figure(data: Mapping[str, Any], colour: str, key: str, alt: str) -> Markup:
    """What a probe of the scorecard saw.

    Args:
        data: ``lines`` (name → list of [x, y]; "real" is drawn in the text's colour), ``x`` and ``y`` (axes' names),
            ``log`` (whether y is logarithmic) and ``steps`` (whether the lines are histograms).
        colour: the GAN's.
        key: unique in the page; its ids begin with it.
        alt: what a reader who cannot see it should know.
    """
    figure, axes = _axes()
    places: set[float] = set()
    for i, (name, points) in enumerate(data["lines"].items()):
        real = name == "real"
        good = sorted((x, y) for x, y in points if finite(x) is not None and finite(y) is not None)
        if not good:
            continue
        x, y = np.array(good, np.float64).T
        places |= set(x.tolist())
        drawn = axes.plot(x, y, drawstyle="steps-mid" if data["steps"] else "default", linestyle=DASHES[i % 2])
        drawn[0].set(label=literal(name))
        drawn[0].set(color=INK if real else colour, linewidth=1.0 if real else 1.5)
        if len(good) <= FEW:
            drawn[0].set(marker=MARKERS[i % 2], markersize=3.5)
    if data["log"]:
        axes.set_yscale("log")
        axes.set_yticks([])
    else:
        axes.yaxis.set_major_locator(MaxNLocator(2))
    _across(axes, sorted(places))
    _finish(figure, axes, data["x"], data["y"], len(data["lines"]))
    return as_svg(figure, key, alt)


def course_figure(courses: Sequence[Course], x: str, y: str, key: str, alt: str) -> Markup:
    """A quality over images or seconds, one line a training; lower is better, so that it is drawn over a log scale.

    Args:
        courses: the lines.
        x: what it took.
        y: the quality.
        key: unique in the page; its ids begin with it.
        alt: what a reader who cannot see it should know.
    """
    figure, axes = _axes()
    values: list[float] = []
    for one in courses:
        good = [(a, b) for a, b in one.points if finite(a) is not None and finite(b) is not None]
        if good:
            values += [b for _, b in good]
            label = literal(one.name) if one.name else "_"
            axes.plot(
                *zip(*good, strict=True), color=one.colour, linewidth=1.3, marker="o", markersize=2.5, label=label
            )
    if values and min(values) > 0:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0), numticks=6))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value, digits_of(value))))
    else:
        axes.yaxis.set_major_locator(MaxNLocator(3))
    axes.xaxis.set_major_locator(MaxNLocator(3))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: thousands(value)))
    _finish(figure, axes, x, y, sum(bool(one.name) for one in courses))
    return as_svg(figure, key, alt)


def digits_of(value: float) -> int:
    """Decimal places of a tick on a logarithmic axis: ``0.03``, ``0.3``, ``30``."""
    return 0 if value >= 1 else max(1, int(-np.floor(np.log10(value))))


def _axes() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, HEIGHT))
    size = (1 - (LEFT + RIGHT) / WIDTH, 1 - (BELOW + ABOVE) / HEIGHT)
    return figure, figure.add_axes((LEFT / WIDTH, BELOW / HEIGHT, *size))


def _across(axes: Axes, places: Sequence[float]) -> None:
    """Ticks of x: where anything was measured, if that is in few places; sizes that double stand at equal distances."""
    if not 1 < len(places) <= 4:
        axes.xaxis.set_major_locator(MaxNLocator(2))
        return
    if places[0] > 0 and all(b == 2 * a for a, b in pairwise(places)):
        axes.set_xscale("log", base=2)
        axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(places, [number(place, 0 if place == int(place) else None) for place in places])


def _finish(figure: Figure, axes: Axes, x: str, y: str, named: int) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y, color=INK, fontsize=SIZE)
    axes.grid(axis="y", color=GRID, linewidth=0.5)
    calm(axes)
    if named:
        style = {"frameon": False, "fontsize": SIZE, "labelcolor": INK, "handlelength": 1.2}
        figure.legend(loc=(0.02, 1 - 0.2 / HEIGHT), ncols=3, borderpad=0, borderaxespad=0, columnspacing=0.8, **style)
