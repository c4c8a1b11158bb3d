"""Other people's metrics, for tests and benchmarks that compare with them."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any
from unittest import mock

import pytest
import torch

STAND_INS = tuple(
    f"torchvision{name}" for name in ("", ".datasets", ".transforms", ".transforms.functional", ".models")
)


def torch_fidelity() -> ModuleType:
    """torch-fidelity, which imports torchvision for its data sets and for networks that nothing here uses.

    torchvision is not installed, for its binaries fit one build of torch only: stand-ins take its place meanwhile.
    """
    with mock.patch.dict(sys.modules, {name: mock.MagicMock() for name in STAND_INS}):
        try:
            for name in ("metric_fid", "metric_kid", "metric_prc"):
                importlib.import_module(f"torch_fidelity.{name}")
        except ImportError as error:
            pytest.skip(f"torch-fidelity does not import: {error}")
        return sys.modules["torch_fidelity"]


def random_inception(seed: int = 0) -> Any:
    """torch-fidelity's Inception network with random weights, scaled so that all layers are alive."""
    extractor = torch_fidelity().feature_extractor_inceptionv3.FeatureExtractorInceptionV3
    with (
        mock.patch.object(extractor, "load_state_dict"),
        mock.patch.object(torch, "load", return_value={}),
    ):
        network = extractor("inception-v3-compat", ["2048"], feature_extractor_weights_path="none")
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in network.state_dict().items():
        if name.endswith("conv.weight"):
            tensor.normal_(0.0, (2.0 / tensor[0].numel()) ** 0.5, generator=generator)
        elif name.endswith(("bn.weight", "running_var")):
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif name.endswith(("bn.bias", "running_mean")):
            tensor.normal_(0.0, 0.1, generator=generator)
    return network
