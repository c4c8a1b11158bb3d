"""Several processes that train as one; in a single process nothing here does anything.

Of a batch of N images over K processes, process r has rows r, r + K, r + 2K, ... Every process draws the random numbers
of the whole batch from the same stream and keeps its rows, so that all of them together compute what one process would
with the whole batch, up to the order of sums. Every K-th row and not a block of N/K: a group of minibatch stddev is
made of every (N/G)-th row (:func:`medgan.layers.minibatch_stddev`), so groups stay whole within a process.

Means over the batch are means over processes of their means, since all have the same number of rows. What is no mean of
rows (statistics of ADA, of path lengths and of w, batch norm) is summed over processes where it is computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipeline.records import MedaugError

if TYPE_CHECKING:
    from medgan.config import GanConfig


class LostError(Exception):
    """Another process is gone, or cannot be reached."""


def count() -> int:
    """Processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process, from 0 on."""
    return dist.get_rank() if count() > 1 else 0


def first() -> bool:
    """Whether this is the process that writes files and talks."""
    return rank() == 0


def check_shares(config: GanConfig) -> None:
    """Refuses what the processes could not share without computing something else than one alone.

    Raises:
        MedaugError: the batch, or what it is divided into, does not come out even.
    """
    K = count()
    if K == 1:
        return
    if config.batch % K:
        raise MedaugError(f"batch {config.batch} over {K} processes: expected a multiple of {K}")
    share, group = config.batch // K, config.architecture.get("stddev_group", 0)
    if group and share % group:
        raise MedaugError(
            f"batch {config.batch} over {K} processes: {share} images each, which architecture.stddev_group {group} "
            f"does not divide; expected a batch that is a multiple of {K * group}"
        )
    shrink = config.regularisation.path_length_shrink
    if config.regularisation.path_length > 0 and share % shrink:
        raise MedaugError(
            f"batch {config.batch} over {K} processes: {share} images each, which regularisation.path_length_shrink "
            f"{shrink} does not divide; expected a batch that is a multiple of {K * shrink}"
        )


def own(rows: Tensor) -> Tensor:
    """This process's rows of the whole batch: [N, ...] -> [N/K, ...]."""
    return rows if count() == 1 else rows[rank() :: count()]


def normal(shape: Sequence[int], rng: torch.Generator) -> Tensor:
    """Standard normal numbers on the generator's device, one row an image of this process; float32 of ``shape``."""
    N, *rest = shape
    return own(torch.randn(N * count(), *rest, device=rng.device, generator=rng))


def uniform(shape: Sequence[int], rng: torch.Generator) -> Tensor:
    """The same, uniform in [0, 1)."""
    N, *rest = shape
    return own(torch.rand(N * count(), *rest, device=rng.device, generator=rng))


def total(values: Tensor) -> Tensor:
    """Sum over processes, without a gradient."""
    if count() == 1:
        return values
    values = values.detach().clone()
    try:
        dist.all_reduce(values)
    except RuntimeError as error:  # gloo has no exception of its own
        raise LostError(str(error).splitlines()[0]) from None
    return values


def mean(values: Tensor) -> Tensor:
    """Mean over processes, without a gradient."""
    return values if count() == 1 else total(values) / count()


def told(number: int) -> int:
    """What the first process says."""
    if count() == 1:
        return number
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    return int(total(torch.tensor(number if first() else 0, device=device)))


@torch.no_grad()
def share(network: nn.Module, loss: Tensor, curves: Mapping[str, Tensor]) -> tuple[Tensor, Mapping[str, Tensor]]:
    """After a backward pass: means over processes of a network's gradients (in place), of the loss and of the curves.

    A non-finite value in one process is then one in all, so that all of them skip the step.
    """
    if count() == 1:
        return loss, curves
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    values = [loss.detach(), *(value.detach() for value in curves.values())]
    flat = mean(torch.cat([part.flatten().float() for part in (*gradients, *values)]))  # one message
    parts = flat.split([part.numel() for part in (*gradients, *values)])
    for gradient, part in zip(gradients, parts, strict=False):
        gradient.copy_(part.view_as(gradient))
    loss, *rest = (part.reshape(()) for part in parts[len(gradients) :])
    return loss, dict(zip(curves, rest, strict=True))


class SharedBatchNorm(nn.BatchNorm2d):
    """Batch norm whose statistics are those of the whole batch, on any device (torch's SyncBatchNorm is for GPUs)."""

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to the same."""
        if count() == 1 or not self.training:
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            precise = x.float()
            N = count() * x.shape[0] * x.shape[2] * x.shape[3]
            average = _Sum.apply(precise.sum(dim=(0, 2, 3), keepdim=True)) / N  # -> [1, C, 1, 1]
            centred = precise - average
            variance = _Sum.apply(centred.square().sum(dim=(0, 2, 3), keepdim=True)) / N
            y = centred * torch.rsqrt(variance + self.eps)
            if self.affine:
                y = y * self.weight[:, None, None] + self.bias[:, None, None]
        assert self.momentum is not None, "an exponential average"
        assert self.running_mean is not None, "tracked"
        assert self.running_var is not None, "tracked"
        assert self.num_batches_tracked is not None, "tracked"
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(average.flatten(), self.momentum)
            self.running_var.lerp_(variance.flatten() * (N / (N - 1)), self.momentum)
        return y.to(x.dtype)


class _Sum(torch.autograd.Function):
    """Sum over processes; every process's loss has its part in the gradient."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return total(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return total(gradients[0])
