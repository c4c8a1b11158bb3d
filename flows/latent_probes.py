"""Probes that draw their own scans: of the latent spaces, the styles and the layers of a generator."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import pairwise

import torch

from flows.subject import Answer, Subject, line_figure, percent, scans_of
from medgan.metrics import (
    attributes,
    droplets,
    edits,
    mixing,
    noise,
    path_length,
    pinning,
    separability,
    truncation,
)
from medgan.metrics.features import DOMAIN
from medgan.metrics.measured import Measured

SAMPLINGS: Mapping[path_length.Sampling, str] = {"full": "", "end": ".end"}
"""Where on its paths a generator's path length is taken, and what follows its metric's name: StyleGAN's table 3."""


def _pinning(subject: Subject) -> Answer:
    motion = pinning.observe(subject.generator, pairs=subject.draws // 2, seed=subject.seed)
    shown = pinning.picture(subject.generator, seed=subject.seed)
    caption = (
        f"The middle row of pixels of a scan{subject.of_class(0)} along a walk between two latents, the walk running "
        f"downwards in {len(shown)} steps, no noise: detail that stays while the outline moves makes upright streaks."
    )
    return Answer({"pinning": pinning.pinning(motion, subject.seed)}, shown, caption=caption)


def _droplets(subject: Subject) -> Answer:
    peaks = droplets.observe(subject.generator, min(subject.draws, 200), subject.seed)
    found = droplets.droplets(peaks)
    height, width = peaks.highest.shape
    caption = (
        f"Strength of the features at each of {height}x{width} places in the scan and layer with the highest peak "
        f"({float(peaks.peaks.max()):.1f} times what 5 % of the places exceed; a droplet is above "
        f"{droplets.THRESHOLD:g}, and {percent(found.value)} of {scans_of(len(peaks.peaks))} have one): black is 0, "
        "white the peak."
    )
    return Answer({"droplets": found}, droplets.picture(peaks), caption=caption)


def _path_length(subject: Subject) -> Answer:
    pairs = max(subject.draws // 2, path_length.MIN_PAIRS)
    figures: dict[str, Measured] = {}
    anywhere: dict[str, torch.Tensor] = {}
    for space in subject.spaces:
        for sampling, suffix in SAMPLINGS.items():
            speeds = path_length.squared_speeds(
                subject.generator, subject.features, space, sampling, pairs, subject.seed
            )
            extractor = f"the extractor '{DOMAIN}'"
            figures[f"ppl.{space}{suffix}"] = path_length.path_length(speeds, subject.seed, extractor, sampling)
            if sampling == "full":
                anywhere[space] = speeds
    edges, counts = path_length.histograms(anywhere)
    middles = [(math.log10(a) + math.log10(b)) / 2 for a, b in pairwise(edges)]
    lines = {space: [[x, float(y)] for x, y in zip(middles, found, strict=True)] for space, found in counts.items()}
    caption = (
        f"How many of {pairs} pairs of scans have which perceptual path length, in {' and '.join(subject.spaces)}, on "
        "a logarithmic axis (1 is 10, 2 is 100): the further to the right, the more abruptly scans change along a path."
    )
    figure = line_figure(lines, "log₁₀ of the path length", "pairs", steps=True)
    return Answer(figures, figure=figure, caption=caption)


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
    figures, shown, purity = {}, None, ""
    for space in subject.spaces:
        moved = edits.edit(subject.generator, subject.scores, subject.turns, space, seed=subject.seed)
        pure = figures[f"edit_purity.{space}"] = edits.purity(moved, subject.seed)
        figures[f"edit_control.{space}"] = edits.control(moved, subject.seed)
        shown = edits.picture(subject.generator, moved, 0, space, subject.seed)
        purity = f"{pure.value:.2f} in {space}"
    rows = ", ".join(attributes.PLAIN[name] for name in attributes.ATTRIBUTES)
    caption = (
        f"A scan{subject.of_class(0)} moved along each attribute's direction by −2, −1, 0, 1 and 2 standard deviations "
        f"(columns); rows from the top: {rows}. Purity is {purity}: at 1 nothing but the row's attribute would change."
    )
    return Answer(figures, shown, caption=caption)


def _noise(subject: Subject) -> Answer:
    found = noise.observe(subject.generator, latents=max(subject.draws // 16, noise.MIN_LATENTS), seed=subject.seed)
    figures = {"noise.amplitude": noise.amplitude(found, subject.seed)}
    if not noise.changes_nothing(found):  # shares of nothing are none
        figures["noise"] = noise.structure_share(found, subject.seed)
        figures["noise.low_pass"] = noise.low_pass_share(found, subject.seed)
    caption = (
        f"Where noise acts, at {len(found.fine)} latents held fixed: standard deviation of each pixel over noise, "
        f"black is 0, white {float(found.map.max()) * 127.5:.1f} of 255 grey levels."
    )
    return Answer(figures, noise.picture(found), caption=caption)


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
    caption = (
        f"Styles of two scans{subject.of_class(0)} in one: coarse layers from the first column's scan, the finer half "
        "of the layers from the first row's."
    )
    return Answer(figures, mixing.picture(subject.generator, seed=subject.seed), caption=caption)


def _truncation(subject: Subject) -> Answer:
    drawn = truncation.truncated_features(subject.generator, subject.features, subject.real_mix, seed=subject.seed)
    found = truncation.truncation(subject.real_features, subject.real.patients, drawn, seed=subject.seed)
    figures = {"truncation.precision": found.precision_slope, "truncation.recall": found.recall_slope}
    lines = {
        name: [[psi, one.value] for psi, one in zip(found.psis, course, strict=True)]
        for name, course in (("precision", found.precision), ("recall", found.recall))
    }
    caption = (
        f"Precision (scans that look real) and recall (variety) of {subject.draws} scans whose styles are drawn "
        "towards their mean: at ψ = 0 all have the mean style, at ψ = 1 each its own."
    )
    return Answer(figures, figure=line_figure(lines, "truncation ψ", "share"), caption=caption)


RUN: Mapping[str, Callable[[Subject], Answer]] = {
    "path_length": _path_length,
    "separability": _separability,
    "edits": _edits,
    "noise": _noise,
    "mixing": _mixing,
    "truncation": _truncation,
    "droplets": _droplets,
    "pinning": _pinning,
}
"""How each is run."""
