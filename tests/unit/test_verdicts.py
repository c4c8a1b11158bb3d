"""From figures to verdicts: both ways, at too small n, against twins, over seeds; and that the table is whole."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats

from flows.configuration import load_experiment
from flows.probes import RUN, excess
from medgan.limitations import CLAIMS, OVER_TRAININGS, PROBES
from medgan.metrics.intervals import clopper_pearson
from medgan.metrics.measured import Measured
from medgan.metrics.speedup import times_sooner
from medgan.pooled import Figure, compare, pool, spearman, student_t
from medgan.verdicts import (
    CANNOT_TELL,
    NOT_SHOWN,
    SHOWN,
    Check,
    Claim,
    Measurements,
    Twin,
    concerns,
    decide,
    find_twin,
    judge,
    meets,
)
from pipeline.config import preset_folders
from pipeline.records import ResultRow
from pipeline.report.criteria import expected_false

SHIPPED = preset_folders(None)[0]
PROTOCOL = {
    "DCGAN cannot do high resolution": ["high_resolution"],
    "the min-max game is unstable": ["instability"],
    "BCE collapses modes": ["mode_collapse"],
    "WGAN / WGAN-GP cure that": ["other_losses"],
    "progressive growing trains 2 to 6 times faster": ["growing_is_faster"],
    "minibatch stddev widens variation": ["stddev_widens"],
    "PGGAN offers no control of single features": ["no_control"],
    "a mapping network disentangles": ["mapping_disentangles"],
    "style mixing localises": ["mixing_localises"],
    "truncation trades variety for quality": ["truncation_trades"],
    "noise is stochastic detail alone": ["noise_is_detail"],
    "AdaIN leaves water droplets; demodulation does not": ["droplets", "demodulation_removes_droplets"],
    "progressive growing pins details to places": ["growing_pins_detail"],
    "path length regularisation smooths": ["path_length_smooths"],
    "adaptive augmentation leaks": ["augmentation_leaks"],
    "a GAN merely memorises": ["memorisation"],
    "class conditioning collapses": ["class_collapse"],
}
"""The rows of the project's protocol, each with its claims."""


def row(gan, metric, value, low=None, high=None, seed=0, stage="probe"):
    return ResultRow(stage, metric, value, low, high, gan=gan, gan_seed=seed)


def claim(check, concerns=()):
    return Claim("key", "a claim", "a paper", concerns, (check,))


ALONE = claim(Check("droplets", "droplets", "above", 0.05, "why"))


@pytest.mark.parametrize(
    ("value", "low", "high", "expected"),
    [
        (0.30, 0.20, 0.40, SHOWN),
        (0.00, 0.00, 0.02, NOT_SHOWN),
        (0.10, 0.02, 0.30, CANNOT_TELL),
        (0.10, 0.05, 0.30, CANNOT_TELL),  # an end on the threshold is on neither side
        (0.30, None, None, SHOWN),  # a plain fact
    ],
)
def test_one_gan_against_a_number(value, low, high, expected):
    (verdict,) = judge([ALONE], Measurements({"a": {}}, [row("a", "droplets", value, low, high)]))
    assert (verdict.verdict, verdict.value, verdict.gan) == (expected, value, "a")
    assert verdict.low == pytest.approx(value if low is None else low)
    assert (verdict.threshold, verdict.side, verdict.reason) == (0.05, "above", "why")


def test_a_claim_names_the_gans_that_it_concerns_measured_or_not():
    one = claim(ALONE.checks[0], (("network", "=", "stylegan"),))
    configs = {"measured": {"network": "stylegan"}, "not": {"network": "stylegan"}, "other": {"network": "pggan"}}
    assert [verdict.gan for verdict in judge([one], Measurements(configs, [row("measured", "droplets", 0.3)]))] == [
        "measured"
    ]
    (concern,) = concerns([one], configs)
    assert concern.gans == ("measured", "not")
    assert concern.criteria[0].probe == "droplets"
    assert concerns([one], {"other": configs["other"]}) == []


def test_the_side_turns_the_verdict():
    figure = Figure(0.3, 0.2, 0.4, 1)
    assert decide(figure, "above", 0.1) == SHOWN == decide(figure, "below", 0.5)
    assert decide(figure, "below", 0.1) == NOT_SHOWN == decide(figure, "above", 0.5)


