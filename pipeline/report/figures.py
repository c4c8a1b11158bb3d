"""Curves and forest plots as inline SVG.

Object API of matplotlib only (no pyplot state), text kept as text: it takes the page's font and colour, can be searched
and read aloud, and follows a dark scheme.
"""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal
from xml.sax.saxutils import quoteattr

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from pipeline.report.numbers import MINUS, decimals, difference, finite, number
from pipeline.report.words import metric_of

INK = "#101112"  # stands for the page's text colour: replaced by currentColor
GRID = "#d0d1d2"  # stands for the page's rule colour
SIZE = 9.0
DASHES: tuple[str | tuple[float, tuple[float, ...]], ...] = ("-", (0, (4, 2)), (0, (1, 1.5)), (0, (6, 1.5, 1, 1.5)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
FINE, COARSE = 240, 48  # points of a long curve's pale course, and of the mean drawn over it

_settings = threading.Lock()  # the one SVG setting that matters is global in matplotlib


@dataclass(frozen=True)
class Curve:
    """A line to draw.

    Attributes:
        name: for the legend; "" leaves it out.
        points: (images seen, value); values that are not finite are left out.
        colour: "" for the text colour.
        dash: index into :data:`DASHES`.
        marker: index into :data:`MARKERS`, or None for none.
    """

    name: str
    points: Sequence[tuple[float, float]]
    colour: str = ""
    dash: int = 0
    marker: int | None = None


@dataclass(frozen=True)
class Interval:
    """A line of a forest plot: its labels, a value with its interval, and how it is drawn."""

    group: str
    name: str
    value: float
    low: float | None
    high: float | None
    colour: str
    filled: bool


@dataclass(frozen=True)
class Dots:
    """Measured points, each perhaps with an interval.

    Attributes:
        name: for the legend.
        points: (x, y); values that are not finite are left out.
        spans: (low, high) of each y, or nothing.
        colour: "" for the text colour.
        joined: whether a line joins them.
        marker: index into :data:`MARKERS`.
    """

    name: str
    points: Sequence[tuple[float, float]]
    spans: Sequence[tuple[float | None, float | None]] = ()
    colour: str = ""
    joined: bool = False
    marker: int = 0


def curve_figure(curves: Sequence[Curve], key: str, alt: str, wide: bool = False) -> Markup:
    """Curves over images seen; of long ones a running mean is drawn over a pale course.

    Args:
        curves: the lines.
        key: unique in the page; its ids begin with it.
        alt: what a reader who cannot see it should know.
        wide: half a page's width rather than a quarter's.
    """
    width, height = (5.6, 2.9) if wide else (3.0, 2.2)
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0.48 / width, 0.42 / height, 1 - 0.72 / width, 1 - 0.78 / height))
    values: list[float] = []
    for curve in curves:
        good = [(float(x), float(y)) for x, y in curve.points if finite(x) is not None and finite(y) is not None]
        if not good:
            continue
        values += [abs(y) for _, y in good]
        colour, dash = curve.colour or INK, DASHES[curve.dash % len(DASHES)]
        if len(good) > COARSE:
            axes.plot(*_averaged(good, FINE), color=colour, linewidth=0.7, alpha=0.35)
        x, y = _averaged(good, COARSE)
        marker = None if curve.marker is None or len(good) > COARSE else MARKERS[curve.marker % len(MARKERS)]
        label = literal(curve.name) if curve.name else "_"
        axes.plot(x, y, color=colour, linestyle=dash, linewidth=1.6, marker=marker, markersize=4, label=label)
    typical = max(float(np.median(values)), 1e-6) if values else 1.0
    if values and max(values) > 50 * typical:
        axes.set_yscale("symlog", linthresh=typical)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: number(y)))
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.ticklabel_format(axis="y", useOffset=False)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: thousands(x)))
    # Inside the axes the words would meet a line, above them the legend.
    axes.set_xlabel("images seen" if axes.get_yscale() == "linear" else "images seen (y: log scale)")
    axes.grid(axis="y", color=GRID, linewidth=0.6)
    calm(axes)
    if values and any(curve.name for curve in curves):
        style = {"frameon": False, "fontsize": SIZE, "labelcolor": INK, "handlelength": 1.8}
        corner = (0.03, 1 - 0.32 / height)
        figure.legend(loc=corner, ncols=6 if wide else 2, borderpad=0, borderaxespad=0, columnspacing=1.2, **style)
    return as_svg(figure, key, alt)


