"""A planted defect on its whole way: synthetic scans, probes, artifact, MLflow, verdicts, report."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

from flows import scorecard as stage
from flows.compare import Outcome, gan_summary
from flows.configuration import load_experiment
from flows.context import Context
from flows.experiment import open_context
from flows.features import train_extractor
from flows.probes import RUN, worst_class
from flows.score import score_synthetic
from flows.scorecard import fill_scorecard, transforms_of
from flows.train_gan import train_gan
from flows.verdicts import experiment_verdicts, log_verdicts, probe_rows
from medgan.limitations import PROBES
from medgan.metrics.measured import Measured
from medgan.verdicts import Check, Claim, Measurements, Twin, judge
from pipeline.codes import encode
from pipeline.dataset import ScanDataset, dataset_meta, write_index
from pipeline.records import ImageSpec, MedaugError, ReportInput, ResultRow, ValueRange, Verdict, read_rows, write_rows
from pipeline.report import write_report
from pipeline.store import Artifact, Draft, Recipe, Store

CLASSES = ("left", "right")
SPEC = ImageSpec(1, 32, 32, CLASSES)
RANGE = ValueRange(-1000, 1000, "HU")
SMALL = {"latent": 8, "width": 8, "label_width": 4, "base_channels": 64, "max_channels": 8}
NO_TWIN = Twin(("loss",), (("loss", "=", "bce"),), "train it")
SETTINGS = {
    "name": "planted",
    "data": {"preset": "phantom", "size": [32, 32]},
    "gans": {"stylegan2": {"images": 48, "batch": 8, "snapshots": 3, "architecture": SMALL}},
    "extractor": {"preset": "resnet", "steps": 4, "evaluate_every": 2},
    "synthesis": {"per_class": 60, "dicom": 0},
    "scorecard": {"images": 200, "draws": 200, "probes": ["copies", "duplicates", "conditional", "swd", "noise"]},
}


def experiment(folder: Path, **changes: Any):
    file = folder / "experiment" / "planted.yaml"
    file.parent.mkdir(exist_ok=True, parents=True)
    file.write_text(yaml.safe_dump({**SETTINGS, **changes}))
    return load_experiment(file, runs=folder)


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> dict[str, Any]:
    """An experiment up to its score, whose synthetic scans are to be replaced."""
    folder = tmp_path_factory.mktemp("planted")
    config = experiment(folder)
    (folder / "artifacts").mkdir()
    dataset = squares(folder)
    context = open_context(config, dataset)
    extractor = train_extractor.fn(context, dataset.path)
    generator = train_gan.fn(context, dataset.path, extractor, config.gans[0], 0)
    return {"context": context, "dataset": dataset.path, "extractor": extractor, "generator": generator}


def squares(folder: Path) -> Artifact:
    """Scans of 160 patients: class k is a bright square in its own corner, in noise of each scan's own."""
    counts = {"train": 80, "validation": 60, "test": 20}
    images, labels = draw(sum(counts.values()), seed=0)
    splits = np.repeat([0, 1, 2], list(counts.values()))

    def build(draft: Draft) -> None:
        codes = encode(images)
        np.save(draft.folder / "images.npy", codes)
        write_index(draft.folder, codes, labels.tolist(), splits.tolist(), range(len(codes)))
        by_class = {name: {c: {"slices": n // 2} for c in CLASSES} for name, n in counts.items()}
        draft.meta.update(dataset_meta(SPEC, RANGE, False, counts=by_class, warnings=[], modality="CT"))

    return Store(folder / "artifacts").get_or_create(Recipe("dataset", "squares", {}, {}, ""), build)


def draw(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    images = rng.normal(-0.4, 0.2, (count, 1, 32, 32))
    images[labels == 0, :, :16, :16] += 0.8
    images[labels == 1, :, 16:, 16:] += 0.8
    return images.clip(-1, 1).astype(np.float32), labels


def synthetic(planted: dict[str, Any], name: str, images: np.ndarray, labels: np.ndarray) -> Path:
    """A synthetic artifact of these images, as if the generator had drawn them."""

    def build(draft: Draft) -> None:
        codes = encode(images)
        np.save(draft.folder / "images.npy", codes)
        write_index(draft.folder, codes, labels.tolist(), [0] * len(codes), [-1] * len(codes))
        drawn = {"counts": dict.fromkeys(CLASSES, len(codes) // 2), "gan": "stylegan2", "gan_seed": 0, "seed": 0}
        draft.meta.update(dataset_meta(SPEC, RANGE, True, truncation=1.0, **drawn))

    store = planted["context"].store
    return store.get_or_create(Recipe("synthetic", name, {}, {"name": name}, ""), build).path


def judged(planted: dict[str, Any], drawn: Path) -> tuple[Outcome, dict[str, Verdict], ReportInput]:
    """The scorecard of a synthetic set and the leading verdicts by claim."""
    context: Context = planted["context"]
    given = (context, planted["dataset"], planted["extractor"])
    score = score_synthetic.fn(*given, drawn)
    card = fill_scorecard.fn(*given, planted["generator"], drawn, score)
    outcome = Outcome("stylegan2", 0, "done", "", planted["generator"], drawn, score, card)
    rows = [*read_rows(score / "rows.jsonl"), *probe_rows(context.config, [outcome])]
    verdicts = experiment_verdicts(context.config, rows, [outcome])
    log_verdicts(context, rows, [outcome], verdicts)
    summary = replace(gan_summary(outcome), samples=None)
    report = ReportInput(
        "planted", "", {}, {"classes": list(CLASSES)}, None, (summary,), tuple(rows), (), {}, {}, tuple(verdicts)
    )
    return outcome, {one.claim: one for one in verdicts if one.leading}, report


def verdict_on_worst(report: ReportInput) -> Verdict:
    """The verdict on the class of the lowest recall."""
    return next(one for one in report.verdicts if one.check == "worst.conditional_recall")


@pytest.mark.thorough
def test_copied_training_scans_are_seen_all_the_way_to_the_report(planted, tmp_path) -> None:
    train = ScanDataset(planted["dataset"], "train")
    images, labels = draw(120, seed=1)
    images[:30] = np.roll(train.tensor().numpy()[:30], 1, axis=3)  # copies, a pixel aside
    labels[:30] = train.labels[:30]
    outcome, verdicts, report = judged(planted, synthetic(planted, "copied", images, labels))
    found = verdicts["memorisation"]
    assert found.verdict == "shown"
    assert found.value == pytest.approx(0.25, abs=0.05)
    assert verdicts["class_collapse"].verdict != "shown"

    write_report(report, tmp_path)
    html = (tmp_path / "report.html").read_text()
    facts = json.loads((tmp_path / "report.json").read_text())
    assert "shown: “a GAN merely memorises”" in html
    assert next(one for one in facts["limitations"] if one["claim"] == "memorisation")["verdict"] == "shown"
    picture = np.load(outcome.scorecard / "pictures" / "copies.npy")
    assert picture.dtype == np.uint8

    client = planted["context"].tracker.client
    experiment_id = planted["context"].tracker.experiment_id
    score_runs = client.search_runs([experiment_id], "tags.stage = 'score'")
    logged = next(run for run in score_runs if run.data.tags.get("scorecard") == outcome.scorecard.name)
    for row in read_rows(outcome.scorecard / "rows.jsonl"):
        assert logged.data.metrics[row.metric] == pytest.approx(row.value), row.metric
    assert logged.data.metrics["divergence"] == 0.0
    parent = client.get_run(planted["context"].parent_run_id)
    assert parent.data.metrics["limitation.memorisation.stylegan2"] == pytest.approx(found.value)
    assert parent.data.tags["limitation.memorisation.stylegan2"] == "shown"


@pytest.mark.thorough
def test_scans_of_new_patients_pass_for_no_copies_and_no_collapse(planted) -> None:
    _, verdicts, report = judged(planted, synthetic(planted, "sound", *draw(120, seed=2)))
    assert verdicts["memorisation"].verdict != "shown"
    assert verdict_on_worst(report).verdict != "shown"


@pytest.mark.thorough
def test_a_class_that_is_not_drawn_is_seen(planted) -> None:
    images, labels = draw(120, seed=3)
    images[:] = draw(240, seed=4)[0][::2]  # all of class 0, whatever their labels say
    _, verdicts, report = judged(planted, synthetic(planted, "collapsed", images, labels))
    assert verdict_on_worst(report).verdict == "shown"
    leading = verdicts["class_collapse"]  # whether conditioning is to blame only a twin without it can tell
    assert (leading.verdict, leading.remedy != "") == ("cannot tell at this n", True)


@pytest.mark.thorough
def test_a_probe_that_fails_is_a_missing_row_and_done_work_stays(planted, monkeypatch) -> None:
    drawn = synthetic(planted, "faulty", *draw(120, seed=5))

    def broken(subject):
        raise MedaugError("planted fault")

    monkeypatch.setattr(stage, "RUN", {**RUN, "swd": broken})
    outcome, _, _ = judged(planted, drawn)
    assert json.loads((outcome.scorecard / "missing.json").read_text()) == {"swd": "planted fault"}
    metrics = {row.metric for row in read_rows(outcome.scorecard / "rows.jsonl")}
    assert "swd" not in metrics
    assert {"copies", "duplicates", "conditional_recall", "noise"} <= metrics

    monkeypatch.setattr(stage, "RUN", dict.fromkeys(RUN, broken))  # whatever runs now fails
    again, _, _ = judged(planted, drawn)
    assert again.scorecard == outcome.scorecard
    client, tracker = planted["context"].tracker.client, planted["context"].tracker
    runs = client.search_runs([tracker.experiment_id], f"tags.scorecard = '{outcome.scorecard.name}'")
    assert len(client.get_metric_history(runs[0].info.run_id, "copies")) == 1


def test_the_lowest_of_many_classes_gets_a_wider_interval() -> None:
    ratios = {f"floor_ratio.conditional_recall.{name}": Measured(0.5, 0.4, 0.6) for name in "ab"}
    alone = worst_class({"floor_ratio.conditional_recall.a": Measured(0.5, 0.4, 0.6)})["worst.conditional_recall"]
    both = worst_class(ratios)["worst.conditional_recall"]
    assert (alone.value, both.value) == (0.5, 0.5)
    assert alone.high == pytest.approx(0.6)
    assert both.high - 0.5 == pytest.approx(0.1 * 2.2414 / 1.95996, rel=1e-4)
    assert worst_class({"conditional_recall.a": Measured(0.4, 0.3, 0.5)}) == {}


@pytest.mark.thorough
def test_the_wait_for_a_gpu_is_no_training(planted, monkeypatch) -> None:
    class Clock:
        now = 1000.0

        def monotonic(self) -> float:
            return self.now

    clock = Clock()

    @contextmanager
    def busy(configured: str) -> Iterator[str]:
        clock.now += 3600.0
        yield "cpu"

    monkeypatch.setattr("flows.timeline.time", clock)
    monkeypatch.setattr("flows.train_gan.training_device", busy)
    context: Context = planted["context"]
    trained = train_gan.fn(context, planted["dataset"], planted["extractor"], context.config.gans[0], 1)
    points = Artifact.open(trained).manifest["record"]["timeline"]
    assert len(points) == 3
    assert {seconds for _, seconds in points} == {0.0}  # the clock stands still but for the wait


def test_without_a_twin_no_figure_is_logged_under_the_claims_name() -> None:
    class Run:
        def __init__(self) -> None:
            self.values: dict[str, float] = {}
            self.tags: dict[str, str] = {}

        def log(self, values: dict[str, float], step: int) -> None:
            self.values |= values

        def set_tag(self, name: str, value: str) -> None:
            self.tags[name] = value

    gans = {"a": {"network": "stylegan2"}, "b": {"network": "stylegan2"}}
    claim = Claim("wider", "", "", (), (Check("p", "recall", "above", 0.0, "", "difference", twin=NO_TWIN),))
    fixed = Claim("held", "", "", (), (Check("p", "recall", "above", 0.1, ""),))
    rows = [ResultRow("score", "recall", 0.4, 0.3, 0.5, gan="a", gan_seed=0)]
    run = Run()
    log_verdicts(SimpleNamespace(parent=run), rows, [], judge((claim, fixed), Measurements(gans, rows)))
    assert run.tags == {"limitation.wider.a": "cannot tell at this n", "limitation.held.a": "shown"}
    assert run.values == {f"limitation.held.a{end}": x for end, x in (("", 0.4), (".low", 0.3), (".high", 0.5))}


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_no_row_is_written_that_json_does_not_know(tmp_path, bad) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_rows(tmp_path / "rows.jsonl", [ResultRow("probe", "worst", 0.1, 0.0, bad)])
    assert not (tmp_path / "rows.jsonl").exists()


@pytest.mark.thorough
def test_every_probe_gives_what_the_table_says(planted) -> None:
    drawn = synthetic(planted, "whole", *draw(120, seed=6))
    context = planted["context"]
    subject = stage.examine(
        context.config, planted["dataset"], planted["extractor"], planted["generator"], drawn, "cpu"
    )
    subject = replace(subject, transforms=("brightness",), draws=200)
    for name in ("path_length", "separability", "edits", "noise", "mixing", "truncation", "leak", "ndb", "ms_ssim"):
        answer = RUN[name](subject)
        assert set(PROBES[name].metrics) <= set(answer.figures), name
        assert answer.picture is None or (answer.picture.dtype == np.uint8 and answer.picture.ndim == 2), name


def test_an_unknown_probe_is_refused_with_the_nearest(tmp_path) -> None:
    with pytest.raises(MedaugError, match="unknown probe 'copy'; did you mean 'copies'"):
        experiment(tmp_path, scorecard={"probes": ["copy"]})


def test_transforms_are_looked_for_in_the_twin_too(tmp_path) -> None:
    augmentation = {"kind": "constant", "transforms": ["rotate"], "probability": 0.5}
    gans = {
        "augmented": {"preset": "stylegan2", "augmentation": augmentation},
        "twin": {"preset": "stylegan2"},
        "other": {"preset": "dcgan"},
    }
    config = experiment(tmp_path, gans=gans)
    found = {gan.name: transforms_of(config, gan.name) for gan in config.gans}
    assert found == {"augmented": ["rotate"], "twin": ["rotate"], "other": []}
    # means over other transforms would be other quantities: all that share a twin are probed for the same
    gans["shifted"] = {"preset": "stylegan2", "augmentation": {**augmentation, "transforms": ["translate"]}}
    config = experiment(tmp_path, gans=gans)
    found = {gan.name: transforms_of(config, gan.name) for gan in config.gans}
    both = ["rotate", "translate"]
    assert found == {"augmented": both, "twin": both, "shifted": both, "other": []}


def test_a_training_that_the_machine_ended_is_no_divergence(tmp_path) -> None:
    config = experiment(tmp_path, gans={"dcgan": {"images": 48, "batch": 8}})
    outcomes = [Outcome("dcgan", seed, status) for seed, status in enumerate(("failed", "failed", "diverged"))]
    (row,) = [row for row in probe_rows(config, outcomes) if row.metric == "divergence"]
    assert (row.value, row.n) == (1.0, 1)
    assert not probe_rows(config, outcomes[:2])
