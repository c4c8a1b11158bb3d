"""Random number generators that follow from numbers and words, none of them global."""

from __future__ import annotations

import hashlib

import torch


def seed_of(*parts: int | str) -> int:
    """One seed from several numbers and words: 63 bits of their hash, so that neighbours share nothing."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def seeded(*parts: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A random number generator of its own, seeded by :func:`seed_of`."""
    return torch.Generator(device).manual_seed(seed_of(*parts))
