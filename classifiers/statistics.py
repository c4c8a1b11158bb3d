"""Did it help? Paired bootstrap over patients, the luck of training, and Holm's correction.

Patients are resampled, not scans: scans of one patient are not independent. All classifiers of a contrast are scored on
the same resample (paired), and their figures are averaged over seeds. An arm's interval (:func:`estimate`) is over
patients alone; a contrast's (:func:`contrast`) holds the luck of training too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from classifiers.evaluate import Predictions
from pipeline.fraction import patient_strata
from pipeline.records import LEVEL, MedaugError

Floats = NDArray[np.float64]

POWER = 0.8
CELLS = 4_000_000  # resamples × scans weighed at a time: bounds memory to some hundred MB


@dataclass(frozen=True)
class Estimate:
    """One arm's figure.

    Attributes:
        value: mean over the runs (seeds).
        low: lower end of the 95 % percentile interval over patients.
        high: upper end.
        n_patients: patients resampled.
        seed_sd: standard deviation over the runs; None with one run.
        patient_sd: standard deviation that the choice of the test patients alone gives the mean over runs.
    """

    value: float
    low: float
    high: float
    n_patients: int
    seed_sd: float | None
    patient_sd: float


@dataclass(frozen=True)
class Contrast:
    """Treatment minus control.

    Attributes:
        value: difference of the means over runs.
        low: lower end of the 95 % percentile interval over patients and the luck of training.
        high: upper end.
        p: two-sided p-value of the same draws, not below 2 / (resamples + 1); 1 where the luck of a side is unknown.
        n_patients: patients resampled.
        seed_sd: standard deviation of the difference between one treatment run and one control run that comes from
            seeds alone, √(s²ₜ + s²_c); None where a side has one run.
        se: standard error of ``value`` over patients and runs.
        patient_se: standard error over patients alone.
        smallest: about the smallest true gain that would have been shown, see :func:`smallest_gain`; 1 where none could
            be, as it would be more than the control leaves to a perfect classifier.
    """

    value: float
    low: float
    high: float
    p: float
    n_patients: int
    seed_sd: float | None
    se: float = 0.0
    patient_se: float = 0.0
    smallest: float = 1.0


def contrast(
    treatment: Sequence[Predictions],
    control: Sequence[Predictions],
    metric: str = "auroc",
    resamples: int = 2000,
    seed: int = 0,
    gan_seeds: Sequence[int | None] | None = None,
    classifier_seeds: tuple[Sequence[int], Sequence[int]] | None = None,
    tests: int = 1,
) -> Contrast:
    """The paired difference between two arms on the same test patients.

    The interval carries both kinds of chance: patients are resampled, and the luck of training is added to each
    resample as Student's t, one for each kind of luck, with its own degrees of freedom, see :func:`_luck`. Of two
    runs a side that is wide, as it should be. Where the luck of a side is unknown, since it has a single run or comes
    from a single GAN training, p is 1, so that nothing can be claimed.

    Args:
        treatment: one entry a run (classifier seed × GAN seed).
        control: likewise (classifier seeds).
        metric: a name in :data:`METRICS`.
        resamples: bootstrap resamples.
        seed: of the resampling.
        gan_seeds: GAN seed of each treatment run, since classifiers trained on one generator's images share its fate;
            None where no GAN has a part.
        classifier_seeds: of the treatment's and of the control's runs, since runs of one classifier seed share its
            luck under every GAN seed; None takes each run for a seed of its own.
        tests: contrasts in the family, for :attr:`Contrast.smallest`.

    Raises:
        MedaugError: an unknown metric, no runs on a side, runs on different scans, or fewer than two classes.
    """
    both = [*treatment, *control]
    if not treatment or not control:
        raise MedaugError(f"contrast: {len(treatment)} treatment and {len(control)} control runs, expected one of each")
    figure = _figure(metric)
    _refuse_unpaired(both)
    observed_t, observed_c = ([endpoint_of(run, metric) for run in runs] for runs in (treatment, control))
    value = float(np.mean(observed_t) - np.mean(observed_c))
    drawn = []
    for weights in patient_weights(both[0].labels, both[0].patients, resamples, seed):
        means = [np.mean([figure(run, weights) for run in runs], axis=0) for runs in (treatment, control)]
        drawn.append(means[0] - means[1])
    parts = _luck_parts(observed_t, observed_c, gan_seeds, classifier_seeds)
    over_patients = np.concatenate(drawn)
    unclipped = over_patients + _luck(parts, resamples, seed)
    # All figures lie in [0, 1], so a difference outside [-1, 1] is none.
    differences = np.clip(unclipped, -1.0, 1.0)
    low, high = np.quantile(differences, (LEVEL / 2, 1 - LEVEL / 2)).tolist()
    # Davison and Hinkley 1997, section 4.4: with the +1, no p-value is smaller than the resamples can tell.
    tail = min(int((differences <= 0.0).sum()), int((differences >= 0.0).sum()))
    p = min(1.0, 2.0 * (tail + 1) / (resamples + 1))
    smallest = smallest_gain(unclipped - value, tests)
    if smallest > 1.0 - np.mean(observed_c):
        smallest = 1.0
    if min(len(treatment), len(control)) < 2 or (gan_seeds is not None and len(set(gan_seeds)) < 2):
        p, smallest = 1.0, 1.0
    seed_sd = None
    if len(treatment) > 1 and len(control) > 1:
        seed_sd = float(np.sqrt(np.var(observed_t, ddof=1) + np.var(observed_c, ddof=1)))
    se, patient_se = float(differences.std(ddof=1)), float(over_patients.std(ddof=1))
    return Contrast(value, low, high, p, len(np.unique(both[0].patients)), seed_sd, se, patient_se, smallest)


def estimate(runs: Sequence[Predictions], metric: str = "auroc", resamples: int = 2000, seed: int = 0) -> Estimate:
    """One arm's figure, averaged over its runs, with its interval over patients; the spread over runs stands apart.

    Raises:
        MedaugError: as :func:`contrast`.
    """
    if not runs:
        raise MedaugError("estimate: no runs, expected at least one")
    figure = _figure(metric)
    _refuse_unpaired(runs)
    observed = [endpoint_of(run, metric) for run in runs]
    drawn = np.concatenate(
        [
            np.mean([figure(run, weights) for run in runs], axis=0)
            for weights in patient_weights(runs[0].labels, runs[0].patients, resamples, seed)
        ]
    )
    low, high = np.quantile(drawn, (LEVEL / 2, 1 - LEVEL / 2)).tolist()
    seed_sd = float(np.std(observed, ddof=1)) if len(runs) > 1 else None
    patients = len(np.unique(runs[0].patients))
    return Estimate(float(np.mean(observed)), low, high, patients, seed_sd, float(drawn.std(ddof=1)))


def endpoint_of(run: Predictions, metric: str) -> float:
    """One run's figure.

    Raises:
        MedaugError: an unknown metric.
    """
    return float(_figure(metric)(run, np.ones((1, len(run.labels))))[0])


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values that bound the chance of any false claim in the family (Holm 1979).

    Args:
        p_values: of the family, e.g. one contrast for each GAN and ratio.

    Returns:
        Adjusted p-values in the same order, at most 1.
    """
    p = np.asarray(p_values, np.float64)
    order = np.argsort(p, kind="stable")
    stepped = p[order] * (len(p) - np.arange(len(p)))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return adjusted.tolist()


