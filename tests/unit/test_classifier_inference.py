"""DeLong's variance, the variation's parts, power, rank correlation: against slow formulations and known answers."""

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from classifiers.delong import delong
from classifiers.evaluate import Predictions
from classifiers.statistics import contrast
from classifiers.variation import components, rank_correlation


def simulated(rng, labels, signal, ties=False):
    classes = int(labels.max()) + 1
    logits = rng.normal(size=(len(labels), classes))
    logits[np.arange(len(labels)), labels] += signal
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    if ties:  # in quarters and halves, so that two classes' probabilities tie alike
        p = np.round(p * 8) / 8
    return Predictions(p, labels, np.arange(len(labels)), tuple("abc"[:classes]))


def slow_delong(first, second):
    """Equations 4 to 6 of DeLong et al. 1988, pair by pair, for one run each and two classes."""
    y = first.labels
    components = []
    for run in (first, second):
        x, z = run.probabilities[y == 1, 1], run.probabilities[y == 0, 1]
        kernel = np.array([[1.0 if a > b else 0.5 if a == b else 0.0 for b in z] for a in x])
        components.append((kernel.mean(axis=1), kernel.mean(axis=0), kernel.mean()))
    (v10a, v01a, auc_a), (v10b, v01b, auc_b) = components
    s10, s01 = np.cov(np.stack([v10a, v10b])), np.cov(np.stack([v01a, v01b]))
    s = s10 / len(v10a) + s01 / len(v01a)
    return auc_a - auc_b, np.sqrt(s[0, 0] + s[1, 1] - 2 * s[0, 1])


@pytest.mark.parametrize("ties", [False, True])
def test_delong_is_the_papers_pair_by_pair(ties):
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat([0, 1], [40, 25]))
    first, second = (simulated(rng, labels, signal, ties) for signal in (1.5, 0.8))
    found = delong([first], [second])
    value, se = slow_delong(first, second)
    assert found.value == pytest.approx(value, abs=1e-12)
    assert found.se == pytest.approx(se, rel=1e-9)
    assert found.value == pytest.approx(
        roc_auc_score(labels, first.probabilities[:, 1]) - roc_auc_score(labels, second.probabilities[:, 1])
    )


@pytest.mark.parametrize("classes", [2, 3])
def test_delong_and_the_bootstrap_over_patients_agree(classes):
    rng = np.random.default_rng(1)
    labels = np.arange(240) % classes
    treatment, control = ([simulated(rng, labels, signal) for _ in range(3)] for signal in (1.4, 1.0))
    closed, drawn = delong(treatment, control), contrast(treatment, control)
    assert closed.value == pytest.approx(drawn.value)
    assert closed.se == pytest.approx(drawn.patient_se, rel=0.1)
    assert drawn.se > drawn.patient_se  # the runs' luck comes on top


def test_delong_of_equal_arms_and_of_patients_with_several_scans():
    rng = np.random.default_rng(2)
    run = simulated(rng, np.arange(30) % 2, 1.0)
    assert delong([run], [run]) == (0.0, 0.0, 1.0)
    twice = Predictions(run.probabilities, run.labels, np.arange(30) // 2, run.classes)
    assert delong([twice], [twice]) is None


def test_delongs_p_is_uniform_where_nothing_differs():
    rng = np.random.default_rng(3)
    labels = np.arange(80) % 2
    small = sum(delong([simulated(rng, labels, 1.0)], [simulated(rng, labels, 1.0)]).p < 0.05 for _ in range(200))
    assert 1 <= small <= 21  # 5 % of 200 is 10, give or take three and a half standard errors


def test_an_additive_table_has_no_rest():
    gan, classifier = {0: -0.02, 1: 0.0, 2: 0.02}, {0: 0.01, 1: -0.01}
    table = {(g, s): 0.9 + a + b for g, a in gan.items() for s, b in classifier.items()}
    found = components(table)
    assert found.rest == pytest.approx(0.0, abs=1e-9)
    assert found.gan == pytest.approx(np.std([-0.02, 0.0, 0.02], ddof=1))
    assert found.classifier == pytest.approx(np.std([0.01, -0.01], ddof=1))


def test_components_recover_what_was_planted():
    rng = np.random.default_rng(4)
    squares = []
    for _ in range(300):
        a, b = rng.normal(0, 0.03, 4), rng.normal(0, 0.01, 5)
        table = {(g, s): a[g] + b[s] + rng.normal(0, 0.02) for g in range(4) for s in range(5)}
        squares.append([value**2 for value in components(table)])
    assert np.sqrt(np.mean(squares, axis=0)) == pytest.approx([0.03, 0.01, 0.02], rel=0.15)


def test_components_where_seeds_or_cells_are_missing():
    assert components({(None, 0): 0.8, (None, 1): 0.9}) == (None, pytest.approx(np.std([0.8, 0.9], ddof=1)), None)
    assert components({(0, 0): 0.8, (1, 0): 0.9}) == (pytest.approx(np.std([0.8, 0.9], ddof=1)), None, None)
    assert components({(0, 0): 0.8}) == (None, None, None)
    full = {(g, s): 0.1 * g + 0.01 * s for g in (0, 1) for s in (0, 1)}
    assert components({**full, (2, 0): 5.0}) == components(full)  # GAN 2 lacks a cell


def test_rank_correlation_is_scipys_and_its_interval_covers():
    rng = np.random.default_rng(6)
    x, y = rng.normal(size=12), rng.normal(size=12)
    found = rank_correlation(x.tolist(), y.tolist())
    assert found.value == pytest.approx(spearmanr(x, y).statistic)
    assert found.low < found.value < found.high
    covered = 0
    for _ in range(400):  # Spearman's ρ of a bivariate normal: 6/π · asin(r/2)
        a = rng.normal(size=(15, 2)) @ np.linalg.cholesky([[1.0, 0.6], [0.6, 1.0]]).T
        one = rank_correlation(a[:, 0].tolist(), a[:, 1].tolist())
        covered += one.low <= 6 / np.pi * np.arcsin(0.3) <= one.high
    assert covered >= 365  # 95 % of 400 is 380


def test_few_points_have_no_interval_and_a_perfect_order_a_wide_one():
    assert rank_correlation([1, 2], [1, 2]) is None
    assert rank_correlation([1, 2, 3], [5, 5, 5]) is None
    assert rank_correlation([1, 2, 3], [3, 2, 1]) == (pytest.approx(-1.0), None, None, 3)
    perfect = rank_correlation([1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6])
    assert perfect.value == pytest.approx(1.0)
    assert perfect.low < 0.2
    assert perfect.high == pytest.approx(1.0)
