"""MONAI's dictionary transforms as the YAML declares them, applied to the images of a batch one by one."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import torch
from monai.transforms import Compose
from monai.utils import convert_to_tensor

from classifiers.config import Transform
from pipeline.records import MedaugError

KEY = "image"
REFLECTING = ("RandAffined", "Rand2DElasticd")
"""Whose default, reflection, would show the edge of a body twice."""
HIGHEST_SEED = 2**32 - 1  # of NumPy's RandomState, which MONAI draws from


def build_transforms(transforms: Sequence[Transform], seed: int) -> Compose:
    """One composed transform of ``{"image": [C, H, W]}``, its draws from the seed alone.

    Raises:
        MedaugError: MONAI does not take a parameter's value.
    """
    monai = importlib.import_module("monai.transforms")
    built = []
    for one in transforms:
        make = getattr(monai, one.name)
        # YAML has lists where MONAI tells a tuple (a range) from a list (one range an axis).
        given = {name: _tuples(value) for name, value in one.parameters.items()}
        if one.name in REFLECTING:
            given.setdefault("padding_mode", "border")
        try:
            built.append(make(keys=KEY, **given))
        except (TypeError, ValueError) as error:
            reason = " ".join(str(error).split())[:150]
            raise MedaugError(f"transform {one.name}: {dict(one.parameters)} is refused by MONAI ({reason})") from None
    composed = Compose(built)
    composed.set_random_state(seed=seed % HIGHEST_SEED)
    return composed


def apply_transforms(composed: Compose, images: torch.Tensor) -> torch.Tensor:
    """Each image of a batch [N, C, H, W] with draws of its own; on the CPU, then back to the batch's device."""
    copies = images.cpu().clone()  # some of MONAI's transforms write into what they are given
    moved = [convert_to_tensor(composed({KEY: image})[KEY], track_meta=False) for image in copies]
    return torch.stack(moved).to(images.device)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(entry) for entry in value) if isinstance(value, list | tuple) else value
