"""Bins, conditional collapse, divergence, augmentation leak and intervals: known answers and planted defects."""

import math

import numpy as np
import pytest
import scipy.stats
import torch

from flows.probes import worst_class
from medgan.metrics import conditional, divergence, intervals, ndb, resolution
from medgan.metrics.divergence import Course
from medgan.metrics.leak import leak, look_for, picture, transformed
from medgan.metrics.measured import TooFewImagesError
from medgan.options import TRANSFORMS
from medgan.pooled import pool
from medgan.verdicts import CANNOT_TELL, decide
from pipeline.phantom import CLASSES
from pipeline.records import MedaugError
from tests.unit.probe_images import generator, mednist, phantoms, small


def clusters(counts, seed, spread=0.3):
    """Points around corners of a square, so many at each."""
    corners = 4.0 * torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=torch.float64)
    noise = spread * torch.randn(sum(counts), 2, generator=generator(seed), dtype=torch.float64)
    return torch.cat([corners[k].expand(count, 2) for k, count in enumerate(counts)]) + noise


# ---------------------------------------------------------------- intervals


@pytest.mark.parametrize(("successes", "trials"), [(0, 3), (3, 3), (1, 20), (7, 20), (40, 2000), (1999, 2000)])
def test_clopper_pearson_equals_scipys(successes, trials):
    expected = scipy.stats.binomtest(successes, trials).proportion_ci(0.95, "exact")
    assert intervals.clopper_pearson(successes, trials) == pytest.approx((expected.low, expected.high), abs=1e-9)


@pytest.mark.parametrize("n", [2, 3, 10, 100])
def test_the_interval_of_a_deviation_is_the_chi_square_one(n):
    expected = [2.0 * math.sqrt((n - 1) / scipy.stats.chi2.ppf(q, n - 1)) for q in (0.975, 0.025)]
    assert intervals.deviation_interval(2.0, n) == pytest.approx(expected, rel=1e-6)


def test_patients_are_drawn_whole():
    patients = torch.tensor([7, 7, 7, 2, 2, 5])
    times = intervals.resample(patients, 2000, generator())
    for patient in (2, 5, 7):
        own = times[:, patients == patient]
        assert bool((own == own[:, :1]).all())
    assert bool((times[:, 0] + times[:, 3] + times[:, 5] == 3).all())
    assert torch.allclose(times.mean(dim=0), torch.ones(6, dtype=torch.float64), atol=0.1)


# ---------------------------------------------------------------- bins


def test_z_is_the_two_proportion_test():
    real, synthetic = clusters([40, 60, 50, 50], 0), clusters([70, 30, 50, 10], 1)
    found = ndb.compare(real, synthetic, torch.arange(200), 4, generator())
    assert torch.allclose(found.real.sort().values, torch.tensor([0.2, 0.25, 0.25, 0.3], dtype=torch.float64))
    for k in range(4):
        p, q = float(found.real[k]), float(found.synthetic[k])
        pooled = (200 * p + 160 * q) / 360
        expected = (p - q) / math.sqrt(pooled * (1 - pooled) * (1 / 200 + 1 / 160))
        assert float(found.z[k]) == pytest.approx(expected, rel=1e-12)


def test_k_means_finds_separate_clusters_and_survives_equal_points():
    points = clusters([30, 50, 20, 40], 0)
    member = ndb.assign(points, ndb.k_means(points, 4, generator()))
    assert sorted(torch.bincount(member).tolist()) == [20, 30, 40, 50]
    same = ndb.k_means(torch.ones(10, 3, dtype=torch.float64), 3, generator())
    assert torch.equal(same, torch.ones(3, 3, dtype=torch.float64))


def test_a_missing_mode_makes_bins_differ_and_equal_distributions_do_not():
    real = clusters([150, 150, 150, 150], 0)
    quiet, _ = ndb.ndb(real, clusters([150, 150, 150, 150], 1))
    assert quiet["ndb"].low < 0.05
    assert quiet["ndb"].value <= 0.15
    assert quiet["floor.ndb"].value < 0.15
    planted, bins = ndb.ndb(real, clusters([200, 200, 200, 0], 2))
    assert planted["ndb"].low > 0.1
    missing = bins.centres[bins.z > 3]
    assert len(missing)
    assert bool(((missing - 4.0).norm(dim=1) < 1.5).all())


