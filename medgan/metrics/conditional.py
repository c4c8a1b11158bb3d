"""Conditional collapse: does a synthetic image show the class it is labelled with, and all that the class can show?

Two probes. ``conditional_recall``: recall (Kynkäänniemi et al. 2019, eq. 2) within each class: the share of its real
images that lie among the synthetic images *of that label*; a class drawn as another one, or as one mode, loses it. It
depends on the number of images, so its ratio to what real images reach is taken at one n.
``conditional_accuracy``: accuracy of a
classifier trained on real images, on synthetic images against their labels, averaged over classes, beside the same on
real validation images (the classification accuracy score of Ravuri and Vinyals 2019 the other way round; Shmelkov et
al. 2018 call it GAN-test). Shuffled labels take it to chance.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from medgan.metrics import floors, precision_recall
from medgan.metrics.features import Features, as_features, as_pair, share_interval, standard_errors
from medgan.metrics.images import Labels, as_numbers
from medgan.metrics.intervals import RESAMPLES, clopper_pearson, resample
from medgan.metrics.measured import Measured, TooFewImagesError
from medgan.metrics.sampling import FEWEST_PATIENTS, split_patients, unsplittable
from medgan.pooled import compare, pool
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
        its classes, one real half's recall by another, where the class has patients enough; and
        ``floor_ratio.conditional_recall.<class>`` (:mod:`medgan.metrics.floors`), where it has :data:`FEWEST`
        patients. A class without any
        synthetic image has recall 0, as a fact, beside its floor. Classes with too few images
        for a figure are left out and named.

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
    halved: dict[str, torch.Tensor] = {}
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
            measured[f"floor_ratio.conditional_recall.{name}"] = figures[name]
        else:
            (error,) = standard_errors(_recall, own, drawn, owner, REPEATS, seed)
            value = _recall(own, drawn)[0]
            ends = share_interval(value, error, len(owner.unique()))
            figures[name] = Measured(value, *ends, len(own), len(drawn), f"k = {K}")
            if ratio := _over_floor(own, drawn, owner, seed):
                measured[f"floor_ratio.conditional_recall.{name}"] = ratio
        if not unsplit:
            halves = [split_patients(owner, len(own) // 2, generator) for _ in range(REPEATS)]
            halved[name] = torch.tensor(
                [_recall(own[a], own[b])[0] for a, b in halves if min(len(a), len(b)) > K]
            ).double()
            if len(halved[name]):
                measured[f"floor.conditional_recall.{name}"] = _floor(halved[name], len(own))
    if not figures:
        raise TooFewImagesError(
            f"conditional_recall: no class has {FEWEST} real images of 4 patients and {FEWEST} synthetic ones"
        )
    measured |= {f"conditional_recall.{name}": one for name, one in figures.items()}
    note = f"k = {K}, mean over classes" + (f"; without {', '.join(left_out)}: too few images" if left_out else "")
    overall = {"conditional_recall": _mean(list(figures.values()), len(x), len(y), note)}
    if set(halved) == set(figures) and all(len(found) == REPEATS for found in halved.values()):
        overall["floor.conditional_recall"] = _floor(torch.stack(list(halved.values())).mean(dim=0), len(x))
    return overall | measured


def _recall(real: torch.Tensor, synthetic: torch.Tensor) -> list[float]:
    return [precision_recall.manifold(real, synthetic).recall]


def _over_floor(own: torch.Tensor, drawn: torch.Tensor, owner: torch.Tensor, seed: int) -> Measured | None:
    """A class's recall over what its real images reach at one n; None with too few patients, or a floor of 0."""
    size = min(floors.largest_half(owner), len(drawn))
    if size < FEWEST // 2:
        return None
    alike = torch.zeros(len(own), dtype=torch.int64), torch.zeros(len(drawn), dtype=torch.int64)
    by_synthetic, by_real = floors.at_one_n(_recall, own, drawn, owner, alike, seed, REPEATS)
    found = floors.over_floor(by_synthetic[:, 0], by_real[:, 0], len(owner.unique()))
    if found is None:
        return None
    note = f"recall {found.figure:.3g} where real scans have {found.floor:.3g}, both at n = {size}, one a patient"
    return Measured(found.value, found.low, found.high, len(own), len(drawn), note)


def _mean(each: Sequence[Measured], n_real: int | None, n_synthetic: int | None, note: str) -> Measured:
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

    Intervals of a class are exact ones of so many synthetic images, and on the real side normal ones of whole patients,
    exact where a class does not scatter; means over classes add them up in quadrature, and so does the loss (MOVER).

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
    real_each = _by_class(known_right, known_labels, kept, patients, generator)
    chance = f"mean over {len(kept)} of {len(classes)} classes; chance is {1 / len(classes):.3g}"
    real = f"the same classifier on real validation images; {chance}"
    loss = f"real minus synthetic: above 0, labels that a real-trained classifier does not see; {chance}"
    of_drawn, of_known = (
        _mean(list(measured.values()), None, len(drawn), chance),
        _mean(real_each, len(known), None, real),
    )
    lost = compare(pool([of_known.row("accuracy")]), pool([of_drawn.row("accuracy")]), "difference")
    return {
        "conditional_accuracy": of_drawn,
        "floor.conditional_accuracy": of_known,
        "loss.conditional_accuracy": Measured(lost.value, lost.low, lost.high, len(known), len(drawn), loss),
        **measured,
    }


def _by_class(
    right: torch.Tensor, labels: torch.Tensor, kept: Sequence[int], patients: torch.Tensor, generator: torch.Generator
) -> list[Measured]:
    """The share of each kept class that is right; bootstrap over the class's patients."""
    found = []
    for index in kept:
        own, owner = right[labels == index].double(), patients[labels == index]
        times = resample(owner, RESAMPLES, generator)
        error = float((times @ own / times.sum(dim=1)).std())
        value = float(own.mean())
        cases = len(owner.unique())
        ends = share_interval(value, error, cases) if cases >= FEWEST_PATIENTS else (0.0, 1.0)
        found.append(Measured(value, *ends, len(own), None))
    return found
