"""The report's section on limitations: every verdict with its number, pictures, and what is missing."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.records import ReportInput
from pipeline.report import limitations, write_report
from pipeline.report.limitations import figure_of
from tests.unit.report_demo import demo_input, verdicts
from tests.unit.test_report import Page


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> ReportInput:
    found = demo_input(tmp_path_factory.mktemp("samples"))
    gans = tuple(replace(one, curves={}, samples=None) for one in found.gans)  # drawing those takes the time
    return replace(found, gans=gans, real_samples=None)


def section(data: ReportInput, folder: Path) -> tuple[str, dict]:
    write_report(data, folder)
    html = (folder / "report.html").read_text(encoding="utf-8")
    found = re.search(r'<section id="limitations">.*?</section>', html, re.DOTALL)
    assert found
    return found[0], json.loads((folder / "report.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def written(demo, tmp_path_factory) -> tuple[str, dict]:
    return section(demo, tmp_path_factory.mktemp("report"))


def test_every_verdict_stands_there_with_its_number_and_interval(written):
    text = Page(written[0]).text
    for one in verdicts():
        assert one.text in text
        assert one.source in text
        assert figure_of(one) in text
    assert "0.210 (0.170 to 0.250)" in text
    assert "1.20 or more" in text  # an end without a bound
    fact = replace(verdicts()[0], value=245.0, low=245.0, high=245.0)
    assert figure_of(fact) == "245 (no interval)"
    assert "train it with stddev_group: 0" in text
    assert "excess.copies above 0.01: fixed before anything was measured" in text


def test_the_words_are_counted_as_the_verdicts(written):
    cells = re.findall(r'<td><span class="verdict (\S+)">', written[0])
    assert sorted(cells) == sorted(["shown"] * 3 + ["not-shown"] * 2 + ["cannot-tell"] * 2)


def test_with_many_gans_each_claim_lists_those_that_it_concerns(demo, tmp_path, monkeypatch):
    monkeypatch.setattr(limitations, "COLUMNS", 1)
    html, _ = section(demo, tmp_path)
    assert 'class="limitations" style' not in html  # no table
    text = Page(html).text
    assert all(figure_of(one) in text for one in verdicts())
    claims = re.findall(r'<div class="claim">.*?</div>', html, re.DOTALL)
    named = [set(re.findall(r"<strong>(?:<span[^>]*></span>)?([^<]+)</strong>", claim)) for claim in claims]
    assert named == [
        {v.gan for v in verdicts() if v.claim == key} for key in dict.fromkeys(v.claim for v in verdicts())
    ]


def test_a_gan_that_a_claim_does_not_concern_has_an_empty_cell(written):
    (line,) = re.findall(r'<tr><th scope="row">AdaIN leaves.*?</tr>', written[0], re.DOTALL)
    cells = re.findall(r"<td>(.*?)</td>", line, re.DOTALL)
    assert [bool(cell.strip()) for cell in cells] == [False, False, True, False]  # dcgan, pggan, stylegan, stylegan2


def test_pictures_and_small_figures_stand_in_the_cells(written):
    page = Page(written[0])
    images = [attributes["alt"] for tag, attributes in page.tags if tag == "img"]
    assert sum("nearest training scans" in alt for alt in images) == 3
    assert sum("feature map" in alt for alt in images) == 1
    figures = [attributes["aria-label"] for tag, attributes in page.tags if tag == "svg"]
    assert sorted(figures) == ["path lengths of single pairs, stylegan", "path lengths of single pairs, stylegan2"]


def test_a_probe_that_failed_is_told_with_its_reason(written):
    assert "dcgan, pinning: the structure of 3 of 100 pairs moves" in Page(written[0]).text


def test_json_holds_the_same_rows(written):
    assert [(one["claim"], one["gan"], one["verdict"]) for one in written[1]["limitations"]] == [
        (one.claim, one.gan, one.verdict) for one in verdicts()
    ]


def test_the_answers_tell_what_was_shown(demo, tmp_path):
    write_report(demo, tmp_path)
    facts = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    points = {point["gan"]: point["text"] for point in facts["answers"][2]["points"]}
    assert "shown: “a GAN merely memorises” (excess.copies 0.210 (0.170 to 0.250))" in points["stylegan"]
    assert "shown" not in points["dcgan"]


def test_damaged_scorecards_cost_their_pictures_alone(demo, tmp_path):
    for name, content in (("missing.json", "["), ("figures.json", '{"path_length": 3}')):
        (tmp_path / "card").mkdir(exist_ok=True)
        (tmp_path / "card" / name).write_text(content)
    (tmp_path / "card" / "pictures").mkdir()
    np.save(tmp_path / "card" / "pictures" / "copies.npy", np.zeros((2, 2)))
    gans = tuple(replace(one, scorecard=tmp_path / "card") for one in demo.gans)
    html, _ = section(replace(demo, gans=gans), tmp_path / "report")
    assert "<img" not in html
    assert "0.210 (0.170 to 0.250)" in html


def test_without_a_scorecard_it_says_so(demo, tmp_path):
    gans = tuple(replace(one, scorecard=None) for one in demo.gans)
    html, facts = section(replace(demo, gans=gans, verdicts=()), tmp_path)
    assert "No scorecard was made in this run" in html
    assert facts["limitations"] == []


def test_many_gans_and_odd_names_keep_the_table_sound(demo, tmp_path):
    odd = '<b>&"'
    told = tuple(replace(one, text=odd, gan=f"{odd}{i}") for i, one in enumerate(verdicts()))
    gans = tuple(replace(demo.gans[0], gan=f"{odd}{i}") for i in range(12))
    html, _ = section(replace(demo, gans=gans, rows=(), verdicts=told), tmp_path)
    Page(html)
    assert "<b>" not in html