def test_bins_that_fit_their_own_images_in_many_dimensions_are_no_excess():
    real, other = (torch.randn(800, 512, generator=generator(seed), dtype=torch.float64) for seed in (0, 1))
    quiet, _ = ndb.ndb(real, other)
    assert quiet["ndb"].low > 0.2  # of equal distributions
    assert quiet["excess.ndb"].low < 0.0 < quiet["excess.ndb"].high
    assert abs(quiet["excess.ndb"].value) < 0.15
    few, _ = ndb.ndb(real, other[:200])  # at one n, however few are drawn
    assert few["excess.ndb"].low < 0.0 < few["excess.ndb"].high
    lost, _ = ndb.ndb(clusters([150, 150, 150, 150], 0), clusters([300, 300, 0, 0], 2))
    assert lost["excess.ndb"].low > 0.2


def test_images_of_one_patient_are_not_taken_for_a_difference():
    # patients of twenty almost equal images each: the plain test sees differences that are none
    rng = generator(3)
    naive, honest = [], []
    for _ in range(5):
        centres = torch.randn(60, 4, generator=rng, dtype=torch.float64)
        noise = 0.05 * torch.randn(1200, 4, generator=rng, dtype=torch.float64)
        real = centres.repeat_interleave(20, dim=0) + noise
        synthetic = torch.randn(1200, 4, generator=rng, dtype=torch.float64)
        for patients, shares in ((torch.arange(1200), naive), (torch.arange(60).repeat_interleave(20), honest)):
            found = ndb.compare(real, synthetic, patients, 10, rng)
            shares.append(float(found.different.double().mean()))
    assert np.mean(naive) > 0.3
    assert np.mean(honest) < 0.12


def test_new_patients_fill_the_bins_of_phantoms_and_a_missing_kind_of_body_does_not():
    real, _, owners = phantoms(90)
    other, _, _ = phantoms(90, seed=5)
    quiet, _ = ndb.ndb(small(real), small(other), owners)
    assert quiet["ndb"].low < 0.05
    # the largest third of the bodies is never drawn
    order = other.mean(dim=(1, 2, 3)).argsort()[:120]
    lacking = other[torch.cat([order, order[:60]])]
    planted, bins = ndb.ndb(small(real), small(lacking), owners)
    assert planted["ndb"].low > quiet["ndb"].value
    assert ndb.picture(real, lacking, bins, count=2).shape == (4 * 34 - 2, 8 * 34 - 2)


def test_few_images_make_no_bins():
    with pytest.raises(TooFewImagesError, match="63 real"):
        ndb.ndb(torch.rand(63, 2), torch.rand(100, 2))


# ---------------------------------------------------------------- conditional collapse


def class_features(labels, seed):
    """Features of three classes far apart, each with variety of its own."""
    noise = torch.randn(len(labels), 4, generator=generator(seed), dtype=torch.float64)
    return noise + 8.0 * torch.nn.functional.one_hot(labels, 4).double()


LABELS = torch.arange(3).repeat(60)


def test_recall_within_classes_stays_quiet_and_sees_a_class_drawn_as_another():
    real = class_features(LABELS, 0)
    quiet = conditional.conditional_recall(real, class_features(LABELS, 1), LABELS, LABELS, None, CLASSES)
    assert quiet["conditional_recall"].value > quiet["floor.conditional_recall"].low - 0.05
    drawn = torch.where(LABELS == 2, 1, LABELS)  # labelled 2, drawn as 1
    planted = conditional.conditional_recall(real, class_features(drawn, 1), LABELS, LABELS, None, CLASSES)
    assert planted[f"conditional_recall.{CLASSES[2]}"].value == 0.0
    assert planted["conditional_recall"].high < quiet["conditional_recall"].low
    assert planted[f"conditional_recall.{CLASSES[0]}"] == quiet[f"conditional_recall.{CLASSES[0]}"]


