"""Bootstrap, contrasts and Holm's correction against scikit-learn, hand calculation and simulation."""

import time

import numpy as np
import pytest
from scipy.stats import norm as normal
from scipy.stats import t as student
from sklearn.metrics import average_precision_score, balanced_accuracy_score, roc_auc_score

from classifiers.evaluate import Predictions
from classifiers.statistics import (
    METRICS,
    Contrast,
    _luck,
    _luck_parts,
    contrast,
    estimate,
    holm,
    patient_weights,
    resamples_for,
    smallest_gain,
    weighted_auroc,
    weighted_average_precision,
)
from pipeline.records import MedaugError


def scores(rng, n, ties):
    drawn = rng.normal(size=n)
    return np.round(drawn, 1) if ties else drawn


@pytest.mark.parametrize("ties", [False, True])
def test_weighted_auroc_and_average_precision_are_scikit_learns(ties):
    rng = np.random.default_rng(0)
    positive, values = rng.random(80) < 0.3, scores(rng, 80, ties)
    weights = rng.integers(0, 4, (5, 80)).astype(float)
    aurocs, precisions = (
        weighted_auroc(positive, values, weights),
        weighted_average_precision(positive, values, weights),
    )
    for row in range(5):
        w = weights[row]
        assert aurocs[row] == pytest.approx(roc_auc_score(positive, values, sample_weight=w), rel=1e-12)
        assert precisions[row] == pytest.approx(average_precision_score(positive, values, sample_weight=w), rel=1e-12)


def test_weighted_auroc_without_one_side_is_nan():
    assert np.isnan(weighted_auroc(np.array([True, False]), np.array([0.1, 0.2]), np.array([[1.0, 0.0]])))[0]


def test_endpoints_are_scikit_learns_under_equal_weights():
    rng = np.random.default_rng(1)
    run = simulated(rng, 90, 0.5, classes=3)
    ones, y, p = np.ones((1, 90)), run.labels, run.probabilities
    assert METRICS["auroc"](run, ones)[0] == pytest.approx(roc_auc_score(y, p, multi_class="ovr"), rel=1e-12)
    expected = np.mean([average_precision_score(y == k, p[:, k]) for k in range(3)])
    assert METRICS["auprc"](run, ones)[0] == pytest.approx(expected, rel=1e-12)
    assert METRICS["balanced_accuracy"](run, ones)[0] == pytest.approx(balanced_accuracy_score(y, p.argmax(1)))


def test_weights_count_patients_and_keep_every_class():
    # 6 patients with two scans each; class 1 in two patients, one of whom has both classes.
    patients = np.repeat([10, 11, 12, 13, 14, 15], 2)
    labels = np.array([0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 1])
    weights = np.concatenate(list(patient_weights(labels, patients, 500, 0)))
    assert weights.shape == (500, 12)
    assert np.array_equal(weights[:, ::2], weights[:, 1::2])  # scans of a patient come together
    assert (weights.sum(axis=1) == 12).all()
    assert (weights[:, labels == 1].sum(axis=1) > 0).all()
    assert (weights[:, ::2][:, 4:].sum(axis=1) == 2).all()  # the stratum of class 1: patients 14 and 15
    assert weights[:, 0].std() > 0.5


def test_blocks_do_not_change_the_number_of_resamples(monkeypatch):
    monkeypatch.setattr("classifiers.statistics.CELLS", 40)
    blocks = list(patient_weights(np.array([0, 1] * 10), np.arange(20), 7, 0))
    assert [len(block) for block in blocks] == [2, 2, 2, 1]


def simulated(rng, n, signal, classes=2, labels=None, patients=None):
    labels = rng.integers(0, classes, n) if labels is None else labels
    logits = rng.normal(size=(n, classes))
    logits[np.arange(n), labels] += signal
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    names = tuple(f"c{k}" for k in range(classes))
    return Predictions(p, labels, np.arange(n) if patients is None else patients, names)


