"""The probes of the scorecard: what each measures of one generator, with the picture that lets a reader see it.

A probe is a few lines around functions of :mod:`medgan.metrics`. Which exist, what they measure and whom they concern
stands in :data:`medgan.limitations.PROBES`; here is how each is run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from flows.subject import Answer, Subject
from medgan.metrics import (
    attributes,
    conditional,
    copies,
    droplets,
    duplicates,
    edits,
    leak,
    mixing,
    ms_ssim,
    ndb,
    noise,
    path_length,
    pinning,
    resolution,
    separability,
    spectrum,
    swd,
    truncation,
)
from medgan.metrics.intervals import clopper_pearson
from medgan.metrics.measured import Measured


def _spectrum(subject: Subject) -> Answer:
    found, curves = spectrum.spectrum(
        subject.real.images, subject.synthetic.images, subject.real.patients, seed=subject.seed
    )
    lines = {
        name: [[float(x), float(y)] for x, y in zip(curves.frequency, power, strict=True)]
        for name, power in (("real", curves.real), ("synthetic", curves.synthetic))
    }
    return Answer(found, figure=_figure(lines, "cycles a pixel", "power", log=True))


def _resolution(subject: Subject) -> Answer:
    found = resolution.spectrum_by_resolution(
        subject.real.images, subject.synthetic.images, subject.real.patients, subject.seed
    )
    lines = {
        name: [
            [float(metric.rpartition(".")[2]), one.value] for metric, one in found.items() if metric.startswith(prefix)
        ]
        for name, prefix in (("real", "floor."), ("synthetic", "spectrum."))
    }
    trend = resolution.spectrum_trend(found)
    return Answer({**found, "resolution.trend": trend}, figure=_figure(lines, "pixels", "spectral gap, dB"))


def _swd(subject: Subject) -> Answer:
    return Answer(
        swd.swd(subject.real.images, subject.synthetic.images, subject.real.patients, seed=subject.seed, repeats=5)
    )


def _ms_ssim(subject: Subject) -> Answer:
    real, synthetic = subject.real, subject.synthetic
    found = ms_ssim.intra_class(
        real.images, synthetic.images, real.labels, synthetic.labels, real.patients, subject.classes, seed=subject.seed
    )
    # the class that has collapsed most is the one to look at
    each = [(label, found.get(f"excess.ms_ssim.{name}")) for label, name in enumerate(subject.classes)]
    worst = max((one.value, label) for label, one in each if one is not None)[1]
    shown = ms_ssim.picture(real.images, synthetic.images, real.labels, synthetic.labels, worst, count=5)
    return Answer(found, shown)


def _ndb(subject: Subject) -> Answer:
    found, bins = ndb.ndb(subject.real_features, subject.synthetic_features, subject.real.patients, seed=subject.seed)
    return Answer(found, ndb.picture(subject.real.images, subject.synthetic.images, bins, count=2, columns=5))


def _duplicates(subject: Subject) -> Answer:
    real, synthetic = subject.real, subject.synthetic
    found = duplicates.duplicates(real.images, synthetic.images, real.patients, seed=subject.seed)
    figures = {
        "duplicates": found.share,
        "excess.duplicates": excess(found.share, found.expected, found.calibrated),
    }
    return Answer(figures, duplicates.picture(real.images, synthetic.images, found, count=5))


def _copies(subject: Subject) -> Answer:
    known, held_out, drawn = subject.training, subject.validation, subject.synthetic
    found = copies.copies(known.images, held_out.images, drawn.images, held_out.patients, seed=subject.seed)
    figures = {"copies": found.share, "excess.copies": excess(found.share, found.expected, found.calibrated)}
    if found.floor is not None:
        figures["floor.copies"] = found.floor
    return Answer(figures, copies.picture(known.images, drawn.images, found, count=5))


def _conditional(subject: Subject) -> Answer:
    real, held_out, drawn = subject.real, subject.validation, subject.synthetic
    recalled = conditional.conditional_recall(
        subject.real_features,
        subject.synthetic_features,
        real.labels,
        drawn.labels,
        real.patients,
        subject.classes,
        subject.seed,
    )
    named = conditional.conditional_accuracy(
        subject.probabilities(held_out.images),
        subject.probabilities(drawn.images),
        held_out.labels,
        drawn.labels,
        held_out.patients,
        subject.classes,
        subject.seed,
    )
    # the class that the classifier recognises least is the one to look at
    each = [(label, named.get(f"conditional_accuracy.{name}")) for label, name in enumerate(subject.classes)]
    worst = min((one.value, label) for label, one in each if one is not None)[1]
    shown = ms_ssim.picture(real.images, drawn.images, real.labels, drawn.labels, worst, count=5)
    return Answer({**recalled, **named, **worst_class(recalled)}, shown)


def worst_class(recalled: Mapping[str, Measured]) -> dict[str, Measured]:
    """``worst.conditional_recall``: the lowest recall of a class, as a share of what its real scans reach.

    The lowest of K figures is low by chance, too: its interval is Bonferroni's, of K at once. A class without any
    synthetic scan has 0, as a fact.

    Args:
        recalled: :func:`medgan.metrics.conditional.conditional_recall`'s answer.

    Returns:
        Nothing where no class has a ratio to its floor.
    """
    prefix = "floor_ratio.conditional_recall."
    ratios = {metric.removeprefix(prefix): one for metric, one in recalled.items() if metric.startswith(prefix)}
    if not ratios:
        return {}
    name = min(ratios, key=lambda name: ratios[name].value)
    worst = ratios[name]
    low, high = (worst.value if end is None else end for end in (worst.low, worst.high))
    normal = torch.special.ndtri(torch.tensor([1 - 0.025 / len(ratios), 0.975], dtype=torch.float64))
    wider = float(normal[0] / normal[1])
    return {
        "worst.conditional_recall": replace(
            worst,
            low=max(worst.value - wider * (worst.value - low), 0.0),
            high=worst.value + wider * (high - worst.value),
            note=f"{name}, the lowest of {len(ratios)} classes (Bonferroni); {worst.note}",
        )
    }


def _leak(subject: Subject) -> Answer:
    if not subject.transforms:
        return Answer({})
    found = leak.leaks(
        subject.real.images,
        subject.validation.images,
        subject.synthetic.images,
        subject.transforms,
        subject.validation.patients,
        subject.seed,
    )
    # what cannot be seen in real scans either says nothing, and its figure is anything
    each = [one for one in found.values() if (one.low, one.high) != (0.0, 1.0)] or list(found.values())
    worst = max(each, key=lambda one: (one.low or 0.0, one.value))
    transform = next(name for name, one in found.items() if one is worst)
    # the transforms are looked for in the same scans: their intervals do not shrink in the mean
    mean, low, high = (float(np.mean([getattr(one, end) for one in each])) for end in ("value", "low", "high"))
    note = f"mean over {len(each)} of {len(found)} transforms that can be seen; {worst.note}"
    summary = Measured(mean, low, high, worst.n_real, worst.n_synthetic, note)
    return Answer({**found, "leak": summary, "leak.worst": replace(worst, note=f"{transform}; {worst.note}")})


def _pinning(subject: Subject) -> Answer:
    motion = pinning.observe(subject.generator, pairs=subject.draws // 2, seed=subject.seed)
    shown = pinning.picture(subject.generator, seed=subject.seed)
    return Answer({"pinning": pinning.pinning(motion, subject.seed)}, shown)


def _droplets(subject: Subject) -> Answer:
    peaks = droplets.observe(subject.generator, min(subject.draws, 200), subject.seed)
    return Answer({"droplets": droplets.droplets(peaks)}, droplets.picture(peaks))


def _path_length(subject: Subject) -> Answer:
    figures: dict[str, Measured] = {}
    lines: dict[str, list[list[float]]] = {}
    for space in subject.spaces:
        speeds = path_length.squared_speeds(
            subject.generator,
            subject.features,
            space,
            pairs=max(subject.draws // 2, path_length.MIN_PAIRS),
            seed=subject.seed,
        )
        figures[f"ppl.{space}"] = path_length.path_length(speeds, subject.seed)
        edges, counts = path_length.histogram(speeds, 24)
        middles = [(a + b) / 2 for a, b in pairwise(edges)]
        lines[space] = [[x, float(y)] for x, y in zip(middles, counts, strict=True)]
    return Answer(figures, figure=_figure(lines, "path length of a pair", "pairs", steps=True))


def _separability(subject: Subject) -> Answer:
    figures = {}
    for space in subject.spaces:
        at = attributes.points(subject.generator, subject.turns, subject.seed, space)
        apart = {
            name: separability.separate(at, scores, subject.turns, subject.seed)
            for name, scores in subject.scores.items()
        }
        figures[f"separability.{space}"] = separability.separability(apart, subject.draws, subject.seed)
    return Answer(figures)


def _edits(subject: Subject) -> Answer:
    figures, shown = {}, None
    for space in subject.spaces:
        moved = edits.edit(subject.generator, subject.scores, subject.turns, space, seed=subject.seed)
        figures[f"edit_purity.{space}"] = edits.purity(moved, subject.seed)
        figures[f"edit_control.{space}"] = edits.control(moved, subject.seed)
        shown = edits.picture(subject.generator, moved, 0, space, subject.seed)
    return Answer(figures, shown)


def _noise(subject: Subject) -> Answer:
    found = noise.observe(subject.generator, latents=max(subject.draws // 16, noise.MIN_LATENTS), seed=subject.seed)
    figures = {"noise.amplitude": noise.amplitude(found, subject.seed)}
    if not noise.changes_nothing(found):  # shares of nothing are none
        figures["noise"] = noise.structure_share(found, subject.seed)
        figures["noise.low_pass"] = noise.low_pass_share(found, subject.seed)
    return Answer(figures, noise.picture(found))


def _mixing(subject: Subject) -> Answer:
    figures = {}
    mixes = {
        latents: mixing.mixed_features(subject.generator, subject.features, subject.real_mix, latents, subject.seed)
        for latents in (1, 2, 3, 4)
    }
    for latents, mixed in mixes.items():
        found = mixing.mixing(subject.real_features, subject.real.patients, mixes[1], mixed, subject.seed)
        figures[f"mixing.{latents}"] = found.fid
        if latents > 1:
            figures[f"mixing_penalty.{latents}"] = found.penalty
    return Answer(figures, mixing.picture(subject.generator, seed=subject.seed))


def _truncation(subject: Subject) -> Answer:
    drawn = truncation.truncated_features(subject.generator, subject.features, subject.real_mix, seed=subject.seed)
    found = truncation.truncation(subject.real_features, subject.real.patients, drawn, seed=subject.seed)
    figures = {"truncation.precision": found.precision_slope, "truncation.recall": found.recall_slope}
    lines = {
        name: [[psi, one.value] for psi, one in zip(found.psis, course, strict=True)]
        for name, course in (("precision", found.precision), ("recall", found.recall))
    }
    return Answer(figures, figure=_figure(lines, "truncation ψ", "share"))


def excess(share: Measured, expected: float, calibrated: int) -> Measured:
    """A share above what real scans have at the same conformal threshold.

    The threshold comes from real scans, so that the share of new real scans above it is itself uncertain: with the
    k-th highest score of V independent ones as the threshold it is Beta(k, V + 1 − k) distributed. Scans of one patient
    may all be alike, so V is taken as the number of patients. Both uncertainties are added in quadrature, each end
    apart.

    Args:
        share: of synthetic scans, with its interval.
        expected: the mean of that distribution.
        calibrated: V, real patients behind the threshold.
    """
    assert share.low is not None
    assert share.high is not None
    rank = max(1, round(expected * (calibrated + 1)))
    # the quantiles of that Beta are Clopper and Pearson's ends of k and of k - 1 in ``calibrated``
    least, most = clopper_pearson(rank, calibrated)[0], clopper_pearson(rank - 1, calibrated)[1]
    value = share.value - expected
    return Measured(
        value,
        value - float(np.hypot(share.value - share.low, max(most - expected, 0.0))),
        value + float(np.hypot(share.high - share.value, max(expected - least, 0.0))),
        share.n_real,
        share.n_synthetic,
        f"above what real scans reach; {share.note}",
    )


def _figure(
    lines: Mapping[str, list[list[float]]], x: str, y: str, log: bool = False, steps: bool = False
) -> dict[str, Any]:
    return {"lines": lines, "x": x, "y": y, "log": log, "steps": steps}


RUN: Mapping[str, Callable[[Subject], Answer]] = {
    "spectrum": _spectrum,
    "resolution": _resolution,
    "swd": _swd,
    "ms_ssim": _ms_ssim,
    "ndb": _ndb,
    "duplicates": _duplicates,
    "conditional": _conditional,
    "leak": _leak,
    "copies": _copies,
    "path_length": _path_length,
    "separability": _separability,
    "edits": _edits,
    "noise": _noise,
    "mixing": _mixing,
    "truncation": _truncation,
    "droplets": _droplets,
    "pinning": _pinning,
}
"""How each probe is run."""