def forest_figure(intervals: Sequence[Interval], reach: float, endpoint: str, key: str, alt: str) -> Markup:
    """Differences with their intervals against a zero line, grouped; figures at the right.

    Args:
        intervals: the lines, those of one group together.
        reach: the axis runs from ``-reach`` to ``reach``: give plots that are to be compared the same.
        endpoint: the metric; it decides which side favours synthetic scans.
        key: unique in the page; its ids begin with it.
        alt: what a reader who cannot see it should know.
    """
    heights: list[float] = []
    headings: list[tuple[float, str]] = []
    y, group = 0.0, None
    for one in intervals:
        if one.group != group:
            y += 0.6 if group is None else 1.35
            headings.append((y, one.group))
            group = one.group
        y += 1.0
        heights.append(y)
    inches = 0.26 * y + 0.95
    figure = Figure(figsize=(8.6, inches))
    top, bottom = 1 - 0.05 / inches, 0.72 / inches
    axes = figure.add_axes((0.27, bottom, 0.43, top - bottom))
    axes.set_xlim(-reach, reach)
    axes.set_ylim(y + 0.7, -0.1)
    axes.axvline(0, color=INK, linewidth=0.9)
    axes.grid(axis="x", color=GRID, linewidth=0.6)
    beside = axes.get_yaxis_transform()
    for height, one in zip(heights, intervals, strict=True):
        low, high = finite(one.low), finite(one.high)
        if low is not None and high is not None:
            axes.plot([low, high], [height, height], color=one.colour, linewidth=1.8, solid_capstyle="butt")
        if finite(one.value) is not None:
            marker, size = ("o", 6.2) if one.filled else ("D", 5.4)
            axes.plot([one.value], [height], marker=marker, markersize=size, color=one.colour, linestyle="none")
        _text(axes, -0.03, height, one.name, beside, "right")
        _text(axes, 1.03, height, difference(one.value, one.low, one.high), beside, "left")
    for height, name in headings:
        _text(axes, -0.625, height, name, beside, "left", weight="bold")
    axes.set_yticks([])
    axes.xaxis.set_major_locator(MaxNLocator(5, symmetric=True))
    places = decimals(reach, digits=2)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: number(x, places, sign=True)))
    calm(axes)
    axes.spines["left"].set_visible(False)
    sides = ("the control", "synthetic scans")
    left, right = sides[::-1] if metric_of(endpoint).better == "lower" else sides
    below = -0.36 / (inches * (top - bottom))
    _text(axes, 0, below, f"← favours {left}", axes.transAxes, "left")
    _text(axes, 1, below, f"favours {right} →", axes.transAxes, "right")
    _text(axes, 0.5, below * 1.55, f"difference in {metric_of(endpoint).label}", axes.transAxes, "center")
    return as_svg(figure, key, alt)


