"""What the report says in words about the scorecard: its figures, its probes and its claims."""

from __future__ import annotations

import math

from pipeline.report.metric import POSITIVE, SHARE, Metric

PROBE_METRICS = {
    "divergence": Metric(
        "lost trainings", "lower", "Share of trainings that diverged or were given up, over the seeds of a GAN.", SHARE
    ),
    "divergence.signs": Metric(
        "trainings with a sign of trouble",
        "lower",
        "Share that diverged, went back to an earlier state, skipped steps or had losses out of bounds.",
        SHARE,
    ),
    "divergence.over_seeds": Metric(
        "spread of FID over seeds", "lower", "Standard deviation of the seeds' FID over its mean.", POSITIVE
    ),
    "divergence.last_quarter": Metric(
        "swing of FID near the end", "lower", "How far FID wanders in the last quarter, over its mean.", POSITIVE
    ),
    "seconds": Metric("seconds", "lower", "Training time.", POSITIVE),
    "images_seen": Metric("images", "", "Real images shown to the discriminator.", POSITIVE),
    "spectrum": Metric(
        "spectral gap (dB)",
        "lower",
        "How far the power of synthetic scans is from that of real ones, averaged over spatial frequencies; 3 dB are "
        "half or twice the power.",
        POSITIVE,
    ),
    "spectrum.low": Metric("power of coarse shapes (dB)", "", "Synthetic over real; below 0: too little."),
    "spectrum.middle": Metric("power of middle detail (dB)", "", "Synthetic over real; below 0: too little."),
    "spectrum.high": Metric("power of fine detail (dB)", "", "Synthetic over real; below 0: too little."),
    "spectrum.corner": Metric("power on the diagonal (dB)", "", "Synthetic over real; above 0: a checkerboard."),
    "resolution.trend": Metric(
        "growth of the spectral gap with resolution (dB)",
        "lower",
        "The spectral gap beyond that of real halves, at full size less at the smallest; above 0: finer is worse.",
    ),
    "swd": Metric(
        "sliced Wasserstein distance",
        "lower",
        "Between patches on Laplacian pyramids (Karras 2018), overall or at one size in pixels.",
        POSITIVE,
    ),
    "ms_ssim": Metric(
        "MS-SSIM within a class",
        "",
        "Structural similarity of pairs within a class (1: identical); far above that of real pairs: collapse.",
        SHARE,
    ),
    "ndb": Metric(
        "differing bins",
        "lower",
        "Share of clusters of real scans that synthetic ones fill too little or too much (Richardson & Weiss 2018).",
        SHARE,
    ),
    "duplicates": Metric(
        "near-duplicates",
        "lower",
        "Share of synthetic scans more alike to another one than real scans of different patients are.",
        SHARE,
    ),
    "copies": Metric(
        "copies",
        "lower",
        "Share of synthetic scans more alike to a training scan than about 99 in 100 scans of new patients are.",
        SHARE,
    ),
    "leak": Metric(
        "transformed scans",
        "lower",
        "Share of synthetic scans that look as if the augmentation had transformed them, mean over its transforms or "
        "for one; where real scans do not show a transform, its interval is all of 0 to 1.",
        SHARE,
    ),
    "leak.worst": Metric("transformed scans, worst transform", "lower", "", SHARE),
    "conditional_accuracy": Metric(
        "accuracy on synthetic labels", "higher", "Of a classifier trained on real scans, averaged over classes.", SHARE
    ),
    "loss.conditional_accuracy": Metric(
        "accuracy lost on synthetic labels", "lower", "Less than the same classifier has on real scans.", (-1.0, 1.0)
    ),
    "conditional_recall": Metric(
        "recall within a class",
        "higher",
        "Share of a class's real scans among the synthetic ones of that class.",
        SHARE,
    ),
    "worst.conditional_recall": Metric(
        "recall of the weakest class relative to real halves",
        "higher",
        "The lowest recall of a class, as a share of what its real scans reach among themselves.",
        POSITIVE,
    ),
    "separability.z": Metric(
        "separability in z",
        "lower",
        "How badly a plane in z separates attributes (Karras 2019); 1: perfectly.",
        (1.0, math.inf),
    ),
    "separability.w": Metric(
        "separability in w",
        "lower",
        "How badly a plane in w separates attributes (Karras 2019); 1: perfectly.",
        (1.0, math.inf),
    ),
    "edit_purity": Metric(
        "edit purity", "higher", "Share of an edit's change that is in the edited attribute and not in others.", SHARE
    ),
    "edit_control": Metric(
        "edit control",
        "higher",
        "Edit purity over the highest that attributes which go together allow; 1: single features can be reached.",
        POSITIVE,
    ),
    "noise": Metric(
        "share of coarse structure set by noise", "lower", "Near 0 where noise is fine detail alone.", SHARE
    ),
    "noise.low_pass": Metric(
        "coarse share of what noise changes", "lower", "1: whole blocks change; 1/64: white noise.", SHARE
    ),
    "noise.amplitude": Metric(
        "strength of noise", "", "Standard deviation of a pixel over noise; the whole range is 2.", POSITIVE
    ),
    "mixing": Metric(
        "FID with mixed styles", "lower", "Of scans whose layers take the styles of 1 to 4 latents.", POSITIVE
    ),
    "mixing_penalty": Metric(
        "FID lost by mixing styles", "lower", "How much FID worsens when layers take the styles of 2 to 4 latents."
    ),
    "truncation.precision": Metric(
        "change of precision over ψ", "", "Per unit of ψ, from 0.25 on; below 0: quality falls with variety."
    ),
    "truncation.recall": Metric("change of recall over ψ", "", "Per unit of ψ, from 0.25 on; above 0: variety rises."),
    "ppl.z": Metric(
        "PPL in z", "lower", "Perceptual path length: how abruptly images change along a path in z.", POSITIVE
    ),
    "ppl.w": Metric("PPL in w", "lower", "Perceptual path length in the style space w (Karras 2019).", POSITIVE),
    "ppl.z.end": Metric("PPL in z, at paths' ends", "lower", "The same, taken at the ends of paths.", POSITIVE),
    "ppl.w.end": Metric("PPL in w, at paths' ends", "lower", "The same, taken at the ends of paths.", POSITIVE),
    "droplets": Metric("scans with droplets", "lower", "Share with an outlier of the feature norm in a layer.", SHARE),
    "pinning": Metric(
        "motion of detail", "higher", "How far fine detail moves with the structure under it; 1: along, 0: pinned."
    ),
}
"""In the order in which the tables show them."""

