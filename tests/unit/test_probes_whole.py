"""Every probe as the scorecard runs it, on untrained networks: figures, pictures and captions."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from classifiers.config import ClassifierConfig
from classifiers.networks import build_network
from classifiers.trained import TrainedClassifier
from flows.probes import RUN
from flows.scorecard import CAPTIONS, write_answers
from flows.subject import Answer, Images, Subject
from medgan.limitations import PROBES
from medgan.metrics import attributes, fidelity, path_length, separability
from medgan.metrics.drawing import classes_in_turn, points
from medgan.metrics.measured import Measured
from medgan.pooled import compare, pool
from medgan.verdicts import meets
from tests.unit.medgan_toys import CLASSES, RANGE, spec
from tests.unit.probe_images import phantoms
from tests.unit.test_medgan_explore import generator
from tests.unit.test_probes_pinning import walker

SIDE = 64
DRAWS = 240
PICTURED = ("ms_ssim", "ndb", "duplicates", "conditional", "leak", "copies", "edits", "noise", "mixing", "droplets")
PLOTTED = ("spectrum", "resolution", "path_length", "truncation")


def scans(patients: int, seed: int) -> Images:
    """Phantoms of two classes."""
    images, labels, owners = phantoms(patients, SIDE, seed)
    return Images(images, labels % 2, owners)


def extractor() -> TrainedClassifier:
    """A network whose weights are those that it was drawn with."""
    config = ClassifierConfig(planes=(4, 8, 8, 16))
    network = build_network(config, spec(SIDE, SIDE), torch.Generator().manual_seed(0)).eval()
    return TrainedClassifier(network, config, spec(SIDE, SIDE), RANGE, (0.5, 0.5), "B", 0, 0, ())


def subject(preset: str, **over) -> Subject:
    gan = generator(preset, SIDE, SIDE, **over)
    labels = classes_in_turn(gan, 120)
    train = scans(90, 1)
    drawn = Images(gan.sample(labels), labels, torch.full((120,), -1))
    return Subject(gan, extractor(), train, train, scans(45, 2), drawn, ("flip",), DRAWS, 0)


@pytest.fixture(scope="module")
def untrained() -> Subject:
    return subject("stylegan", architecture={"base_channels": 512})


@pytest.fixture(scope="module")
def answer_of(untrained) -> Callable[[str], Answer]:
    """Each probe's answer, which is asked for once."""
    return functools.cache(lambda name: RUN[name](untrained))


@pytest.mark.thorough
@pytest.mark.parametrize("name", [name for name in RUN if name != "pinning"])
def test_a_probe_answers_with_figures_and_shows_what_it_saw(answer_of, name) -> None:
    answer = answer_of(name)
    assert set(PROBES[name].metrics) <= set(answer.figures)
    assert all(np.isfinite(one.value) for one in answer.figures.values())
    assert (answer.picture is not None, answer.figure is not None) == (name in PICTURED, name in PLOTTED)
    if name in PICTURED:
        assert (answer.picture.dtype, answer.picture.ndim) == (np.uint8, 2)
        assert min(answer.picture.shape) >= SIDE
        assert answer.picture.std() > 1
    for line in (answer.figure or {"lines": {}})["lines"].values():
        assert len({y for _, y in line}) > 1
    if name in (*PICTURED, *PLOTTED):
        assert (len(answer.caption) > 40, answer.caption.endswith(".")) == (True, True)


@pytest.mark.thorough
def test_pinning_of_a_body_that_moves(untrained) -> None:
    """An untrained network's images change otherwise than by moving: it has no figure, a moving body has."""
    answer = RUN["pinning"](replace(untrained, generator=walker(1.0), draws=80))
    assert answer.figures["pinning"].value == pytest.approx(1.0, abs=0.15)
    assert answer.picture.shape == (32, SIDE)
    assert answer.picture.std() > 1
    assert "of class only" in answer.caption
    assert "in 32 steps" in answer.caption


@pytest.mark.thorough
def test_captions_name_class_rows_and_scale(answer_of) -> None:
    captions = {name: answer_of(name).caption for name in ("conditional", "edits", "noise", "copies", "leak")}
    assert any(f"Class {name}," in captions["conditional"] for name in CLASSES)
    assert "of class plain" in captions["edits"]
    assert all(attributes.PLAIN[name] in captions["edits"] for name in attributes.ATTRIBUTES)
    assert "grey levels" in captions["noise"]
    assert "of 120 synthetic scans are copies" in captions["copies"]
    assert "'flip'" in captions["leak"]


@pytest.mark.thorough
def test_a_generator_that_knows_no_classes_gets_no_figure_of_one() -> None:
    without = subject("dcgan", conditioning={"generator": "none", "discriminator": "none"})
    config = asdict(without.generator.config)
    concerned = {name for name in RUN if meets(config, PROBES[name].concerns)}
    assert {"ms_ssim", "conditional"} & concerned == set()
    assert {"ndb", "duplicates", "copies", "spectrum"} <= concerned
    caption = RUN["edits"](without).caption
    assert ("class" in caption, "z" in caption) == (False, True)


def test_fidelity_by_labels_that_mean_nothing_has_no_classes() -> None:
    rng = np.random.default_rng(0)
    real, drawn = rng.normal(size=(2, 80, 3))
    labels = np.arange(80) % 2
    rows = fidelity(real, drawn, labels, labels, np.arange(80), ("a", "b"), by_class=False)
    both = fidelity(real, drawn, labels, labels, np.arange(80), ("a", "b"))
    assert not [row.metric for row in rows if row.metric.endswith((".a", ".b"))]
    overall, classed = ({row.metric: row.value for row in found} for found in (rows, both))
    for metric, value in overall.items():  # ratios are of other draws: their mix of classes means nothing
        assert value == pytest.approx(classed[metric], abs=0.2 if metric.startswith("floor_ratio.") else 0.0)
    assert all("the generator knows none" in row.note for row in rows)


def test_captions_are_kept_beside_the_pictures(tmp_path) -> None:
    answers = {
        "copies": Answer({"copies": Measured(0.0)}, np.zeros((2, 2), np.uint8), caption="0 of 9 are copies."),
        "swd": Answer({"swd": Measured(1.0)}),
    }
    write_answers(tmp_path, answers, {}, "dcgan", 0)
    assert json.loads((tmp_path / CAPTIONS).read_text()) == {"copies": "0 of 9 are copies."}


@pytest.mark.thorough
@pytest.mark.parametrize("preset", ["stylegan", "stylegan2"])
def test_w_is_straighter_than_z_before_any_training(preset) -> None:
    """Why the claim on mapping networks is judged against a twin: within one generator random weights would pass."""
    gan = generator(preset, 32, 32, architecture={"mapping_layers": 8})
    labels = classes_in_turn(gan, 600)
    scores = attributes.scores(gan, labels)
    lengths, apart = {}, {}
    for space in ("z", "w"):
        speeds = path_length.squared_speeds(gan, lambda images: images.flatten(1), space, pairs=600)
        lengths[space] = pool([path_length.path_length(speeds).row("ppl")])
        at = points(gan, labels, 0, space)
        apart[space] = separability.separability(
            {name: separability.separate(at, one, labels) for name, one in scores.items()}, len(labels)
        )
    assert compare(lengths["w"], lengths["z"], "ratio").high < 1.0
    assert apart["w"].high < apart["z"].low
