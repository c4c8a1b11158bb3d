"""The grid of cells, what is registered of it, and the evidence that comes out."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from classifiers.config import ClassifierConfig
from classifiers.evaluate import Predictions
from classifiers.statistics import endpoint_of
from flows.classify import PREDICTIONS, Cell
from flows.configuration import ClassificationConfig, ExperimentConfig, SynthesisConfig, load_experiment
from flows.contrasts import (
    arm_rows,
    contrast_name,
    contrast_rows,
    evidence_rows,
    gain_rows,
    load_runs,
    worth_rows,
)
from flows.filters import best_of_each_class
from flows.grid import Ground, check_classifiers, check_fractions, grid
from flows.registration import plan_of, planned_contrasts, registered, trained_on
from pipeline.dataset import IMAGES, INDEX, ScanDataset
from pipeline.fraction import nested_patients, take_fraction
from pipeline.records import MedaugError, ResultRow
from pipeline.store import Artifact, Draft, Recipe, Store
from tests.unit.classifier_scans import real_artifact
from tests.unit.test_configuration import QUICKSTART

RESNET = ClassifierConfig()
SETTINGS = ClassificationConfig(seeds=(0, 1, 2))
LABELS = np.arange(120) % 2


def answers(quality: float, seed: int) -> Predictions:
    """Noise that all runs share, plus a run's own: paired, as classifiers on one test set are."""
    shared, own = np.random.default_rng(0).normal(size=120), np.random.default_rng(seed + 1000).normal(size=120)
    p = 1 / (1 + np.exp(-((LABELS - 0.5) * quality + shared + 0.2 * own)))
    return Predictions(np.stack([1 - p, p], 1), LABELS, np.arange(120), ("well", "ill"))


def cells(folder: Path, quality: dict[str, float], gan_seeds: tuple[int, ...] = (0, 1), **over: object):
    """Cells of arms B, C and one D for each GAN with the given separations, three classifier seeds each."""
    made = []
    for name, value in quality.items():
        arm = name if name in ("A", "B", "C", "E") else "D"
        for gan_seed in gan_seeds if arm == "D" else (None,):
            for seed in range(3):
                gan = name if arm == "D" else ""
                cell = Cell(arm, RESNET, seed, None if arm in "AB" else 1.0, "uniform", gan, gan_seed)
                cell = dataclasses.replace(cell, **over)
                path = folder / f"{name}-{gan_seed}-{seed}-{len(made)}-{len(list(folder.iterdir()))}"
                path.mkdir()
                answers(value, seed + 10 * (gan_seed or 0)).save(path / PREDICTIONS)
                made.append((cell, path))
    return made


def by_arm(rows: list[ResultRow]) -> dict[tuple[str, str], ResultRow]:
    return {(row.gan, row.arm): row for row in rows}


def test_a_planted_gain_and_a_planted_harm_are_told_with_all_that_belongs_to_them(tmp_path):
    runs = load_runs(cells(tmp_path, {"B": 1.5, "C": 1.5, "good": 4.0, "bad": 0.2, "idle": 1.5}))
    rows = contrast_rows(runs, SETTINGS, 0)
    found, power = (by_arm([row for row in rows if row.stage == stage]) for stage in ("contrast", "power"))
    assert set(found) == {(gan, arm) for gan in ("good", "bad", "idle") for arm in ("D-B", "D-C")} == set(power)
    for arm in ("D-B", "D-C"):
        assert found["good", arm].low > 0
        assert found["bad", arm].high < 0
        assert found["idle", arm].low < 0 < found["idle", arm].high
        assert "6 runs against 3" in found["good", arm].note
        assert float(found["good", arm].note.split("Holm p=")[1].split(",")[0]) < 0.05
        assert "6 runs against 3; 2 of 2 GAN seeds" in found["good", arm].note
    # Patients alone: the bootstrap and the closed form agree.
    bootstrap, closed = (
        float(part.split(" by")[0].split(" ")[-1]) for part in found["idle", "D-B"].note.split("; ")[-1].split(", ")
    )
    assert bootstrap == pytest.approx(closed, rel=0.15)