def dots_figure(
    series: Sequence[Dots],
    across: str,
    up: str,
    key: str,
    alt: str,
    ticks: Sequence[str] = (),
    line: Literal["", "zero", "diagonal"] = "",
) -> Markup:
    """Points with intervals, half a page wide.

    Args:
        series: what is drawn.
        across: what x is.
        up: what y is.
        key: unique in the page; its ids begin with it.
        alt: what a reader who cannot see it should know.
        ticks: names of the places 0, 1, ... on x; then series stand side by side at each place.
        line: a reference: y = 0, or y = x.
    """
    width, height = 5.6, 2.9
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0.8 / width, 0.5 / height, 1 - 1.04 / width, 1 - 0.86 / height))
    if line == "zero":
        axes.axhline(0, color=INK, linewidth=0.9)
    for i, one in enumerate(series):
        aside = 0.08 * (i - (len(series) - 1) / 2) if ticks else 0.0
        colour, marker = one.colour or INK, MARKERS[one.marker % len(MARKERS)]
        good = [place for place, (x, y) in enumerate(one.points) if finite(x) is not None and finite(y) is not None]
        for place in good:
            low, high = map(finite, one.spans[place]) if one.spans else (None, None)
            if low is not None and high is not None:
                x = one.points[place][0] + aside
                axes.plot([x, x], [low, high], color=colour, linewidth=1.4, solid_capstyle="butt")
        x_values, y_values = [one.points[place][0] + aside for place in good], [one.points[place][1] for place in good]
        (drawn,) = axes.plot(x_values, y_values, color=colour, marker=marker, markersize=5, linewidth=1.2)
        drawn.set(linestyle="-" if one.joined else "none", label=literal(one.name))
    if line == "diagonal":
        low, high = axes.get_xlim()
        axes.plot([low, high], [low, high], color=GRID, linewidth=1.2, zorder=0)
    if ticks:
        axes.set_xticks(range(len(ticks)), ticks)
        axes.set_xlim(-0.5, len(ticks) - 0.5)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.set_xlabel(across)
    axes.set_ylabel(up, color=INK, fontsize=SIZE)
    axes.grid(axis="y", color=GRID, linewidth=0.6)
    calm(axes)
    style = {"frameon": False, "fontsize": SIZE, "labelcolor": INK, "handlelength": 1.8}
    figure.legend(loc=(0.03, 1 - 0.3 / height), ncols=5, borderpad=0, borderaxespad=0, columnspacing=1.2, **style)
    return as_svg(figure, key, alt)


def _text(axes: Axes, x: float, y: float, text: str, transform: Any, align: Any, weight: str = "normal") -> None:
    style = {"fontsize": SIZE, "color": INK, "fontweight": weight, "parse_math": False, "clip_on": False}
    axes.text(x, y, text, style, transform=transform, ha=align, va="center_baseline")


def calm(axes: Axes) -> None:
    """Takes what is not data out of sight."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GRID)
    axes.tick_params(colors=INK, labelsize=SIZE, length=0)
    axes.minorticks_off()
    axes.xaxis.label.set(color=INK, fontsize=SIZE)
    axes.set_axisbelow(True)


def _averaged(pairs: Sequence[tuple[float, float]], most: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Means of equal runs of points, where there are more than ``most``."""
    points = np.array(sorted(pairs, key=lambda pair: pair[0]), np.float64)
    if len(points) > most:
        points = np.array([run.mean(axis=0) for run in np.array_split(points, most)])
    return points[:, 0], points[:, 1]


def thousands(value: float) -> str:
    """``18 k``, ``1.2 M``."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:g} M"
    return f"{value / 1e3:g} k" if abs(value) >= 1e3 else f"{value:g}".replace("-", MINUS)


def literal(text: str) -> str:
    """Text that matplotlib does not take for mathematics, and a legend not for a hidden entry."""
    text = text.replace("$", r"\$")
    return f"\u200b{text}" if text.startswith("_") else text


def as_svg(figure: Figure, key: str, alt: str) -> Markup:
    """The figure as one ``<svg>``: the page's font and colours, ids of its own, nothing that points elsewhere."""
    stream = io.StringIO()
    with _settings, matplotlib.rc_context({"svg.fonttype": "none"}):
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(stream, format="svg", transparent=True, metadata=nothing)
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, count=1, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    head, tail = text.split(">", 1)
    text = (
        re.sub(r'\s(?:xmlns(?::xlink)?|version|width|height)="[^"]*"', "", head)
        + ">"
        + tail.replace("xlink:href", "href")
    )
    text = re.sub(r"font-family: [^;\"]*;?\s*", "", text)
    text = text.replace(INK, "currentColor").replace(GRID, "var(--rule)")
    # matplotlib's ids are random and may meet those of the page's other figures.
    names = {name: f"{key}-{i}" for i, name in enumerate(dict.fromkeys(re.findall(r'\sid="([^"]+)"', text)))}
    text = re.sub(r'\sid="([^"]+)"', lambda found: f' id="{names[found[1]]}"', text)
    text = re.sub(r'(href="|url\()#([^")]+)', lambda found: f"{found[1]}#{names[found[2]]}", text)
    return Markup(text.replace("<svg", f"<svg role='img' aria-label={quoteattr(alt)}", 1))