def test_no_word_without_a_number():
    measured = Measurements({"a": {}, "b": {}}, [row("a", "droplets", 0.3, 0.2, 0.4), row("b", "droplets", math.nan)])
    assert [verdict.gan for verdict in judge([ALONE], measured)] == ["a"]


def test_a_gan_that_the_claim_does_not_concern_has_no_row():
    one = claim(ALONE.checks[0], (("network", "=", ("stylegan", "x")), ("architecture.width", ">", 3)))
    configs = {
        "in": {"network": "stylegan", "architecture": {"width": 4}},
        "too small": {"network": "stylegan", "architecture": {"width": 3}},
        "other": {"network": "pggan", "architecture": {"width": 4}},
        "without": {"network": "stylegan"},
    }
    rows = [row(gan, "droplets", 0.3, 0.2, 0.4) for gan in configs]
    assert [verdict.gan for verdict in judge([one], Measurements(configs, rows))] == ["in"]
    assert meets({"loss": "bce"}, (("loss", "!=", "bce"),)) is False
    assert meets({"loss": "hinge"}, (("loss", "!=", "bce"),)) is True


PAIR = claim(
    Check(
        *("fidelity", "recall", "above", 0.0, "any gain", "difference"),
        twin=Twin(("architecture.stddev",), (("architecture.stddev", "=", 0),), "train it with stddev: 0"),
    ),
    (("architecture.stddev", ">", 0),),
)
WITH, WITHOUT = ({"network": "pggan", "images": 10, "architecture": {"stddev": k}} for k in (4, 0))


def pair_rows(treated, control, half=0.01):
    return [
        row(gan, "recall", value, value - half, value + half, seed)
        for gan, values in (("with", treated), ("without", control))
        for seed, value in enumerate(values)
    ]


@pytest.mark.parametrize(
    ("treated", "control", "expected"),
    [
        ((0.60, 0.61, 0.62), (0.40, 0.41, 0.42), SHOWN),
        ((0.40, 0.41, 0.42), (0.60, 0.61, 0.62), NOT_SHOWN),
        ((0.30, 0.61, 0.92), (0.40, 0.41, 0.42), CANNOT_TELL),  # the seeds differ more than the GANs
        ((0.60, 0.61), (0.40, 0.41), CANNOT_TELL),  # clear, but two seeds
    ],
)
def test_a_pair_needs_seeds_and_a_clear_difference(treated, control, expected):
    measured = Measurements({"with": WITH, "without": WITHOUT}, pair_rows(treated, control))
    (verdict,) = judge([PAIR], measured)
    assert (verdict.verdict, verdict.gan, verdict.against) == (expected, "with", "without")
    assert verdict.value == pytest.approx(np.mean(treated) - np.mean(control))
    assert ("train 3 seeds" in verdict.remedy) == (len(treated) < 3)


def test_without_a_twin_it_says_what_to_train_beside_the_figure_alone():
    (verdict,) = judge([PAIR], Measurements({"with": WITH}, pair_rows((0.6,), ())))
    assert (verdict.verdict, verdict.value, verdict.metric) == (CANNOT_TELL, 0.6, "recall")
    assert "train it with stddev: 0" in verdict.remedy
    assert verdict.check == "difference in recall"
    assert verdict.alone
    assert "shown" not in verdict.remedy  # the verdict's own word


def test_a_twin_that_failed_is_named():
    (verdict,) = judge([PAIR], Measurements({"with": WITH, "without": WITHOUT}, pair_rows((0.6,), ())))
    assert (verdict.verdict, verdict.against) == (CANNOT_TELL, "without")
    assert "without was not measured" in verdict.remedy


def test_twins_differ_in_the_one_choice_alone():
    twin = PAIR.checks[0].twin
    longer = {**WITHOUT, "images": 20}
    configs = {"with": {**WITH, "name": "with"}, "longer": longer, "without": {**WITHOUT, "name": "without"}}
    assert find_twin(configs, "with", twin) == "without"
    assert find_twin({"with": WITH, "longer": longer}, "with", twin) == ""


