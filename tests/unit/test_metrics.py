"""Fidelity metrics against closed forms, slow formulations and planted defects."""

import math
import subprocess
import sys

import numpy as np
import pytest
import scipy.linalg
import torch

from medgan.metrics import MIN_IMAGES, fid, fidelity, floor, kid, precision_recall, sampling
from pipeline.records import MedaugError


def gaussian(n, d, seed, mean=0.0, scale=1.0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale + mean


# ---------------------------------------------------------------- fid


def test_fid_of_isotropic_gaussians_has_the_closed_form():
    d = 7
    first = fid.from_moments(torch.zeros(d), 4.0 * torch.eye(d))
    second = fid.from_moments(torch.full((d,), 0.5), 9.0 * torch.eye(d))
    # |Δμ|² + d (σ₁ − σ₂)²
    assert fid.frechet_distance(first, second) == pytest.approx(d * 0.25 + d * (2.0 - 3.0) ** 2, rel=1e-12)


@pytest.mark.parametrize(("n", "d"), [(200, 8), (5, 40)])
def test_fid_of_a_set_with_itself_is_zero_and_a_shift_adds_its_square(n, d):
    x = gaussian(n, d, 0)
    assert fid.distance(x, x) < 1e-10
    assert fid.distance(x, x + 0.3) == pytest.approx(d * 0.09, rel=1e-9)


def test_fid_is_symmetric_and_grows_with_the_shift():
    x, y = gaussian(100, 6, 0), gaussian(80, 6, 1, scale=1.5)
    assert fid.distance(x, y) == pytest.approx(fid.distance(y, x), rel=1e-10)
    values = [fid.distance(x, y + shift) for shift in (0.0, 1.0, 2.0)]
    assert values == sorted(values)


def test_fid_equals_the_matrix_square_root_formula():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 12)) @ rng.normal(size=(12, 12))
    y = rng.normal(size=(250, 12)) @ rng.normal(size=(12, 12)) + 1.0
    root = scipy.linalg.sqrtm(np.cov(x.T) @ np.cov(y.T)).real
    expected = np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(np.cov(x.T) + np.cov(y.T) - 2 * root)
    assert fid.distance(x, y) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize(("n", "m"), [(20, 30), (20, 200), (200, 20)])
def test_fid_with_fewer_vectors_than_dimensions_is_exact(n, m):
    # The reference regularises nothing: tr (Σ₁Σ₂)^½ from the eigenvalues of the non-symmetric product.
    d = 50
    x, y = gaussian(n, d, 2).numpy(), gaussian(m, d, 3, mean=0.2).numpy()
    eigenvalues = np.linalg.eigvals(np.cov(x.T) @ np.cov(y.T)).real
    root = np.sqrt(np.clip(eigenvalues, 0, None))[eigenvalues > 1e-9].sum()
    expected = np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(np.cov(x.T)) + np.trace(np.cov(y.T)) - 2 * root
    assert fid.distance(x, y) == pytest.approx(expected, rel=1e-7)


def test_fid_of_rank_deficient_features_ignores_the_empty_dimensions():
    x, y = gaussian(300, 5, 0), gaussian(300, 5, 1, scale=2.0)
    wide = torch.zeros(5, 30, dtype=torch.float64)
    wide[torch.arange(5), torch.arange(0, 30, 6)] = 1.0
    assert fid.distance(x @ wide, y @ wide) == pytest.approx(fid.distance(x, y), rel=1e-9)


def test_moments_give_the_same_statistics_as_features():
    x, y = gaussian(60, 9, 0), gaussian(70, 9, 1, mean=0.4)
    from_moments = fid.from_moments(x.mean(0), torch.cov(x.T))
    assert fid.frechet_distance(from_moments, fid.statistics(y)) == pytest.approx(fid.distance(x, y), rel=1e-10)
    assert torch.allclose(fid.statistics(x).covariance, torch.cov(x.T))