def resamples_for(tests: int) -> int:
    """The fewest resamples whose smallest p-value, 2 / (resamples + 1), is half of what Holm asks of the first.

    Args:
        tests: contrasts in the family, m. With fewer than 2m / α resamples no effect whatever could be shown.
    """
    return int(np.ceil(4 * tests / LEVEL))


def smallest_gain(errors: Floats, tests: int, power: float = POWER) -> float:
    """About the smallest true gain that would have been shown with probability ``power`` by :func:`contrast`'s rule.

    How far the difference must lie above 0 for the smallest of Holm's p-values, α/m two-sided, plus how far it falls
    short of the truth with probability 1 − power: both read off the draws, so that the heavy tails of few runs count.
    The standard errors are taken as found, though those of few runs are themselves uncertain.

    Args:
        errors: draws of the difference's error, [resamples].
        tests: contrasts in the family, m.
        power: chance of showing it.

    Returns:
        At most 1, the largest difference there is: none could be shown.
    """
    far, short = np.quantile(errors, (LEVEL / (2 * tests), 1.0 - power))
    if len(errors) + 1 <= 2 * tests / LEVEL:  # p cannot fall below the level
        return 1.0
    return float(min(-far - short, 1.0))


Part = tuple[float, int]
"""Squared standard error that one kind of luck leaves in a difference, and its degrees of freedom."""


