"""Convolutions whose gradients can be differentiated again at the price of the gradients themselves.

torch differentiates a convolution's gradient a second time by convolutions with kernels as large as the image, some
times slower than the library's own gradient of a weight, which is the same sum. Penalties on gradients (WGAN-GP, R1,
path length) are mostly that. Here all three operations are made of one another: a convolution is bilinear, y = x ∗ w,
so with ⟨·,·⟩ over all values the form ⟨g, x ∗ w⟩ has the three partial derivatives

    y(x, w) by g,    input_gradient(g, w) by x,    weight_gradient(g, x) by w,

and each of those is bilinear with derivatives among the other two. Exact to any order.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


class WithoutWeightGradients:
    """While open, gradients through the convolutions made inside it leave out those of the weights.

    ``torch.autograd.grad(..., images, create_graph=True)`` wants gradients of images alone, but does not say so to
    functions written in Python: they would compute those of the weights too, for nothing. What the graph is used for
    after the block, such as a penalty's own gradients, is whole. The block is bound to the graph made inside it, so
    trainings in other threads do not notice.
    """

    _newest = threading.local()

    def __init__(self) -> None:
        self.open = False

    def __enter__(self) -> None:
        self.outer, self.open = self.newest(), True
        self._newest.block = self

    def __exit__(self, *_: object) -> None:
        self.open = False
        self._newest.block = self.outer

    @classmethod
    def newest(cls) -> WithoutWeightGradients | None:
        """The innermost block that this thread is in."""
        block: WithoutWeightGradients | None = getattr(cls._newest, "block", None)
        return block


@dataclass(frozen=True)
class Geometry:
    """How a kernel moves over the image.

    Attributes:
        stride: the same in both directions.
        padding: zeros on every side.
        transposed: whether it is the transposed convolution.
    """

    stride: int = 1
    padding: int = 0
    transposed: bool = False

    def convolve(self, x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
        """The library's convolution."""
        stride, padding = (self.stride, self.stride), (self.padding, self.padding)
        return torch.convolution(x, w, bias, stride, padding, (1, 1), self.transposed, (0, 0), 1)

    def gradients(
        self, g: Tensor, x: Tensor, w: Tensor, mask: tuple[bool, bool, bool]
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The library's gradients by x, w and bias, those that the mask asks for.

        Of an operand that a gradient does not depend on (x of that by x) only the shape counts.
        """
        stride, padding = (self.stride, self.stride), (self.padding, self.padding)
        bias = [w.shape[1 if self.transposed else 0]] if mask[2] else None
        return torch.ops.aten.convolution_backward(
            g, x, w, bias, stride, padding, (1, 1), self.transposed, (0, 0), 1, mask
        )


def conv2d(x: Tensor, w: Tensor, bias: Tensor | None = None, stride: int = 1, padding: int = 0) -> Tensor:
    """Like ``F.conv2d``, autocast included: [N, I, H, W], [O, I, k, k], [O] -> [N, O, H', W']."""
    return _apply(x, w, bias, Geometry(stride, padding))


def conv_transpose2d(x: Tensor, w: Tensor, bias: Tensor | None = None, stride: int = 1, padding: int = 0) -> Tensor:
    """Like ``F.conv_transpose2d``, autocast included: [N, I, H, W], [I, O, k, k], [O] -> [N, O, H', W']."""
    return _apply(x, w, bias, Geometry(stride, padding, transposed=True))


def _apply(x: Tensor, w: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    device = x.device.type
    if torch.is_autocast_enabled(device) and x.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(device)
        x, w, bias = x.to(dtype), w.to(dtype), None if bias is None else bias.to(dtype)
    if (
        torch.compiler.is_dynamo_compiling()
    ):  # differentiated once, and the library's own gradient is what it knows best
        return geometry.convolve(x, w, bias)
    y: Tensor = _Convolution.apply(x, w, bias, geometry)
    return y


class _Convolution(torch.autograd.Function):
    """y = x ∗ w + b."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.geometry = geometry
        ctx.block = WithoutWeightGradients.newest()
        return geometry.convolve(x, w, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        (g,) = gradients
        x, w = ctx.saved_tensors
        by_x, by_w, by_bias, _ = ctx.needs_input_grad
        if ctx.block is not None and ctx.block.open:
            by_w = by_bias = False
        if not torch.is_grad_enabled():  # nobody differentiates this again: one call
            return *ctx.geometry.gradients(g, x, w, (by_x, by_w, by_bias)), None
        return (
            _InputGradient.apply(g, x.detach(), w, ctx.geometry) if by_x else None,
            _WeightGradient.apply(g, x, w.detach(), ctx.geometry) if by_w else None,
            g.sum(dim=(0, 2, 3)) if by_bias else None,
            None,
        )


class _InputGradient(torch.autograd.Function):
    """∂⟨g, x ∗ w⟩/∂x, a function of g and w; x gives the shape."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor, w: Tensor, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(g, w)
        ctx.geometry = geometry
        gradient, _, _ = geometry.gradients(g, x, w, (True, False, False))
        assert gradient is not None, "asked for"
        return gradient

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, Tensor | None, None]:
        (x,) = gradients
        g, w = ctx.saved_tensors
        by_g, _, by_w, _ = ctx.needs_input_grad
        return (
            _Convolution.apply(x, w, None, ctx.geometry) if by_g else None,
            None,
            _WeightGradient.apply(g, x, w.detach(), ctx.geometry) if by_w else None,
            None,
        )


class _WeightGradient(torch.autograd.Function):
    """∂⟨g, x ∗ w⟩/∂w, a function of g and x; w gives the shape."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor, w: Tensor, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(g, x)
        ctx.geometry = geometry
        _, gradient, _ = geometry.gradients(g, x, w, (False, True, False))
        assert gradient is not None, "asked for"
        return gradient

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (w,) = gradients
        g, x = ctx.saved_tensors
        by_g, by_x, _, _ = ctx.needs_input_grad
        return (
            _Convolution.apply(x, w, None, ctx.geometry) if by_g else None,
            _InputGradient.apply(g, x.detach(), w, ctx.geometry) if by_x else None,
            None,
            None,
        )