def test_a_class_without_images_has_no_recall_and_few_images_no_figure():
    real = class_features(LABELS, 0)
    kept = LABELS != 1
    found = conditional.conditional_recall(real, real[kept], LABELS, LABELS[kept], None, CLASSES)
    assert found[f"conditional_recall.{CLASSES[1]}"].value == 0.0
    assert found["conditional_recall"].value == pytest.approx(2 / 3)  # a set covers itself
    few = kept | (torch.arange(180) < 10)
    found = conditional.conditional_recall(real, real[few], LABELS, LABELS[few], None, CLASSES)
    assert f"conditional_recall.{CLASSES[1]}" not in found
    assert CLASSES[1] in found["conditional_recall"].note
    with pytest.raises(TooFewImagesError, match="no class"):
        conditional.conditional_recall(real[:9], real[:9], LABELS[:9], LABELS[:9], None, CLASSES)


def test_a_missing_class_is_the_worst_one_and_keeps_its_floor():
    real = class_features(LABELS, 0)
    kept = LABELS != 1
    drawn = class_features(LABELS, 1)[kept]
    found = conditional.conditional_recall(real, drawn, LABELS, LABELS[kept], None, CLASSES)
    assert found[f"floor.conditional_recall.{CLASSES[1]}"].value > 0.5
    assert found["floor.conditional_recall"].value > 0.5
    worst = worst_class(found)["worst.conditional_recall"]
    assert (worst.value, worst.low, worst.high) == (0.0, 0.0, 0.0)
    assert worst.note.startswith(CLASSES[1])
    # all classes but one: the mean's interval is that of the two that were drawn
    each = [found[f"conditional_recall.{CLASSES[label]}"] for label in (0, 2)]
    below = math.hypot(*(one.value - one.low for one in each)) / 3
    assert found["conditional_recall"].low == pytest.approx(found["conditional_recall"].value - below)


def test_a_recall_of_nothing_or_everything_is_as_sure_as_its_patients_are_many():
    real = class_features(LABELS, 0)
    owners = torch.arange(180) // 6 * 3 + LABELS  # ten patients of each class
    elsewhere = torch.where(LABELS == 2, 1, LABELS)
    for drawn, value in ((class_features(elsewhere, 1), 0.0), (real, 1.0)):
        one = conditional.conditional_recall(real, drawn, LABELS, LABELS, owners, CLASSES)
        ends = one[f"conditional_recall.{CLASSES[2]}"]
        assert ends.value == value
        patients = len(owners[LABELS == 2].unique())
        wide = 1 - 0.025 ** (1 / patients)  # Clopper and Pearson's closed form
        assert (ends.low, ends.high) == pytest.approx((0.0, wide) if value == 0.0 else (1 - wide, 1.0))


def test_a_class_of_few_patients_is_judged_by_an_image_of_each():
    """Real halves of twenty patients with nine images each have next to no recall of each other."""
    people = class_features(LABELS, 0)[LABELS == 0][:20]
    real = people.repeat_interleave(9, dim=0) + 0.02 * class_features(LABELS, 5)
    owners, alike = torch.arange(180) // 9, torch.zeros(180, dtype=torch.int64)
    new = class_features(torch.zeros(600, dtype=torch.int64), 2)
    half = new[new[:, 0] > new[:, 0].median()]
    for drawn, low, high in ((new, 0.7, 1.4), (half[half[:, 1] > half[:, 1].median()], 0.0, 0.85)):
        labels = torch.zeros(len(drawn), dtype=torch.int64)
        found = conditional.conditional_recall(real, drawn, alike, labels, owners, CLASSES)
        assert low < worst_class(found)["worst.conditional_recall"].value < high


def test_shuffled_labels_bring_accuracy_to_chance_and_real_images_lose_nothing():
    logits = 5.0 * torch.nn.functional.one_hot(LABELS, 3).double()
    noise = torch.rand(180, 1, generator=generator()) < 0.1  # a classifier that is wrong on a tenth
    logits = torch.where(noise, logits.roll(1, dims=1), logits)
    quiet = conditional.conditional_accuracy(logits, logits.flip(0), LABELS, LABELS.flip(0), None, CLASSES)
    assert quiet["conditional_accuracy"].value == pytest.approx(quiet["floor.conditional_accuracy"].value)
    assert quiet["loss.conditional_accuracy"].low < 0 < quiet["loss.conditional_accuracy"].high
    shuffled = LABELS[torch.randperm(180, generator=generator(1))]
    planted = conditional.conditional_accuracy(logits, logits, LABELS, shuffled, None, CLASSES)
    assert planted["conditional_accuracy"].low < 1 / 3 < planted["conditional_accuracy"].high + 0.02
    assert planted["loss.conditional_accuracy"].low > 0.4


