"""Stored codes of prepared images: 16 bits for [-1, 1]. Numpy alone, so that worker processes start fast."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

CODE_MAX = 65535


def encode(unit: NDArray[np.floating[Any]]) -> NDArray[np.uint16]:
    """[-1, 1] floats to stored codes; values outside are clipped."""
    scaled = (np.clip(unit, -1.0, 1.0).astype(np.float64) + 1.0) * (CODE_MAX / 2)
    return np.rint(scaled).astype(np.uint16)


def decode(codes: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Stored codes to [-1, 1] floats."""
    return (codes.astype(np.float32) * np.float32(2.0 / CODE_MAX)) - np.float32(1.0)


def image_hash(codes: NDArray[np.uint16]) -> bytes:
    """32 hexadecimal digits that identify one prepared image [C, H, W]: equal pixels, equal hash."""
    return hashlib.sha256(np.ascontiguousarray(codes).tobytes()).hexdigest()[:32].encode()