# ---------------------------------------------------------------- kid


def naive_mmd2(x, y):
    def k(a, b):
        return (float(np.dot(a, b)) / len(a) + 1.0) ** 3

    m, n = len(x), len(y)
    xx = sum(k(x[i], x[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    yy = sum(k(y[i], y[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    return xx + yy - 2 * sum(k(a, b) for a in x for b in y) / (m * n)


def test_mmd2_equals_the_double_loop():
    x, y = gaussian(11, 5, 0), gaussian(7, 5, 1, mean=0.3)
    assert kid.mmd2(x, y) == pytest.approx(naive_mmd2(x.numpy(), y.numpy()), rel=1e-10)


def test_mmd2_is_unbiased_where_the_plain_estimate_is_not():
    values = [kid.mmd2(gaussian(20, 8, 2 * i), gaussian(20, 8, 2 * i + 1)) for i in range(400)]
    error = np.std(values) / math.sqrt(len(values))
    assert abs(np.mean(values)) < 3.5 * error
    assert min(values) < 0.0
    # the V-statistic's diagonal alone would lift each value by this much
    assert 20 * error < 2 * ((1.0 + 1.0) ** 3 - 1.0) / 20


def test_kid_sees_a_planted_shift_and_its_error_covers_the_scatter():
    values, errors = [], []
    for i in range(30):
        result = kid.distance(gaussian(80, 6, 2 * i), gaussian(80, 6, 2 * i + 1, mean=0.5), seed=i)
        values.append(result.value)
        errors.append(result.standard_error)
    assert min(values) > 0.0
    assert 0.6 < np.mean(errors) / np.std(values) < 1.6
    assert result.subset_size == 40


def test_kid_takes_subsets_no_larger_than_half_of_the_smaller_set():
    assert kid.distance(gaussian(31, 3, 0), gaussian(500, 3, 1)).subset_size == 15


# ---------------------------------------------------------------- precision, recall, density, coverage


def test_manifold_of_points_on_a_line_by_hand():
    # k = 1. Real 0, 1, 3: radii 1, 1, 2. Synthetic 0.5, 6, 7: radii 5.5, 1, 1.
    real, synthetic = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([[0.5], [6.0], [7.0]])
    figures = precision_recall.manifold(real, synthetic, k=1)
    # 0.5 lies in the balls around 0 and 1 (not 3: 2.5 > 2); 6 and 7 in none
    assert figures.precision == pytest.approx(1 / 3)
    assert figures.density == pytest.approx(2 / 3)
    # 0, 1 and 3 all lie within 5.5 of 0.5; the balls of the real 0 and 1 hold a synthetic point
    assert figures.recall == pytest.approx(1.0)
    assert figures.coverage == pytest.approx(2 / 3)


def test_blocks_do_not_change_the_figures(monkeypatch):
    x, y = gaussian(90, 4, 0), gaussian(70, 4, 1, mean=0.7)
    whole = precision_recall.manifold(x, y)
    monkeypatch.setattr(sys.modules["medgan.metrics.precision_recall"], "BLOCK", 13)
    assert precision_recall.manifold(x, y) == pytest.approx(whole)


def two_modes(n, seed):
    x = gaussian(n, 4, seed)
    x[: n // 2] += 20.0
    return x


def test_a_lost_mode_lowers_recall_and_coverage_but_not_precision():
    real = two_modes(200, 0)
    whole = precision_recall.manifold(real, two_modes(200, 1))
    half = precision_recall.manifold(real, gaussian(200, 4, 2))
    assert whole.recall > 0.8
    assert whole.coverage > 0.8
    assert half.recall < 0.55
    assert half.coverage < 0.55
    assert half.precision > 0.8


def test_far_off_samples_lower_precision_and_density():
    real, synthetic = gaussian(200, 4, 0), gaussian(200, 4, 1)
    before = precision_recall.manifold(real, synthetic)
    synthetic[:80] += 50.0
    after = precision_recall.manifold(real, synthetic)
    assert after.precision == pytest.approx(before.precision * 0.6, abs=0.06)
    assert after.density < before.density * 0.75


def test_repeated_images_lower_coverage():
    real, synthetic = gaussian(200, 4, 0), gaussian(200, 4, 1)
    before = precision_recall.manifold(real, synthetic).coverage
    assert precision_recall.manifold(real, synthetic[:20].repeat(10, 1)).coverage < before / 2


# ---------------------------------------------------------------- rows


def labelled(n, seed, mean=0.0):
    labels = np.arange(n) % 2
    return gaussian(n, 5, seed) + 3.0 * labels[:, None] + mean, labels


def each_its_own(real):
    return np.arange(len(real))


def by_metric(rows):
    assert len({row.metric for row in rows}) == len(rows)
    return {row.metric: row for row in rows}


def test_fidelity_rows_are_whole_and_a_worse_generator_scores_worse():
    (real, labels), (good, good_labels), (bad, bad_labels) = labelled(120, 0), labelled(100, 1), labelled(100, 2, 1.0)
    good_rows = by_metric(fidelity(real, good, labels, good_labels, each_its_own(real), ("a", "b")))
    bad_rows = by_metric(fidelity(real, bad, labels, bad_labels, each_its_own(real), ("a", "b")))
    names = ["fid.domain", "kid.domain", "precision", "recall", "density", "coverage"]
    names += ["floor_ratio.fid.domain", "floor_ratio.recall", "floor_ratio.coverage"]
    assert set(good_rows) == {f"{name}{suffix}" for name in names for suffix in ("", ".a", ".b")}
    for row in good_rows.values():
        assert row.low is not None
        assert row.high is not None
        assert row.low <= row.value <= row.high
        assert all(math.isfinite(figure) for figure in (row.value, row.low, row.high))
    assert good_rows["fid.domain"].n_real == 120
    assert good_rows["fid.domain.a"].n_synthetic == 50
    for metric in ("fid.domain", "kid.domain", "fid.domain.a", "floor_ratio.fid.domain"):
        assert bad_rows[metric].value > good_rows[metric].value
    assert good_rows["floor_ratio.fid.domain"].value == pytest.approx(1.0, abs=0.5)
    assert bad_rows["floor_ratio.fid.domain.a"].value > 4.0


def test_recall_and_coverage_are_set_against_real_images_at_one_n():
    # a perfect generator that drew a quarter as many images as there are real ones
    real, synthetic = gaussian(800, 5, 0), gaussian(200, 5, 1)
    labels, drawn = np.zeros(800, np.int64), np.zeros(200, np.int64)
    rows = by_metric(fidelity(real, synthetic, labels, drawn, each_its_own(real), ("a",)))
    floors = by_metric(floor(real, labels, each_its_own(real), ("a",)))
    k = precision_recall.NEIGHBOURS
    # Naeem et al. 2020: a real image is covered unless its k nearest of all the others are real ones
    assert rows["coverage"].value == pytest.approx(1 - (800 / 1000) ** k, abs=0.05)
    assert floors["floor.coverage"].value == pytest.approx(1 - 0.5**k, abs=0.05)
    assert rows["coverage"].high / floors["floor.coverage"].low < 0.9  # far below, of a perfect generator
    for name in ("coverage", "recall"):
        assert rows[f"floor_ratio.{name}"].value == pytest.approx(1.0, abs=0.05)
        assert rows[f"floor_ratio.{name}"].low < 1.0 < rows[f"floor_ratio.{name}"].high
    lacking = synthetic[synthetic[:, 0] > 0].repeat(2, 1) + 0.1 * gaussian(2 * int((synthetic[:, 0] > 0).sum()), 5, 2)
    lost = by_metric(fidelity(real, lacking, labels, np.zeros(len(lacking), np.int64), each_its_own(real), ("a",)))
    assert lost["floor_ratio.recall"].high < 0.9
    assert lost["floor_ratio.coverage"].high < 0.9


def test_shares_of_nothing_and_everything_are_as_sure_as_their_cases_are_many():
    real, labels = labelled(60, 0)
    far = by_metric(fidelity(real, real + 100.0, labels, labels, np.arange(60) // 2, ("a", "b")))
    same = by_metric(fidelity(real, real, labels, labels, np.arange(60) // 2, ("a", "b")))
    by_30, by_60 = (1 - 0.025 ** (1 / n) for n in (30, 60))  # Clopper and Pearson's closed form
    for name, wide in (("recall", by_30), ("coverage", by_30), ("precision", by_60)):
        assert (far[name].value, far[name].low, far[name].high) == pytest.approx((0.0, 0.0, wide)), name
        assert same[name].value == 1.0
        assert same[name].low <= 1 - wide + 1e-12
    assert far["floor_ratio.recall"].value == 0.0
    assert far["floor_ratio.recall"].high > by_30


def test_fidelity_is_reproducible_and_takes_numpy_or_torch():
    (real, labels), (synthetic, other) = labelled(60, 0), labelled(60, 1)
    first = fidelity(real, synthetic, labels, other, np.arange(60), ("a", "b"), seed=3)
    second = fidelity(
        real.numpy(), synthetic.float().double(), labels, torch.as_tensor(other), torch.arange(60), ("a", "b"), seed=3
    )
    for one, two in zip(first, second, strict=True):
        assert one.value == pytest.approx(two.value, rel=1e-4, abs=1e-6)


def test_a_class_with_too_few_images_is_named_and_gets_no_figure():
    real, _ = labelled(60, 0)
    labels = np.zeros(60, np.int64)
    labels[: MIN_IMAGES - 1] = 1
    rows = by_metric(fidelity(real, real, labels, labels, each_its_own(real), ("many", "few")))
    assert "fid.domain.many" in rows
    assert not any(metric.endswith(".few") for metric in rows)
    assert "few (11 real, 11 synthetic)" in rows["fid.domain"].note


def test_floor_is_what_equal_distributions_score():
    real, labels = labelled(200, 0)
    rows = by_metric(floor(real, labels, each_its_own(real), ("a", "b")))
    assert rows["floor.kid.domain"].low < 0.0 < rows["floor.kid.domain"].high
    assert rows["floor.fid.domain"].low > 0.0
    assert rows["floor.fid.domain"].n_real == 100
    other, other_labels = labelled(200, 1, 1.0)
    shifted = by_metric(fidelity(real, other, labels, other_labels, each_its_own(real), ("a", "b")))
    assert shifted["fid.domain"].value > rows["floor.fid.domain"].high
    assert shifted["precision"].value < rows["floor.precision"].value


def test_overall_rows_compare_equal_class_mixes():
    real_labels, labels = np.repeat([0, 1], [270, 30]), np.repeat([0, 1], [200, 200])
    ratios = []
    for seed in range(5):
        real = gaussian(300, 5, 10 + seed) + 3.0 * torch.as_tensor(real_labels)[:, None]
        synthetic = gaussian(400, 5, 90 + seed) + 3.0 * torch.as_tensor(labels)[:, None]
        rows = by_metric(fidelity(real, synthetic, real_labels, labels, each_its_own(real), ("a", "b"), seed=seed))
        ratios.append(rows["floor_ratio.fid.domain"].value)
        assert rows["kid.domain"].low < 0.0 < rows["kid.domain"].high
        assert abs(rows["kid.domain"].value) < 5.0  # unequal mixes give about 170
        assert rows["fid.domain"].n_synthetic == 222  # 200 of a and 22 of b
        assert "222 of 400 synthetic images, in the real class mix" in rows["fid.domain"].note
        assert rows["fid.domain.b"].n_synthetic == 200
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.25)


def in_threes(patients, d, seed):
    """Three nearly equal slices of each patient."""
    numbers = np.repeat(np.arange(patients), 3)
    return gaussian(patients, d, seed)[numbers] + 0.1 * gaussian(3 * patients, d, seed + 1000), numbers


def test_images_as_good_as_new_patients_reach_the_floor_of_clustered_data():
    for seed in range(5):
        (real, patients), new = in_threes(60, 16, seed), in_threes(90, 16, 100 + seed)[0][::3]  # of a patient each
        labels = np.zeros(180, np.int64)
        ratio = by_metric(fidelity(real, new, labels, labels[:90], patients, ("a",)))["floor_ratio.fid.domain"]
        assert ratio.low < 1.0 < ratio.high


def test_a_dropped_mode_is_seen_however_alike_the_images_of_a_patient_are():
    """Balls of a set with ten images a patient are small, and recall between its halves is next to nothing."""
    people = gaussian(40, 6, 0)
    real = people.repeat_interleave(10, dim=0) + 0.05 * gaussian(400, 6, 1)
    everything = gaussian(4000, 6, 2)
    labels, patients = np.zeros(400, np.int64), np.repeat(np.arange(40), 10)
    lacking = everything[everything[:, 0] > 0.84][:400]  # four fifths of the distribution are never drawn
    for drawn, low, high in ((everything[:400], 0.75, 1.3), (lacking, 0.0, 0.9)):
        rows = by_metric(fidelity(real, drawn, labels, labels, patients, ("a",)))
        assert low < rows["floor_ratio.recall"].value < high
    assert by_metric(floor(real, labels, patients, ("a",)))["floor.recall"].value < 0.3
    # too few patients for balls of five neighbours: no ratio rather than a wrong one
    few = by_metric(fidelity(real, lacking, labels, labels, patients % 11, ("a",)))
    assert not any(name.startswith("floor_ratio.") for name in few)


def test_classes_with_unlike_numbers_of_scans_a_patient_keep_their_ratio():
    """One scan of each patient of class a and ten of class b: the scans' mix is not that of the patients."""
    centres = 6.0 * torch.eye(2, 6, dtype=torch.float64)
    people, of_person = gaussian(120, 6, 0) + centres.repeat_interleave(60, dim=0), torch.arange(120)
    times = torch.tensor([1] * 60 + [10] * 60)
    patients = of_person.repeat_interleave(times)
    real = people.repeat_interleave(times, dim=0) + 0.05 * gaussian(660, 6, 1)
    labels = (patients >= 60).long()
    drawn_labels = torch.arange(800) % 2
    drawn = gaussian(800, 6, 2) + centres[drawn_labels]
    rows = by_metric(fidelity(real, drawn, labels, drawn_labels, patients, ("a", "b")))
    assert rows["floor_ratio.fid.domain"].value == pytest.approx(1.0, abs=0.4)
    assert rows["floor_ratio.recall"].value == pytest.approx(1.0, abs=0.1)


def test_kids_error_holds_the_scatter_of_its_subsets(monkeypatch):
    """With subsets far smaller than the sets most of what scatters is their draw."""
    monkeypatch.setattr(sys.modules["medgan.metrics.kid"], "LARGEST_SUBSET", 20)
    x, y = gaussian(2000, 3, 0), gaussian(2000, 3, 1)
    found = [kid.distance(x, y, subsets=50, seed=seed) for seed in range(60)]
    # the same sets at every seed: nothing but the draw
    errors = np.array([one.standard_error for one in found])
    assert np.std([one.value for one in found]) < 1.1 * np.sqrt((errors**2).mean())


def test_kid_leaves_out_pairs_within_a_patient():
    values = []
    for seed in range(60):
        (x, of_x), (y, of_y) = in_threes(20, 6, seed), in_threes(20, 6, 100 + seed)
        values.append(kid.mmd2(x, y, torch.as_tensor(of_x), torch.as_tensor(of_y)))
    assert abs(np.mean(values)) < 3.5 * np.std(values) / math.sqrt(len(values))


def test_halves_share_no_patient_and_too_few_patients_are_named():
    patients = torch.as_tensor(np.repeat([3, 9, 4, 7, 30, 5], [5, 9, 7, 8, 6, 5]))
    first, second = sampling.split_patients(patients, 20, torch.Generator().manual_seed(0))
    assert not set(patients[first].tolist()) & set(patients[second].tolist())
    assert min(len(first), len(second)) >= 16
    real, labels = labelled(120, 0)
    of_patient = np.where(labels == 0, np.arange(120), 1000 + np.arange(120) % 3)
    for rows in (
        fidelity(real, real, labels, labels, of_patient, ("a", "b")),
        floor(real, labels, of_patient, ("a", "b")),
    ):
        assert not any(row.metric.endswith(".b") for row in rows)
        assert "no figures for b:" in rows[0].note
    with pytest.raises(MedaugError, match="3 real patient"):
        floor(real, labels, np.arange(120) % 3, ("a", "b"))


def test_a_collapsed_generator_is_a_result():
    real, labels = labelled(60, 0)
    rows = by_metric(fidelity(real, real[:1].repeat(60, 1), labels, labels, each_its_own(real), ("a", "b")))
    assert "collapsed" in rows["fid.domain"].note
    assert rows["recall"].value == pytest.approx(0.0, abs=0.05)
    assert rows["fid.domain"].value > 1.0


@pytest.mark.parametrize(
    ("real", "synthetic", "message"),
    [
        (torch.empty(0, 4), torch.randn(50, 4), "real features: 0 vector"),
        (torch.randn(50, 4), torch.randn(5, 4), "synthetic features: 5 vector"),
        (torch.randn(50, 4), torch.randn(50, 3), "4 dimensions, synthetic 3"),
        (torch.randn(50, 4), torch.full((50, 4), float("nan")), "50 of 50 vectors hold NaN"),
        (torch.ones(50, 4), torch.randn(50, 4), "all vectors are equal"),
        (torch.randn(50, 4, 2), torch.randn(50, 4, 2), "expected [images, features]"),
    ],
)
def test_unusable_features_are_refused_in_one_line(real, synthetic, message):
    labels = [np.arange(len(each)) % 2 for each in (real, synthetic)]
    with pytest.raises(MedaugError) as caught:
        fidelity(real, synthetic, labels[0], labels[1], each_its_own(real), ("a", "b"))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_labels_that_do_not_fit_are_refused():
    real, labels = labelled(60, 0)
    with pytest.raises(MedaugError, match="expected 0 to 0"):
        fidelity(real, real, labels, labels, each_its_own(real), ("only",))
    with pytest.raises(MedaugError, match="one label for 60 images"):
        floor(real, labels[:-1], each_its_own(real), ("a", "b"))


def test_moments_that_are_no_covariance_are_refused():
    with pytest.raises(MedaugError, match="negative eigenvalue"):
        fid.from_moments(torch.zeros(2), torch.tensor([[1.0, 2.0], [2.0, 1.0]]))
    for corner in (0.0, -0.5):
        with pytest.raises(MedaugError, match="negative eigenvalue"):
            fid.from_moments(torch.zeros(2), torch.tensor([[corner, 1.0], [1.0, 1.0]]))
    with pytest.raises(MedaugError, match="not symmetric"):
        fid.from_moments(torch.zeros(2), torch.tensor([[1.0, 2.0], [0.0, 1.0]]))


def test_metrics_need_torch_and_numpy_alone():
    heavy = "scipy sklearn monai pandas pydantic"
    code = f"import sys, medgan.metrics; sys.exit(bool(set(sys.modules) & set('{heavy}'.split())))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
