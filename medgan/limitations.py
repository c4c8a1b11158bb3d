"""The limitations that the literature names, as data: claim, who made it, whom it concerns, and what would show it.

Thresholds belong to the table and not to a run, each with its reason; :mod:`medgan.verdicts` reads the figures against
them. The first check of a claim leads, so that a claim with five figures has one chance and not five; a claim with two
halves has several that lead, and all must hold. Where a claim is about the effect of one choice, the GAN is compared
with its twin, the same GAN without it; where it is about a generator as it is, with a fixed number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from medgan.verdicts import Check, Claim, Condition, Twin


@dataclass(frozen=True)
class Probe:
    """A measurement of one generator.

    Attributes:
        metrics: what it gives, class suffixes left out.
        concerns: what a configuration meets if the probe can be run on it.
    """

    metrics: tuple[str, ...]
    concerns: tuple[Condition, ...] = ()


STYLE_NETWORKS = ("stylegan", "stylegan2")
GROWING_NETWORKS = ("pggan", "stylegan")
OTHER_NETWORK = ("network", "architecture", "loss", "regularisation", "optimiser", "critic_steps", "ema")
"""What differs where two networks are compared, each with the loss and penalties that it was published with; images,
batch, conditioning and augmentation are the same."""
OTHER_LOSS = (
    *("loss", "regularisation", "optimiser", "critic_steps", "ema"),
    "architecture.discriminator_norm",
)

BCE = ("bce", "non_saturating", "minimax")
"""Losses that are binary cross-entropy, the generator's half included or not."""

LESS = "any fall: the interval excludes no difference"
AT_ALL = "any rise: the interval excludes no difference"

WITHOUT_STDDEV = Twin(
    ("architecture.stddev_group",),
    (("architecture.stddev_group", "=", 0),),
    "train the same GAN with architecture.stddev_group: 0",
)
WITHOUT_GROWING = Twin(
    ("architecture.growth_share", "architecture.growth_start", "architecture.growth_fade"),
    (("architecture.growth_share", "=", 0.0),),
    "train the same GAN with architecture.growth_share: 0",
)
UNDER_BCE = Twin(
    OTHER_LOSS,
    (("loss", "=", BCE),),
    "train the same network under loss: bce for as many images",
)
UNDER_WASSERSTEIN = Twin(
    OTHER_LOSS,
    (("loss", "=", "wasserstein"),),
    "train the same network under loss: wasserstein for as many images",
)
WITHOUT_CLASSES = Twin(
    ("conditioning",),
    (("conditioning.generator", "=", "none"), ("conditioning.discriminator", "=", "none")),
    "train the same GAN with conditioning: {generator: none, discriminator: none}",
)
WITHOUT_MIXING = Twin(
    ("architecture.mixing",),
    (("architecture.mixing", "=", 0.0),),
    "train the same GAN with architecture.mixing: 0",
)
WITHOUT_MAPPING = Twin(
    ("architecture.mapping_layers",),
    (("architecture.mapping_layers", "=", 0),),
    "train the same GAN with architecture.mapping_layers: 0",
)
WITHOUT_NOISE = Twin(
    ("architecture.noise",),
    (("architecture.noise", "=", "none"),),
    "train the same GAN with architecture.noise: none",
)
WITHOUT_PATH_LENGTH = Twin(
    (
        *("regularisation.path_length", "regularisation.path_length_every"),
        *("regularisation.path_length_shrink", "regularisation.path_length_decay"),
    ),
    (("regularisation.path_length", "=", 0.0),),
    "train the same GAN with regularisation.path_length: 0",
)
WITHOUT_AUGMENTATION = Twin(
    ("augmentation",),
    (("augmentation.kind", "=", "none"),),
    "train the same GAN with augmentation.kind: none",
)
WITH_ADAIN = Twin(
    OTHER_NETWORK,
    (("network", "=", "stylegan"), ("architecture.mapping_layers", ">", 0), ("architecture.noise", "=", "random")),
    "train stylegan for as many images",
)
PROGRESSIVE = Twin(
    OTHER_NETWORK,
    (("network", "=", "pggan"), ("architecture.growth_share", ">", 0.0)),
    "train pggan for as many images, in the same batches",
)

CONDITIONAL: tuple[Condition, ...] = (("conditioning.generator", "!=", "none"),)
"""Figures within classes are by labels: those of a generator that knows no classes say nothing of its scans."""
STYLES: tuple[Condition, ...] = (("network", "=", STYLE_NETWORKS),)