def test_seeds_widen_the_interval_as_student_says():
    found = pool([row("a", "m", value, value - 0.1, value + 0.2) for value in (1.0, 2.0, 4.0)])
    half = stats.t.ppf(0.975, 2) * np.std([1, 2, 4], ddof=1) / math.sqrt(3)
    assert found.value == pytest.approx(7 / 3)
    assert found.low == pytest.approx(7 / 3 - math.hypot(0.1, half), rel=1e-4)
    assert found.high == pytest.approx(7 / 3 + math.hypot(0.2, half), rel=1e-4)
    alone = pool([row("a", "m", 1.0, 0.9, 1.2)])
    assert (alone.low, alone.high) == (pytest.approx(0.9), pytest.approx(1.2))
    assert (found.seeds, alone.seeds) == (3, 1)
    over_all = dataclasses.replace(row("a", "divergence", 0.2, 0.0, 0.7, seed=None), n=5)
    assert (pool([over_all]).seeds, pool([over_all]).high) == (5, pytest.approx(0.7))


@pytest.mark.parametrize("degrees", range(1, 40))
def test_students_quantiles(degrees):
    assert student_t(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), abs=1e-3)


def test_a_difference_of_normal_figures_has_the_textbook_interval():
    found = compare(Figure(5.0, 4.0, 6.0, 3), Figure(2.0, 1.5, 2.5, 5), "difference")
    assert (found.value, found.low, found.high) == pytest.approx((3.0, 3 - math.hypot(1, 0.5), 3 + math.hypot(1, 0.5)))
    assert found.seeds == 3


def test_a_ratio_is_a_difference_of_logarithms_and_may_be_zero_or_unbounded():
    one, other = Figure(4.0, 3.0, 5.0, 1), Figure(2.0, 1.5, 2.5, 1)
    found = compare(one, other, "ratio")
    assert found.value == pytest.approx(2.0)
    back = compare(other, one, "ratio")
    assert (1 / back.high, 1 / back.low) == pytest.approx((found.low, found.high))
    assert compare(Figure(0.0, 0.0, 0.1, 1), Figure(0.5, 0.4, 0.6, 1), "ratio").high == pytest.approx(0.25)
    assert compare(one, Figure(1.0, -0.5, 2.5, 1), "ratio").high == math.inf
    assert compare(Figure(1.0, -0.5, 2.5, 1), other, "ratio").low == 0.0


def test_an_unbounded_end_is_none_in_the_verdict():
    ratio = claim(Check("p", "m", "above", 1.0, "why", "ratio", "n"))
    rows = [row("a", "m", 4.0, 3.0, 5.0), row("a", "n", 1.0, -1.0, 2.0)]
    (verdict,) = judge([ratio], Measurements({"a": {}}, rows))
    assert (verdict.value, verdict.high, verdict.verdict) == (4.0, None, SHOWN)


def test_rank_correlation_agrees_with_scipy():
    rng = np.random.default_rng(0)
    a = rng.normal(size=12)
    b = a + rng.normal(size=12)
    a[3] = a[4]  # a tie
    found = spearman(list(zip(a.tolist(), b.tolist(), strict=True)))
    assert found.value == pytest.approx(stats.spearmanr(a, b).statistic)
    assert found.low < found.value < found.high <= 1
    flat = spearman([(1.0, 2.0), (1.0, 3.0), (1.0, 4.0), (1.0, 5.0)])
    assert (flat.value, flat.low, flat.high) == (0.0, -1.0, 1.0)


def test_a_correlation_needs_gans():
    one = claim(Check("path_length", "ppl.w", "above", 0.0, "why", "correlation", "fid.domain"))

    def rows(count):
        return [
            row(str(gan), metric, value, seed=seed)
            for gan in range(count)
            for seed in range(10)
            for metric, value in (("ppl.w", gan), ("fid.domain", 2.0 * gan))
        ]

    told = {}
    for count in (3, 4, 5, 6):
        verdicts = judge([one], Measurements({str(gan): {} for gan in range(count)}, rows(count)))
        told[count] = verdicts[0].verdict if verdicts else None
    assert told == {3: None, 4: CANNOT_TELL, 5: CANNOT_TELL, 6: SHOWN}


