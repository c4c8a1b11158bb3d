"""Weights from a file to start from: safetensors, or torch's own format read without unpickling code."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from classifiers.networks import head
from pipeline.records import MedaugError

WRAPPERS = (
    "state_dict",
    "model",
    "model_state_dict",
)  # under which training scripts save a network beside other things


def load_weights(network: nn.Module, path: Path | str) -> None:
    """Puts a file's weights into a network, all but a last layer for other classes.

    A stem for colour images is summed over its channels for grey ones: on a grey image repeated three times it answers
    the same.

    Args:
        network: from :func:`classifiers.networks.build_network`; its last layer stays where the file's has another
            shape or is missing.
        path: ``.safetensors``, or a file of ``torch.save`` (read with ``weights_only=True``) that holds the weights or
            has them under "state_dict", "model" or "model_state_dict".

    Raises:
        MedaugError: not readable, or not of this network.
    """
    found = _read(Path(path))
    own = network.state_dict()
    last = {name for name, module in network.named_modules() if module is head(network)}.pop()
    stem = next(name for name, weights in own.items() if weights.ndim == 4)
    loaded = {}
    for name, weights in own.items():
        theirs = found.get(name)
        if theirs is not None and name == stem and weights.shape[1] == 1 and theirs.ndim == 4 and theirs.shape[1] == 3:
            theirs = theirs.sum(dim=1, keepdim=True)
        if theirs is not None and theirs.shape == weights.shape:
            loaded[name] = theirs
        elif not name.startswith(f"{last}."):
            fault = "is missing" if theirs is None else f"is {list(theirs.shape)}, expected {list(weights.shape)}"
            raise MedaugError(
                f"weights {path}: {name} {fault}; give the weights of the same network (for those of large images "
                "set stem_stride: 4, or 2 for an efficientnet)"
            )
    network.load_state_dict({**own, **loaded})


def _read(path: Path) -> dict[str, torch.Tensor]:
    try:
        if path.suffix == ".safetensors":
            found: Any = safetensors.torch.load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise MedaugError(
            f"weights {path}: no such file; give one, or leave weights out to start from scratch"
        ) from None
    except (OSError, SafetensorError, RuntimeError, pickle.UnpicklingError, EOFError) as error:
        reason = " ".join(str(error).split())[:120]
        raise MedaugError(f"weights {path}: not readable as safetensors or torch weights ({reason})") from None
    for wrapper in WRAPPERS:
        if isinstance(found, dict) and isinstance(found.get(wrapper), dict):
            found = found[wrapper]
    if not isinstance(found, dict) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise MedaugError(f"weights {path}: holds no table of tensors; save a network's state_dict")
    return {name.removeprefix("module."): weights for name, weights in found.items()}