PROBES = {
    "spectrum": "power spectrum",
    "resolution": "spectral gap by resolution",
    "swd": "sliced Wasserstein distance",
    "ms_ssim": "similarity within a class",
    "ndb": "differing bins",
    "duplicates": "near-duplicates",
    "conditional": "classes",
    "leak": "leak of the augmentation",
    "copies": "copies",
    "path_length": "path length",
    "separability": "separability",
    "edits": "edits",
    "noise": "noise",
    "mixing": "style mixing",
    "truncation": "truncation",
    "droplets": "droplets",
    "pinning": "pinned detail",
}
"""A probe's name for readers."""

SHOWS = {
    "spectrum": "power over spatial frequency",
    "resolution": "spectral gap by resolution: real halves, synthetic",
    "ms_ssim": "most alike class: real above, synthetic below",
    "ndb": "bins that lack scans: real above, synthetic below",
    "duplicates": "most alike synthetic scans, each above its nearest",
    "conditional": "a class's scans: real above, synthetic below",
    "leak": "most transformed-looking synthetic scans",
    "copies": "synthetic scans above the nearest training scans",
    "path_length": "path lengths of single pairs",
    "edits": "one scan moved along each attribute, −2 to 2 SD",
    "noise": "where noise changes the scan",
    "mixing": "coarse from the left, fine from the top",
    "truncation": "precision and recall over ψ",
    "droplets": "norm of the feature map with the highest peak",
    "pinning": "a line of pixels along a latent walk: detail that stays is pinned",
}
"""What a probe's picture shows, where the scorecard does not say it itself."""

BENEFITS = (
    *("other_losses", "growing_is_faster", "stddev_widens", "mapping_disentangles", "mixing_localises"),
    *("noise_is_detail", "demodulation_removes_droplets", "path_length_smooths"),
)
"""Claims that speak for a GAN: shown, they are good news; all others are limitations."""
