"""Where and in what precision networks compute; torch alone."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from pipeline.records import MedaugError

ModuleType = TypeVar("ModuleType", bound=nn.Module)


def choose_device(name: str) -> torch.device:
    """A device by name; "auto" is CUDA if there is one, else the CPU.

    Raises:
        MedaugError: a device that torch does not know or that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise MedaugError(f"device {name!r}: unknown; expected auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise MedaugError(f"device {name!r}: no CUDA device here; expected auto or cpu")
    return device


def place(module: ModuleType, device: torch.device) -> ModuleType:
    """Moves a network to a device, its convolutions' weights with channels last."""
    return module.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


@cache
def has_bfloat16(kind: str) -> bool:
    """Whether the hardware multiplies in bfloat16; emulation would be slower than float32."""
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if kind == "cpu":
        cpuinfo = Path("/proc/cpuinfo")
        flags = cpuinfo.read_text(encoding="ascii", errors="replace") if cpuinfo.is_file() else ""
        return "avx512_bf16" in flags or "amx_bf16" in flags
    return False


def resolve_precision(device: torch.device, precision: str) -> str:
    """The name of a precision; of "auto", that of bfloat16 where the hardware multiplies in it, else of float32."""
    if precision == "auto":
        return "bfloat16" if has_bfloat16(device.type) else "float32"
    return precision


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context of a training step: bfloat16 where asked for or worth it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=resolve_precision(device, precision) == "bfloat16")
