"""Training state on disk: safetensors and JSON, whole or absent, the last good two kept; nothing is ever unpickled."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from medgan import ranks
from pipeline.records import MedaugError
from pipeline.store import file_sha256

TENSORS, STATE = "tensors.safetensors", "state.json"
KEEP = 2
ASIDE = "damaged-"
"""Before the name of a checkpoint that was found damaged."""

DAMAGE = (
    *(FileNotFoundError, NotADirectoryError, IsADirectoryError),
    *(KeyError, TypeError, AttributeError, UnicodeDecodeError, json.JSONDecodeError, SafetensorError),
)
"""What reading a damaged state raises; any other OSError may pass (a mount that is gone, a right not given)."""

logger = logging.getLogger(__name__)


class DamagedError(Exception):
    """A state on disk is not what was written."""


def write_state(folder: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Writes a state into a new folder, which appears under its name only when it is whole.

    Args:
        folder: must not exist yet.
        tensors: by name; saved from the CPU.
        state: JSON data.
    """
    draft = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    save_file(plain, draft / TENSORS)
    content = {"tensors_sha256": file_sha256(draft / TENSORS), **state}
    (draft / STATE).write_text(json.dumps(content, allow_nan=False, sort_keys=True), encoding="utf-8")
    for name in (TENSORS, STATE):
        with (draft / name).open("rb") as stream:
            os.fsync(stream.fileno())
    shutil.rmtree(folder, ignore_errors=True)
    draft.rename(folder)


def read_state(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads what :func:`write_state` wrote.

    Raises:
        DamagedError: a file is missing, changed or malformed; the message says which folder and how.
        MedaugError: the folder cannot be read, which says nothing about what is in it.
    """
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        if file_sha256(folder / TENSORS) != state.pop("tensors_sha256"):
            raise DamagedError(f"checkpoint {folder}: {TENSORS} is not what was written")
        return load_file(folder / TENSORS), state
    except DAMAGE as error:
        raise DamagedError(f"checkpoint {folder}: {type(error).__name__}: {' '.join(str(error).split())}") from None
    except OSError as error:
        raise MedaugError(
            f"checkpoint {folder}: cannot be read now ({error.strerror or error}); expected a readable folder; "
            "nothing was changed, run again when it is"
        ) from None


def save_checkpoint(
    scratch: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], kind: str = "step"
) -> None:
    """Writes ``scratch/KIND-STEP`` and drops all but the newest two of its kind.

    Args:
        scratch: where checkpoints live.
        step: of the training.
        tensors: by name.
        state: JSON data.
        kind: "step", to resume from; or "good", to go back to.
    """
    write_state(scratch / f"{kind}-{step:09d}", tensors, state)
    for old in sorted(scratch.glob(f"{kind}-*"))[:-KEEP]:
        shutil.rmtree(old, ignore_errors=True)


def latest_checkpoint(
    scratch: Path, kind: str = "step", last: int | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The newest checkpoint that is whole; a damaged one is named in a warning and set aside, the one before it used.

    Args:
        scratch: where checkpoints live.
        kind: see :func:`save_checkpoint`.
        last: none of a later step; None for any.

    Raises:
        MedaugError: the newest one cannot be read, which may pass.
    """
    for folder in sorted(scratch.glob(f"{kind}-*"), reverse=True):
        if last is not None and step_of(folder) > last:
            continue
        try:
            return read_state(folder)
        except DamagedError as error:
            logger.warning("%s; it is damaged: not used, kept as %s", error, set_aside(folder).name)
    return None


def agreed_checkpoint(
    scratch: Path, kind: str = "step", last: int | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """See :func:`latest_checkpoint`; of several processes the first one looks, and the others read what it found.

    Raises:
        MedaugError: this process cannot read what the first one found.
    """
    found = latest_checkpoint(scratch, kind, last) if ranks.first() else None
    step = ranks.told(-1 if found is None else int(found[1]["now"]["step"]))
    if step < 0 or found is not None:
        return found
    try:
        return read_state(scratch / f"{kind}-{step:09d}")
    except DamagedError as error:  # the first process has just read it
        raise MedaugError(
            f"{error}; expected what the first process reads: every process must see one folder"
        ) from None


def set_aside(folder: Path) -> Path:
    """Renames a damaged checkpoint, so that no one reads it and a person can look; of such, the newest alone stays."""
    for old in folder.parent.glob(f"{ASIDE}*"):
        shutil.rmtree(old, ignore_errors=True)
    return folder.rename(folder.with_name(f"{ASIDE}{folder.name}"))


def drop_drafts(scratch: Path) -> None:
    """Removes what processes killed while writing left behind; only while no one writes there."""
    for draft in [*scratch.glob(".step-*.*"), *scratch.glob(".good-*.*")]:
        shutil.rmtree(draft, ignore_errors=True)


def drop_checkpoints(scratch: Path, after: int) -> None:
    """Removes checkpoints of either kind past a step: those of a course that was given up."""
    for folder in [*scratch.glob("step-*"), *scratch.glob("good-*")]:
        if step_of(folder) > after:
            shutil.rmtree(folder, ignore_errors=True)


def step_of(folder: Path) -> int:
    """The step in a checkpoint's name."""
    return int(folder.name.partition("-")[2])


def optimiser_tensors(optimiser: torch.optim.Optimizer, prefix: str) -> dict[str, Tensor]:
    """An optimiser's moments and step counts by name."""
    return {
        f"{prefix}.{place}.{key}": value
        for place, parameter in enumerate(_parameters(optimiser))
        for key, value in optimiser.state.get(parameter, {}).items()
    }


def restore_optimiser(optimiser: torch.optim.Optimizer, prefix: str, tensors: Mapping[str, Tensor]) -> None:
    """Puts back what :func:`optimiser_tensors` took, and nothing else: what has come to be since is dropped.

    Moments get the memory layout of their parameter, which safetensors does not keep and fused optimisers count on.
    """
    parameters = _parameters(optimiser)
    optimiser.state.clear()
    for name, value in tensors.items():
        if not name.startswith(f"{prefix}."):
            continue
        place, key = name.removeprefix(f"{prefix}.").split(".")
        parameter = parameters[int(place)]
        like = parameter if value.shape == parameter.shape else value  # step counts are scalars
        optimiser.state[parameter][key] = torch.empty_like(like, device=parameter.device).copy_(value)


def _parameters(optimiser: torch.optim.Optimizer) -> list[torch.nn.Parameter]:
    return [parameter for group in optimiser.param_groups for parameter in group["params"]]
