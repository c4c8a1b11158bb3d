"""What the report shows of usefulness: sentences, forest, fractions, fidelity against gain, sources of variation."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from pipeline.records import GanSummary, ReportInput, ResultRow
from pipeline.report.answers import answers
from pipeline.report.arm_tables import classifier_tables, contrast_table
from pipeline.report.build import render_html, report_facts
from pipeline.report.contrasts import comparisons
from pipeline.report.detail_tables import confusion_table, subgroup_table, variation_table
from pipeline.report.estimates import Evidence
from pipeline.report.gains import (
    calibration,
    forest_panels,
    fraction_panels,
    reliability_panels,
    trainings,
    worth_panels,
)
from pipeline.report.sentences import plain_words, sentence

SURE, UNSURE = "p=0.001, Holm p=0.01, SD over seeds 0.02; 9 runs against 3", "p=0.6, Holm p=1; 9 runs against 3"
COUNTS = {"test": {"malignant": {"slices": 42, "patients": 42}, "benign": {"slices": 113, "patients": 113}}}


def pair(value: float, half: float, note: str = SURE, **over: object) -> list[ResultRow]:
    rows = []
    for arm, shift in (("D-B", 0.0), ("D-C", 0.01)):
        row = ResultRow(
            "contrast", "auroc", value + shift, value + shift - half, value + shift + half,
            n=155, gan="dcgan", arm=arm, ratio=1.0, classifier="resnet", note=note,
        )  # fmt: skip
        row = replace(row, **over)
        rows += [row, replace(row, stage="power", value=0.05 + shift, low=None, high=None, note="80% power")]
    return rows


def evidence(*rows: ResultRow) -> Evidence:
    gans = tuple(GanSummary(gan, 0, "done") for gan in ("dcgan", "stylegan2"))
    dataset = {"classes": ["malignant", "benign"], "counts": COUNTS}
    return Evidence(ReportInput("", "", {}, dataset, None, gans, rows, (), {}, {}))


def test_a_clinician_reads_what_happened_to_whom_and_by_how_much():
    rows = [*pair(0.03, 0.02), *pair(-0.04, 0.02, fraction=0.1), *pair(0.01, 0.05, UNSURE, variant="filter=copies")]
    found = comparisons(rows, "auroc")
    opening, *told = plain_words(evidence(*rows), found)
    assert opening == (
        "Measured on 155 real test patients (42 malignant, 113 benign); points are hundredths of the chance that a "
        "scan of a class ranks above a scan of another."
    )
    assert told[0] == (
        "All training patients, dcgan's scans added 1 for each real scan, resnet: helped. +3.0 points against "
        "classical augmentation alone (95 % interval +1.0 to +5.0) and +4.0 points against as many repeated real scans "
        "(95 % interval +2.0 to +6.0)."
    )
    assert told[1].startswith(
        "10 % of the training patients, dcgan's scans added 1 for each real scan, resnet: harmed. −4"
    )
    assert "(filter=copies), resnet: cannot tell." in told[2]
    assert told[2].endswith(
        "A true gain of about 6.0 points would have been shown in four of five such experiments, a smaller one less "
        "often."
    )


def test_images_are_not_called_patients_where_patients_are_unknown():
    rows = pair(0.03, 0.02)
    found = comparisons(rows, "auroc")
    named = evidence(*rows)
    assert not named.patients_unknown
    warning = "patients unknown for 780 file(s): every image counts as its own patient, so that ..."
    for kept, unknown in ((778, True), (900, False)):  # of 900 kept, 120 have a patient
        dataset = {**named.data.dataset, "warnings": ["other", warning], "found": {"kept": kept}}
        told = Evidence(replace(named.data, dataset=dataset))
        assert told.patients_unknown is unknown
        opening, *_ = plain_words(told, found)
        who = "test images, patients unknown" if unknown else "test patients"
        assert opening.startswith(f"Measured on 155 real {who} (42 malignant, 113 benign); points")
        assert answers(told, found)[0].short.endswith("(155 test images)." if unknown else "(155 test patients).")
        columns = contrast_table(told, found).columns
        assert ("95 % interval", "images and runs" if unknown else "patients and runs") in columns


def test_a_single_gan_training_is_named_as_what_decided():
    rows = pair(0.3, 0.1, "p=1, Holm p=1, SD over seeds 0.02; 3 runs against 3; 1 of 3 GAN seeds, so that ...")
    (one,) = comparisons(rows, "auroc")
    assert one.verdict == "cannot tell at this n"
    assert one.contrasts[0].gan_seeds == "1 of 3 GAN seeds"
    assert one.contrasts[0].why.endswith("one GAN training tells nothing of others")


def test_what_was_decided_is_told_first_and_the_rest_counted():
    rows = [row for i in range(8) for row in pair(0.01, 0.05, UNSURE, ratio=0.5 + i)] + pair(
        0.04, 0.02, gan="stylegan2"
    )
    told = plain_words(evidence(*rows), comparisons(rows, "auroc"))
    assert "stylegan2's scans" in told[1]
    assert len(told) == 1 + 6 + 1
    assert told[-1] == "3 more comparisons are in the table of contrasts."
    assert plain_words(evidence(), ()) == ()


def test_where_nothing_could_have_been_shown_the_sentence_says_so():
    rows = [replace(row, value=1.3) if row.stage == "power" else row for row in pair(0.0, 1.0, UNSURE)]
    (one,) = comparisons(rows, "auroc")
    assert sentence(one).endswith("With so few patients, runs or GAN trainings no gain could have been shown.")
    table = contrast_table(evidence(*rows), (one,))
    assert {line.cells[4].text for group in table.groups for line in group.lines} == {"none"}


def test_fractions_and_variants_are_comparisons_of_their_own():
    rows = [*pair(0.03, 0.02), *pair(0.0, 0.02, UNSURE, fraction=0.1), *pair(0.0, 0.02, UNSURE, variant="balanced")]
    found = comparisons(rows, "auroc")
    assert [(one.fraction, one.variant, one.setting) for one in found] == [
        (None, "", "ratio 1"), (0.1, "", "10 % of the patients, ratio 1"), (None, "balanced", "ratio 1, balanced"),
    ]  # fmt: skip
    assert [one.contrasts[0].smallest for one in found] == [0.05] * 3
    assert found[0].contrasts[0].runs == "9 runs against 3"
    table = contrast_table(evidence(*rows), found)
    assert [group.name for group in table.groups] == ["dcgan", "dcgan, 10 % of the patients"]
    short = answers(evidence(*rows), found)[0].short
    assert short.startswith("Yes, shown to help in 1 of 3 comparisons")


def arm(value: float, **over: object) -> ResultRow:
    row = ResultRow("arm", "auroc", value, value - 0.05, value + 0.05, n=155, arm="B", classifier="resnet")
    return replace(row, **over)


def test_the_arms_of_a_fraction_stand_in_lines_of_their_own():
    classified = [
        replace(arm(value, **over), stage="classify", classifier_seed=0)
        for value, over in (
            (0.9, {}),
            (0.7, {"fraction": 0.1}),
            (0.8, {"arm": "C", "ratio": 1.0, "variant": "balanced"}),
        )
    ]
    ((_, table, _),) = classifier_tables(evidence(*classified))
    lines = [(line.name, line.note, line.cells[0].text) for line in table.groups[0].lines]
    assert lines == [
        ("B", "10 % of the patients, 1 seed", "0.700"),
        ("B", "1 seed", "0.900"),
        ("C", "ratio 1, balanced, 1 seed", "0.800"),
    ]


@pytest.mark.parametrize(
    ("sampling", "told"), [("balanced", "every class was drawn"), ("natural", "every scan was drawn")]
)
def test_the_table_says_how_classes_were_drawn(sampling, told):
    data = evidence(replace(arm(0.9), stage="classify")).data
    known = Evidence(
        replace(data, config={"classifiers": [{"name": "resnet", "sampling": sampling}, {"name": "other"}]})
    )
    ((_, table, _),) = classifier_tables(known)
    assert told in " ".join(table.notes)


def words(svg: object) -> str:
    return " ".join(re.findall(r">([^<>]+)</text>", str(svg)))


def test_the_forest_has_a_line_for_each_contrast_and_a_heading_for_each_fraction():
    rows = [*pair(0.03, 0.02), *pair(-0.04, 0.02, fraction=0.1), *pair(0.0, 0.05, UNSURE, gan="stylegan2")]
    (panel,) = forest_panels(evidence(*rows), comparisons(rows, "auroc"))
    text = words(panel.svg)
    assert text.count("ratio 1") == 6
    assert "dcgan, 10 % of the patients" in text
    assert "+0.030 (+0.010 to +0.050)" in text
    assert "dcgan 10 % of the patients D−B −0.040 (−0.060 to −0.020)" in str(panel.svg)  # for those who cannot see it


def test_fractions_are_drawn_only_where_there_are_several():
    rows = [arm(0.9), *pair(0.0, 0.05)]
    assert fraction_panels(evidence(*rows), comparisons(rows, "auroc")) == ()
    rows += [
        arm(0.7, fraction=0.1),
        arm(0.72, fraction=0.1, arm="D", gan="dcgan", ratio=1.0),
        *pair(0.02, 0.1, fraction=0.1),
    ]
    level, gain = fraction_panels(evidence(*rows), comparisons(rows, "auroc"))
    assert {"10 %", "100 %"} <= set(re.findall(r"\d+ %", words(level.svg)))
    assert "dcgan 10 % +0.020 (−0.080 to +0.120)" in str(gain.svg)


@pytest.mark.parametrize(("low", "high", "told"), [(-0.9, 0.2, "−0.50 (−0.90 to 0.20)"), (None, None, "too few")])
def test_fidelity_against_gain_shows_each_training_and_the_correlation(low, high, told):
    rows = [ResultRow("worth", "fid.domain", -0.5, low, high, n=4, classifier="resnet")]
    for i, gan in enumerate(("dcgan", "stylegan2")):
        for seed in (0, 1):
            rows.append(ResultRow("score", "fid.domain", 10.0 + i + seed, gan=gan, gan_seed=seed))
            common = {"gan": gan, "gan_seed": seed, "classifier": "resnet", "arm": "D-B"}
            rows += [
                ResultRow("gain", "auroc", 0.01 * i, ratio=1.0, **common),
                ResultRow("gain", "auroc", 9.0, ratio=1.0, fraction=0.1, **common),
                ResultRow("gain", "auroc", 9.0, ratio=1.0, variant="filter=copies", **common),
            ]
    (panel,) = worth_panels(evidence(*rows))
    assert told in panel.note
    assert "4 trainings" in panel.note
    # Neither the fraction's nor the filter's gain of 9 is among them.
    assert trainings(evidence(*rows), rows[0]) == {
        "dcgan": [(10.0, 0.0), (11.0, 0.0)], "stylegan2": [(11.0, 0.01), (12.0, 0.01)],
    }  # fmt: skip


def detail(metric: str, value: float, n: int = 10, **over: object) -> ResultRow:
    return replace(ResultRow("detail", metric, value, n=n, arm="B", classifier="resnet"), **over)


def test_tables_behind_the_endpoint():
    rows = [
        *(detail(f"confusion.{t}.{s}", v, classifier_seed=seed) for seed in (0, 1) for t, s, v in (
            ("malignant", "malignant", 30 + seed), ("malignant", "benign", 12 - seed),
            ("benign", "malignant", 5), ("benign", "benign", 108),
        )),
        ResultRow("variance", "sd.classifier", 0.02, n=2, arm="B", classifier="resnet"),
        ResultRow("variance", "sd.patients", 0.03, n=2, arm="B", classifier="resnet"),
        ResultRow("subgroup", "auroc.sex.F", 0.9, n=20, arm="B", classifier="resnet"),
        ResultRow("subgroup", "auroc.sex.M", 0.8, n=20, arm="B", classifier="resnet"),
    ]  # fmt: skip
    known = evidence(*rows)
    lines = {line.name: [cell.text for cell in line.cells] for line in confusion_table(known).groups[0].lines}
    assert lines == {"B: malignant": ["30.5", "11.5"], "B: benign": ["5.0", "108.0"]}
    (line,) = variation_table(known).groups[0].lines
    assert [cell.text for cell in line.cells] == ["–", "0.020", "–", "0.030"]
    assert line.note == "2 runs"
    assert [group.name for group in subgroup_table(known).groups] == ["sex: F", "sex: M"]
    assert [maker(evidence()) for maker in (confusion_table, variation_table, subgroup_table)] == [None] * 3


def test_the_calibration_curve_weighs_seeds_by_their_scans():
    rows = [
        detail("reliability.9", 1.0, 30, classifier_seed=0), detail("confidence.9", 0.95, 30, classifier_seed=0),
        detail("reliability.9", 0.0, 10, classifier_seed=1), detail("confidence.9", 0.91, 10, classifier_seed=1),
    ]  # fmt: skip
    ((said, right),) = calibration(rows)
    assert (said, right) == pytest.approx((0.94, 0.75))
    (panel,) = reliability_panels(evidence(*rows))
    assert panel.title == "resnet"


def test_the_page_and_the_json_hold_it_all():
    rows = (*pair(0.03, 0.02), *pair(-0.04, 0.02, fraction=0.1), arm(0.9), arm(0.7, fraction=0.1))
    data = evidence(*rows).data
    page = render_html(data)
    for text in ("How much real data there was", "scans added 1 for each real scan", "smallest gain"):
        assert text in page
    facts = report_facts(data)
    assert [one["fraction"] for one in facts["verdicts"]] == [None, 0.1]
    assert facts["verdicts"][1]["plain"].startswith("10 % of the training patients")
    assert facts["contrasts"][0]["smallest"] == 0.05
    assert facts["answers"][0]["plain"][0].startswith("Measured on 155 real test patients")