def test_controls_are_of_the_same_fraction_classifier_balance_and_count(tmp_path):
    everything = cells(tmp_path, {"B": 1.5, "C": 1.5, "gan": 1.5})
    tenth = cells(tmp_path, {"B": 0.0, "C": 0.5, "gan": 3.0}, fraction=0.1)
    balanced = cells(tmp_path, {"C": 2.5, "gan": 1.5}, balance="balance")
    filtered = cells(tmp_path, {"gan": 1.5}, filter="copies")
    runs = load_runs([*everything, *tenth, *balanced, *filtered])

    def mean(arm: str, **wanted: object) -> float:
        mine = [r for r in runs if r.cell.arm == arm and all(getattr(r.cell, k) == v for k, v in wanted.items())]
        return float(np.mean([endpoint_of(r.predictions, "auroc") for r in mine]))

    rows = [row for row in contrast_rows(runs, SETTINGS, 0) if row.stage == "contrast"]
    found = {(row.fraction, row.variant, row.arm): row.value for row in rows}
    assert len(found) == 8
    plain = {"balance": "uniform", "filter": "none"}
    for fraction in (None, 0.1):
        d = mean("D", fraction=fraction, **plain)
        assert found[fraction, "", "D-B"] == pytest.approx(d - mean("B", fraction=fraction))
        assert found[fraction, "", "D-C"] == pytest.approx(d - mean("C", fraction=fraction, balance="uniform"))
    d = mean("D", balance="balance")
    assert found[None, "balanced", "D-B"] == pytest.approx(d - mean("B", fraction=None))
    assert found[None, "balanced", "D-C"] == pytest.approx(d - mean("C", balance="balance"))
    d = mean("D", filter="copies")
    assert found[None, "filter=copies", "D-C"] == pytest.approx(d - mean("C", fraction=None, balance="uniform"))
    assert len({contrast_name(row, row.metric, row.arm) for row in rows}) == 8


def test_planned_contrasts_that_failed_stay_in_holms_family(tmp_path):
    runs = load_runs(cells(tmp_path, {"B": 1.5, "C": 1.5, "gan": 1.7}))
    names = ["auroc.D-B.resnet.gan.x1", "auroc.D-C.resnet.gan.x1"]

    def noted(planned: list[str]) -> list[tuple[float, float]]:
        rows = [row for row in contrast_rows(runs, SETTINGS, 0, planned) if row.stage == "contrast"]
        return [tuple(float(part.split("=")[1].split(";")[0]) for part in row.note.split(", ")[:2]) for row in rows]

    alone, among = noted([]), noted([*names, "auroc.D-B.resnet.failed.x1", "auroc.D-C.resnet.failed.x1"])
    assert [p for p, _ in alone] == [p for p, _ in among]
    assert min(p for p, _ in alone) < 0.1
    smallest = min(p for p, _ in among)
    assert min(holm for _, holm in alone) == pytest.approx(min(1.0, 2 * smallest), rel=0.01)
    assert min(holm for _, holm in among) == pytest.approx(min(1.0, 4 * smallest), rel=0.01)


def test_one_gan_seed_shows_nothing_and_says_so(tmp_path):
    runs = load_runs(cells(tmp_path, {"B": 0.5, "C": 0.5, "gan": 6.0}, gan_seeds=(0,)))
    rows = contrast_rows(runs, SETTINGS, 0, gan_seeds=3)
    for row in rows:
        if row.stage == "contrast":
            assert row.low > 0.0
            assert row.note.startswith("p=1, Holm p=1,")
            assert "1 of 3 GAN seeds, so that its luck is unknown and nothing can be shown" in row.note
        else:
            assert (row.value, row.note) == (1.0, "none could be shown")


def test_more_resamples_are_drawn_where_the_family_needs_them(tmp_path):
    runs = load_runs(cells(tmp_path, {"B": 0.2, "C": 0.2, "gan": 6.0}, gan_seeds=tuple(range(4))))
    # Every run of an arm the same: no luck, so that only the resamples bound p.
    same = {arm: next(run.predictions for run in runs if run.cell.arm == arm) for arm in "BCD"}
    runs = [dataclasses.replace(run, predictions=same[run.cell.arm]) for run in runs]
    rows = contrast_rows(runs, SETTINGS, 0, [f"planned{i}" for i in range(98)])
    notes = [row.note for row in rows if row.stage == "contrast"]
    assert all("p=0.00025, Holm p=0.025" in note for note in notes)  # 100 contrasts: 8,000 resamples
    plan = plan_of(configured(ratios=[0.1 * i for i in range(1, 26)]), real_artifact(tmp_path / "data").path)
    assert (len(plan["contrasts"]), "8000 resamples" in plan["test"]) == (100, True)


