"""What the report says in words about metrics and arms."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from pipeline.report.metric import POSITIVE, SHARE, Metric
from pipeline.report.probe_words import PROBE_METRICS

METRICS = {
    "kid": Metric(
        "KID",
        "lower",
        "Kernel distance between the features of real and synthetic scans (Bińkowski 2018). Unbiased at small n, so it "
        "leads here; 0 means indistinguishable, and by chance a value may fall below 0: read it beside the range that "
        "real scans reach against real ones, never as a multiple of it.",
    ),
    "fid": Metric(
        "FID",
        "lower",
        "Fréchet distance between two Gaussians fitted to the features (Heusel 2017). Biased upwards below about 2,048 "
        "scans: read it against its floor only.",
        POSITIVE,
    ),
    "precision": Metric(
        "precision",
        "higher",
        "Share of synthetic scans that lie among the real ones in feature space (Kynkäänniemi 2019): realism.",
        SHARE,
    ),
    "recall": Metric("recall", "higher", "Share of real scans that lie among the synthetic ones: variety.", SHARE),
    "density": Metric(
        "density",
        "higher",
        "Precision that counts how many real neighbourhoods hold each synthetic scan (Naeem 2020); may exceed 1.",
        POSITIVE,
    ),
    "coverage": Metric(
        "coverage",
        "higher",
        "Share of real scans with at least one synthetic scan in their neighbourhood (Naeem 2020).",
        SHARE,
    ),
    **PROBE_METRICS,
    "auroc": Metric(
        "macro AUROC",
        "higher",
        "Probability that a scan of a class scores above one of another class, averaged over classes; 0.5 is chance.",
    ),
    "auprc": Metric("macro AUPRC", "higher", "Area under the precision-recall curve; chance is the class's share."),
    "balanced_accuracy": Metric("balanced accuracy", "higher", "Mean of the classes' sensitivities."),
    "sensitivity": Metric("sensitivity", "higher", "Share of a class's scans that are recognised."),
    "specificity": Metric(
        "specificity", "higher", "Share of the other classes' scans that are not taken for the class."
    ),
    "f1": Metric("F1", "higher", "Harmonic mean of precision and sensitivity, at the most probable class."),
    "sensitivity_at_specificity": Metric("sens. at fixed spec.", "higher", "Read off the ROC curve of the test scans."),
    "specificity_at_sensitivity": Metric("spec. at fixed sens.", "higher", "Read off the ROC curve of the test scans."),
    "brier": Metric("Brier score", "lower", "Mean squared error of the predicted probabilities."),
    "ece": Metric("ECE", "lower", "Expected calibration error: gap between stated and actual confidence."),
}
"""In the order in which the tables show them."""

ARMS = {
    "A": "real scans only",
    "B": "real scans with classical augmentation",
    "C": "as B, plus duplicated real scans, as many as D has synthetic ones",
    "D": "as B, plus one GAN's synthetic scans",
    "E": "synthetic scans only",
}

GLOSSARY = (
    (
        "floor, real against real",
        "The same metric between two random halves of the real patients, with all scans of each; mean and range over "
        "several such splits. Where every patient has one scan, a perfect GAN would score it at this n; where they "
        "have many, it would do better. Ratios (“× floor” of FID, “relative to real halves” of recall and coverage) "
        "are taken with one scan of each patient on both sides, where a perfect GAN has about 1.",
    ),
    (
        "D−B, D−C",
        "Difference in the endpoint between classifiers trained with synthetic scans (D) and with classical "
        "augmentation alone (B) or with duplicated real scans (C); beating A alone is no evidence.",
    ),
    (
        "shown to help, to harm",
        "D−B and D−C both have intervals wholly on the better (or both wholly on the worse) side of zero, and both a "
        "Holm p below 0.05. It takes at least two trainings of the GAN: of one, the luck is unknown.",
    ),
    (
        "cannot tell at this n",
        "Of classifiers: an interval spans zero, a Holm p is 0.05 or more, or only one of D−B and D−C was shown. Of a "
        "limitation: the interval holds the threshold, or too few trainings stand behind it.",
    ),
    (
        "no comparison",
        "The claim is about one choice, and no GAN of the run is the same but for that choice (its twin).",
    ),
    (
        "interval",
        "95 % interval. Of an arm over all its runs: over test patients alone (bootstrap). Of a contrast: over test "
        "patients (paired bootstrap) and over the luck of the classifier and GAN trainings together; with a single GAN "
        "training its luck is not in it. Where patients are unknown every image counts as one.",
    ),
    ("± spread", "Standard deviation over seeds (repeated trainings) alone."),
    (
        "Holm p",
        "p-value after Holm's correction over all planned contrasts; one that failed counts with p = 1.",
    ),
    ("diverged", "The training was given up after a run of consecutive losses or gradients not finite. A result."),
    ("latent walk", "Images along a path between latent points; abrupt jumps hint at memorised images."),
)

PARTS = {"fid": 2, "kid": 2, "ppl": 2, "separability": 2}
"""How many parts a metric's name has before a class; the others have one, and ``floor_ratio.`` stands before any."""