def _luck_parts(
    treatment: Sequence[float],
    control: Sequence[float],
    gan_seeds: Sequence[int | None] | None,
    classifier_seeds: tuple[Sequence[int], Sequence[int]] | None,
) -> list[Part]:
    """What GAN seeds and classifier seeds leave in the difference of the means; empty where a side has one run.

    With classifier seeds the treatment is a table of GAN seeds × classifier seeds. Its error is that of the GAN seeds'
    means plus that of the classifier seeds' differences D_s − B_s, which holds the control's luck too. Of the table's
    mean squares that is (MS_gan + MS_classifier)/GS; MS_rest, which both hold, is not taken off: on the safe side, and
    never negative.
    """
    if min(len(treatment), len(control)) < 2:
        return []
    by_gan = list(_means(treatment, gan_seeds or [None] * len(treatment)).values())
    if classifier_seeds is None:
        return [_part(by_gan if len(by_gan) > 1 else treatment), _part(control)]
    ours, theirs = (_means(*side) for side in zip((treatment, control), classifier_seeds, strict=True))
    shared = [seed for seed in ours if seed in theirs]
    parts = [by_gan] if len(by_gan) > 1 else []
    if len(shared) > 1:
        parts.append([ours[seed] - theirs[seed] for seed in shared])
    else:
        parts += [list(ours.values()), list(theirs.values())]
    return [_part(part) for part in parts if len(part) > 1]


def _part(figures: Sequence[float]) -> Part:
    return float(np.var(figures, ddof=1)) / len(figures), len(figures) - 1


def _means(figures: Sequence[float], seeds: Sequence[int | None]) -> dict[int | None, float]:
    """The mean figure of each seed."""
    return {
        seed: float(np.mean([figure for figure, of in zip(figures, seeds, strict=True) if of == seed]))
        for seed in dict.fromkeys(seeds)
    }


def _luck(parts: Sequence[Part], resamples: int, seed: int) -> Floats:
    """Draws of the error that the luck of training leaves in a difference of means over runs, [resamples].

    Each part's own Student t, added up (Behrens 1929, Fisher 1935); zero where nothing is known. One t of
    Satterthwaite's degrees of freedom is narrower, but they are too many where a large part has one: with two GAN
    seeds, their luck the largest, it brings about 10 % false claims at a nominal 5. This errs on the other side: 0.5 to
    4 % in simulation.
    """
    rng = np.random.default_rng([seed, 1])
    draws = np.zeros(resamples)
    for error, degrees in parts:
        draws += np.sqrt(error) * rng.standard_t(degrees, resamples)
    return draws


def patient_weights(
    labels: NDArray[np.int64], patients: NDArray[np.int64], resamples: int, seed: int
) -> Iterator[Floats]:
    """How often each scan counts in each bootstrap resample of the patients.

    Patients are drawn within strata, so that no class vanishes from a small test set: a patient's stratum is the class
    among their scans that the fewest patients have. Class shares among patients are thereby held fixed.

    Args:
        labels: [N].
        patients: [N].
        resamples: how many in all.
        seed: of the draw.

    Yields:
        float64 [R, N] blocks; the R add up to ``resamples``.
    """
    stratum, owner = patient_strata(labels, patients)
    rng = np.random.default_rng(seed)
    block = max(1, CELLS // len(labels))
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        counts = np.zeros((rows, len(stratum)))
        for k in np.unique(stratum):
            members = np.flatnonzero(stratum == k)
            counts[:, members] = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), size=rows)
        yield counts[:, owner]