def test_a_missing_cell_is_missing_and_no_more(tmp_path):
    made = cells(tmp_path, {"B": 1.5, "C": 1.5, "gan": 2.0})
    (row, *_) = contrast_rows(load_runs(made[:-1]), SETTINGS, 0)
    assert "5 runs against 3" in row.note
    only_d = [one for one in made if one[0].arm != "B"]
    rows = contrast_rows(load_runs(only_d), SETTINGS, 0)
    assert {row.arm for row in rows} == {"D-C"}
    assert evidence_rows([], [], SETTINGS, 0) == []


def test_an_arms_variation_is_told_by_its_source(tmp_path):
    rows = arm_rows(load_runs(cells(tmp_path, {"B": 1.5, "gan": 1.5})), SETTINGS, 0)
    parts = {(row.arm, row.metric) for row in rows if row.stage == "variance"}
    assert parts == {("B", "sd.classifier"), ("B", "sd.patients")} | {
        ("D", f"sd.{name}") for name in ("gan", "classifier", "rest", "patients")
    }


def test_the_worth_of_fid_is_a_rank_correlation_over_trainings(tmp_path):
    quality = {"B": 1.5, "a": 1.0, "b": 2.0, "c": 3.5, "d": 5.0}
    made = cells(tmp_path, quality, gan_seeds=(0, 1))
    runs = load_runs(made)
    gains = gain_rows(runs, SETTINGS)
    assert len(gains) == 8
    assert {row.gan_seed for row in gains} == {0, 1}
    gain_of = {(row.gan, row.gan_seed): row.value for row in gains}
    scores = [
        ResultRow("score", metric, -value if metric == "fid.domain" else value, gan=gan, gan_seed=seed)
        for (gan, seed), value in gain_of.items()
        for metric in ("fid.domain", "kid.domain", "fid.domain.ill", "precision")
    ]
    found = {row.metric: row for row in worth_rows(gains, scores)}
    assert set(found) == {"fid.domain", "kid.domain"}
    assert found["fid.domain"].value == pytest.approx(-1.0)  # the smaller the distance, the larger the gain
    assert found["kid.domain"].value == pytest.approx(1.0)
    assert found["fid.domain"].n == 8
    assert [row for row in evidence_rows(made, scores, SETTINGS, 0) if row.stage == "worth"] == list(found.values())


def configured(**classification: object) -> ExperimentConfig:
    overrides = [f"classification.{name}={json.dumps(value)}" for name, value in classification.items()]
    return load_experiment(QUICKSTART, ["gans=[dcgan, stylegan2]", "classifiers=[resnet]", *overrides])


def test_the_grid_holds_every_cell_once_and_its_contrasts_are_the_registered_ones(tmp_path):
    config = configured(
        arms=list("ABCDE"), ratios=[0.5, 2], balance=["uniform", "balance"], filters=["none", "confidence"],
        fractions=[0.1, 1], seeds=[0, 1, 2],
    )  # fmt: skip
    sets = {
        (gan, seed, kind): Path(f"{gan}{seed}{kind}")
        for gan in ("dcgan", "stylegan2")
        for seed in (0, 1)
        for kind in ("none", "confidence")
    }
    grounds = [Ground(0.1, Path("tenth"), sets), Ground(None, Path("whole"), sets)]
    made = grid(config, grounds)
    # Each ground and seed: A, B, four Cs; a D for each set, ratio and balance; an E for each unfiltered set.
    assert len(made) == 2 * 3 * (1 + 1 + 4 + 8 * 4 + 4)
    assert len({cell.title for _, cell in made}) == len(made)
    assert {(cell.fraction, path.name) for path, cell in made} == {(0.1, "tenth"), (None, "whole")}
    planned = set(planned_contrasts(config))
    assert len(planned) == 2 * 2 * 2 * 2 * 2 * 2  # fractions, GANs, filters, ratios, balances, controls
    for cell in (cell for _, cell in made if cell.arm == "D"):
        row = ResultRow(
            "arm", "", 0.0, gan=cell.gan, ratio=cell.ratio, classifier="resnet", fraction=cell.fraction,
            variant=cell.variant,
        )  # fmt: skip
        assert contrast_name(row, "auroc", "D-B") in planned
    assert grid(config, [Ground(None, Path("whole"), {})]) == [
        (path, cell) for path, cell in grid(config, [Ground(None, Path("whole"), {})]) if cell.arm in "ABC"
    ]


