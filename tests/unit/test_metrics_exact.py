"""FID, KID and k-NN metrics against high precision, closed forms, bounds of memory, and other people's programs."""

from __future__ import annotations

import sys
from pathlib import Path

import mpmath
import numpy as np
import pytest
import torch
from monai.metrics import FIDMetric
from torch.utils._python_dispatch import TorchDispatchMode

from medgan.metrics import fid, fidelity, floor, kid, precision_recall
from medgan.metrics.measured import TooFewImagesError
from medgan.metrics.moments import Moments
from pipeline.records import MedaugError
from tests.unit import peers


def gaussian(n, d, seed, mean=0.0, scale=1.0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale + mean


def rotation(d, seed):
    return torch.linalg.qr(gaussian(d, d, seed))[0]


def precise_fid(x, y):
    """The definition in 60 digits: tr (Σ₁Σ₂)^½ as the sum of the roots of the product's eigenvalues."""
    with mpmath.workdps(60):
        means, covariances = [], []
        for features in (x, y):
            rows = mpmath.matrix(features.tolist())
            n, d = features.shape
            mean = [mpmath.fsum(rows[i, j] for i in range(n)) / n for j in range(d)]
            centred = mpmath.matrix(n, d)
            for i in range(n):
                for j in range(d):
                    centred[i, j] = rows[i, j] - mean[j]
            means.append(mean)
            covariances.append(centred.T * centred / (n - 1))
        product = covariances[0] * covariances[1]
        roots = mpmath.eig(product, left=False, right=False)
        root = mpmath.fsum(mpmath.sqrt(abs(value)) for value in roots if abs(value) > mpmath.mpf(10) ** -40)
        shift = mpmath.fsum((a - b) ** 2 for a, b in zip(*means, strict=True))
        traces = mpmath.fsum(c[i, i] for c in covariances for i in range(c.rows))
        return float(shift + traces - 2 * root)


def dead(x):
    return torch.cat([x, torch.zeros(len(x), 3, dtype=x.dtype)], dim=1)


def dependent(x):
    return torch.cat([x, x[:, :2], x[:, :1] - 2.0 * x[:, 1:2]], dim=1)


def nearly_dependent(x):
    return torch.cat([x, x[:, :1] + 1e-7 * x[:, 1:2]], dim=1)


def graded(x):
    return x * torch.logspace(0, -6, x.shape[1], dtype=x.dtype)


@pytest.mark.parametrize("shape", [dead, dependent, nearly_dependent, graded, lambda x: x + 1000.0])
@pytest.mark.parametrize(("n", "m"), [(40, 30), (6, 30), (6, 5)])
def test_fid_is_exact_to_a_millionth_whatever_the_rank(n, m, shape, monkeypatch):
    mixing = gaussian(8, 8, 2)
    x, y = shape(gaussian(n, 8, 0) @ mixing), shape(gaussian(m, 8, 1, mean=0.3) @ mixing)
    expected = precise_fid(x, y)
    for rank in (512, 0):  # by singular values, and by the Gram matrix's eigenvalues where these are exact enough
        monkeypatch.setattr(sys.modules["medgan.metrics.fid"], "EXACT_RANK", rank)
        assert fid.distance(x, y) == pytest.approx(expected, rel=1e-6)


@pytest.mark.thorough
@pytest.mark.parametrize("smallest", [0, -8, -14])
def test_fid_of_commuting_covariances_has_the_closed_form(smallest):
    d = 700  # beyond EXACT_RANK
    first = torch.logspace(1, smallest, d, dtype=torch.float64)
    second = torch.logspace(0, smallest, d, dtype=torch.float64)[torch.randperm(d, generator=torch.Generator())]
    turned = rotation(d, 0)
    moments = [fid.from_moments(torch.zeros(d), turned @ torch.diag(values) @ turned.T) for values in (first, second)]
    expected = float((first.sqrt() - second.sqrt()).square().sum())
    assert fid.frechet_distance(*moments) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("n", "d"), [(700, 520), (520, 700)])
def test_fid_of_equal_sets_is_zero_beyond_the_quick_ways_reach(n, d):
    x = gaussian(n, d, 0)
    assert 0.0 <= fid.distance(x, x) < 1e-10 * d