def test_all_right_of_few_is_no_certainty():
    labels = torch.tensor([0] * 12 + [1] * 12)
    sure = torch.nn.functional.one_hot(labels, 2).double()
    few = torch.tensor([0, 1] * 5)
    of_few = torch.nn.functional.one_hot(few, 2).double()
    lost = conditional.conditional_accuracy(of_few, sure, few, labels, None, ("a", "b"))["loss.conditional_accuracy"]
    assert lost.value == 0.0
    assert lost.low < -0.1
    assert lost.high > 0.1
    # one patient a class says nothing of others
    one = conditional.conditional_accuracy(of_few, sure, few, labels, few, ("a", "b"))["floor.conditional_accuracy"]
    assert one.low < 0.3


def test_accuracy_is_the_mean_of_the_classes_shares():
    labels = torch.tensor([0] * 30 + [1] * 10)
    right = torch.tensor([True] * 15 + [False] * 15 + [True] * 9 + [False])
    logits = torch.nn.functional.one_hot(torch.where(right, labels, 1 - labels), 2)
    found = conditional.conditional_accuracy(logits, logits, labels, labels, None, ("a", "b"))
    assert found["conditional_accuracy"].value == pytest.approx((0.5 + 0.9) / 2)
    expected = scipy.stats.binomtest(9, 10).proportion_ci(0.95, "exact")
    assert found["conditional_accuracy.b"].low == pytest.approx(expected.low)
    assert found["floor.conditional_accuracy"].value == found["conditional_accuracy"].value


def test_outputs_that_do_not_fit_the_classes_are_refused():
    with pytest.raises(MedaugError, match="2 outputs, expected one for each of 3"):
        conditional.conditional_accuracy(torch.rand(9, 2), torch.rand(9, 2), LABELS[:9], LABELS[:9], None, CLASSES)


# ---------------------------------------------------------------- divergence


def course(quality=100.0, status="done", seed=0, **curves):
    """A training that goes well: losses around the equilibrium, quality that falls and stays."""
    rng = np.random.default_rng(seed)
    seen = np.arange(1, 41) * 100.0
    falling = quality * (1 + 4 * np.exp(-seen / 500)) + rng.normal(0, 0.5, 40)
    own = {
        "loss.discriminator": 1.2 + rng.normal(0, 0.1, 40),
        "loss.generator": 1.0 + rng.normal(0, 0.1, 40),
        "skipped": np.zeros(40),
        divergence.QUALITY: falling,
    }
    points = {name: list(zip(seen.tolist(), values.tolist(), strict=True)) for name, values in own.items()}
    return Course(status, {**points, **curves})


def points(values):
    return [(100.0 * (k + 1), float(value)) for k, value in enumerate(values)]


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        (course(status="diverged"), "status diverged"),
        (course(**{"loss.generator": points([1.0] * 30 + [math.nan] * 10)}), "not finite"),
        (course(**{"loss.discriminator": points([1.3] * 20 + [1e-4] * 20)}), "saturated"),
        (course(**{"loss.generator": points([1.0] * 35 + [3e5] * 5)}), "loss.generator up to 3e+05"),
        (course(skipped=points(range(40))), "non-finite steps"),
        (course(rollback=[(2000.0, 1.0)]), "went back"),
    ],
    ids=["status", "nan", "saturated", "bound", "skipped", "rollback"],
)
def test_each_sign_of_divergence_is_seen_and_a_good_training_shows_none(bad, word):
    assert divergence.signs(course(), "bce") == []
    assert word in "; ".join(divergence.signs(bad, "bce"))
    found = divergence.divergence([course(seed=1), bad, course(seed=2)], "bce")
    signs = found["divergence.signs"]
    assert signs.value == pytest.approx(1 / 3)
    assert (signs.low, signs.high) == intervals.clopper_pearson(1, 3)
    assert word in signs.note
    assert "seed 2" in signs.note
    # a training that recovered is not lost
    assert found["divergence"].value == pytest.approx(1 / 3 if bad.status == "diverged" else 0.0)