def test_seeds_of_a_gan_are_no_independent_generators():
    """Six GANs without any relation, ten seeds each that hardly differ: sixty trainings, and still six GANs."""
    one = claim(Check("path_length", "ppl.w", "above", 0.0, "why", "correlation", "fid.domain"))
    rng, shown = np.random.default_rng(0), 0
    for _ in range(200):
        means = rng.normal(size=(6, 2))
        rows = [
            row(str(gan), metric, value + 0.01 * rng.normal(), seed=seed)
            for gan in range(6)
            for metric, value in zip(("ppl.w", "fid.domain"), means[gan], strict=True)
            for seed in range(3)
        ]
        (verdict,) = judge([one], Measurements({str(gan): {} for gan in range(6)}, rows))
        shown += verdict.verdict == SHOWN
    assert shown <= 0.05 * 200  # 2.5 % is meant


def test_one_training_is_told_as_one():
    rows = [row("a", "droplets", 0.3, 0.2, 0.4, seed) for seed in range(3)]
    of = {n: judge([ALONE], Measurements({"a": {}}, rows[:n]))[0] for n in (1, 2, 3)}
    assert {one.verdict for one in of.values()} == {SHOWN}
    assert of[1].remedy.startswith("of this training only")
    assert of[2].remedy.startswith("of these 2 trainings only")
    assert of[3].remedy == ""
    over_seeds = judge([ALONE], Measurements({"a": {}}, [row("a", "droplets", 0.3, 0.2, 0.4, None)]))[0]
    assert over_seeds.remedy == ""


def test_chance_is_counted():
    rows = [row("a", "droplets", 0.3, 0.2, 0.4), row("b", "droplets", 0.1, 0.0, 0.4)]
    text = expected_false(judge([ALONE], Measurements({"a": {}, "b": {}}, rows)) * 20)
    assert text.startswith("40 leading verdicts, 20 of them shown or not shown.")
    assert "1.0 would be “shown” by chance" in text
    assert expected_false([]) == ""


HALVES = Claim(
    *("key", "this falls and that rises", "a paper", ()),
    (Check("p", "this", "below", 0.0, "why"), Check("p", "that", "above", 0.0, "why")),
    leads=2,
)
DOWN, UP, WIDE = (-2.0, -1.0), (1.0, 2.0), (-1.0, 1.0)


@pytest.mark.parametrize(
    ("this", "that", "expected", "decides"),
    [
        (DOWN, UP, SHOWN, "this"),
        (DOWN, DOWN, NOT_SHOWN, "that"),
        (UP, UP, NOT_SHOWN, "this"),
        (DOWN, WIDE, CANNOT_TELL, "that"),
        (WIDE, DOWN, NOT_SHOWN, "that"),
        (DOWN, None, CANNOT_TELL, "this"),
        (None, DOWN, NOT_SHOWN, "that"),
    ],
)
def test_both_halves_of_a_claim_must_hold(this, that, expected, decides):
    ends = {"this": this, "that": that}
    rows = [row("a", name, sum(one) / 2, *one) for name, one in ends.items() if one is not None]
    verdicts = judge([HALVES], Measurements({"a": {}}, rows))
    assert len(verdicts) == len(rows)
    (lead,) = (one for one in verdicts if one.leading)
    assert (lead.verdict, lead.metric) == (expected, decides)
    (concern,) = concerns([HALVES], {"a": {}})
    assert [(one.of, one.side) for one in concern.criteria] == [("this", "below"), ("that", "above")]
    assert ("that was not measured" in lead.remedy) == (that is None)


def test_low_recall_alone_blames_no_loss():
    """Recall of BCE is low, and its twin's is lower still: nothing collapses because of BCE."""
    one = next(claim for claim in CLAIMS if claim.key == "mode_collapse")
    configs = {"bce": {"network": "dcgan", "loss": "bce"}, "other": {"network": "dcgan", "loss": "wasserstein"}}
    rows = [
        row(gan, metric, value + seed / 100, value - 0.01, value + 0.03, seed)
        for gan, value in (("bce", 0.2), ("other", 0.1))
        for seed in range(3)
        for metric in ("recall", "floor_ratio.recall")
    ]
    verdicts = judge([one], Measurements(configs, rows))
    assert [(v.leading, v.verdict) for v in verdicts] == [(True, NOT_SHOWN), (False, SHOWN)]
    assert "recall is low" in verdicts[1].reason