def test_too_few_synthetic_images_are_found_out_before_the_first_training(tmp_path):
    train = ScanDataset(real_artifact(tmp_path).path, "train")  # 30, 12 and 6 of each class

    def need(per_class: int, **classification: object) -> None:
        config = configured(**classification)
        synthesis = config.synthesis.model_copy(update={"per_class": per_class})
        check_fractions(config.model_copy(update={"synthesis": synthesis}), train)

    need(60, ratios=[2.0])
    with pytest.raises(MedaugError, match="set at least 60"):
        need(59, ratios=[2.0])
    with pytest.raises(MedaugError, match=r"filters keep 0\.5 are too few .* set at least 120"):
        need(119, ratios=[2.0], filters=["none", "confidence"])
    with pytest.raises(MedaugError, match="set at least 30"):
        need(29, arms=["A", "E"])
    with pytest.raises(MedaugError, match="set at least 42"):  # 96 images level 30, 12 and 6 up to 48
        need(41, ratios=[2.0], balance="balance")
    need(2, arms=["A", "B", "C"])
    # Of 100 images 90 are counted on to be no copies: 60 need 67 (90 % of 66 are 59).
    need(67, ratios=[2.0], filters=["none", "copies"])
    with pytest.raises(MedaugError, match="set at least 67"):
        need(66, ratios=[2.0], filters=["none", "copies"])
    need(12, ratios=[2.0], fractions=[0.2])  # 6 of 30
    with pytest.raises(MedaugError, match="set at least 12"):
        need(11, ratios=[2.0], fractions=[0.2])


@pytest.mark.parametrize("keep", [0.29, 0.07, 0.5, 0.9, 0.35])
@pytest.mark.parametrize("used", [1, 29, 60])
def test_what_is_said_to_be_enough_is_just_enough_for_the_filter_itself(tmp_path, keep, used):
    train = ScanDataset(real_artifact(tmp_path).path, "train")
    config = configured(ratios=[used / 30], filters="confidence", keep=keep)
    with pytest.raises(MedaugError) as caught:
        check_fractions(config.model_copy(update={"synthesis": SynthesisConfig.model_construct(per_class=0)}), train)
    enough = int(str(caught.value).rsplit(" ", 1)[1])
    check_fractions(config.model_copy(update={"synthesis": SynthesisConfig.model_construct(per_class=enough)}), train)
    kept = [best_of_each_class(np.zeros(n), np.zeros(n, int), keep).sum() for n in (enough - 1, enough)]
    assert kept[1] == used
    assert enough == used or kept[0] < used


def test_what_a_fraction_lacks_is_found_out_before_the_first_training(tmp_path):
    train = ScanDataset(real_artifact(tmp_path).path, "train")
    with pytest.raises(MedaugError, match=r"ratios: 0\.01 of the .* of fraction 0\.1 adds no image"):
        check_fractions(configured(ratios=[0.01], fractions=[0.1, 1]), train)
    # Patients 0 to 3 show class 0 beside a rarer one that they stand for; 4 and 5 show the rarer ones alone.
    train.labels = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 2])
    train.patients = np.array([0, 1, 2, 3, 0, 1, 4, 2, 3, 5])
    for seed in range(100):
        config = configured(fractions=[0.1, 1]).model_copy(update={"seed": seed})
        chosen = nested_patients(train.labels, train.patients, 0.1, seed)
        if len(np.unique(train.labels[chosen])) < 3:
            with pytest.raises(MedaugError, match=r"fraction 0\.1: no training scan of class dark"):
                check_fractions(config, train)
            break
    else:
        pytest.fail("every fraction has every class: the test has nothing to find")


@pytest.mark.parametrize(
    ("classifier", "message"),
    [
        ({"weights": "absent.pt"}, "weights absent.pt: no such file"),
        ({"stem_stride": 4}, "expected at least 32 pixels a side"),
        (
            {
                "augmentation": {
                    "transforms": [{"name": "RandZoomd", "parameters": {"min_zoom": [1, 1], "max_zoom": [1]}}]
                }
            },
            "refused by MONAI",
        ),
    ],
)
def test_classifiers_that_cannot_be_built_are_found_out_before_the_first_training(tmp_path, classifier, message):
    train = ScanDataset(real_artifact(tmp_path).path, "train")
    config = load_experiment(
        QUICKSTART, ["classifiers=[resnet]", f"classifiers.0={json.dumps({'preset': 'resnet', **classifier})}"]
    )
    with pytest.raises(MedaugError, match=message):
        check_classifiers(config, train)
    check_classifiers(configured(), train)


