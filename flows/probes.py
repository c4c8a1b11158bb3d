"""The probes of the scorecard: what each measures of one generator, with the picture that lets a reader see it.

A probe is a few lines around functions of :mod:`medgan.metrics`. Which exist, what they measure and whom they concern
stands in :data:`medgan.limitations.PROBES`; here is how each is run: those that compare scans in this file, those that
draw their own from the generator in :mod:`flows.latent_probes`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch

from flows import latent_probes
from flows.subject import Answer, Subject, line_figure, percent, scans_of
from medgan.metrics import conditional, copies, duplicates, leak, ms_ssim, ndb, resolution, spectrum, swd
from medgan.metrics.features import DOMAIN
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
    caption = (
        f"Power at each spatial frequency, from structure (left) to the finest detail (right), mean over "
        f"{len(subject.synthetic.images)} synthetic and {len(subject.real.images)} real scans."
    )
    return Answer(found, figure=line_figure(lines, "cycles a pixel", "power", log=True), caption=caption)


def _resolution(subject: Subject) -> Answer:
    real, synthetic = subject.real, subject.synthetic
    found = resolution.spectrum_by_resolution(real.images, synthetic.images, real.patients, subject.seed)
    distances = resolution.distances_by_resolution(
        real.images,
        synthetic.images,
        subject.features,
        DOMAIN,
        real.patients,
        subject.seed,
        at_full_size=(subject.real_features, subject.synthetic_features),
    )
    lines = {
        name: [
            [float(metric.rpartition(".")[2]), one.value] for metric, one in found.items() if metric.startswith(prefix)
        ]
        for name, prefix in (("real", "floor."), ("synthetic", "spectrum."))
    }
    caption = (
        "Spectral gap to real scans after both were averaged down to so many pixels; real: between halves of the real "
        "patients. A gap that grows to the right is one of fine detail."
    )
    figures = {**found, **distances}
    if len(lines["real"]) > 1:
        figures["resolution.trend"] = resolution.spectrum_trend(found)
    return Answer(figures, figure=line_figure(lines, "pixels", "spectral gap, dB"), caption=caption)


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
    most, worst = max((one.value, label) for label, one in each if one is not None)
    shown = ms_ssim.picture(real.images, synthetic.images, real.labels, synthetic.labels, worst, count=5)
    above = "more alike" if most > 0 else "less alike"
    caption = (
        f"Class {subject.classes[worst]}, whose synthetic scans are most alike compared with its real ones (pairs are "
        f"{abs(most):.2f} {above} in MS-SSIM): five real scans above, five synthetic ones below."
    )
    return Answer(found, shown, caption=caption)


def _ndb(subject: Subject) -> Answer:
    found, bins = ndb.ndb(subject.real_features, subject.synthetic_features, subject.real.patients, seed=subject.seed)
    first, second = (
        f"{percent(bins.real[place])} of the real and {percent(bins.synthetic[place])} of the synthetic scans"
        for place in bins.z.argsort(descending=True)[:2]
    )
    caption = (
        f"The two of {len(bins.z)} bins that lack synthetic scans most, each with real scans above and synthetic ones "
        f"below (grey: there is none): the first has {first}, the second {second}."
    )
    shown = ndb.picture(subject.real.images, subject.synthetic.images, bins, count=2, columns=5)
    return Answer(found, shown, caption=caption)


def _duplicates(subject: Subject) -> Answer:
    real, synthetic = subject.real, subject.synthetic
    found = duplicates.duplicates(real.images, synthetic.images, real.patients, seed=subject.seed)
    figures = {
        "duplicates": found.share,
        "excess.duplicates": excess(found.share, found.expected, found.calibrated),
    }
    caption = (
        f"{int(found.mask.sum())} of {scans_of(len(found.mask))} have a near-duplicate among the others "
        f"({percent(found.expected)} of as many real scans would pass for one): the five most alike pairs, one scan "
        "above the other."
    )
    return Answer(figures, duplicates.picture(real.images, synthetic.images, found, count=5), caption=caption)


def _copies(subject: Subject) -> Answer:
    known, held_out, drawn = subject.training, subject.validation, subject.synthetic
    found = copies.copies(known.images, held_out.images, drawn.images, held_out.patients, seed=subject.seed)
    figures = {"copies": found.share, "excess.copies": excess(found.share, found.expected, found.calibrated)}
    if found.floor is not None:
        figures["floor.copies"] = found.floor
    caption = (
        f"{int(found.mask.sum())} of {scans_of(len(found.mask))} are copies ({percent(found.expected)} of new "
        "patients' scans would pass for one): the five most alike pairs, each synthetic scan above its nearest "
        "training scan."
    )
    return Answer(figures, copies.picture(known.images, drawn.images, found, count=5), caption=caption)


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
    least, worst = min((one.value, label) for label, one in each if one is not None)
    shown = ms_ssim.picture(real.images, drawn.images, real.labels, drawn.labels, worst, count=5)
    caption = (
        f"Class {subject.classes[worst]}, which a classifier trained on real scans recognises least: in "
        f"{percent(least)} of the synthetic scans with this label. Five real scans above, five synthetic ones below."
    )
    return Answer({**recalled, **named, **worst_class(recalled)}, shown, caption=caption)


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
    held_out, drawn = subject.validation, subject.synthetic
    looked = {
        name: leak.look_for(
            name, subject.real.images, held_out.images, drawn.images, held_out.patients, seed=subject.seed
        )
        for name in subject.transforms
    }
    # what cannot be seen in real scans either says nothing, and its figure is anything
    telling = {name: one for name, one in looked.items() if one.visible} or looked
    transform = max(telling, key=lambda name: (telling[name].share.low or 0.0, telling[name].share.value))
    each, worst = [one.share for one in telling.values()], telling[transform].share
    # the transforms are looked for in the same scans: their intervals do not shrink in the mean
    mean, low, high = (float(np.mean([getattr(one, end) for one in each])) for end in ("value", "low", "high"))
    note = f"mean over {len(each)} of {len(looked)} transforms, those that can be seen in real scans; {worst.note}"
    figures = {f"leak.{name}": one.share for name, one in looked.items()}
    figures["leak"] = Measured(mean, low, high, worst.n_real, worst.n_synthetic, note)
    figures["leak.worst"] = replace(worst, note=f"{transform}; {worst.note}")
    if not looked[transform].visible:  # the network's guesses would show nothing
        return Answer(figures)
    shown = leak.picture(held_out.images, drawn.images, transform, looked[transform].outputs, 5, subject.seed)
    caption = (
        f"The five of {scans_of(len(drawn.images))} that look most as if '{transform}' had been applied, to a "
        f"network that tells it in real scans (it finds {percent(worst.value)} of the scans transformed); below them "
        f"real scans to which '{transform}' was applied."
    )
    return Answer(figures, shown, caption=caption)


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
    **latent_probes.RUN,
}
"""How each probe is run."""
