"""The report's section on data: the sum of the files, what headers give away, pictures that lie there twice."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest

from pipeline.audit import audit_headers
from pipeline.neighbours import near_pairs
from pipeline.records import ReportInput
from pipeline.report.build import render_html
from pipeline.report.data_tables import data_view
from tests.unit.report_demo import demo_input
from tests.unit.test_report import NOTHING, Page


@pytest.fixture(scope="module")
def light(tmp_path_factory) -> ReportInput:
    """The demo without curves and images: drawing takes the time."""
    demo = demo_input(tmp_path_factory.mktemp("samples"))
    gans = [replace(one, curves={}, samples=None) for one in demo.gans]
    return replace(demo, gans=tuple(gans), rows=(), real_samples=None)


def section(data: ReportInput) -> str:
    """The words of the section."""
    text = render_html(data)
    start = text.index('<section id="data">')
    return Page(text[start : text.index("</section>", start) + len("</section>")]).text


def test_the_sum_reads_as_a_sum(light):
    assert "236 files found = 225 kept + 6 duplicates + 3 quarantined + 2 set aside + 0 unlabelled" in (section(light))
    assert "The files kept hold 231 slices." in section(light)


def test_fields_are_listed_with_the_surest_leak_first(light):
    text = section(light)
    order = ("Manufacturer", "ContrastBolusAgent", "ConvolutionKernel", "StudyDate", "PatientSex")
    places = [text.index(name) for name in order]
    assert places == sorted(places)
    assert "2 of 5 header fields predict the label without a look at the image. 1 more may." in text
    assert "Manufacturer 0.81 0.70 to 0.92 0.79 0.66 to 0.91 0.003 < 0.001 alone 71 predicts the label" in text
    assert "ContrastBolusAgent whether it is filled in 0.64" in text
    assert text.count("predicts the label") == 2
    for expected in (
        "may predict it its interval over slices excludes 0.5",
        "cannot tell at this n the interval reaches 0.68",
        "Fields that give no reason to worry, or no answer",
        "Not tested: the same in every slice, or absent: Rows, StationName; no value with enough patients on either "
        "side: ProtocolName.",
    ):
        assert expected in text


@pytest.mark.parametrize(
    ("verdicts", "sentence"),
    [
        (["not shown", "not shown"], "None of 2 header fields was shown to predict the label"),
        (["suspect", "not shown"],
         "None of 2 header fields was shown to predict the label without a look at the image; 1 may."),
        (["leak"], "1 of 1 header field predicts the label"),
    ],
)  # fmt: skip
def test_the_audit_in_a_sentence(verdicts, sentence):
    fields = [{"field": f"F{k}", "auc": 0.6, "verdict": verdict} for k, verdict in enumerate(verdicts)]
    assert data_view({"audit": fields}).audit.summary.startswith(sentence)


def test_fields_are_ordered_by_verdict_first_and_by_p_within():
    fields = [
        {"field": f"F{p}{verdict[0]}", "auc": 0.6, "p": p / 10, "verdict": verdict}
        for p, verdict in ((1, "not shown"), (2, "cannot tell"), (5, "leak"), (4, "suspect"), (3, "leak"))
    ]
    audit = data_view({"audit": fields}).audit
    assert [line.name for line in audit.worrying.groups[0].lines] == ["F3l", "F5l", "F4s"]
    assert [line.name for line in audit.rest.groups[0].lines] == ["F2c", "F1n"]


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        ({"status": "done", "images": 94, "pairs": 0, "across_splits": 0},
         "Near-duplicates: none among 94 images; no two patients show almost the same picture."),
        ({"status": "done", "images": 94, "pairs": 1, "across_splits": 0, "examples": [[3, 9]]},
         "Near-duplicates: 1 pair among 94 images show almost the same picture under different patients, none of "
         "them across splits (rows 3 and 9 of images.npy)."),
        ({"status": "part", "images": 9000, "pairs": 1200, "across_splits": 400,
          "examples": [[k, k + 1] for k in range(20)]},
         "Near-duplicates: at least 1,200 pairs among 9,000 images show almost the same picture under different "
         "patients, 400 of them across splits (rows 0 and 1, 1 and 2, 2 and 3, … of images.npy)."),
        ({"status": "not looked for", "note": "60,001 images"},
         "Near-duplicates were not looked for: 60,001 images."),
        ({"status": "done"}, ""), ({}, ""), (None, ""), ("none", ""),
    ],
)  # fmt: skip
def test_near_duplicates_in_a_sentence(found, sentence):
    assert data_view({"near_duplicates": found}).near == sentence


def test_what_other_parts_write_is_what_is_read():
    """The keys are those of the records that the ingest writes."""
    fields = audit_headers(
        pd.DataFrame({"Maker": ["A", "B"] * 20}), np.tile([0, 1], 20).astype(np.int64), np.arange(40)
    )
    codes = np.random.default_rng(0).integers(0, 65535, (20, 1, 32, 32)).astype(np.uint16)
    near = near_pairs(np.concatenate([codes, codes]), np.arange(40), np.repeat([0, 2], 20).astype(np.uint8))
    meta = json.loads(json.dumps({"audit": [asdict(one) for one in fields], "near_duplicates": asdict(near)}))
    text = section(replace(NOTHING, dataset=meta))
    assert "1 of 1 header field predicts the label" in text
    assert "Maker 1.00 1.00 to 1.00" in text
    assert "20 pairs among 40 images" in text


def test_an_artifact_of_before_has_neither(light):
    old = {key: value for key, value in light.dataset.items() if key not in ("audit", "near_duplicates")}
    text = section(replace(light, dataset=old))
    assert "225 kept" in text
    assert "headers give away" not in text
    assert "Near-duplicates" not in text


@pytest.mark.parametrize(
    "audit",
    [None, "x", [None, 3], [{}], [{"field": "<b>F</b>", "verdict": "leak", "auc": math.nan}],
     [{"field": "F", "verdict": "odd", "auc": 0.5}], [{"field": "F", "verdict": "leak", "auc": "0.9"}]],
)  # fmt: skip
def test_a_damaged_audit_leaves_the_rest(light, audit):
    text = section(replace(light, dataset={**light.dataset, "audit": audit}))
    assert "225 kept" in text
    assert "predicts the label" not in text


def test_a_hostile_field_stays_text():
    audit = [{"field": "<script>x</script>", "verdict": "leak", "auc": 0.9, "note": "<u>"}]
    near = {"status": "not looked for", "note": "<script>"}
    page = Page(render_html(replace(NOTHING, dataset={"audit": audit, "near_duplicates": near})))
    assert not {"script", "u"} & {tag for tag, _ in page.tags}
    assert "<script>x</script>" in page.text
