"""What finished extractors are known again by, beside their code: the content of the weights they began with."""

import json

from flows import features
from flows.configuration import load_experiment
from pipeline.store import Artifact
from tests.unit.test_configuration import QUICKSTART


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