def test_a_planted_gain_and_a_planted_harm_are_found():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 150)
    strong = [simulated(rng, 150, 2.5, labels=labels) for _ in range(5)]
    weak = [simulated(rng, 150, 0.5, labels=labels) for _ in range(5)]
    gain, harm = contrast(strong, weak), contrast(weak, strong)
    assert gain.low > 0.1
    assert gain.p < 0.005
    assert gain.value == pytest.approx(-harm.value)
    assert harm.high < -0.1
    assert harm.p < 0.005
    expected = np.mean([roc_auc_score(labels, run.probabilities[:, 1]) for run in strong])
    expected -= np.mean([roc_auc_score(labels, run.probabilities[:, 1]) for run in weak])
    assert gain.value == pytest.approx(expected)
    assert gain.n_patients == 150


def test_equal_arms_give_no_difference():
    rng = np.random.default_rng(0)
    runs = [simulated(rng, 60, 1.0)]
    same = contrast(runs, runs)
    assert (same.value, same.low, same.high, same.p) == (0.0, 0.0, 0.0, 1.0)


def test_interval_covers_the_truth_and_p_values_are_uniform_enough():
    rng = np.random.default_rng(2)
    covered, small = 0, 0
    for trial in range(120):
        labels = np.repeat([0, 1], 40)
        pair = [[simulated(rng, 80, 1.0, labels=labels)] for _ in range(2)]
        result = contrast(*pair, resamples=300, seed=trial)
        covered += result.low <= 0.0 <= result.high
        small += result.p < 0.05
    assert covered >= 105  # 95 % of 120 is 114, less three standard errors
    assert small <= 15


def test_scans_of_one_patient_widen_the_interval():
    # 20 copies of each scan under the patient's name carry no information: the interval must not shrink.
    rng = np.random.default_rng(3)
    labels = np.repeat([0, 1], 15)
    pair = [simulated(rng, 30, s, labels=labels) for s in (1.5, 0.5)]
    copied = [
        Predictions(
            np.repeat(run.probabilities, 20, 0), np.repeat(labels, 20), np.repeat(run.patients, 20), run.classes
        )
        for run in pair
    ]
    once, often = contrast([pair[0]], [pair[1]]), contrast([copied[0]], [copied[1]])
    assert often.value == pytest.approx(once.value)
    assert (often.low, often.high) == pytest.approx((once.low, once.high))
    assert often.n_patients == 30


def test_seed_variation_is_apart_from_patient_variation():
    rng = np.random.default_rng(4)
    labels = np.repeat([0, 1], 50)
    treatment, control = ([simulated(rng, 100, s, labels=labels) for s in signals] for signals in ((2, 1, 3), (1, 1.5)))
    figures = [[roc_auc_score(labels, run.probabilities[:, 1]) for run in runs] for runs in (treatment, control)]
    expected = np.sqrt(np.var(figures[0], ddof=1) + np.var(figures[1], ddof=1))
    assert contrast(treatment, control, resamples=50).seed_sd == pytest.approx(expected)
    assert contrast(treatment[:1], control, resamples=50).seed_sd is None
    assert estimate(treatment, resamples=50).seed_sd == pytest.approx(np.std(figures[0], ddof=1))


def test_estimate_holds_the_figure_and_an_interval_around_it():
    rng = np.random.default_rng(5)
    run = simulated(rng, 120, 1.0)
    found = estimate([run])
    assert found.value == pytest.approx(roc_auc_score(run.labels, run.probabilities[:, 1]))
    assert found.low < found.value < found.high
    # Hanley and McNeil 1982, eq. 2, for the same AUROC
    a, n1 = found.value, int(run.labels.sum())
    n0 = 120 - n1
    q1, q2 = a / (2 - a), 2 * a * a / (1 + a)
    error = np.sqrt((a * (1 - a) + (n1 - 1) * (q1 - a * a) + (n0 - 1) * (q2 - a * a)) / (n1 * n0))
    assert (found.high - found.low) / (2 * 1.96) == pytest.approx(error, rel=0.25)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_unusable_contrasts_are_refused():
    rng = np.random.default_rng(0)
    run, other = simulated(rng, 30, 1.0), simulated(rng, 30, 1.0)
    with pytest.raises(MedaugError, match="runs predict different scans"):
        contrast([run], [other])
    with pytest.raises(MedaugError, match="0 control runs"):
        contrast([run], [])
    with pytest.raises(MedaugError, match="endpoint 'f1': unknown"):
        contrast([run], [run], metric="f1")
    alone = simulated(rng, 30, 1.0, labels=np.zeros(30, np.int64))
    with pytest.raises(MedaugError, match="one class"):
        estimate([alone])


