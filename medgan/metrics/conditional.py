"""Conditional collapse: does a synthetic image show the class it is labelled with, and all that the class can show?

Two probes. ``conditional_recall``: recall (Kynkäänniemi et al. 2019, eq. 2) within each class: the share of its real
images that lie among the synthetic images *of that label*; a class drawn as another one, or as one mode, loses it. It
depends on the number of images, so real halves give a floor at half of it. ``conditional_accuracy``: accuracy of a
classifier trained on real images, on synthetic images against their labels, averaged over classes, beside the same on
real validation images (the classification accuracy score of Ravuri and Vinyals 2019 the other way round; Shmelkov et
al. 2018 call it GAN-test). Shuffled labels take it to chance.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from medgan.metrics import precision_recall
from medgan.metrics.features import Features, as_features, as_pair, share_interval, standard_errors
from medgan.metrics.images import Labels, as_numbers
from medgan.metrics.intervals import RESAMPLES, clopper_pearson, percentiles, resample
from medgan.metrics.measured import Measured, TooFewImagesError
from medgan.metrics.sampling import split_patients, unsplittable
from pipeline.records import MedaugError

K = precision_recall.NEIGHBOURS
FEWEST = 2 * (K + 1)
"""Images of a class, real and synthetic, for its recall: half of them still need k others."""
FEWEST_LABELLED = 10
"""Synthetic images of a class for its accuracy."""
REPEATS = 20


def conditional_recall(
    real: Features,
    synthetic: Features,
    real_labels: Labels,
    synthetic_labels: Labels,
    real_patients: Labels | None,
    classes: Sequence[str],
    seed: int = 0,
) -> dict[str, Measured]:
    """Recall within each class.

    Intervals are normal ones from half samples, of whole patients on the real side
    (:func:`medgan.metrics.features.standard_errors`), and exact ones of so many patients for a recall of 0 or 1; the
    mean's adds up the classes' in quadrature, each end apart.

    Args:
        real: [N, D] features of real images.
        synthetic: [M, D].
        real_labels: class index [N].
        synthetic_labels: class index [M].
        real_patients: patient number [N]; None makes each image its own.
        classes: names in label order.
        seed: of the halves.

    Returns:
        ``conditional_recall`` (mean over classes) and ``conditional_recall.<class>``; ``floor.conditional_recall`` and
        its classes, one real half's recall by another, where the class has patients enough. A class without any
        synthetic image has recall 0, as a fact, beside its real halves' floor. Classes with too few images for a figure are left out and named.

    Raises:
        TooFewImagesError: no class has images enough.
        MedaugError: features, labels or patients that do not fit.
    """
    x, y = as_pair(real, synthetic)
    x_labels = as_numbers(real_labels, len(x), "real labels")
    y_labels = as_numbers(synthetic_labels, len(y), "synthetic labels")
    patients = as_numbers(real_patients, len(x), "patients")
    generator = torch.Generator().manual_seed(seed)
    figures: dict[str, Measured] = {}
    floors: dict[str, torch.Tensor] = {}
    measured: dict[str, Measured] = {}
    left_out = []
    for index, name in enumerate(classes):
        own, owner, drawn = x[x_labels == index], patients[x_labels == index], y[y_labels == index]
        missing, unsplit = len(drawn) == 0, unsplittable(owner, FEWEST // 2)
        if len(own) < FEWEST or (not missing and (len(drawn) < FEWEST or unsplit)):
            left_out.append(name)
            continue
        if missing:
            figures[name] = Measured(0.0, None, None, len(own), 0, "no synthetic image of this class")
        else:
            (error,) = standard_errors(_recall, own, drawn, owner, REPEATS, seed)
            value = _recall(own, drawn)[0]
            ends = share_interval(value, error, len(owner.unique()))
            figures[name] = Measured(value, *ends, len(own), len(drawn), f"k = {K}")
        if not unsplit:
            halves = [split_patients(owner, len(own) // 2, generator) for _ in range(REPEATS)]
            floors[name] = torch.tensor([_recall(own[a], own[b])[0] for a, b in halves if min(len(a), len(b)) > K])
            if len(floors[name]):
                measured[f"floor.conditional_recall.{name}"] = _floor(floors[name], len(own))
    if not figures:
        raise TooFewImagesError(
            f"conditional_recall: no class has {FEWEST} real images of 4 patients and {FEWEST} synthetic ones"
        )
    measured |= {f"conditional_recall.{name}": one for name, one in figures.items()}
    note = f"k = {K}, mean over classes" + (f"; without {', '.join(left_out)}: too few images" if left_out else "")
    overall = {"conditional_recall": _mean(list(figures.values()), len(x), len(y), note)}
    if set(floors) == set(figures) and all(len(found) == REPEATS for found in floors.values()):
        overall["floor.conditional_recall"] = _floor(torch.stack(list(floors.values())).mean(dim=0), len(x))
    return overall | measured


def _recall(real: torch.Tensor, synthetic: torch.Tensor) -> list[float]:
    return [precision_recall.manifold(real, synthetic).recall]


def _mean(each: Sequence[Measured], n_real: int, n_synthetic: int, note: str) -> Measured:
    """Mean of independent figures; one without an interval is a fact."""
    value = sum(one.value for one in each) / len(each)
    below = sum((one.value - one.low) ** 2 for one in each if one.low is not None) ** 0.5 / len(each)
    above = sum((one.high - one.value) ** 2 for one in each if one.high is not None) ** 0.5 / len(each)
    return Measured(value, max(value - below, 0.0), min(value + above, 1.0), n_real, n_synthetic, note)


def _floor(found: torch.Tensor, n_real: int) -> Measured:
    note = f"real against real: {REPEATS} half splits by patient, their mean and range; k = {K}"
    return Measured(float(found.mean()), float(found.min()), float(found.max()), n_real // 2, None, note)


def conditional_accuracy(
    validation: Features,
    synthetic: Features,
    validation_labels: Labels,
    synthetic_labels: Labels,
    validation_patients: Labels | None,
    classes: Sequence[str],
    seed: int = 0,
) -> dict[str, Measured]:
    """Accuracy of a real-trained classifier on synthetic labels, beside that on real ones.

    Intervals are exact ones for a class; percentile bootstraps over images (whole patients on the real side) for means
    over classes and for the loss.

    Args:
        validation: logits or probabilities [V, K] of real images that the classifier was not trained on.
        synthetic: of synthetic images [M, K].
        validation_labels: class index [V].
        synthetic_labels: class index [M].
        validation_patients: patient number [V]; None makes each image its own.
        classes: K names in label order.
        seed: of the resamples.

    Returns:
        ``conditional_accuracy`` (mean over classes) and ``conditional_accuracy.<class>``;
        ``floor.conditional_accuracy``, of the real images; ``loss.conditional_accuracy``, the real images' minus the
        synthetic ones'. Classes with too few synthetic images, or no validation image, are left out of all means.

    Raises:
        TooFewImagesError: no class has :data:`FEWEST_LABELLED` synthetic images and one validation image.
        MedaugError: outputs, labels or patients that do not fit.
    """
    known, drawn = (
        as_features(outputs, name, 1)
        for outputs, name in (
            (validation, "outputs for validation images"),
            (synthetic, "outputs for synthetic images"),
        )
    )
    for outputs in (known, drawn):
        if outputs.shape[1] != len(classes):
            raise MedaugError(
                f"conditional_accuracy: {outputs.shape[1]} outputs, expected one for each of {len(classes)}"
            )
    known_labels = as_numbers(validation_labels, len(known), "validation labels")
    drawn_labels = as_numbers(synthetic_labels, len(drawn), "synthetic labels")
    patients = as_numbers(validation_patients, len(known), "validation patients")
    generator = torch.Generator().manual_seed(seed)
    kept = [
        index
        for index in range(len(classes))
        if int((drawn_labels == index).sum()) >= FEWEST_LABELLED and bool((known_labels == index).any())
    ]
    if not kept:
        raise TooFewImagesError(
            f"conditional_accuracy: no class has {FEWEST_LABELLED} synthetic images and a validation image"
        )
    known_right, drawn_right = known.argmax(dim=1) == known_labels, drawn.argmax(dim=1) == drawn_labels
    measured = {}
    for index in kept:
        own = drawn_right[drawn_labels == index]
        interval = clopper_pearson(int(own.sum()), len(own))
        note = f"says this class of synthetic images of this class; {len(own)} of them"
        measured[f"conditional_accuracy.{classes[index]}"] = Measured(
            float(own.double().mean()), *interval, None, len(own), note
        )
    times = resample(torch.arange(len(drawn)), RESAMPLES, generator)
    of_drawn, drawn_resampled = _by_class(drawn_right, drawn_labels, kept, times)
    of_known, known_resampled = _by_class(known_right, known_labels, kept, resample(patients, RESAMPLES, generator))
    chance = f"mean over {len(kept)} of {len(classes)} classes; chance is {1 / len(classes):.3g}"
    real = f"the same classifier on real validation images; {chance}"
    loss = f"real minus synthetic: above 0, labels that a real-trained classifier does not see; {chance}"
    return {
        "conditional_accuracy": Measured(of_drawn, *percentiles(drawn_resampled), None, len(drawn), chance),
        "floor.conditional_accuracy": Measured(of_known, *percentiles(known_resampled), len(known), None, real),
        "loss.conditional_accuracy": Measured(
            of_known - of_drawn, *percentiles(known_resampled - drawn_resampled), len(known), len(drawn), loss
        ),
        **measured,
    }


def _by_class(
    right: torch.Tensor, labels: torch.Tensor, kept: Sequence[int], times: torch.Tensor
) -> tuple[float, torch.Tensor]:
    """Mean over classes of the share that is right, and the same in resamples [repeats, N] as [repeats]."""
    member = (labels[:, None] == torch.tensor(kept)).double()  # [N, kept]
    hit = member * right.double()[:, None]
    value = hit.sum(dim=0) / member.sum(dim=0)
    held = times @ member
    # a class that a resample lost keeps its value
    resampled = torch.where(held > 0, (times @ hit) / held.clamp(min=1.0), value)
    return float(value.mean()), resampled.mean(dim=1)
