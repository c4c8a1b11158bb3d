"""Where and in what precision classifiers compute."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch

from pipeline.records import MedaugError


def choose_device(name: str) -> torch.device:
    """The named device; "auto" is CUDA where there is one, else the CPU.

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


@cache
def has_bfloat16(kind: str) -> bool:
    """Whether devices of this kind multiply in bfloat16; emulation would be slower than float32."""
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text(encoding="ascii", errors="replace") if cpuinfo.is_file() else ""
    return kind == "cpu" and ("avx512_bf16" in flags or "amx_bf16" in flags)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context of a training step: bfloat16 where asked for, or where "auto" finds it worth it."""
    enabled = precision == "bfloat16" or (precision == "auto" and has_bfloat16(device.type))
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)