def test_a_small_gain_is_no_cure():
    one = next(claim for claim in CLAIMS if claim.key == "other_losses")
    configs = {"wgan": {"network": "dcgan", "loss": "wasserstein"}, "bce": {"network": "dcgan", "loss": "bce"}}
    for value, expected in ((0.14, NOT_SHOWN), (0.95, SHOWN)):
        rows = [
            row(gan, metric, x + seed / 1000, x - 0.001, x + 0.003, seed)
            for gan, x in (("wgan", value), ("bce", 0.1))
            for seed in range(3)
            for metric in ("recall", "floor_ratio.recall")
        ]
        lead = next(v for v in judge([one], Measurements(configs, rows)) if v.leading)
        assert lead.verdict == expected


def falling(times, seconds=1.0):
    """FID 100, 50, 25, ... at the given images; each image takes so many seconds."""
    quality = [(t, 100.0 / 2**i) for i, t in enumerate(times)]
    return {"validation.fid.domain": quality, "seconds": [(t, t * seconds) for t in times]}


def test_speed_is_the_time_to_what_both_reach():
    fast, slow = falling([10.0, 20.0, 30.0]), falling([10.0, 40.0])
    assert times_sooner(fast, slow, "images_seen") == pytest.approx(2.0)  # both reach 50: at 20 and at 40
    assert times_sooner(slow, fast, "images_seen") == pytest.approx(0.5)
    assert times_sooner(falling([10.0, 20.0], 0.25), slow, "seconds") == pytest.approx(8.0)
    assert times_sooner({}, slow, "seconds") is None
    assert times_sooner({**fast, "seconds": []}, slow, "seconds") is None


def test_a_planted_speedup_is_shown_over_seeds():
    one = next(claim for claim in CLAIMS if claim.key == "growing_is_faster")
    base = {"network": "pggan", "architecture": {"growth_share": 0.7, "growth_start": 4, "growth_fade": 0.5}}
    configs = {"grown": base, "whole": {**base, "architecture": {**base["architecture"], "growth_share": 0.0}}}
    curves = {("grown", s): falling([10.0, 20.0 + s], 0.2) for s in range(3)}
    curves |= {("whole", s): falling([10.0, 20.0 + s], 1.0) for s in range(3)}
    verdicts = judge([one], Measurements(configs, [], curves))
    assert [(v.verdict, v.gan, v.against) for v in verdicts if v.leading] == [(SHOWN, "grown", "whole")]
    assert verdicts[0].value == pytest.approx(5.0)


def test_excess_over_new_patients_counts_the_threshold_s_own_luck():
    # With 19 calibrating scans the threshold is their maximum: the share of new ones above it is Beta(1, 19).
    share = Measured(0.05, *clopper_pearson(10, 200))
    found = excess(share, 0.05, 19)
    most, least = stats.beta.ppf([0.975, 0.025], 1, 19)
    assert found.value == pytest.approx(0.0)
    assert found.low == pytest.approx(-math.hypot(0.05 - share.low, most - 0.05), rel=1e-4)
    assert found.high == pytest.approx(math.hypot(share.high - 0.05, 0.05 - least), rel=1e-4)
    many = excess(Measured(0.5, *clopper_pearson(100, 200)), 0.01, 999)
    assert many.low > 0.4


def test_every_row_of_the_protocol_is_in_the_table():
    assert [key for keys in PROTOCOL.values() for key in keys] == [claim.key for claim in CLAIMS]
    assert all(claim.text and claim.source and claim.checks for claim in CLAIMS)
    assert all(check.reason for claim in CLAIMS for check in claim.checks)


def test_every_figure_of_the_table_comes_from_a_registered_probe():
    given = {name: set(probe.metrics) for name, probe in PROBES.items()}
    given |= {name: set(metrics) for name, metrics in OVER_TRAININGS.items()}
    for one in CLAIMS:
        for check in one.checks:
            assert check.metric in given[check.probe], (one.key, check.metric)
            everything = set().union(*given.values()) | {f"floor.{name}" for name in given["fidelity"]}
            assert check.over in everything | {""}, (one.key, check.over)
    assert set(RUN) == set(PROBES)


