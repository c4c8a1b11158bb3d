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
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open

from medgan.metrics.features import Features, as_features
from medgan.metrics.measured import TooFewImagesError
from pipeline.records import MedaugError

BATCH = 2048
"""Vectors taken in at a time."""

COLUMNS = 256
"""Of a block of a Gram matrix."""

INDEPENDENT = 1e-8
"""A feature of which less than this share of variance is left once those before it are known counts as dependent."""


@dataclass(frozen=True)
class Statistics:
    """Mean and covariance of a set of feature vectors.

    Attributes:
        mean: float64 [D].
        factor: float64 [R, D]; the covariance is ``factorᵀ factor``.
        count: vectors behind them; None where only the moments are known.
    """

    mean: torch.Tensor
    factor: torch.Tensor
    count: int | None = None

    @property
    def covariance(self) -> torch.Tensor:
        """float64 [D, D]."""
        return self.factor.T @ self.factor

    def save(self, file: Path) -> None:
        """Writes them as safetensors, with the count in the header."""
        header = {} if self.count is None else {"count": str(self.count)}
        tensors = {"mean": self.mean.cpu().contiguous(), "factor": self.factor.cpu().contiguous()}
        safetensors.torch.save_file(tensors, file, header)


def load_statistics(file: Path) -> Statistics:
    """Reads what :meth:`Statistics.save` wrote.

    Raises:
        MedaugError: no such file, or one that is damaged.
    """
    try:
        with safe_open(file, "pt") as tensors:
            count = (tensors.metadata() or {}).get("count")
            mean, factor = tensors.get_tensor("mean"), tensors.get_tensor("factor")
        return Statistics(mean, factor, None if count is None else int(count))
    except (OSError, SafetensorError, ValueError) as error:
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
        for rows in as_features(features, name, minimum=0).split(BATCH):
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
            return Statistics(mean, (vectors - mean) / math.sqrt(self.count - 1), self.count)
        self._fold()
        return Statistics(self._mean, covariance_factor(self._scatter / (self.count - 1)), self.count)

    @property
    def _dimension(self) -> int:
        return len(self._mean) if self._scatter is not None else self._waiting[0].shape[1]

    def _fold(self) -> None:
        """Moves the waiting vectors into mean and scatter."""
        if not self._waiting:
            return
        vectors = torch.cat(self._waiting)
        self._waiting = []
        mean = vectors.mean(dim=0)
        vectors = vectors - mean
        self._combine(len(vectors), mean, gram(vectors))

    def _combine(self, count: int, mean: torch.Tensor, scatter: torch.Tensor) -> None:
        if self._scatter is None:
            self._folded, self._mean, self._scatter = count, mean.clone(), scatter.clone()
            return
        total = self._folded + count
        shift = mean - self._mean
        self._scatter += scatter
        self._scatter.addr_(shift, shift, alpha=self._folded * count / total)
        self._mean += shift * (count / total)
        self._folded = total


def gram(vectors: torch.Tensor) -> torch.Tensor:
    """``vectorsᵀ vectors`` of [N, D], its symmetry used: blocks on and above the diagonal are multiplied, not twice."""
    whole = vectors.new_empty(vectors.shape[1], vectors.shape[1])
    for start in range(0, len(whole), COLUMNS):
        rows = slice(start, min(start + COLUMNS, len(whole)))
        whole[rows, start:] = vectors[:, rows].T @ vectors[:, start:]
        whole[rows.stop :, rows] = whole[rows, rows.stop :].T
    return whole


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
    return Statistics(mean, covariance_factor(covariance), count)


def covariance_factor(covariance: torch.Tensor) -> torch.Tensor:
    """F with FᵀF = covariance [D, D].

    Cholesky's factor where the features are independent of each other, those that never vary left out (dead units are
    common); it is many times cheaper than eigenvectors and keeps the digits of features of small variance. Else
    eigenvectors, one row for each eigenvalue that stands above rounding.

    Raises:
        MedaugError: the covariance has a negative eigenvalue.
    """
    covariance = (covariance + covariance.T) / 2
    varying = covariance.diagonal() > 0.0
    part = covariance[varying][:, varying]
    lower, fault = torch.linalg.cholesky_ex(part)
    if not int(fault) and bool((lower.diagonal().square() > INDEPENDENT * part.diagonal()).all()):
        factor = covariance.new_zeros(len(part), len(covariance))
        factor[:, varying] = lower.T
        return factor
    values, vectors = torch.linalg.eigh(covariance)
    largest = float(values[-1].clamp(min=0.0))
    if float(values[0]) < -1e-6 * largest:
        raise MedaugError("moments: the covariance has a negative eigenvalue; compute it from features in float64")
    kept = values > largest * len(values) * torch.finfo(torch.float64).eps
    # legend: vectors [D, R] → rows [R, D], each scaled by the root of its eigenvalue
    return vectors[:, kept].T * values[kept].sqrt()[:, None]
