"""What finished classifiers and extractors are known again by: all of their code, and the content of their weights."""

import ast
import importlib.util
import json
from pathlib import Path

import pytest

from flows import classify, features, filters
from flows.configuration import load_experiment
from pipeline.store import Artifact
from tests.unit.test_configuration import QUICKSTART

FORMS = {"pipeline.records", "pipeline.store", "flows.configuration", "flows.context"}
"""Types, and where things lie: they compute nothing."""


def imported(module: str) -> set[str]:
    """This project's modules that a module imports."""
    tree = ast.parse(Path(importlib.util.find_spec(module).origin).read_text(encoding="utf-8"))
    found = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    return {name for name in found if name.split(".")[0] in ("pipeline", "classifiers", "medgan", "flows")}


@pytest.mark.parametrize("code", [classify.TRAINING_CODE, classify.CODE])
def test_code_of_a_training_counts_whole(code):
    for module in code:
        assert imported(module) <= {*code, *FORMS}, module


def test_a_filters_code_has_the_decoding_and_the_device_of_what_it_looks_at():
    assert {"pipeline.codes", "pipeline.device", "pipeline.dataset"} <= set(filters.CODE)


def test_editing_statistics_trains_no_extractor_again():
    assert not {"classifiers", "classifiers.statistics", "classifiers.delong"} & set(classify.TRAINING_CODE)


def test_an_extractor_from_other_weights_under_the_same_name_is_another(tmp_path):
    weights = tmp_path / "start.safetensors"
    override = f"extractor={json.dumps({'preset': 'resnet', 'weights': str(weights)})}"
    config = load_experiment(QUICKSTART, [override])
    data = Artifact(tmp_path, {"digest": "d"})
    hashes = []
    for content in (b"one", b"two", b"one"):
        weights.write_bytes(content)
        hashes.append(features.extractor_recipe(config, data).hash)
    assert hashes[0] == hashes[2] != hashes[1]
