"""The report's section on limitations: every verdict with its number, pictures, and what is missing."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flows.tables import report_tables
from pipeline.claims import Concern
from pipeline.records import ReportInput, ResultRow
from pipeline.report import write_report
from pipeline.report.criteria import figure_of
from pipeline.report.estimates import Evidence
from pipeline.report.limitations import scorecard
from pipeline.report.small_figures import small_figure
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


def words(html: str) -> str:
    return Page(html).text.replace("\u00a0", " ")


def claims(html: str) -> list[str]:
    return html.split('<div class="claim">')[1:]


def further(**over: object):
    """A check of the claim on memorisation that does not lead."""
    lead = verdicts()[0]
    return replace(lead, leading=False, verdict="shown", check="copies", metric="copies", of="copies", **over)


def test_every_verdict_stands_there_with_its_number_and_interval(written):
    text = words(written[0])
    for one in verdicts():
        assert one.text[1:] in text  # its first letter is a capital
        assert one.source in text
        assert figure_of(one) in text
    assert "0.210 (0.170 to 0.250)" in text
    assert "1.20 or more" in text  # an end without a bound
    fact = replace(verdicts()[0], value=245.0, low=245.0, high=245.0)
    assert figure_of(fact) == "245 (no interval)"
    assert "train it with stddev_group: 0" in text
    assert "Shown by copies in excess of real scans above 0.01 (fixed before anything was measured)." in text


def test_ends_beyond_what_a_figure_can_be_are_cut():
    share = replace(verdicts()[-1], value=0.02, low=-0.046, high=1.076)
    assert figure_of(share) == "0.02 (0.00 to 1.00)"
    assert "(−0.100 to" in figure_of(
        replace(verdicts()[0], value=-0.05, low=-0.1, high=0.1)
    )  # an excess may be negative


def test_a_criterion_stands_beside_its_own_metric(demo, tmp_path):
    """Where several checks lead, GANs may be decided by different ones: each figure names its own."""
    deciding = replace(verdicts()[1], check="copies", metric="copies", of="copies", threshold=0.25)
    html, _ = section(replace(demo, verdicts=(verdicts()[0], deciding)), tmp_path)
    text = words(html)
    assert f"{figure_of(verdicts()[0])} copies in excess of real scans; shown if above 0.01" in text
    assert "0.210 (0.170 to 0.250) copies; shown if above 0.25" in text


def test_without_a_twin_no_number_stands_for_the_comparison(written):
    (claim,) = (one for one in claims(written[0]) if one.startswith("<h4>Minibatch"))
    assert "no comparison" in claim
    assert 'class="figure-text"' not in claim.split("</li>")[0]
    assert "Alone: recall 0.470 (0.380 to 0.560)" in words(written[0])


def test_a_shown_check_that_does_not_lead_reaches_the_answers(demo, tmp_path):
    html, facts = section(
        replace(demo, verdicts=(*verdicts(), further(gan="dcgan", value=0.3, low=0.2, high=0.4))), tmp_path
    )
    points = {point["gan"]: point["text"] for point in facts["answers"][2]["points"]}
    told = "“a GAN merely memorises” (copies 0.300 (0.200 to 0.400), shown if above 0.01)"
    assert f"also shown, by further checks: {told}" in points["dcgan"]
    text = words(html)
    assert told in text.split("claim by claim")[0]
    assert "Also shown: copies 0.300 (0.200 to 0.400), shown if above 0.01" in text


def test_every_claim_that_concerns_a_gan_is_listed(demo, tmp_path):
    pins = Concern("growing_pins_detail", "growing pins details", "Karras", ("dcgan", "pggan"), (pinned(),))
    html, facts = section(replace(demo, concerns=(pins,)), tmp_path)
    (claim,) = (one for one in claims(html) if one.startswith("<h4>Growing pins details"))
    assert claim.count("not measured") == 2
    assert "the structure of 3 of 100 pairs moves" in claim  # dcgan's probe says why
    assert "generator loss not finite" in claim  # pggan diverged
    assert {(one["gan"], one["claim"]) for one in facts["unmeasured"]} == {
        ("dcgan", "growing_pins_detail"),
        ("pggan", "growing_pins_detail"),
    }
    assert "dcgan: not measured: the structure of 3 of 100 pairs moves" in report_tables(facts)


def pinned():
    return replace(verdicts()[0], probe="pinning", of="pinning", side="below").criterion


def test_equal_answers_stand_in_one_line(demo):
    lost = [replace(verdicts()[0], claim="instability", probe="divergence", gan=gan) for gan in ("dcgan", "stylegan")]
    card = scorecard(Evidence(replace(demo, verdicts=tuple(lost))))
    ((block,),) = (blocks for _, blocks in card.parts)
    (told,) = block.told
    assert [gan.name for gan, _ in told.gans] == ["dcgan", "stylegan"]


def test_pictures_of_all_probes_stand_there_and_the_twin_s_beside(demo):
    lead = replace(verdicts()[1], against="dcgan", relation="difference")
    card = scorecard(Evidence(replace(demo, verdicts=(lead, replace(lead, probe="path_length", leading=False)))))
    ((block,),) = (blocks for _, blocks in card.parts)
    captions = [one.caption for one in block.told[0].looks]
    assert [caption.split(":")[0] for caption in captions] == ["stylegan", "dcgan"] * 2
    assert ["nearest training" in caption for caption in captions] == [True, True, False, False]


def test_a_scorecard_s_own_captions_come_first(demo, tmp_path):
    (stylegan,) = (one for one in demo.gans if one.gan == "stylegan")
    card = tmp_path / "card"
    (card / "pictures").mkdir(parents=True)
    for name in ("copies", "droplets"):
        np.save(card / "pictures" / f"{name}.npy", np.zeros((8, 8), np.uint8))
    (card / "captions.json").write_text(json.dumps({"copies": "none is a copy"}))
    html, _ = section(replace(demo, gans=(replace(stylegan, scorecard=card),)), tmp_path / "report")
    alts = [attributes["alt"] for tag, attributes in Page(html).tags if tag == "img"]
    assert "stylegan: none is a copy" in alts
    assert "stylegan: norm of the feature map with the highest peak" in alts


def test_unstable_trainings_are_seen_in_their_course(demo):
    curve = {"validation.fid.domain": [(100.0, 30.0), (200.0, 10.0)]}
    gans = tuple(replace(one, curves=curve, timeline=((0.0, 0.0), (200.0, 20.0))) for one in demo.gans)
    lost = replace(verdicts()[0], claim="instability", probe="divergence")
    card = scorecard(Evidence(replace(demo, gans=gans, verdicts=(lost,))))
    assert ["images seen" in one.caption for one in card.blocks[0].looks] == [True]
    sooner = replace(lost, probe="training", against="stylegan", relation="speedup")
    card = scorecard(Evidence(replace(demo, gans=gans, verdicts=(sooner,))))
    captions = [one.caption for one in card.blocks[0].told[0].looks]
    assert ["over seconds" in caption for caption in captions] == [False, True]


def test_few_points_are_marked_at_their_places():
    lines = {name: [[32.0, 1.4], [16.0, 0.8]] for name in ("real", "synthetic")}
    data = {"lines": lines, "x": "pixels", "y": "spectral gap, dB", "log": False, "steps": False}
    svg = small_figure(data, "#0072B2", "key", "alt")
    labels = re.findall(r">([\d.]+)</text>", svg)
    assert {"16", "32"} <= set(labels)
    assert not {"20", "24", "28"} & set(labels)
    assert svg.count("<use") >= 4  # a marker for each point


def test_pictures_and_small_figures_stand_with_their_claims(written):
    page = Page(written[0])
    images = [attributes["alt"] for tag, attributes in page.tags if tag == "img"]
    assert sum("nearest training scans" in alt for alt in images) == 3
    assert sum("feature map" in alt for alt in images) == 1
    figures = [attributes["aria-label"] for tag, attributes in page.tags if tag == "svg"]
    assert sorted(figures) == ["path lengths of single pairs, stylegan", "path lengths of single pairs, stylegan2"]


def test_what_failed_is_told_once_for_each_reason(demo, tmp_path):
    gans = []
    for gan, pairs in (("dcgan", 3), ("stylegan", 4), ("stylegan2", 4)):
        card = tmp_path / gan
        card.mkdir()
        (card / "missing.json").write_text(json.dumps({"pinning": f"pinning: only {pairs} of 100 pairs move"}))
        gans.append(replace(next(one for one in demo.gans if one.gan == gan), scorecard=card))
    html, _ = section(replace(demo, gans=tuple(gans)), tmp_path / "report")
    text = words(html)
    assert "What could not be measured (1)" in text
    assert "Pinned detail : only 3 of 100 pairs move (so or with other figures) dcgan, stylegan, stylegan2" in text


def test_json_holds_the_same_rows(written):
    assert [(one["claim"], one["gan"], one["verdict"]) for one in written[1]["limitations"]] == [
        (one.claim, one.gan, one.verdict) for one in verdicts()
    ]


def test_the_answers_tell_what_was_shown(written):
    points = {point["gan"]: point["text"] for point in written[1]["answers"][2]["points"]}
    told = (
        "shown: “a GAN merely memorises” (copies in excess of real scans 0.210 (0.170 to 0.250), shown if above 0.01)"
    )
    assert told in points["stylegan"]
    assert "shown" not in points["dcgan"]
    assert "promised and not there: “a mapping network" in points["stylegan"]
    assert "mapping" not in points["stylegan2"]  # good news is no fault


def test_damaged_scorecards_cost_their_pictures_alone(demo, tmp_path):
    for name, content in (("missing.json", "["), ("figures.json", '{"path_length": 3}'), ("captions.json", "3")):
        (tmp_path / "card").mkdir(exist_ok=True)
        (tmp_path / "card" / name).write_text(content)
    (tmp_path / "card" / "pictures").mkdir()
    np.save(tmp_path / "card" / "pictures" / "copies.npy", np.zeros((2, 2)))
    gans = tuple(replace(one, scorecard=tmp_path / "card") for one in demo.gans)
    html, _ = section(replace(demo, gans=gans), tmp_path / "report")
    assert "<img" not in html
    assert "0.210 (0.170 to 0.250)" in words(html)


def test_without_a_scorecard_it_says_so(demo, tmp_path):
    gans = tuple(replace(one, scorecard=None) for one in demo.gans)
    html, facts = section(replace(demo, gans=gans, verdicts=()), tmp_path)
    assert "No scorecard was made in this run" in html
    assert facts["limitations"] == []


def test_many_gans_and_odd_names_keep_the_page_sound(demo, tmp_path):
    odd = '<b>&"'
    told = tuple(replace(one, text=odd, gan=f"{odd}{i}") for i, one in enumerate(verdicts()))
    gans = tuple(replace(demo.gans[0], gan=f"{odd}{i}") for i in range(12))
    html, _ = section(replace(demo, gans=gans, rows=(), verdicts=told), tmp_path)
    Page(html)
    assert "<b>" not in html


def test_figures_of_probes_stand_under_their_names(demo, tmp_path):
    row = ResultRow("probe", "swd.16", 0.1, gan="dcgan", gan_seed=0)
    html, _ = section(replace(demo, rows=(row,)), tmp_path)
    assert "sliced Wasserstein distance at 16 pixels" in words(html)
