"""Mean and covariance of feature vectors, gathered batch by batch in float64, as the Fréchet distance needs them.

Two sets with n and m vectors, means μ and ν and scatters S and T (sums of outer products of deviations) together have

    mean     μ + (ν − μ) m / (n + m)
    scatter  S + T + (ν − μ)(ν − μ)ᵀ n m / (n + m)

Chan, Golub and LeVeque 1983, "Algorithms for Computing the Sample Variance", eq. 2.1. Nothing is subtracted but means,
so that the order and size of the batches change the result by rounding alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open

from medgan.metrics.features import Features, as_features
from medgan.metrics.measured import TooFewImagesError
from pipeline.records import MedaugError

BATCH = 4096
"""Vectors taken in at a time."""

ROWS = 256
"""Of a block of a product with a triangle."""

POWERS = 8
"""Steps towards the largest eigenvalue."""

INDEPENDENT = 1e-8
"""A feature of which less than this share of variance is left once those before it are known counts as dependent."""


@dataclass(frozen=True)
class Statistics:
    """Mean and covariance of a set of feature vectors.

    Attributes:
        mean: float64 [D].
        full: the covariance, float64 [D, D]; None where ``centred`` is given.
        centred: float64 [N, D] of no more vectors than dimensions; ``centredᵀ centred`` is the covariance.
        count: vectors behind them; None where only the moments are known.
    """

    mean: torch.Tensor
    full: torch.Tensor | None = None
    centred: torch.Tensor | None = None
    count: int | None = None

    @property
    def covariance(self) -> torch.Tensor:
        """float64 [D, D]."""
        return self.full if self.full is not None else self._centred.T @ self._centred

    @property
    def trace(self) -> float:
        """Of the covariance."""
        return float(self.full.trace() if self.full is not None else self._centred.square().sum())

    @property
    def largest_rank(self) -> int:
        """That the covariance can have."""
        return len(self.mean) if self.full is not None else len(self._centred)

    def largest_eigenvalue(self) -> float:
        """Of the covariance, from below: enough for a bound of rounding (power iteration)."""
        vector = torch.randn(len(self.mean), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        for _ in range(POWERS):
            vector = vector / vector.norm().clamp(min=torch.finfo(torch.float64).tiny)
            vector = self.full @ vector if self.full is not None else self._centred.T @ (self._centred @ vector)
        return float(vector.norm())

    @cached_property
    def factor(self) -> torch.Tensor:
        """F, float64 [R, D], with FᵀF = covariance; see :func:`covariance_factor`.

        Raises:
            MedaugError: the covariance has a negative eigenvalue.
        """
        return covariance_factor(self.full) if self.full is not None else self._centred

    def along(self, rows: torch.Tensor) -> torch.Tensor:
        """``rows covariance rowsᵀ`` of float64 [R, D], as [R, R] of which the lower triangle counts."""
        if self.full is None:
            return gram((rows @ self._centred.T).T)
        if rows.shape == self.full.shape and rows.equal(rows.triu()):
            return _along_triangle(rows, self.full)
        return rows @ self.full @ rows.T

    @property
    def _centred(self) -> torch.Tensor:
        assert self.centred is not None, "either the covariance or the vectors"
        return self.centred

    def save(self, file: Path) -> None:
        """Writes them as safetensors, with the count in the header."""
        header = {} if self.count is None else {"count": str(self.count)}
        tensors = {"mean": self.mean, "full": self.full, "centred": self.centred}
        held = {name: tensor.contiguous() for name, tensor in tensors.items() if tensor is not None}
        safetensors.torch.save_file(held, file, header)


def load_statistics(file: Path) -> Statistics:
    """Reads what :meth:`Statistics.save` wrote.

    Raises:
        MedaugError: no such file, or one that is damaged.
    """
    try:
        with safe_open(file, "pt") as tensors:
            count = (tensors.metadata() or {}).get("count")
            held = {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
        return Statistics(**held, count=None if count is None else int(count))
    except (OSError, SafetensorError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise MedaugError(f"statistics {file}: not readable ({reason}); delete the file, run again") from None


class Moments:
    """Gathers a set's statistics; never holds more than D vectors and one covariance, D being their dimension.

    Up to D vectors are kept as they are: their covariance has not full rank, and they are its cheapest exact factor.

    Attributes:
        count: vectors so far.
    """

    def __init__(self) -> None:
        self.count = 0
        self._mean = torch.empty(0)
        self._scatter: torch.Tensor | None = None
        self._folded = 0  # vectors in mean and scatter; the others wait
        self._waiting: list[torch.Tensor] = []

    def add(self, features: Features, name: str = "features") -> None:
        """Takes in a batch.

        Args:
            features: [B, D] of any floating type.
            name: named in messages.

        Raises:
            MedaugError: another shape or dimension, or values that are not finite.
        """
        for rows in as_features(features, name, minimum=0).cpu().split(BATCH):
            if not len(rows):
                continue
            if self.count and rows.shape[1] != self._dimension:
                raise MedaugError(
                    f"{name}: a batch of {rows.shape[1]} dimensions after one of {self._dimension}; use one extractor"
                )
            self._waiting.append(rows)
            self.count += len(rows)
            if self.count - self._folded > self._dimension:
                self._fold()

    def merge(self, other: Moments) -> None:
        """Takes in all that another one has gathered, e.g. in another process.

        Raises:
            MedaugError: the dimensions differ.
        """
        if other._scatter is not None:
            if self.count and self._dimension != other._dimension:
                raise MedaugError(
                    f"moments: of {self._dimension} and of {other._dimension} dimensions; use one extractor"
                )
            self._combine(other._folded, other._mean, other._scatter)
            self.count += other._folded
        for rows in other._waiting:
            self.add(rows)

    def statistics(self, name: str = "features") -> Statistics:
        """Mean and unbiased covariance (divisor N − 1) of all vectors so far.

        Raises:
            TooFewImagesError: fewer than two vectors.
        """
        if self.count < 2:
            raise TooFewImagesError(f"{name}: {self.count} vector(s), expected at least 2; give more images")
        if self._scatter is None:
            vectors = torch.cat(self._waiting)
            mean = vectors.mean(dim=0)
            return Statistics(mean, centred=(vectors - mean) / math.sqrt(self.count - 1), count=self.count)
        self._fold()
        return Statistics(self._mean, self._scatter / (self.count - 1), count=self.count)

    @property
    def _dimension(self) -> int:
        return len(self._mean) if self._scatter is not None else self._waiting[0].shape[1]

    def _fold(self) -> None:
        """Moves the waiting vectors into mean and scatter."""
        if not self._waiting:
            return
        vectors = self._waiting[0] if len(self._waiting) == 1 else torch.cat(self._waiting)
        self._waiting = []
        mean = vectors.mean(dim=0)
        centred = vectors - mean
        scatter = self._shift(len(centred), mean)
        scatter += gram(centred)

    def _combine(self, count: int, mean: torch.Tensor, scatter: torch.Tensor) -> None:
        self._shift(count, mean).add_(scatter)

    def _shift(self, count: int, mean: torch.Tensor) -> torch.Tensor:
        """Takes in a set's mean, and what its distance adds to the scatter; returns the scatter."""
        if self._scatter is None:
            self._folded, self._mean = count, mean.clone()
            self._scatter = mean.new_zeros(len(mean), len(mean))
            return self._scatter
        total = self._folded + count
        shift = mean - self._mean
        self._scatter.addr_(shift, shift, alpha=self._folded * count / total)
        self._mean += shift * (count / total)
        self._folded = total
        return self._scatter