def ablations():
    """Configurations of the shipped ablations, by name."""
    experiment = load_experiment(SHIPPED / "experiment" / "limitations.yaml")
    return {gan.name: dataclasses.asdict(gan) for gan in experiment.gans}


def pairs_of(one, configs):
    """GAN -> the twin that a claim's checks compare it with, of the GANs that the claim concerns and that have one."""
    concerned = [gan for gan, config in configs.items() if meets(config, one.concerns)]
    found = [
        {gan: twin for gan in concerned if (twin := find_twin(configs, gan, check.twin))}
        for check in one.checks
        if check.twin is not None
    ]
    assert all(each == found[0] for each in found), (one.key, found)
    return found[0] if found else {}


WITH_STYLEGAN = ("dcgan", "lsgan", "wgan", "wgan_gp", "pggan", "pggan_whole", "pggan_no_stddev")
JUDGED_AGAINST = {
    "high_resolution": {"dcgan": "pggan"},
    "mode_collapse": {"dcgan": "wgan"},
    "other_losses": {"lsgan": "dcgan", "wgan": "dcgan", "wgan_gp": "dcgan"},
    "growing_is_faster": {"pggan": "pggan_whole", "stylegan": "stylegan_whole"},
    "stddev_widens": {"pggan": "pggan_no_stddev"},
    "no_control": dict.fromkeys(WITH_STYLEGAN, "stylegan"),
    "mapping_disentangles": {"stylegan": "stylegan_no_mapping"},
    "mixing_localises": {"stylegan": "stylegan_no_mixing", "stylegan2": "stylegan2_no_mixing"},
    "demodulation_removes_droplets": dict.fromkeys(
        ("stylegan2", "stylegan2_no_mixing", "stylegan2_no_path_length"), "stylegan"
    ),
    "noise_is_detail": {"stylegan": "stylegan_no_noise"},
    "growing_pins_detail": {"pggan": "pggan_whole", "stylegan": "stylegan_whole"},
    "path_length_smooths": {"stylegan2": "stylegan2_no_path_length"},
    "augmentation_leaks": {"stylegan2_ada": "stylegan2"},
    "class_collapse": {"dcgan": "dcgan_no_classes"},
}
"""Claim -> which of the shipped ablations is judged against which; claims that are not here compare nothing."""
COMPARED = {gan for pairs in JUDGED_AGAINST.values() for pair in pairs.items() for gan in pair}


def test_every_claim_concerns_a_gan_of_the_ablations():
    configs = ablations()
    for one in CLAIMS:
        assert any(meets(config, one.concerns) for config in configs.values()), one.key


def test_each_ablation_is_judged_against_the_twin_that_it_was_made_for():
    configs = ablations()
    assert {one.key: pairs for one in CLAIMS if (pairs := pairs_of(one, configs))} == JUDGED_AGAINST
    assert set(configs) == COMPARED


@pytest.mark.parametrize("gone", sorted(COMPARED))
def test_no_ablation_can_be_taken_out_unseen(gone):
    left = {gan: config for gan, config in ablations().items() if gan != gone}
    assert {one.key: pairs for one in CLAIMS if (pairs := pairs_of(one, left))} != JUDGED_AGAINST


@pytest.mark.parametrize("same", ["non_saturating", "minimax"])
def test_another_name_of_cross_entropy_is_no_other_loss(same):
    configs = {"dcgan": {"network": "dcgan", "loss": "bce"}, "again": {"network": "dcgan", "loss": same}}
    rows = [
        ResultRow("score", "recall", value, gan=gan, gan_seed=seed, low=value, high=value)
        for gan, value in (("dcgan", 0.1), ("again", 0.9))
        for seed in range(3)
    ]
    verdicts = judge(CLAIMS, Measurements(configs, rows))
    assert {one.claim for one in verdicts if one.leading} == {"mode_collapse"}
    assert all("nothing to compare with" in one.remedy for one in verdicts if one.leading)
