"""Which training curves are drawn together."""

from __future__ import annotations

import re
from dataclasses import dataclass

from markupsafe import Markup

from pipeline.report.estimates import Evidence, Gan
from pipeline.report.figures import Curve, curve_figure
from pipeline.report.numbers import finite, many
from pipeline.report.words import metric_of

FIDELITY = re.compile(r"(?:^|[./])((?:kid|fid)\.[^/]+)$")


@dataclass(frozen=True)
class Panel:
    """A figure with its heading, the GAN's colour beside it ("" for none), and what the reader must know of it."""

    title: str
    svg: Markup
    note: str = ""
    colour: str = ""


def fidelity_panels(evidence: Evidence) -> tuple[Panel, ...]:
    """One panel a metric with all GANs in it."""
    keys = sorted({key for one in evidence.data.gans for key in one.curves if FIDELITY.search(key)})
    keys.sort(key=lambda key: "kid." not in key)
    panels = []
    for i, key in enumerate(keys):
        found = FIDELITY.search(key)
        assert found, key
        label = metric_of(found.group(1)).label
        place = key[: found.start(1)].strip("./")
        curves = []
        for j, gan in enumerate(evidence.gans):
            drawn = [one for one in gan.trainings if one.curves.get(key)]
            curves += [
                Curve(gan.name if k == 0 else "", one.curves[key], gan.colour, k, j) for k, one in enumerate(drawn)
            ]
        names = ", ".join(dict.fromkeys(curve.name for curve in curves if curve.name))
        svg = curve_figure(curves, f"fidelity{i}", f"{label} over images seen for {names}", wide=True)
        note = f"Against {place} scans. " if place else ""
        panels.append(Panel(f"{label} during training", svg, note + "Lower is better. One line for each GAN seed."))
    return tuple(panels)


def group_of(key: str) -> str:
    """``loss/generator`` → ``loss``; a key without a group is its own."""
    return re.split(r"[/.]", key, maxsplit=1)[0]


def training_panels(evidence: Evidence) -> tuple[tuple[str, tuple[Panel, ...]], ...]:
    """All other curves: group → one panel a GAN. Losses come first; what never changes is left out."""
    keys = dict.fromkeys(key for one in evidence.data.gans for key in one.curves if not FIDELITY.search(key))
    groups = sorted(dict.fromkeys(map(group_of, keys)), key=lambda name: name not in ("loss", "losses"))
    drawn = []
    for i, group in enumerate(groups):
        members = [key for key in keys if group_of(key) == group]
        panels = [
            _training_panel(gan, group, members, f"curve{i}-{j}")
            for j, gan in enumerate(evidence.gans)
            if any(len({y for _, y in one.curves.get(key, ())}) > 1 for one in gan.trainings for key in members)
        ]
        if panels:
            drawn.append((group, tuple(panels)))
    return tuple(drawn)


def _training_panel(gan: Gan, group: str, keys: list[str], key: str) -> Panel:
    curves, lost = [], 0
    for seed, one in enumerate(gan.trainings):
        for i, name in enumerate(keys):
            points = one.curves.get(name, [])
            lost += sum(finite(y) is None for _, y in points)
            if points:
                short = re.sub(rf"^{re.escape(group)}[/.]", "", name)
                # The generator in the GAN's colour, its opponent in ink: the same in every panel.
                colour = "" if "discriminator" in name or "critic" in name else gan.colour
                curves.append(Curve(short if seed == 0 else "", points, colour, max(0, i - 1)))
    note = f"{gan.status[:1].upper()}{gan.status[1:]}. " if gan.unfinished else ""
    note += f"{many(lost, 'value')} not finite, not drawn." if lost else ""
    svg = curve_figure(curves, key, f"{group} of {gan.name} over images seen")
    return Panel(gan.name, svg, note, gan.colour)