PROBES: Mapping[str, Probe] = {
    "spectrum": Probe(
        (
            *("spectrum", "spectrum.low", "spectrum.middle", "spectrum.high", "spectrum.corner"),
            *("floor.spectrum", "excess.spectrum"),
        )
    ),
    "resolution": Probe(("resolution.trend",)),
    "swd": Probe(("swd", "floor.swd", "floor_ratio.swd")),
    "ms_ssim": Probe(("ms_ssim", "floor.ms_ssim", "excess.ms_ssim"), CONDITIONAL),
    "ndb": Probe(("ndb", "floor.ndb", "excess.ndb")),
    "duplicates": Probe(("duplicates", "excess.duplicates")),
    "conditional": Probe(
        (
            *("conditional_accuracy", "floor.conditional_accuracy", "loss.conditional_accuracy"),
            *("conditional_recall", "floor.conditional_recall", "worst.conditional_recall"),
        ),
        CONDITIONAL,
    ),
    "leak": Probe(("leak", "leak.worst")),
    "copies": Probe(("copies", "excess.copies", "floor.copies")),
    "path_length": Probe(("ppl.z", "ppl.w", "ppl.z.end", "ppl.w.end")),
    "separability": Probe(("separability.z", "separability.w")),
    "edits": Probe(("edit_purity.z", "edit_purity.w", "edit_control.z", "edit_control.w")),
    "noise": Probe(("noise", "noise.low_pass", "noise.amplitude"), (*STYLES, ("architecture.noise", "=", "random"))),
    "mixing": Probe(
        (*(f"mixing.{latents}" for latents in (1, 2, 3, 4)), *(f"mixing_penalty.{latents}" for latents in (2, 3, 4))),
        STYLES,
    ),
    "truncation": Probe(("truncation.precision", "truncation.recall"), STYLES),
    "droplets": Probe(("droplets",), STYLES),
    "pinning": Probe(("pinning",)),
}
"""Probes of one generator; :data:`flows.probes.RUN` says how each is run."""

OVER_TRAININGS: Mapping[str, tuple[str, ...]] = {
    "fidelity": (
        *("kid.domain", "fid.domain", "precision", "recall", "density", "coverage"),
        *("floor_ratio.recall", "floor_ratio.coverage"),
    ),
    "training": ("seconds", "images_seen"),
    "divergence": ("divergence", "divergence.signs", "divergence.over_seeds", "divergence.last_quarter"),
}
"""Figures that come from the score stage, from the trainings' records, and from the curves of all seeds of a GAN."""