def test_two_thousand_resamples_of_five_hundred_scans_take_seconds():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 500)
    runs = [simulated(rng, 500, 1.0, classes=3, labels=labels) for _ in range(4)]
    start = time.process_time()
    contrast(runs[:2], runs[2:])
    assert time.process_time() - start < 10.0


@pytest.mark.parametrize(("runs", "patients"), [(2, 60), (5, 60), (5, 300)])
def test_training_luck_alone_is_rarely_called_an_effect(runs, patients):
    # Two arms that do not differ; each run is better or worse by chance. Patients alone would call 18 to 58 % of these.
    rng = np.random.default_rng(7)
    false = 0
    for trial in range(60):
        labels = np.arange(patients) % 2
        arms = [[simulated(rng, patients, 1.0 + rng.normal(0, 0.25), labels=labels) for _ in range(runs)] for _ in "TC"]
        false += contrast(*arms, resamples=400, seed=trial).p < 0.05
    assert false <= 7  # 5 % of 60 is 3; more than 7 has a chance below 2 %


def test_one_run_on_a_side_claims_nothing():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 150)
    result = contrast([simulated(rng, 150, 3.0, labels=labels)], [simulated(rng, 150, 0.0, labels=labels)])
    assert (result.p, result.smallest) == (1.0, 1.0)


def test_one_generator_claims_nothing_however_many_classifiers_learnt_from_it():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 150)
    sides = [[simulated(rng, 150, signal, labels=labels) for _ in range(4)] for signal in (3.0, 0.5)]
    seeds = (range(4), range(4))
    one = contrast(*sides, gan_seeds=[7] * 4, classifier_seeds=seeds)
    assert (one.p, one.smallest) == (1.0, 1.0)
    assert one.low > 0.1  # the difference itself is told all the same
    four = contrast(*sides, gan_seeds=[6, 7, 8, 9], classifier_seeds=seeds)
    assert four.p < 0.05


def test_gan_seeds_are_the_units_of_luck():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 200)
    # Two generators, one good and one bad, four classifiers on each: eight runs, but two draws of the generator.
    treatment = [simulated(rng, 200, quality, labels=labels) for quality in (2.0, 1.0) for _ in range(4)]
    control = [simulated(rng, 200, 1.0, labels=labels) for _ in range(8)]
    as_runs = contrast(treatment, control)
    as_generators = contrast(treatment, control, gan_seeds=[0, 0, 0, 0, 1, 1, 1, 1])
    assert as_generators.value == as_runs.value
    assert as_generators.high - as_generators.low > 2 * (as_runs.high - as_runs.low)


def test_luck_of_a_complete_table_by_hand():
    # GAN seeds' means 2 and 4; classifier seeds' means 2, 3, 4, the control's 1, 1, 4, hence differences 1, 2, 0.
    figures, control = [1.0, 2.0, 3.0, 3.0, 4.0, 5.0], [1.0, 1.0, 4.0]
    seeds = ((0, 1, 2, 0, 1, 2), (0, 1, 2))
    assert _luck_parts(figures, control, [0, 0, 0, 1, 1, 1], seeds) == [(2 / 2, 1), (pytest.approx(1 / 3), 2)]
    # No classifier seed in common: the sides stand apart.
    apart = _luck_parts(figures, control, [0, 0, 0, 1, 1, 1], (seeds[0], (7, 8, 9)))
    assert apart == [(1.0, 1), (pytest.approx(1 / 3), 2), (pytest.approx(3 / 3), 2)]


