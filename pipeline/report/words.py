"""What the report says in words about metrics and arms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """A metric's name for readers.

    Attributes:
        label: short name.
        better: "higher", "lower" or "" where neither is better.
        meaning: one line.
    """

    label: str
    better: str
    meaning: str


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
    ),
    "precision": Metric(
        "precision",
        "higher",
        "Share of synthetic scans that lie among the real ones in feature space (Kynkäänniemi 2019): realism.",
    ),
    "recall": Metric("recall", "higher", "Share of real scans that lie among the synthetic ones: variety."),
    "density": Metric(
        "density",
        "higher",
        "Precision that counts how many real neighbourhoods hold each synthetic scan (Naeem 2020); may exceed 1.",
    ),
    "coverage": Metric(
        "coverage",
        "higher",
        "Share of real scans with at least one synthetic scan in their neighbourhood (Naeem 2020).",
    ),
    "ms_ssim": Metric("MS-SSIM", "", "Structural similarity of pairs within a class; far above real pairs: collapse."),
    "swd": Metric("SWD", "lower", "Sliced Wasserstein distance between patches on Laplacian pyramids (Karras 2018)."),
    "ppl.z": Metric("PPL in z", "lower", "Perceptual path length: how abruptly images change along a path in z."),
    "ppl.w": Metric("PPL in w", "lower", "Perceptual path length in the style space w (Karras 2019)."),
    "separability.z": Metric("separability z", "lower", "How badly a plane in z separates attributes (Karras 2019)."),
    "separability.w": Metric("separability w", "lower", "How badly a plane in w separates attributes (Karras 2019)."),
    "droplets": Metric(
        "droplets", "lower", "Outliers of the feature norm in synthesis layers: water-droplet artefacts."
    ),
    "copies": Metric("copies", "lower", "Share of synthetic scans closer to a training scan than real scans ever are."),
    "divergence": Metric("divergence", "lower", "Share of trainings that diverged."),
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
        "The same metric between two random halves of the real patients: what a perfect GAN would score at this n. "
        "Mean and range over several such splits; a ratio to it is given for FID alone.",
    ),
    (
        "D−B, D−C",
        "Difference in the endpoint between classifiers trained with synthetic scans (D) and with classical "
        "augmentation alone (B) or with duplicated real scans (C); beating A alone is no evidence.",
    ),
    (
        "shown to help, to harm",
        "D−B and D−C both have intervals wholly on the better (or both wholly on the worse) side of zero, and both a "
        "Holm p below 0.05.",
    ),
    (
        "cannot tell at this n",
        "Neither of the two: an interval spans zero, a Holm p is 0.05 or more, or only one of D−B and D−C was shown.",
    ),
    (
        "interval",
        "95 % interval. Of contrasts, and of an arm over all its runs: over test patients (bootstrap, paired for "
        "contrasts) and over the luck of the classifier and GAN runs together.",
    ),
    ("± spread", "Standard deviation over seeds (repeated trainings) alone."),
    (
        "Holm p",
        "p-value after Holm's correction over all contrasts of the report.",
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


def metric_of(base: str) -> Metric:
    """Label, direction and meaning; ``kid.domain`` gives "domain KID". An unknown metric keeps its own name."""
    if base in METRICS:
        return METRICS[base]
    family, _, features = base.partition(".")
    if family in METRICS and features:
        known = METRICS[family]
        return Metric(f"{features} {known.label}", known.better, known.meaning)
    return Metric(base, "", "")


def metric_order(base: str) -> tuple[int, str]:
    """Sort key: the order of :data:`METRICS`, unknown ones last."""
    names = list(METRICS)
    for name in (base, base.split(".")[0]):
        if name in names:
            return names.index(name), base
    return len(names), base