def split_class(metric: str, classes: Sequence[str]) -> tuple[str, str]:
    """Splits a class's suffix off: ``fid.domain.contrast`` → (``fid.domain``, ``contrast``); no class gives ""."""
    ratio, plain = metric.startswith("floor_ratio."), metric.removeprefix("floor_ratio.")
    keep = PARTS.get(plain.split(".")[0], 1) + ratio
    for name in sorted(classes, key=len, reverse=True):
        base = metric.removesuffix(f".{name}")
        if base != metric and base.count(".") >= keep - 1:
            return base, name
    return metric, ""


BESIDE = {
    "floor_ratio.": "{} relative to real halves",
    "floor.": "{}, real against real",
    "excess.": "{} in excess of real scans",
}
"""What a prefix makes of a metric's name."""


def family_of(base: str) -> str:
    """The key of :data:`METRICS` that explains a metric: ``excess.ms_ssim`` → ``ms_ssim``; "" for none."""
    for prefix in BESIDE:
        base = base.removeprefix(prefix)
    while base and base not in METRICS:
        base = base.rpartition(".")[0]
    return base


def metric_of(base: str) -> Metric:
    """Label, direction and meaning; ``kid.domain`` gives "domain KID". An unknown metric keeps its own name."""
    for prefix, beside in BESIDE.items():
        if base.startswith(prefix):
            known = metric_of(base.removeprefix(prefix))
            ends = POSITIVE if prefix == "floor_ratio." else known.ends if prefix == "floor." else Metric.ends
            return replace(known, label=beside.format(known.label), ends=ends)
    family = family_of(base)
    if not family:
        return Metric(base, "", "")
    base, _, pixels = base.partition(".at.")
    if pixels:
        return replace(metric_of(base), label=f"{metric_of(base).label} at {pixels} pixels")
    known, detail = METRICS[family], base.removeprefix(family).lstrip(".")
    if family in ("fid", "kid") and detail:
        return replace(known, label=f"{detail} {known.label}")
    return replace(known, label=f"{known.label}{_detail(family, detail)}")


def _detail(family: str, detail: str) -> str:
    """What a metric's last part says: a size, a number of latents, a space, or a class."""
    if detail.isdigit():
        return f", {detail} latents" if family.startswith("mixing") else f" at {detail} pixels"
    return f" in {detail}" if detail in ("z", "w") else f": {detail}" if detail else ""


def in_words(text: str) -> str:
    """A sentence with metrics' keys replaced by their names: ``ppl.w was not measured`` → ``PPL in w was ...``."""
    keys = re.compile(r"(?<![\w.])[a-z]\w*(?:\.\w+)+(?![\w:])|(?<![\w.])(?:ms_ssim|images_seen)(?![\w.:])")
    return keys.sub(lambda found: metric_of(found[0]).label, text)


def metric_order(base: str) -> tuple[int, str]:
    """Sort key: the order of :data:`METRICS`, unknown ones last."""
    names = list(METRICS)
    for name in (base, base.split(".")[0]):
        if name in names:
            return names.index(name), base
    return len(names), base