def weighted_auroc(positive: NDArray[np.bool_], scores: Floats, weights: Floats) -> Floats:
    """AUROC of weighted scans, as the share of positive-negative pairs in the right order, ties half.

    Args:
        positive: [N].
        scores: [N].
        weights: [R, N], one weighting a row.

    Returns:
        [R]; NaN where a side has no weight.
    """
    order, starts = _tied(scores)
    w = weights[:, order]
    own = np.add.reduceat(w * positive[order], starts, axis=1)  # weight of positives at each distinct score
    other = np.add.reduceat(w * ~positive[order], starts, axis=1)
    below = np.cumsum(other, axis=1) - other
    pairs = own.sum(axis=1) * other.sum(axis=1)
    with np.errstate(invalid="ignore"):
        return (own * (below + 0.5 * other)).sum(axis=1) / np.where(pairs > 0, pairs, np.nan)


def weighted_average_precision(positive: NDArray[np.bool_], scores: Floats, weights: Floats) -> Floats:
    """Average precision Σₙ (Rₙ − Rₙ₋₁) Pₙ over falling distinct scores; shapes as :func:`weighted_auroc`."""
    order, starts = _tied(-scores)
    w = weights[:, order]
    own = np.add.reduceat(w * positive[order], starts, axis=1)
    found = np.cumsum(own, axis=1)
    shown = np.cumsum(np.add.reduceat(w, starts, axis=1), axis=1)
    total = own.sum(axis=1)
    precision = found / np.where(shown > 0, shown, 1.0)
    return (own * precision).sum(axis=1) / np.where(total > 0, total, np.nan)


def _tied(scores: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ascending order, and where each run of equal scores starts in it."""
    order = np.argsort(scores, kind="stable")
    ascending = scores[order]
    return order, np.flatnonzero(np.concatenate([[True], ascending[1:] != ascending[:-1]]))


def _macro(one_against_rest: Callable[[NDArray[np.bool_], Floats, Floats], Floats]) -> Callable[..., Floats]:
    def figure(run: Predictions, weights: Floats) -> Floats:
        present = np.unique(run.labels)
        values = [one_against_rest(run.labels == k, run.probabilities[:, k], weights) for k in present]
        return np.mean(values, axis=0)

    return figure


def _balanced_accuracy(run: Predictions, weights: Floats) -> Floats:
    right = run.probabilities.argmax(axis=1) == run.labels
    shares = []
    for k in np.unique(run.labels):
        own = weights[:, run.labels == k]
        shares.append((own * right[run.labels == k]).sum(axis=1) / own.sum(axis=1))
    return np.mean(shares, axis=0)


METRICS: dict[str, Callable[[Predictions, Floats], Floats]] = {
    "auroc": _macro(weighted_auroc),
    "auprc": _macro(weighted_average_precision),
    "balanced_accuracy": _balanced_accuracy,
}
"""Endpoints: (predictions, weights [R, N]) → [R]; larger is better. Equal to scikit-learn's under equal weights."""


def _figure(metric: str) -> Callable[[Predictions, Floats], Floats]:
    if metric not in METRICS:
        raise MedaugError(f"endpoint {metric!r}: unknown, expected one of {', '.join(METRICS)}")
    return METRICS[metric]


def _refuse_unpaired(runs: Sequence[Predictions]) -> None:
    first = runs[0]
    for run in runs[1:]:
        if not (np.array_equal(run.labels, first.labels) and np.array_equal(run.patients, first.patients)):
            raise MedaugError("contrast: runs predict different scans, expected one test set; classify them again")
    if len(np.unique(first.labels)) < 2:
        raise MedaugError("contrast: the test scans are of one class, expected two; ingest a larger test share")