def gram(vectors: torch.Tensor) -> torch.Tensor:
    """``vectorsᵀ vectors`` of float64 [N, D]; NumPy computes half of a matrix times its own transpose, PyTorch all."""
    values = vectors.numpy()
    return torch.from_numpy(values.T @ values)


def _along_triangle(upper: torch.Tensor, covariance: torch.Tensor) -> torch.Tensor:
    """``upper covariance upperᵀ`` of an upper triangular matrix, its lower triangle: a third of the plain products."""
    product = torch.zeros_like(covariance)
    for start in range(0, len(upper), ROWS):
        rows, rest = slice(start, start + ROWS), slice(start, None)
        product[rest, rows] = upper[rest, rest] @ (covariance[rest, rest] @ upper[rows, rest].T)
    return product


def from_moments(mean: torch.Tensor, covariance: torch.Tensor, count: int | None = None) -> Statistics:
    """Statistics from a mean [D] and a symmetric positive semidefinite covariance [D, D].

    Raises:
        MedaugError: shapes that do not fit, a covariance that is not symmetric, or one with a negative eigenvalue.
    """
    mean, covariance = mean.to(torch.float64), covariance.to(torch.float64)
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise MedaugError(
            f"moments: mean {tuple(mean.shape)} and covariance {tuple(covariance.shape)}, expected [D] and [D, D]"
        )
    if not torch.allclose(covariance, covariance.T, rtol=1e-6, atol=1e-10):
        raise MedaugError("moments: the covariance is not symmetric; compute it from features in float64")
    statistics = Statistics(mean, (covariance + covariance.T) / 2, count=count)
    _ = statistics.factor  # refuses a negative eigenvalue
    return statistics


def covariance_factor(covariance: torch.Tensor) -> torch.Tensor:
    """F with FᵀF = covariance [D, D].

    Cholesky's factor, upper triangular, where the features are independent of each other but for those that never vary
    (dead units are common); it is many times cheaper than eigenvectors and keeps the digits of features of small
    variance. Else eigenvectors, one row for each eigenvalue that stands above rounding.

    Args:
        covariance: float64, symmetric.

    Raises:
        MedaugError: the covariance has a negative eigenvalue.
    """
    dead = (covariance == 0.0).all(dim=0)
    # a one in the diagonal for each feature that never varies, taken out of the factor again
    upper, fault = torch.linalg.cholesky_ex(covariance + torch.diag(dead.to(covariance)), upper=True)
    upper[dead] = 0.0
    if not int(fault) and bool((upper.diagonal().square() >= INDEPENDENT * covariance.diagonal()).all()):
        return upper
    values, vectors = torch.linalg.eigh(covariance)
    largest = float(values[-1].clamp(min=0.0))
    if float(values[0]) < -1e-6 * largest:
        raise MedaugError("moments: the covariance has a negative eigenvalue; compute it from features in float64")
    kept = values > largest * len(values) * torch.finfo(torch.float64).eps
    # legend: vectors [D, R] → rows [R, D], each scaled by the root of its eigenvalue
    return vectors[:, kept].T * values[kept].sqrt()[:, None]