@pytest.mark.parametrize("shared", [0.0, 1.0])
@pytest.mark.parametrize("gans", [2, 3])
@pytest.mark.parametrize(
    ("gan", "classifier", "rest"), [(0.0, 1.0, 0.1), (0.3, 1.0, 0.3), (1.0, 1.0, 1.0), (4.0, 1.0, 1.0)]
)
def test_luck_of_gans_and_of_classifiers_rarely_passes_for_an_effect(gan, classifier, rest, shared, gans):
    # y_gs = a_g + b_s + e_gs against B_s, no effect. GAN seeds' means alone call up to 79 % of the first an effect.
    rng = np.random.default_rng(8)
    # The last, of two GAN seeds, would be one in ten by Satterthwaite's degrees of freedom.
    seeds, trials, false = 5, 1500, 0
    of = ([s for _ in range(gans) for s in range(seeds)], list(range(seeds)))
    for _ in range(trials):
        b = rng.normal(0, classifier, seeds)
        table = rng.normal(0, gan, (gans, 1)) + b + rng.normal(0, rest, (gans, seeds))
        control = shared * b + rng.normal(0, 0.1 + 0.9 * gan, seeds)
        parts = _luck_parts(table.ravel().tolist(), control.tolist(), [g for g in range(gans) for _ in of[1]], of)
        low, high = np.quantile(_luck(parts, 2000, 0), (0.025, 0.975))
        false += not low <= table.mean() - control.mean() <= high
    assert false / trials <= 0.06  # 5 %, and nearly two standard errors of 0.56 % on top


def test_however_many_contrasts_a_clear_gain_can_be_shown():
    rng = np.random.default_rng(9)
    labels = np.arange(100) % 2
    strong, weak = ([simulated(rng, 100, s, labels=labels)] * 2 for s in (5.0, 0.0))
    for tests in (50, 200):
        assert holm([contrast(strong, weak, resamples=resamples_for(tests)).p] + [1.0] * (tests - 1))[0] < 0.05
    few = contrast(strong, weak, resamples=2000, tests=51)  # 2/2001 · 51 > 0.05, whatever the truth
    assert holm([few.p] + [1.0] * 50)[0] > 0.05
    assert few.smallest == 1.0


def test_no_gain_is_promised_beyond_what_the_control_leaves():
    rng = np.random.default_rng(3)
    labels = np.arange(200) % 2
    at = {s: [simulated(rng, 200, s, labels=labels) for _ in range(8)] for s in (0.5, 3.0)}
    weak, strong = (contrast(runs[:4], runs[4:], tests=4).smallest for runs in at.values())
    assert 0.02 < weak < 0.36  # of an AUROC of about 0.64
    assert strong == 1.0  # of nearly 1


def test_the_smallest_gain_has_students_tails_and_never_exceeds_the_largest_difference():
    rng = np.random.default_rng(5)
    normal = rng.normal(0, 0.01, 400_000)
    assert smallest_gain(normal, 1) == pytest.approx(0.01 * (1.959964 + 0.841621), rel=0.01)
    assert smallest_gain(normal, 10) == pytest.approx(0.01 * (2.807034 + 0.841621), rel=0.02)
    few = 0.01 * rng.standard_t(2, 400_000)
    assert smallest_gain(few, 1) == pytest.approx(0.01 * (student.isf(0.025, 2) + student.isf(0.2, 2)), rel=0.02)
    assert smallest_gain(few, 10) > 0.14  # the normal quantiles would say 0.036
    assert smallest_gain(100 * few, 1) == 1.0


@pytest.mark.thorough
def test_the_smallest_gain_is_shown_about_four_times_in_five_by_contrasts_own_rule():
    # Gains as large as experiments like it say, on average, could be shown: how often are they?
    rng = np.random.default_rng(6)
    labels, gans, seeds, base, luck = np.arange(120) % 2, (0, 1, 2), (0, 1, 2, 3), 0.4, 0.05
    of = ([s for _ in gans for s in seeds], list(seeds))

    def experiment(signal: float, trial: int) -> Contrast:
        drawn = [
            simulated(rng, 120, signal + a + rng.normal(0, luck), labels=labels)
            for a in rng.normal(0, luck, len(gans))
            for _ in seeds
        ]
        control = [simulated(rng, 120, base + rng.normal(0, luck), labels=labels) for _ in seeds]
        units = [g for g in gans for _ in seeds]
        return contrast(drawn, control, resamples=400, seed=trial, gan_seeds=units, classifier_seeds=of, tests=3)

    said = float(np.median([experiment(base, trial).smallest for trial in range(40)]))
    # Of two classes the logits' difference is normal with mean ± signal and variance 2: AUROC is Φ(signal).
    shown = [experiment(float(normal.ppf(normal.cdf(base) + said)), trial) for trial in range(80)]
    assert np.mean([one.value for one in shown]) == pytest.approx(said, rel=0.15)  # the planted gain is what it said
    assert 0.65 <= np.mean([one.p < 0.05 / 3 for one in shown]) <= 0.95