def test_a_critic_without_a_scale_is_not_called_saturated():
    small_loss = course(**{"loss.discriminator": points([1e-4] * 40)})
    assert divergence.signs(small_loss, "wasserstein") == []
    # a loss that touches zero once has not stayed there
    assert divergence.signs(course(**{"loss.discriminator": points([1.0] * 39 + [1e-5])}), "hinge") == []


def test_spread_over_seeds_and_in_the_last_quarter_have_known_values():
    finals = [90.0, 100.0, 110.0]
    courses = [Course("done", {divergence.QUALITY: points([300, 200, value, value])}) for value in finals]
    found = divergence.divergence(courses, "bce")
    assert found["divergence.over_seeds"].value == pytest.approx(0.1)
    assert found["divergence.over_seeds"].low == pytest.approx(intervals.deviation_interval(0.1, 3)[0])
    assert found["divergence"].high == pytest.approx(scipy.stats.binomtest(0, 3).proportion_ci(0.95, "exact").high)
    # a straight fall is no swing; an alternation of ±3 around it is
    line = 100 - 0.2 * np.arange(40)
    steady = Course("done", {divergence.QUALITY: points(line)})
    swinging = Course("done", {divergence.QUALITY: points(line + 3 * (-1.0) ** np.arange(40))})
    assert divergence.divergence([steady], "bce")["divergence.last_quarter"].value == pytest.approx(0, abs=1e-12)
    seen, values = np.array(swinging.curves[divergence.QUALITY])[29:].T  # from 3,000 of 4,000 images on
    rest = values - np.polyval(np.polyfit(seen, values, 1), seen)
    expected = math.sqrt((rest**2).sum() / (len(rest) - 2)) / values.mean()
    found = divergence.divergence([swinging, steady], "bce")["divergence.last_quarter"]
    assert (found.low, found.high) == (0.0, None)  # two seeds bound nothing
    assert found.value == pytest.approx(expected / 2, rel=1e-9)
    found = divergence.divergence([swinging, steady, steady], "bce")["divergence.last_quarter"]
    mean, error = expected / 3, np.std([expected, 0, 0], ddof=1) / math.sqrt(3)
    assert found.high == pytest.approx(mean + scipy.stats.t.ppf(0.975, 2) * error, rel=1e-4)
    assert (found.value, found.low) == (pytest.approx(mean), 0.0)


def test_one_seed_that_swings_decides_nothing():
    line = 100 - 0.2 * np.arange(40)
    swinging = Course("done", {divergence.QUALITY: points(line + 60 * (-1.0) ** np.arange(40))})
    found = divergence.divergence([swinging], "bce")["divergence.last_quarter"]
    assert found.value > 0.2
    assert decide(pool([found.row("divergence.last_quarter")]), "above", 0.2) == CANNOT_TELL


def test_curves_of_few_points_give_no_spread():
    found = divergence.divergence([Course("done", {divergence.QUALITY: points([5.0])}), Course("diverged")], "bce")
    assert set(found) == {"divergence", "divergence.signs"}
    with pytest.raises(TooFewImagesError, match="no training"):
        divergence.divergence([], "bce")


# ---------------------------------------------------------------- augmentation leak


@pytest.mark.parametrize("name", TRANSFORMS)
def test_every_image_is_transformed_for_certain(name):
    images, _, _ = phantoms(20)
    changed = (transformed(images, name, generator()) - images).abs().amax(dim=(1, 2, 3))
    assert float((changed > 0).double().mean()) == 1.0