CLAIMS: tuple[Claim, ...] = (
    Claim(
        "high_resolution",
        "DCGAN cannot do high resolution",
        "Odena, Olah & Shlens 2017; Karras et al. 2018, section 1",
        (("network", "=", "dcgan"), ("loss", "=", BCE)),
        (
            Check("fidelity", "kid.domain", "above", 0.0, AT_ALL, "difference", twin=PROGRESSIVE),
            Check("resolution", "resolution.trend", "above", 0.0, "the spectral gap grows with the resolution"),
            Check(
                *("spectrum", "excess.spectrum", "above", 3.0),
                "half or twice the power (3 dB) on average, beyond what real halves differ by",
            ),
            Check("spectrum", "spectrum.high", "below", -3.0, "half of the finest detail's power is missing (3 dB)"),
        ),
        leads=2,
    ),
    Claim(
        "instability",
        "the min-max game is unstable",
        "Goodfellow et al. 2014, section 5; Arjovsky & Bottou 2017",
        (),
        (
            Check("divergence", "divergence", "above", 0.05, "one training in twenty is lost"),
            Check("divergence", "divergence.signs", "above", 0.05, "one training in twenty shows a sign of trouble"),
            Check("divergence", "divergence.over_seeds", "above", 0.2, "seeds differ by a fifth of their mean FID"),
            Check(
                "divergence", "divergence.last_quarter", "above", 0.2, "FID wanders by a fifth of itself near the end"
            ),
        ),
    ),
    Claim(
        "mode_collapse",
        "binary cross-entropy collapses modes",
        "Metz et al. 2017; Arjovsky, Chintala & Bottou 2017, section 1",
        (("network", "=", ("mlp", "dcgan")), ("loss", "=", BCE)),
        (
            Check("fidelity", "recall", "below", 0.0, LESS, "difference", twin=UNDER_WASSERSTEIN),
            Check(
                *("fidelity", "floor_ratio.recall", "below", 0.8),
                "recall is low, whatever the reason: a fifth of what real scans reach among themselves is missing",
            ),
            Check(
                *("fidelity", "floor_ratio.coverage", "below", 0.8),
                "coverage is low, whatever the reason: a fifth of what real scans reach among themselves is missing",
            ),
            Check(
                "ms_ssim", "excess.ms_ssim", "above", 0.05, "pairs of a class resemble each other more than real ones"
            ),
            Check("duplicates", "excess.duplicates", "above", 0.05, "one in twenty beyond what real scans reach"),
            Check("ndb", "excess.ndb", "above", 0.15, "one bin in seven beyond those in which real halves differ"),
        ),
    ),
    Claim(
        "other_losses",
        "least squares, clipped and penalised critics cure mode collapse",
        "Mao et al. 2017; Arjovsky, Chintala & Bottou 2017; Gulrajani et al. 2017",
        (("network", "=", ("mlp", "dcgan")), ("loss", "!=", BCE)),
        (
            Check("fidelity", "recall", "above", 0.0, AT_ALL, "difference", twin=UNDER_BCE),
            Check(
                *("fidelity", "floor_ratio.recall", "above", 0.8),
                "a cure, and no mere relief: at most a fifth of what real scans reach among themselves is missing",
            ),
            Check("fidelity", "coverage", "above", 0.0, AT_ALL, "difference", twin=UNDER_BCE),
            Check("ms_ssim", "excess.ms_ssim", "below", 0.0, LESS, "difference", twin=UNDER_BCE),
            Check("ndb", "ndb", "below", 0.0, LESS, "difference", twin=UNDER_BCE),
        ),
        leads=2,
    ),
    Claim(
        "growing_is_faster",
        "progressive growing trains 2 to 6 times faster",
        "Karras et al. 2018, section 2",
        (("network", "=", GROWING_NETWORKS), ("architecture.growth_share", ">", 0.0)),
        (
            Check("training", "seconds", "above", 2.0, "the lower end of the claim", "speedup", twin=WITHOUT_GROWING),
            Check("training", "images_seen", "above", 1.0, "any gain", "speedup", twin=WITHOUT_GROWING),
        ),
    ),
    Claim(
        "stddev_widens",
        "minibatch standard deviation widens variation",
        "Karras et al. 2018, section 3",
        (("architecture.stddev_group", ">", 0),),
        (
            Check("fidelity", "recall", "above", 0.0, AT_ALL, "difference", twin=WITHOUT_STDDEV),
            Check("fidelity", "coverage", "above", 0.0, AT_ALL, "difference", twin=WITHOUT_STDDEV),
            Check("ms_ssim", "excess.ms_ssim", "below", 0.0, LESS, "difference", twin=WITHOUT_STDDEV),
        ),
    ),
    Claim(
        "no_control",
        "without styles there is no control of single features",
        "Karras, Laine & Aila 2019, sections 1 and 4",
        (("network", "=", ("mlp", "dcgan", "pggan")),),
        (
            Check(
                *("edits", "edit_control.z", "below", 0.0, "less than in a style GAN's w", "difference"),
                over="edit_control.w",
                twin=WITH_ADAIN,
            ),
            Check("edits", "edit_control.z", "below", 0.75, "a quarter less than linear control would reach"),
            # no check of ppl.z against a style GAN's ppl.w: it grows with how much images vary (0 after collapse) and
            # differs a hundredfold between untrained networks, so that random weights would decide
            Check("separability", "separability.z", "above", 4.0, "as two attributes of which nothing is told apart"),
        ),
    ),
    Claim(
        "mapping_disentangles",
        "a mapping network disentangles: w is straighter than z",
        "Karras, Laine & Aila 2019, section 4, tables 3 and 4",
        (("network", "=", STYLE_NETWORKS), ("architecture.mapping_layers", ">", 0)),
        (
            Check("separability", "separability.w", "below", 1.0, LESS, "ratio", twin=WITHOUT_MAPPING),
            Check("path_length", "ppl.w", "below", 1.0, LESS, "ratio", twin=WITHOUT_MAPPING),
            Check("edits", "edit_control.w", "above", 0.0, AT_ALL, "difference", twin=WITHOUT_MAPPING),
            # within one generator, random weights pass: w is straighter than z in any network that ends in a mapping
            Check("separability", "separability.w", "below", 1.0, LESS, "ratio", "separability.z"),
            Check("path_length", "ppl.w", "below", 1.0, LESS, "ratio", "ppl.z"),
        ),
        leads=2,
    ),
    Claim(
        "mixing_localises",
        "style mixing in training makes generators stand mixed styles",
        "Karras, Laine & Aila 2019, section 3.1, table 2",
        (("network", "=", STYLE_NETWORKS), ("architecture.mixing", ">", 0.0)),
        (
            Check("mixing", "mixing_penalty.4", "below", 0.0, LESS, "difference", twin=WITHOUT_MIXING),
            Check("mixing", "mixing_penalty.2", "below", 0.0, LESS, "difference", twin=WITHOUT_MIXING),
        ),
    ),
    Claim(
        "truncation_trades",
        "truncation trades variety for quality",
        "Brock, Donahue & Simonyan 2019, section 3.1; Karras, Laine & Aila 2019, appendix B",
        (("network", "=", STYLE_NETWORKS),),
        (
            Check("truncation", "truncation.precision", "below", 0.0, "any slope of precision over ψ"),
            Check("truncation", "truncation.recall", "above", 0.0, "any slope of recall over ψ"),
        ),
        leads=2,
    ),
    Claim(
        "noise_is_detail",
        "noise is stochastic detail alone",
        "Karras, Laine & Aila 2019, section 3.2, figures 4 and 5",
        (("network", "=", STYLE_NETWORKS), ("architecture.noise", "=", "random")),
        (
            Check("noise", "noise", "below", 0.05, "a twentieth of the coarse structure's variance comes from noise"),
            Check("noise", "noise.low_pass", "below", 0.25, "three quarters of what noise changes are finer than 1/8"),
            Check(
                "noise", "noise.amplitude", "above", 1 / 128, "one of 256 grey levels: less is no detail that is seen"
            ),
            Check("spectrum", "spectrum.high", "above", 0.0, "it brings detail", "difference", twin=WITHOUT_NOISE),
        ),
        leads=3,
    ),
    Claim(
        "droplets",
        "AdaIN leaves water droplets, from 64x64 up",
        "Karras et al. 2020, section 2.1, figure 1",
        (("network", "=", "stylegan"),),
        (Check("droplets", "droplets", "above", 0.05, "one scan in twenty; sound feature maps have none"),),
    ),
    Claim(
        "demodulation_removes_droplets",
        "weight demodulation leaves no droplets",
        "Karras et al. 2020, section 2.2, figure 3",
        (("network", "=", "stylegan2"), ("architecture.demodulate", "=", True)),
        (
            Check("droplets", "droplets", "below", 0.05, "fewer than one scan in twenty"),
            # random weights have none either: without those of the same network with AdaIN nothing was removed
            Check("droplets", "droplets", "below", 0.0, "fewer than with AdaIN", "difference", twin=WITH_ADAIN),
        ),
        leads=2,
    ),
    Claim(
        "growing_pins_detail",
        "progressive growing pins details to places",
        "Karras et al. 2020, section 4, figure 6",
        (("network", "=", GROWING_NETWORKS), ("architecture.growth_share", ">", 0.0)),
        (
            Check("pinning", "pinning", "below", 0.0, "less than without growing", "difference", twin=WITHOUT_GROWING),
            Check("pinning", "pinning", "below", 0.5, "detail moves less than half as far as the structure under it"),
        ),
    ),
    Claim(
        "path_length_smooths",
        "path length regularisation smooths (and smoothness goes with quality: the second check)",
        "Karras et al. 2020, section 3.2, table 1 and figure 4",
        (("network", "=", STYLE_NETWORKS), ("regularisation.path_length", ">", 0.0)),
        (
            Check("path_length", "ppl.w", "below", 1.0, LESS, "ratio", twin=WITHOUT_PATH_LENGTH),
            Check(
                "path_length",
                "ppl.w",
                "above",
                0.0,
                "any correlation over GANs, those without the penalty too",
                "correlation",
                "fid.domain",
            ),
        ),
    ),
    Claim(
        "augmentation_leaks",
        "adaptive augmentation leaks into the images",
        "Karras et al. 2020b, sections 2.2 and 3",
        (("augmentation.kind", "!=", "none"),),
        (
            Check(
                "leak", "leak", "above", 0.0, "any share of transformed scans", "difference", twin=WITHOUT_AUGMENTATION
            ),
            Check("leak", "leak.worst", "above", 0.0, "any share", "difference", twin=WITHOUT_AUGMENTATION),
        ),
    ),
    Claim(
        "memorisation",
        "a GAN merely memorises",
        "Webster et al. 2019; Meehan, Chaudhuri & Dasgupta 2020",
        (),
        (Check("copies", "excess.copies", "above", 0.01, "one in a hundred beyond what new patients' scans reach"),),
    ),
    Claim(
        "class_collapse",
        "class conditioning collapses on small sets",
        "Ravuri & Vinyals 2019; Shahbazi et al. 2022",
        CONDITIONAL,
        (
            Check("fidelity", "recall", "below", 0.0, LESS, "difference", twin=WITHOUT_CLASSES),
            Check(
                *("conditional", "worst.conditional_recall", "below", 0.5),
                "recall is low in a class, whatever the reason: half of what its real scans reach is missing",
            ),
            Check("conditional", "loss.conditional_accuracy", "above", 0.1, "a tenth less than on real scans"),
        ),
    ),
)
