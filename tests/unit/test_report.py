"""The report as a whole: self-contained, complete, honest, and whole or absent."""

from __future__ import annotations

import base64
import io
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.records import GanSummary, MedaugError, ReportInput, ResultRow
from pipeline.report import write_report
from tests.unit.report_demo import CLASSES, GANS, demo_input, write_samples

VOID = {"meta", "img", "br", "link", "input", "hr", "col"}
NOTHING = ReportInput("empty", "", {}, {}, None, (), (), (), {}, {})


class Page(HTMLParser):
    """Checks that tags are balanced and collects what a test asks for."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> out of order"

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> ReportInput:
    return demo_input(tmp_path_factory.mktemp("samples"))


@pytest.fixture(scope="module")
def light(demo) -> ReportInput:
    """The demo with the curves and images of one GAN only: drawing takes the time."""
    gans = [one if one.gan == "pggan" else replace(one, curves={}, samples=None) for one in demo.gans]
    return replace(demo, gans=tuple(gans), real_samples=None)


@pytest.fixture(scope="module")
def written(demo, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("report") / "new"
    write_report(demo, folder)
    return folder


@pytest.fixture(scope="module")
def html(written) -> str:
    return (written / "report.html").read_text(encoding="utf-8")


def pages(data: ReportInput, folder: Path) -> tuple[str, dict]:
    write_report(data, folder)
    facts = json.loads((folder / "report.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    return (folder / "report.html").read_text(encoding="utf-8"), facts


def test_the_page_loads_nothing_and_runs_nothing(html):
    page = Page(html)
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base")
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "xlink:href", "action", "data", "srcset", "poster"):
            assert attributes.get(name, "#").startswith(("#", "data:image/png;base64,")), (tag, attributes[name][:80])
    assert not re.search(r"https?://|@import|url\((?!#)", html)


def test_ids_are_unique_and_every_reference_meets_one(html):
    page = Page(html)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {attributes["href"][1:] for _, attributes in page.tags if "href" in attributes}
    targets |= set(re.findall(r"url\(#([^)]+)\)", html))
    assert targets <= set(ids)
    assert {"answers", "warnings", "fidelity", "pictures", "walks", "curves", "classifiers", "data"} <= targets


def test_every_gan_class_warning_and_reason_is_there(demo, html):
    text = Page(html).text
    for expected in (
        *GANS,
        *CLASSES,
        *demo.warnings,
        *demo.dataset["warnings"],
        demo.headline,
        "generator loss not finite at 4,000 images, after 2 restarts",
        "1 of 4 GANs did not finish every training",
        "truncated pixel data",
        "sqlite:///runs/mlflow.db",
        "resamples: 2000",
        "−1,000 to 400 HU",
        "Not measured in this run: density, coverage.",
        "20 half splits, their mean and range; 59 scans a half",
        "domain KID: 100 subsets of 59.",
        "precision, recall: k = 5.",
        "domain KID 0.0634 (real against real −0.040 to 0.060), domain FID 24.9 (2.26 × floor)",
        "classifiers × controls × GANs × ratios",
    ):
        assert expected in text, expected
    assert text.index("did not finish") < text.index("Did it help?")
    assert not re.search(r"\bnan\b|\binf\b|\bNone\b", text)


def test_images_and_figures_say_what_they_show(html):
    page = Page(html)
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    drawn = [gan for gan in GANS if gan != "pggan"]
    in_scorecard, images = images[:4], images[4:]
    assert [one["alt"] for one in images[:1]] == ["9 real scans of class healthy"]
    assert all(one["alt"] for one in in_scorecard)
    assert len(images) == len(CLASSES) * (1 + len(drawn)) + len(CLASSES) * len(drawn)
    assert all(attributes.get("alt") for attributes in images)
    figures = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert figures
    assert all(attributes["role"] == "img" and attributes["aria-label"] for attributes in figures)


def test_image_bytes_decode_to_the_samples(demo, html):
    sources = {a["alt"]: a["src"] for tag, a in Page(html).tags if tag == "img"}
    expected = np.load(next(one.samples for one in demo.gans if one.gan == "stylegan2") / "1.npy")
    png = base64.b64decode(sources["9 synthetic scans of class nodule by stylegan2"].split(",", 1)[1])
    with Image.open(io.BytesIO(png)) as image:
        assert image.mode == "LA"
        grey, alpha = np.asarray(image)[..., 0], np.asarray(image)[..., 1]
    times, gap = 3, 4  # 32 pixels become 96
    assert grey.shape == (3 * 96 + 2 * gap, 3 * 96 + 2 * gap)
    for i in range(9):
        y, x = i // 3 * (96 + gap), i % 3 * (96 + gap)
        tile = grey[y : y + 96, x : x + 96]
        for dy in range(times):
            for dx in range(times):
                np.testing.assert_array_equal(tile[dy::times, dx::times], expected[i])
        assert (alpha[y : y + 96, x : x + 96] == 255).all()
    assert alpha[:, 96 : 96 + gap].max() == 0


def test_json_repeats_the_rows(demo, written):
    facts = json.loads((written / "report.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert facts["schema"] == 1
    assert [ResultRow(**row) for row in facts["rows"]] == list(demo.rows)
    gans = {one["gan"]: one for one in facts["gans"]}
    assert list(gans) == list(GANS)
    kid = gans["stylegan2"]["metrics"]["kid.domain"]
    assert kid["value"] == 0.0634
    assert "ratio_to_floor" not in kid
    assert [facts["floor"]["kid.domain"][end] for end in ("low", "high")] == [-0.04, 0.06]
    assert kid["lead"]
    assert gans["stylegan2"]["metrics"]["fid.domain"]["ratio_to_floor"] == pytest.approx(24.9 / 11)  # as measured
    assert not gans["stylegan"]["metrics"]["kid.domain"]["lead"]
    assert gans["pggan"]["metrics"] == {}
    assert gans["pggan"]["trainings"][0]["status"] == "diverged"
    assert facts["floor"]["fid.domain"]["value"] == 9.7
    contrasts = [row for row in demo.rows if row.stage == "contrast"]
    assert sorted(
        (one["arm"], one["gan"], one["classifier"], one["value"], one["n"]) for one in facts["contrasts"]
    ) == (sorted((row.arm, row.gan, row.classifier, row.value, row.n) for row in contrasts))
    assert {one["verdict"] for one in facts["contrasts"]} == {"cannot tell"}
    assert {one["verdict"] for one in facts["verdicts"]} == {"cannot tell at this n"}


def test_equal_input_gives_equal_bytes(demo, html, tmp_path):
    write_report(demo, tmp_path)
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == html
    assert sorted(file.name for file in tmp_path.iterdir()) == ["report.html", "report.json"]


def test_a_new_report_takes_the_place_of_the_old_one_whole(tmp_path):
    write_report(replace(NOTHING, title="first run"), tmp_path)
    with (tmp_path / "report.html").open(encoding="utf-8") as reader:
        write_report(replace(NOTHING, title="second run"), tmp_path)
        assert "first run" in reader.read()  # a file written in place would show the new text
    assert "second run" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_hostile_class_name_stays_text(tmp_path):
    name = "<script>alert('$x$ & \"y\"')"  # a class name becomes a file name, so no slash
    samples = write_samples(tmp_path / "s", 0.1, 1, walk=False, classes=("healthy",))
    (samples / "0.npy").rename(samples / f"{name}.npy")
    gan = GanSummary(
        "$dc<b>$", 0, "diverged", "<img src=x onerror=y>", 10, 1.0, {}, {"loss/<i>$g$": [(1, 2.0)]}, samples
    )
    rows = (
        ResultRow("score", f"kid.domain.{name}", 0.25, gan=gan.gan),
        ResultRow("contrast", "auroc", 0.1, -0.1, 0.3, gan=gan.gan, arm="D-B", classifier="<u>", note="<s>"),
    )
    data = replace(
        NOTHING,
        title="<title>",
        dataset={
            "classes": [name],
            "quarantine": {"reasons": [{"reason": "</table>"}], "files": [{"file": "<a>"}]},
        },
        real_samples=samples,
        gans=(gan,),
        rows=rows,
        warnings=("<style>",),
        config={"<": "</pre>"},
        links={"<h1>": "javascript:x"},
    )
    text, facts = pages(data, tmp_path / "out")
    page = Page(text)
    assert not {"script", "u", "s", "b", "i"} & {tag for tag, _ in page.tags}
    assert [a["src"][:5] for tag, a in page.tags if tag == "img"] == ["data:", "data:"]
    assert name in "".join(page.words)
    assert facts["classes"] == [name]
    assert facts["gans"][0]["metrics"][f"kid.domain.{name}"]["value"] == 0.25


def test_values_that_are_not_finite_never_reach_the_json(light, tmp_path):
    rows = (
        ResultRow("score", "kid.domain", math.nan, gan="dcgan", gan_seed=0),
        ResultRow("score", "kid.domain", 0.5, math.inf, 1.0, gan="dcgan", gan_seed=1),
        ResultRow("score", "fid.domain", math.inf, gan="stylegan"),
        ResultRow("contrast", "auroc", math.nan, math.nan, math.inf, gan="dcgan", arm="D-B", classifier="resnet"),
        ResultRow("classify", "auroc", -math.inf, arm="A", classifier="resnet"),
    )
    config = {"classification": {"endpoint": "auroc"}, "rate": math.nan, "array": np.array([1.0, math.nan])}
    text, facts = pages(replace(light, rows=rows, config=config), tmp_path)  # NaN would fail in parse_constant
    assert facts["rows"][0]["value"] is None
    assert facts["config"]["array"] == [1.0, None]
    assert facts["gans"][0]["metrics"]["kid.domain"]["value"] == 0.5
    assert facts["gans"][0]["metrics"]["kid.domain"]["broken"] == 1
    words = Page(text).text
    assert "1 value not finite" in words
    assert "the value is not finite" in words
    assert "Cannot tell" in words


@pytest.mark.parametrize("part", ["config", "dataset", "gans", "rows", "warnings", "links", "provenance"])
def test_a_missing_part_leaves_the_rest(light, part, tmp_path):
    text, facts = pages(replace(light, **{part: getattr(NOTHING, part)}), tmp_path)
    assert "Glossary" in Page(text).text
    assert facts["title"] == "quickstart"


def test_an_empty_run_says_so_everywhere(tmp_path):
    text, facts = pages(NOTHING, tmp_path)
    words = Page(text).text
    for expected in (
        "Not measured: this run holds 0 contrasts",
        "No GAN was trained",
        "No latent walk was drawn",
        "No curves were recorded",
        "No classifier was trained",
        "No counts are recorded",
    ):
        assert expected in words
    assert [one["answer"][:12] for one in facts["answers"]] == ["Not measured"] * 3


@pytest.mark.parametrize("damage", ["missing", "text", "float", "pickle", "empty"])
def test_damaged_samples_leave_a_reason(demo, damage, tmp_path):
    folder = write_samples(tmp_path / "s", 0.0, 3, walk=True)
    for label, name in enumerate(CLASSES):  # named by class: with a label's file missing these are looked for
        (folder / f"{label}.npy").rename(folder / f"{name}.npy")
    for name in ("nodule.npy", "walk.npy"):
        (folder / name).unlink()
        if damage == "text":
            (folder / name).write_text("no array", encoding="utf-8")
        elif damage != "missing":
            array = {
                "float": np.zeros((2, 8, 8)),
                "pickle": np.array([{}], object),
                "empty": np.zeros((0, 8, 8), np.uint8),
            }[damage]
            np.save(folder / name, array, allow_pickle=True)
    gan = replace(demo.gans[0], samples=folder, curves={}, scorecard=None)
    text, _ = pages(replace(demo, gans=(gan,), rows=(), real_samples=None), tmp_path / "out")
    page = Page(text)
    assert [a["alt"] for tag, a in page.tags if tag == "img"] == [
        "9 synthetic scans of class healthy by dcgan",
        "9 synthetic scans of class effusion by dcgan",
    ]
    assert "no samples of this class" in page.text
    assert "No latent walk was drawn" in page.text


def test_an_unwritable_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(MedaugError, match=r"report folder .*file.*can be written to"):
        write_report(NOTHING, tmp_path / "file" / "report")


def test_a_failed_writing_keeps_the_old_report(tmp_path, monkeypatch):
    write_report(replace(NOTHING, title="first run"), tmp_path)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pipeline.report.build.os.fsync", full)
    with pytest.raises(MedaugError, match="No space left on device"):
        write_report(replace(NOTHING, title="second run"), tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["report.html", "report.json"]
    assert "first run" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_hashes_of_the_sealed_test_set_are_not_published(light, tmp_path):
    data = replace(light, dataset={**light.dataset, "test_hashes": ["ab" * 16]})
    text, facts = pages(data, tmp_path)
    assert "test_hashes" not in facts["dataset"]
    assert "ab" * 16 not in text