def test_a_mirrored_share_is_measured_and_new_patients_stay_quiet():
    train, _, _ = phantoms(120, 32, seed=1)
    validation, _, held_out = phantoms(40, 32, seed=2)
    new, _, _ = phantoms(100, 32, seed=3, slices=1)
    quiet = leak(train, validation, new, "flip", held_out, steps=100)
    assert quiet.value < 0.05
    assert quiet.low < 0.02
    planted = torch.cat([new[:60], new[60:].flip(3)])
    looked = look_for("flip", train, validation, planted, held_out, steps=100)
    found = looked.share
    assert found.low < 0.4 < found.high
    assert found.low > quiet.high
    assert looked.visible
    assert bool((looked.outputs.argsort(descending=True)[:5] >= 60).all())  # the mirrored ones look most mirrored
    sheet = torch.tensor(picture(validation, planted, "flip", looked.outputs, count=1)).float()
    chosen = planted[int(looked.outputs.argmax()), 0]
    assert float((sheet[:32] / 127.5 - 1 - chosen).abs().max()) < 0.01
    assert float((sheet[34:] / 127.5 - 1 - validation[0, 0].flip(1)).abs().max()) < 0.01


@pytest.mark.thorough
def test_rotated_and_cut_shares_are_measured_and_others_stay_quiet():
    train, _, _ = phantoms(120, 32, seed=1)
    validation, _, held_out = phantoms(40, 32, seed=2)
    new, _, _ = phantoms(100, 32, seed=3, slices=1)
    for name in ("rotate", "cutout"):
        planted = new.clone()
        planted[:30] = transformed(new[:30], name, generator(4))
        quiet, found = (leak(train, validation, drawn, name, held_out) for drawn in (new, planted))
        assert quiet.value < 0.08
        assert quiet.low < 0.02
        assert found.low < 0.3 < found.high
        assert found.low > quiet.value


def test_what_cannot_be_seen_in_real_images_says_nothing():
    # noise that is its own mirror image: no network can tell
    rng = generator()
    train, validation, new = (torch.randn(count, 1, 16, 16, generator=rng).clamp(-1, 1) for count in (60, 60, 60))
    found = leak(train, validation, new.flip(3), "flip", steps=60)
    assert (found.low, found.high) == (0.0, 1.0)
    assert "nothing can be said" in found.note


def test_unknown_transforms_and_few_images_are_refused():
    images, _, _ = phantoms(20)
    with pytest.raises(ValueError, match="did you mean 'flip'"):
        leak(images, images, images, "flipp")
    with pytest.raises(TooFewImagesError, match="19 validation"):
        leak(images, images[:19], images, "flip")


# ---------------------------------------------------------------- resolution


def test_lost_detail_is_gone_at_half_the_size():
    real, _, owners = phantoms(60)
    other, _, _ = phantoms(60, seed=5)
    soft = torch.nn.functional.interpolate(resolution.reduced(other, (16, 16)), (32, 32), mode="nearest")
    assert resolution.sizes(128, 48) == [(128, 48), (64, 24)]
    gaps = resolution.spectrum_by_resolution(real, soft, owners)
    trend = resolution.spectrum_trend(gaps)  # blur takes the fine detail alone
    assert trend.low > 0
    assert trend.low < trend.value < trend.high
    with pytest.raises(TooFewImagesError, match="expected sides that can be halved"):
        resolution.spectrum_trend({name: one for name, one in gaps.items() if name.endswith(".16")})
    assert gaps["spectrum.at.32"].low > 3 * gaps["floor.spectrum.at.32"].high
    assert gaps["spectrum.at.16"].value < 2 * gaps["floor.spectrum.at.16"].high
    assert torch.allclose(resolution.reduced(soft, (16, 16)), resolution.reduced(other, (16, 16)), atol=1e-6)


def test_distances_by_resolution_see_where_detail_is_wrong():
    real, _, owners = phantoms(60)
    other, _, _ = phantoms(60, seed=5)
    soft = torch.nn.functional.interpolate(resolution.reduced(other, (16, 16)), (32, 32), mode="nearest")

    def detail(images):  # variances of neighbours' differences: an extractor that sees fine detail
        return torch.stack([images.diff(dim=axis).double().square().mean(dim=(1, 2, 3)) for axis in (2, 3)], dim=1)

    quiet, planted = (
        resolution.distances_by_resolution(real, drawn, detail, "detail", owners) for drawn in (other, soft)
    )
    assert planted["fid.detail.at.32"].value > 5 * quiet["fid.detail.at.32"].value
    assert planted["fid.detail.at.16"].value == pytest.approx(quiet["fid.detail.at.16"].value, rel=1e-4)
    assert planted["kid.detail.at.32"].low > quiet["kid.detail.at.32"].value
    asked = []

    def counted(images):
        asked.append(len(images))
        return detail(images)

    known = (detail(real), detail(soft))
    again = resolution.distances_by_resolution(real, soft, counted, "detail", owners, at_full_size=known)
    assert (again, asked) == (planted, [len(real), len(soft)])  # features of 16x16 alone