def test_the_plan_names_what_will_be_judged_and_changes_with_it(tmp_path):
    dataset = real_artifact(tmp_path)
    plan = plan_of(configured(seeds=[0, 1, 2]), dataset.path)
    assert plan["endpoint"] == "auroc"
    assert plan["contrasts"] == [f"auroc.D-{c}.resnet.{gan}.x1" for gan in ("dcgan", "stylegan2") for c in "BC"]
    assert plan["correction"].startswith("Holm over 4 contrasts;")
    assert plan["test_patients"] == 6
    assert plan == plan_of(configured(seeds=[0, 1, 2]), dataset.path)
    assert plan != plan_of(configured(seeds=[0, 1, 2], endpoint="auprc"), dataset.path)


@pytest.mark.parametrize(
    "change",
    ["classifiers.0.steps=7", "gans.0.images=999", "classification.keep=0.3", "seed=5", "synthesis.per_class=61",
     "extractor.steps=7"],
)  # fmt: skip
def test_whatever_can_change_a_figure_makes_another_plan(tmp_path, change):
    dataset = real_artifact(tmp_path)
    config = load_experiment(QUICKSTART, ["gans=[dcgan]", "classifiers=[resnet]"])
    key, value = change.split("=")
    raw = config.model_dump()
    *way, last = key.split(".")
    inner = raw
    for part in way:
        inner = list(inner)[int(part)] if part.isdigit() else inner[part]
    inner[last] = type(inner[last])(value)
    assert plan_of(ExperimentConfig.model_validate(raw), dataset.path) != plan_of(config, dataset.path)


def test_trainings_before_the_plan_are_counted(tmp_path):
    dataset = real_artifact(tmp_path)
    store = Store(tmp_path)
    assert trained_on(dataset, store.root) == 0
    for kind, digest in (("generator", dataset.digest), ("classifier", dataset.digest), ("classifier", "another")):
        store.get_or_create(Recipe(kind, "x", {"dataset": digest}, {}, "1"), lambda draft: None)
    assert trained_on(dataset, store.root) == 2


def test_trainings_on_a_fraction_and_on_the_same_images_ingested_again_count(tmp_path):
    dataset = real_artifact(tmp_path)
    store = Store(tmp_path / "store")
    part = take_fraction(dataset.path, 0.5, 0, store)

    def ingest_again(draft: Draft) -> None:
        for name in (IMAGES, INDEX):
            shutil.copy(dataset.path / name, draft.folder)
        draft.meta = {**dataset.meta, "warnings": ["another"]}

    again = store.get_or_create(Recipe("dataset", "again", {}, {}, "1"), ingest_again)
    assert len({dataset.digest, part.digest, again.digest}) == 3
    for digest in (part.digest, again.digest, "another"):
        store.get_or_create(Recipe("classifier", "x", {"dataset": digest}, {}, "1"), lambda draft: None)
    assert trained_on(dataset, store.root) == 2
    assert "after 2 trainings on these images in this runs folder" in registered(
        Artifact(tmp_path, {"meta": {"trained_before": 2}, "record": {"registered": "now"}, "digest": "d"})
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("classification.fractions=[0]", "fractions of the training patients must lie above 0 and at most at 1"),
        ("classification.fractions=[1.5]", "must lie above 0 and at most at 1"),
        ("classification.ratios=[11]", "ratios must lie above 0"),
        ("classification.seeds=[1, 1]", r"seeds: \[1, 1\] names one twice"),
        ("classification.filters=[best]", "classification.filters.0"),
        ("classification.balance=even", "classification.balance.0"),
        ("classification.keep=1.0", "classification.keep"),
        ("gans=[]", "C, D|D need synthetic images; name a GAN under gans"),
    ],
)
def test_senseless_comparisons_are_refused_in_one_line(override, message):
    with pytest.raises(MedaugError, match=message) as caught:
        load_experiment(QUICKSTART, [override])
    assert "\n" not in str(caught.value)