@pytest.mark.parametrize(("n", "d"), [(500, 12), (9, 12), (13, 12)])
@pytest.mark.parametrize("size", [1, 5, 12, 60, 500])
def test_statistics_of_a_stream_are_those_of_the_whole(n, d, size):
    x = gaussian(n, d, 0, mean=50.0)
    stream, first, second = Moments(), Moments(), Moments()
    for batch in x.float().split(size):
        stream.add(batch)
    exact = x.float().double()
    for part, rows in ((first, exact[: n // 3]), (second, exact[n // 3 :])):
        for batch in rows.split(size):
            part.add(batch)
    first.merge(second)
    for found in (stream.statistics(), first.statistics()):
        assert found.count == n
        torch.testing.assert_close(found.mean, exact.mean(0), rtol=1e-13, atol=0)
        torch.testing.assert_close(found.covariance, torch.cov(exact.T), rtol=1e-10, atol=1e-12)


def test_a_stream_holds_no_more_than_a_covariance(monkeypatch):
    monkeypatch.setattr(sys.modules["medgan.metrics.moments"], "BATCH", 16)
    stream = Moments()
    with LargestTensor() as watched:
        for seed in range(40):
            stream.add(gaussian(20, 16, seed)[:, :])
    assert stream.count == 800
    assert watched.elements <= 2 * 16 * 20


def test_statistics_are_the_same_after_a_file(tmp_path: Path):
    for count in (30, 5):  # as a covariance, as vectors
        before = fid.statistics(gaussian(count, 7, 0))
        before.save(tmp_path / "statistics.safetensors")
        after = fid.load_statistics(tmp_path / "statistics.safetensors")
        assert after.count == count
        assert after.mean.equal(before.mean)
        assert after.factor.equal(before.factor)
    (tmp_path / "damaged").write_bytes(b"{}")
    for name in ("damaged", "absent"):
        with pytest.raises(MedaugError, match="not readable"):
            fid.load_statistics(tmp_path / name)


def test_streams_that_do_not_fit_are_refused():
    one, other = Moments(), Moments()
    with pytest.raises(TooFewImagesError, match="0 vector"):
        one.statistics()
    for part, d in ((one, 3), (other, 4)):
        part.add(gaussian(9, d, 0))
    with pytest.raises(MedaugError, match="4 dimensions after one of 3"):
        one.add(gaussian(2, 4, 0))
    with pytest.raises(MedaugError, match="of 3 and of 4 dimensions"):
        one.merge(other)


@pytest.mark.parametrize("n", [9, 40])
@pytest.mark.parametrize("shape", [dead, dependent])
def test_a_covariance_along_rows_is_the_product(n, shape, monkeypatch):
    monkeypatch.setattr(sys.modules["medgan.metrics.moments"], "ROWS", 4)
    x, rows = shape(gaussian(n, 10, 0)), shape(gaussian(6, 10, 1))
    found, covariance = fid.statistics(x), torch.cov(x.T)
    assert (found.full is None) == (n < x.shape[1])
    for along in (rows, found.factor, torch.linalg.qr(gaussian(*covariance.shape, 2))[1]):
        # a triangle is enough for eigenvalues of a symmetric matrix
        torch.testing.assert_close(found.along(along).tril(), (along @ covariance @ along.T).tril())
    assert found.trace == pytest.approx(float(covariance.trace()))
    assert found.largest_eigenvalue() == pytest.approx(float(torch.linalg.eigvalsh(covariance)[-1]), rel=0.2)


class LargestTensor(TorchDispatchMode):
    """Keeps the size of the largest tensor that any operation makes."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for made in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(made, torch.Tensor) and made.untyped_storage().data_ptr() not in {
                given.untyped_storage().data_ptr() for given in args if isinstance(given, torch.Tensor)
            }:
                self.elements = max(self.elements, made.numel())
        return result


def test_neighbours_need_no_memory_beyond_a_tile_whatever_n(monkeypatch):
    monkeypatch.setattr(sys.modules["medgan.metrics.precision_recall"], "BLOCK", 32)
    x, y = gaussian(400, 6, 0), gaussian(500, 6, 1)
    checks = 500 * 6  # one Boolean a feature, while the features are checked
    with LargestTensor() as watched:
        precision_recall.manifold(x, y)
    assert watched.elements <= max(checks, 32 * (32 + precision_recall.NEIGHBOURS + 1))
    assert watched.elements < 400 * 400


def test_what_lies_on_a_balls_surface_lies_in_the_ball():
    x = gaussian(300, 40, 0, mean=1e3)
    figures = precision_recall.manifold(x, x.clone())
    assert figures == (1.0, 1.0, pytest.approx(1.0 + 1.0 / precision_recall.NEIGHBOURS, abs=1e-12), 1.0)
    repeated = x[:10].repeat(20, 1)  # all radii are 0
    assert precision_recall.manifold(repeated, repeated.flip(0))[:2] == (1.0, 1.0)


# ---------------------------------------------------------------- rows


def labelled(n, seed):
    labels = np.arange(n) % 2
    return gaussian(n, 5, seed) + 3.0 * labels[:, None], labels


def test_every_row_of_a_further_extractor_carries_its_name():
    (real, labels), (synthetic, other) = labelled(80, 0), labelled(70, 1)
    rows = {
        name: {row.metric: row for row in fidelity(real, synthetic, labels, other, np.arange(80), ("a", "b"), name)}
        for name in ("domain", "inception")
    }
    assert not set(rows["domain"]) & set(rows["inception"])
    assert {"precision.inception", "precision.inception.a", "fid.inception.b"} <= set(rows["inception"])
    for metric, row in rows["domain"].items():
        head, bare = ("floor_ratio.", metric[12:]) if metric.startswith("floor_ratio.") else ("", metric)
        base, _, suffix = bare.partition(".") if bare[:3] not in ("fid", "kid") else (None, "", "")
        renamed = (
            metric.replace("domain", "inception")
            if base is None
            else head + ".".join(filter(None, [base, "inception", suffix]))
        )
        assert rows["inception"][renamed].value == row.value
    floors = {row.metric for row in floor(real, labels, np.arange(80), ("a", "b"), "inception")}
    assert "floor.precision.inception.a" in floors
    assert "floor.precision.a" not in floors


def test_an_extractor_may_not_be_named_like_a_class():
    real, labels = labelled(80, 0)
    for call in (
        lambda: fidelity(real, real, labels, labels, np.arange(80), ("a", "b"), "a"),
        lambda: floor(real, labels, np.arange(80), ("a", "b"), "a"),
    ):
        with pytest.raises(MedaugError, match="a class has this name too"):
            call()


def test_known_statistics_change_no_figure():
    (real, labels), (synthetic, other) = labelled(80, 0), labelled(70, 1)
    given = fid.statistics(real)
    with_them = fidelity(real, synthetic, labels, other, np.arange(80), ("a", "b"), real_statistics=given)
    assert with_them == fidelity(real, synthetic, labels, other, np.arange(80), ("a", "b"))


def test_too_few_images_are_told_apart_from_other_faults():
    real, labels = labelled(80, 0)
    with pytest.raises(TooFewImagesError):
        fidelity(real, real[:8], labels, labels[:8], np.arange(80), ("a", "b"))
    with pytest.raises(TooFewImagesError, match="fewer than 4"):
        floor(real, labels, np.arange(80) % 3, ("a", "b"))


# ---------------------------------------------------------------- agreement with other programs, to a thousandth


@pytest.fixture(scope="module", params=[(300, 40), (60, 100)])
def features(request):
    """(real, synthetic) of a skewed distribution, as networks with ReLU give it."""
    n, d = request.param
    mixing = gaussian(d, d, 9)
    return tuple(torch.relu(gaussian(n, d, seed, mean=shift) @ mixing).float() for seed, shift in ((0, 0.2), (1, 0.3)))


def test_torch_fidelity_agrees(features):
    torch_fidelity = peers.torch_fidelity()
    real, synthetic = features
    doubles = real.double(), synthetic.double()

    statistics = [torch_fidelity.metric_fid.fid_features_to_statistics(each) for each in doubles]
    theirs = torch_fidelity.metric_fid.fid_statistics_to_metric(*statistics, verbose=False)
    assert fid.distance(real, synthetic) == pytest.approx(theirs["frechet_inception_distance"], rel=1e-3)

    # one subset of everything: their subsets are other draws than ours
    theirs = torch_fidelity.metric_kid.kid_features_to_metric(
        *doubles, kid_subsets=1, kid_subset_size=len(real), verbose=False
    )
    assert kid.mmd2(*doubles) == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-3)

    # their first set is the synthetic one; k = 3 is their default
    ours = precision_recall.manifold(real, synthetic, k=3)
    for save_memory in (False, True):
        theirs = torch_fidelity.metric_prc.prc_features_to_metric(
            synthetic, real, prc_neighborhood=3, prc_batch_size=37, save_cpu_ram=save_memory, verbose=False
        )
        assert (ours.precision, ours.recall) == pytest.approx((theirs["precision"], theirs["recall"]), rel=1e-3)


def test_kid_over_subsets_agrees_within_its_error(features):
    torch_fidelity = peers.torch_fidelity()
    real, synthetic = features
    size = len(real) // 2
    theirs = torch_fidelity.metric_kid.kid_features_to_metric(
        real.double(), synthetic.double(), kid_subsets=100, kid_subset_size=size, verbose=False
    )
    ours = kid.distance(real, synthetic, subsets=100)
    assert ours.subset_size == size
    assert abs(ours.value - theirs["kernel_inception_distance_mean"]) < ours.standard_error


def test_prdc_agrees(features, capsys):
    prdc = pytest.importorskip("prdc")
    real, synthetic = features
    theirs = prdc.compute_prdc(real.double().numpy(), synthetic.double().numpy(), nearest_k=5)
    assert precision_recall.manifold(real, synthetic)._asdict() == pytest.approx(theirs, rel=1e-3)


def test_monai_agrees(features):
    real, synthetic = features
    theirs = float(FIDMetric()(synthetic, real))
    # Where there are no more vectors than features, MONAI's square root of a singular product keeps four digits or so.
    assert fid.distance(real, synthetic) == pytest.approx(theirs, rel=1e-3)