@pytest.mark.thorough
def test_a_missing_mednist_class_is_seen(real_data):
    names = ("CXR", "HeadCT", "Hand")
    halves = [mednist(real_data, name, 200).split(100) for name in names]
    real, other = (small(torch.cat([pair[side] for pair in halves]), 16) for side in (0, 1))
    labels = torch.arange(3).repeat_interleave(100)
    quiet, _ = ndb.ndb(real, other)
    planted, bins = ndb.ndb(real, other[:200])
    assert quiet["ndb"].value < planted["ndb"].low
    lost = torch.bincount(bins.real_bin[labels == 2], minlength=len(bins.z)).argmax()
    assert float(bins.z[lost]) > 3
    recalls = [
        conditional.conditional_recall(real, drawn, labels, labels, None, names)["conditional_recall"]
        for drawn in (other, other.roll(100, 0))
    ]
    assert recalls[1].high < recalls[0].low - 0.2


@pytest.mark.thorough
def test_mednist_loses_no_accuracy_and_shuffled_labels_lose_nearly_all(real_data):
    """Judged by least squares on 16x16 pixels, learnt from other images of these classes."""
    names = ("AbdomenCT", "BreastMRI", "CXR", "ChestCT", "Hand", "HeadCT")
    parts: list[list[torch.Tensor]] = [[], [], []]
    for name in names:
        images = mednist(real_data, name, 400)[torch.randperm(400, generator=generator())]
        for part, own in zip(parts, images.split((200, 100, 100)), strict=True):
            part.append(small(own, 16))
    train, validation, other = (torch.cat(part) for part in parts)
    labels, few = (torch.arange(6).repeat_interleave(count) for count in (200, 100))
    one_hot = torch.nn.functional.one_hot(labels, 6).double()
    weights = torch.linalg.solve(train.T @ train + 10.0 * torch.eye(256, dtype=torch.float64), train.T @ one_hot)
    outputs = validation @ weights, other @ weights
    quiet = conditional.conditional_accuracy(*outputs, few, few, None, names)
    assert quiet["floor.conditional_accuracy"].low > 0.7  # it has learnt something
    assert quiet["loss.conditional_accuracy"].low < 0.0 < quiet["loss.conditional_accuracy"].high < 0.1
    shuffled = few[torch.randperm(600, generator=generator(1))]
    planted = conditional.conditional_accuracy(*outputs, few, shuffled, None, names)
    assert planted["conditional_accuracy"].value == pytest.approx(1 / 6, abs=0.05)
    assert planted["loss.conditional_accuracy"].low > 0.5


@pytest.mark.thorough
@pytest.mark.parametrize(("name", "transform"), [("CXR", "flip"), ("ChestCT", "rotate"), ("HeadCT", "cutout")])
def test_mednist_shows_no_leak_and_transformed_images_do(real_data, name, transform):
    images = mednist(real_data, name, 400)[torch.randperm(400, generator=generator())]
    train, validation, other = images.split((200, 100, 100))
    quiet = leak(train, validation, other, transform)
    assert "nothing can be said" not in quiet.note  # the detector sees the transform in real images
    assert quiet.value < 0.08
    assert quiet.low < 0.02
    planted = other.clone()
    planted[:50] = transformed(other[:50], transform, generator(4))
    found = leak(train, validation, planted, transform)
    assert found.low < 0.5 < found.high + 0.1  # the detector is not as sure of every image
    assert found.low > quiet.high


@pytest.mark.thorough
def test_mirrored_heads_are_not_told_from_others_and_nothing_is_said(real_data):
    images = mednist(real_data, "HeadCT", 400)[torch.randperm(400, generator=generator())]
    train, validation, other = images.split((200, 100, 100))
    found = leak(train, validation, other, "flip")
    assert (found.low, found.high) == (0.0, 1.0)
