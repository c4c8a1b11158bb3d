"""What the report concludes from rows: verdicts, leads, averages, and the text of figures."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.pooled import pool
from pipeline.records import GanSummary, ReportInput, ResultRow
from pipeline.report.answers import answers
from pipeline.report.arm_tables import classifier_tables
from pipeline.report.contrasts import CANNOT_TELL, HARMED, HELPED, HIGHER, LOWER, UNCERTAIN, comparisons, contrast_of
from pipeline.report.data_tables import data_view
from pipeline.report.estimates import PALETTE, Evidence, estimate
from pipeline.report.images import sheet
from pipeline.report.numbers import difference, duration, interval, number, plain, probability
from pipeline.report.tables import class_tables, gan_table
from pipeline.report.words import metric_of, split_class


def contrast(value: float, low: float | None, high: float | None, **over: object) -> ResultRow:
    row = ResultRow("contrast", "auroc", value, low, high, n=23, gan="dcgan", ratio=1.0, arm="D-B", classifier="resnet")
    return replace(row, **over)


def evidence(
    *rows: ResultRow, gans: tuple[str, ...] = ("dcgan", "stylegan2"), classes: tuple[str, ...] = ()
) -> Evidence:
    summaries = tuple(GanSummary(gan, 0, "done") for gan in gans)
    return Evidence(ReportInput("", "", {}, {"classes": list(classes)}, None, summaries, tuple(rows), (), {}, {}))


@pytest.mark.parametrize(
    ("row", "verdict"),
    [
        (contrast(0.05, 0.01, 0.09, note="p=0.01, Holm p=0.04"), HIGHER),
        (contrast(0.05, 0.01, 0.09, note="p=0.01, Holm p=0.05"), UNCERTAIN),
        (contrast(0.05, 0.01, 0.09, note="p=0.001"), UNCERTAIN),
        (contrast(0.05, 0.01, 0.09), UNCERTAIN),
        (contrast(-0.05, -0.09, -0.01, note="p=0.001, Holm p=0.003"), LOWER),
        (contrast(-0.05, -0.09, -0.01, metric="brier", note="Holm p=0.003"), LOWER),
        (contrast(0.05, 0.01, 0.09, metric="ece", note="Holm p<0.001"), HIGHER),
        (contrast(0.05, 0.0, 0.09, note="Holm p=0.001"), UNCERTAIN),
        (contrast(0.05, None, 0.09, note="Holm p=0.001"), UNCERTAIN),
        (contrast(math.nan, 0.01, 0.09, note="Holm p=0.001"), UNCERTAIN),
        (contrast(0.05, 0.01, math.inf, note="Holm p=0.001"), UNCERTAIN),
    ],
)
def test_verdict(row, verdict):
    assert contrast_of(row).verdict == verdict
    assert contrast_of(row).why


@given(
    st.floats(-1, 0), st.floats(0, 1), st.floats(-1, 1), st.floats(0, 1), st.sampled_from(["auroc", "brier", "auprc"])
)
def test_an_interval_that_spans_zero_never_helps_nor_harms(low, high, value, p, metric):
    rows = [
        contrast(value, low, high, arm=arm, metric=metric, note=f"p={p:.4f}, Holm p={p:.4f}") for arm in ("D-B", "D-C")
    ]
    (comparison,) = comparisons(rows, metric)
    assert comparison.verdict == CANNOT_TELL
    assert {one.verdict for one in comparison.contrasts} == {UNCERTAIN}
    assert comparison.told == CANNOT_TELL


def test_p_values_are_told_apart():
    one = contrast_of(contrast(0.01, -0.1, 0.1, note="p=0.62, Holm p=1.00"))
    assert (one.p, one.holm) == (0.62, 1.0)
    assert one.figures == "+0.010 (−0.100 to +0.100), Holm p = 1.00"
    one = contrast_of(contrast(0.01, -0.1, 0.1, note="paired bootstrap, p = 2e-4; holm p = 0.0008."))
    assert (one.p, one.holm) == (2e-4, 8e-4)
    assert one.figures.endswith("Holm p < 0.001")
    one = contrast_of(contrast(0.01, -0.1, 0.1, note="Holm p=0.5"))
    assert (one.p, one.holm) == (None, 0.5)
    one = contrast_of(contrast(0.01, -0.1, 0.1, note=""))
    assert (one.p, one.holm) == (None, None)
    assert one.figures == "+0.010 (−0.100 to +0.100)"


UP, DOWN, WIDE = (0.01, 0.09), (-0.09, -0.01), (-0.01, 0.09)
SURE = "p=0.001, Holm p=0.01"


def pair(
    b: tuple[float, float], c: tuple[float, float] | None, note: str = SURE, **over: object
) -> tuple[ResultRow, ...]:
    rows = [contrast(sum(b) / 2, *b, note=SURE, **over)]
    return (*rows, *([contrast(sum(c) / 2, *c, arm="D-C", note=note, **over)] if c else ()))


@pytest.mark.parametrize(
    ("b", "c", "metric", "note", "verdict", "told"),
    [
        (UP, UP, "auroc", SURE, HELPED, HELPED),
        (DOWN, DOWN, "auroc", SURE, HARMED, HARMED),
        (DOWN, DOWN, "brier", SURE, HELPED, HELPED),
        (UP, UP, "ece", SURE, HARMED, HARMED),
        (UP, WIDE, "auroc", SURE, CANNOT_TELL, f"{CANNOT_TELL} (D−B shown higher, D−C cannot tell)"),
        (WIDE, DOWN, "auroc", SURE, CANNOT_TELL, f"{CANNOT_TELL} (D−B cannot tell, D−C shown lower)"),
        (UP, DOWN, "auroc", SURE, CANNOT_TELL, f"{CANNOT_TELL} (D−B shown higher, D−C shown lower)"),
        (DOWN, DOWN, "auroc", "Holm p=0.06", CANNOT_TELL, f"{CANNOT_TELL} (D−B shown lower, D−C cannot tell)"),
        (DOWN, None, "auroc", SURE, CANNOT_TELL, f"{CANNOT_TELL} (D−B shown lower, D−C not measured)"),
        (WIDE, None, "auroc", SURE, CANNOT_TELL, CANNOT_TELL),
        (UP, UP, "unheard_of", SURE, CANNOT_TELL, f"{CANNOT_TELL} (D−B shown higher, D−C shown higher)"),
    ],
)
def test_help_and_harm_both_need_both_controls(b, c, metric, note, verdict, told):
    (one,) = comparisons(pair(b, c, note, metric=metric), metric)
    assert (one.verdict, one.told) == (verdict, told)


def test_the_most_useful_gan_is_told_with_the_verdict_of_both_controls():
    rows = (*pair(UP, WIDE, gan="stylegan2"), *pair(WIDE, WIDE))
    points = [point.text for point in answers(evidence(*rows), comparisons(rows, "auroc"))[1].points]
    assert (
        "Largest of 2 values of D−B: stylegan2 (ratio 1, resnet), +0.050 (+0.010 to +0.090), Holm p = 0.010. "
        "D−B and D−C together: cannot tell at this n (D−B shown higher, D−C cannot tell)."
    ) in points


def test_the_first_answer_counts_and_names():
    known = evidence(*pair(UP, UP, gan="stylegan2"), *pair(DOWN, DOWN))
    answer = answers(known, comparisons(known.data.rows, "auroc"))[0]
    assert answer.short == (
        "Yes, shown to help in 1 of 2 comparisons in macro AUROC (stylegan2); "
        "Shown to harm in 1 of 2 comparisons in macro AUROC (dcgan) (23 test patients)."
    )
    known = evidence(contrast(0.012, -0.03, 0.051, note="p=0.62, Holm p=0.62"))
    answer = answers(known, comparisons(known.data.rows, "auroc"))[0]
    assert answer.short.startswith(
        "Cannot tell at this n: 0 of 1 comparison in macro AUROC shown to help, 0 shown to harm"
    )
    assert answer.points[0].text == (
        "ratio 1, resnet: D−B +0.012 (−0.030 to +0.051), Holm p = 0.62: cannot tell at this n."
    )
    assert answer.points[1].text == "not compared (done)."


def test_many_comparisons_are_summed_up():
    rows = [
        contrast(0.01 * i, -0.5, 0.5, arm=arm, ratio=ratio, classifier=f"c{i}", note="p=0.5, Holm p=0.9")
        for arm in ("D-B", "D-C")
        for ratio in (0.25, 0.5, 1.0, 2.0)
        for i in range(4)
    ]
    known = evidence(*rows, gans=("dcgan",))
    (point,) = answers(known, comparisons(rows, "auroc"))[0].points
    assert point.text == (
        "D−B from 0.000 to +0.030, smallest Holm p 0.90; D−C from 0.000 to +0.030, smallest Holm p 0.90. "
        "Of 16 comparisons: 0 shown to help, 0 shown to harm, 16 cannot tell at this n."
    )


def score(gan: str, value: float, low: float | None = None, high: float | None = None, seed: int = 0) -> ResultRow:
    return ResultRow("score", "kid.domain", value, low, high, gan=gan, gan_seed=seed, n_real=100, n_synthetic=300)


def test_a_lead_needs_intervals_that_do_not_overlap():
    assert (
        evidence(score("dcgan", 0.3, 0.2, 0.4), score("stylegan2", 0.1, 0.05, 0.15)).leader("kid.domain") == "stylegan2"
    )
    assert evidence(score("dcgan", 0.3, 0.2, 0.4), score("stylegan2", 0.1, 0.05, 0.2)).leader("kid.domain") == ""
    assert evidence(score("dcgan", 0.3), score("stylegan2", 0.1, 0.05, 0.2)).leader("kid.domain") == ""
    assert evidence(score("stylegan2", 0.1, 0.05, 0.2)).leader("kid.domain") == ""
    # A second seed widens an interval until it overlaps.
    rows = [score("dcgan", 0.3, 0.2, 0.4), score("stylegan2", 0.1, 0.05, 0.15), score("stylegan2", 0.2, 0.1, 0.25, 1)]
    assert evidence(*rows).leader("kid.domain") == ""
    higher = [
        replace(row, metric="recall") for row in (score("dcgan", 0.3, 0.2, 0.4), score("stylegan2", 0.6, 0.5, 0.7))
    ]
    assert evidence(*higher).leader("recall") == "stylegan2"


def test_without_a_lead_the_second_answer_claims_none():
    known = evidence(score("dcgan", 0.3, 0.2, 0.4), score("stylegan2", 0.25, 0.15, 0.35))
    answer = answers(known, ())[1]
    assert (
        answer.short
        == "No clear lead: stylegan2 has the best domain KID, 0.250 (0.150 to 0.350), without a gap to the next."
    )
    assert "leads" not in answer.short


def test_seeds_are_averaged_with_their_spread_and_the_scorecard_s_interval():
    one = estimate([score("dcgan", 1.0, 0.5, 1.5), score("dcgan", 2.0, 1.0, 4.0, 1), score("dcgan", math.nan, seed=2)])
    assert (one.value, one.seeds, one.broken) == (1.5, 2, 1)
    figure = pool([score("dcgan", 1.0, 0.5, 1.5), score("dcgan", 2.0, 1.0, 4.0, 1)])
    assert (one.low, one.high) == (figure.low, figure.high)  # one figure, one interval
    runs = [ResultRow("classify", "auroc", v, v - 0.1, v + 0.1, classifier_seed=i) for i, v in enumerate((0.7, 0.8))]
    assert (estimate(runs).low, estimate(runs).high) == pytest.approx((0.6, 0.9))
    cut = estimate([replace(score("dcgan", v, v - 0.1, v + 0.1, i), metric="recall") for i, v in enumerate((0.1, 0.9))])
    assert (cut.low, cut.high) == (0.0, 1.0)
    assert one.spread == pytest.approx(np.std([1.0, 2.0], ddof=1))
    assert (one.n_real, one.n_synthetic) == (100, 300)
    assert estimate([score("dcgan", 1.0), score("dcgan", 2.0, 1.0, 4.0, 1)]).low is None
    assert estimate([score("dcgan", 1.0)]).spread is None


def test_ratio_to_the_floor_for_fid_alone():
    def ratio(metric: str, value: float, floor: float | None, *more: ResultRow) -> float | None:
        floors = [] if floor is None else [ResultRow("score", f"floor.{metric}", floor)]
        return evidence(replace(score("dcgan", value), metric=metric), *floors, *more).ratio("dcgan", metric)

    assert ratio("fid.domain", 0.5, 0.02) == pytest.approx(25)
    assert ratio("fid.domain", 0.5, 0.0) is None
    assert ratio("fid.domain", 0.5, None) is None
    assert ratio("precision", 0.5, 0.02) is None
    assert ratio("kid.domain", 0.5, 0.02) is None
    assert ratio("kid.domain", 0.5, 0.02, ResultRow("score", "floor_ratio.kid.domain", 25.0, gan="dcgan")) is None
    measured = ResultRow("score", "floor_ratio.fid.domain", 7.0, gan="dcgan")
    assert ratio("fid.domain", 0.5, 0.02, measured) == 7.0


def test_faults_put_kid_beside_the_floors_range():
    rows = [
        score("dcgan", 0.3),
        replace(score("dcgan", 22.0), metric="fid.domain"),
        replace(score("dcgan", 0.5), metric="recall"),
        ResultRow("score", "floor.kid.domain", 0.01, -0.04, 0.06),
        ResultRow("score", "floor.fid.domain", 11.0, 9.0, 13.0),
        ResultRow("score", "floor.recall", 0.8),
    ]
    (point,) = answers(evidence(*rows, gans=("dcgan",)), ())[2].points
    assert point.text == (
        "domain KID 0.300 (real against real −0.040 to 0.060), domain FID 22.0 (2.00 × floor); "
        "recall 0.500 (real against real 0.800)."
    )


def test_gan_table_shows_seeds_floor_and_absence():
    rows = [
        score("stylegan2", 0.1, 0.05, 0.15),
        score("stylegan2", 0.2, 0.1, 0.25, 1),
        ResultRow("score", "floor.kid.domain", 0.01, n_real=50, n_synthetic=0),
    ]
    table = gan_table(evidence(*rows))
    assert table.columns[0] == ("domain KID", "lower is better")
    dcgan, stylegan2, floor = table.groups[0].lines
    assert (dcgan.cells[0].text, dcgan.cells[0].why) == ("–", "not measured")
    assert stylegan2.cells[0].text == "0.150 ± 0.071"
    assert stylegan2.cells[0].details == ("−0.490 to 0.787",)
    assert floor.cells[0].text == "0.010"
    assert "Measured on 100 real scans and 300 synthetic scans of each GAN." in table.notes


def test_notes_name_the_gan_where_they_do_not_hold_for_all():
    collapsed = replace(score("dcgan", 0.3), note="k = 5; collapsed")
    others = [replace(score(gan, 0.2), metric="recall", note="k = 5") for gan in ("dcgan", "stylegan2")]
    notes = gan_table(evidence(collapsed, score("stylegan2", 0.1), *others)).notes
    assert "domain KID of dcgan: k = 5; collapsed." in notes
    assert "recall: k = 5." in notes


def test_by_class_tables_find_classes_with_dots():
    rows = [replace(score("dcgan", 0.3 + i / 10), metric=f"kid.domain.{name}") for i, name in enumerate(("a.b", "b"))]
    (table,) = class_tables(evidence(*rows, gans=("dcgan",), classes=("b", "a.b")))
    assert [name for name, _ in table.columns] == ["b", "a.b"]
    assert [cell.text for cell in table.groups[0].lines[0].cells] == ["0.400", "0.300"]


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("kid.domain", ("kid.domain", "")),
        ("kid.domain.contrast", ("kid.domain", "contrast")),
        ("kid.domain.domain", ("kid.domain", "domain")),
        ("auroc.plain", ("auroc", "plain")),
        ("ppl.w", ("ppl.w", "")),
        ("floor_ratio.fid.domain", ("floor_ratio.fid.domain", "")),
        ("floor_ratio.fid.domain.plain", ("floor_ratio.fid.domain", "plain")),
        ("floor_ratio.recall", ("floor_ratio.recall", "")),
        ("floor_ratio.recall.plain", ("floor_ratio.recall", "plain")),
        ("recall.w", ("recall", "w")),
        ("droplets", ("droplets", "")),
    ],
)
def test_class_suffixes(metric, expected):
    assert split_class(metric, ("contrast", "plain", "domain", "w")) == expected


def test_classifier_table_separates_arms_and_averages_seeds():
    rows = [
        ResultRow(
            "classify", metric, value, arm=arm, gan=gan, ratio=ratio, classifier="resnet", classifier_seed=seed, n=71
        )
        for arm, gan, ratio, value in (("D", "stylegan2", 1.0, 0.9), ("B", "", None, 0.8), ("D", "dcgan", 1.0, 0.7))
        for metric in ("ece", "auroc", "auroc.x")
        for seed in (0, 1)
    ]
    ((name, table, by_class),) = classifier_tables(evidence(*rows, classes=("x",)))
    assert name == "resnet"
    assert [label for label, _ in table.columns] == ["macro AUROC", "ECE"]
    assert [(line.name, line.note) for line in table.groups[0].lines] == [
        ("B", "2 seeds"),
        ("D dcgan", "ratio 1, 2 seeds"),
        ("D stylegan2", "ratio 1, 2 seeds"),
    ]
    assert [line.cells[0].text for line in table.groups[0].lines] == ["0.800 ± 0.000", "0.700 ± 0.000", "0.900 ± 0.000"]
    assert by_class is not None
    assert by_class.columns[0][0] == "AUROC"


def test_an_arms_own_interval_takes_the_place_of_the_seeds_mean():
    cell = {"arm": "B", "classifier": "resnet", "metric": "auroc"}
    runs = [
        ResultRow("classify", value=value, low=0.1, high=0.9, classifier_seed=i, n=71, **cell)
        for i, value in enumerate((0.7, 0.8))
    ]
    other = [replace(row, arm="A") for row in runs]
    arm = ResultRow("arm", value=0.76, low=0.66, high=0.86, n=23, note="SD over seeds 0.0707", **cell)
    elsewhere = replace(arm, classifier="densenet121", value=0.1)
    ((_, table, _),) = classifier_tables(evidence(*runs, *other, arm, elsewhere))
    a, b = table.groups[0].lines
    assert (a.cells[0].text, a.cells[0].details) == ("0.750 ± 0.071", ("0.100 to 0.900",))
    assert (b.cells[0].text, b.cells[0].details) == ("0.760 ± 0.071", ("0.660 to 0.860",))
    assert b.note == "2 seeds"
    assert (
        "Below macro AUROC its 95 % interval over patients (23 test patients), for the mean of these runs."
        in table.notes[0]
    )
    assert not any("SD over seeds" in note for note in table.notes)
    ((_, table, _),) = classifier_tables(evidence(*runs))
    assert table.groups[0].lines[0].cells[0].details == ("0.100 to 0.900",)
    assert "interval over patients" not in table.notes[0]


def test_endpoint_comes_from_the_configuration():
    data = evidence(contrast(0.1, 0.0, 0.2)).data
    assert Evidence(replace(data, config={"classification": {"endpoint": "auprc"}})).endpoint == "auprc"
    assert Evidence(replace(data, rows=(replace(data.rows[0], metric="brier"),))).endpoint == "brier"


def test_sums_that_do_not_add_up_are_said():
    whole = {"files": 10, "kept": 7, "duplicates": 1, "quarantined": 2, "set_aside": 0, "slices": 40}
    assert data_view({"found": whole}).mismatch == ""
    assert data_view({"found": {**whole, "kept": 6}}).mismatch == (
        "Kept and left out add up to 9 files, not to the 10 found."
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.041234, "0.0412"), (12.345, "12.3"), (1234.5, "1,234"), (-0.5, "−0.500"), (0.0, "0"), (3e-7, "3.0e−07"),
     (math.nan, "–"), (math.inf, "–"), (None, "–")],
)  # fmt: skip
def test_numbers_have_three_digits(value, text):
    assert number(value) == text


def test_text_of_intervals_differences_and_durations():
    assert interval(0.05, 0.25) == "0.050 to 0.250"
    assert interval(0.05, None) == ""
    assert difference(0.012, -0.03, 0.051) == "+0.012 (−0.030 to +0.051)"
    assert difference(-0.0001, -0.03, 0.051).startswith("0.000 ")
    assert difference(0.012, None, None) == "+0.012 (no interval)"
    assert [probability(p) for p in (0.0, 0.0321, 0.62, None)] == ["< 0.001", "0.032", "0.62", "–"]
    assert [duration(s) for s in (5.25, 45, 300, 36_000)] == ["5.2 s", "45 s", "5.0 min", "10.0 h"]
    assert metric_of("kid.inception").label == "inception KID"


def test_plain_data_is_json_without_nan():
    given_data = {1: (math.nan, np.float32(0.5), np.int64(3)), "path": np.array([[1, 2]]), "ok": True, "none": None}
    assert plain(given_data) == {"1": [None, 0.5, 3], "path": [[1, 2]], "ok": True, "none": None}


def test_large_images_are_averaged_and_colour_is_kept():
    large = np.zeros((1, 512, 512), np.uint8)
    large[:, ::2] = 100
    picture = sheet(large, 3)
    assert (picture.width, picture.height, picture.shown) == (256, 256, 1)
    assert sheet(large, 3, largest=96).width == 86  # every 6 x 6 pixels become one
    colour = sheet(np.full((2, 8, 16, 3), 7, np.uint8), 2, gap=0)
    assert (colour.width, colour.height) == (2 * 96, 48)


def test_colours_stand_out_on_both_pages():
    def luminance(colour: str) -> float:  # WCAG 2.1, relative luminance
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for colour in PALETTE:
        for page in ("#fdfdfc", "#15181b"):
            darker, lighter = sorted((luminance(colour), luminance(page)))
            assert (lighter + 0.05) / (darker + 0.05) >= 3, (colour, page)
