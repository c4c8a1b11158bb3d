"""Convolutions whose gradients are convolutions: against torch's own, to the third order, in every precision."""

import contextlib
import threading

import pytest
import torch
import torch.nn.functional as F

from medgan.convolution import WithoutWeightGradients, _WeightGradient, conv2d, conv_transpose2d

CASES = [  # function, torch's, kernel, stride, padding
    (conv2d, F.conv2d, 3, 1, 1),
    (conv2d, F.conv2d, 1, 1, 0),
    (conv2d, F.conv2d, 4, 2, 1),
    (conv2d, F.conv2d, 3, 2, 0),  # of an even image: the last row and column go unused
    (conv_transpose2d, F.conv_transpose2d, 4, 2, 1),
    (conv_transpose2d, F.conv_transpose2d, 3, 2, 0),
]


def operands(kernel, transposed):
    rng = torch.Generator().manual_seed(kernel)
    shape = (3, 2) if transposed else (2, 3)
    sizes = [(2, 3, 6, 4), (*shape, kernel, kernel), (2,)]
    return [torch.randn(size, generator=rng, dtype=torch.float64, requires_grad=True) for size in sizes]


@pytest.mark.parametrize(("mine", "torchs", "kernel", "stride", "padding"), CASES)
def test_three_orders_of_gradients_are_torchs(mine, torchs, kernel, stride, padding):
    x, w, b = operands(kernel, torchs is F.conv_transpose2d)
    found = []
    for function in (mine, torchs):
        y = function(x, w, b, stride=stride, padding=padding)
        # sin, so that no derivative of what follows vanishes
        first = torch.autograd.grad(y.sin().sum(), (x, w, b), create_graph=True)
        second = torch.autograd.grad(sum(g.sin().sum() for g in first), (x, w, b), create_graph=True)
        third = torch.autograd.grad(sum(g.square().sum() for g in second), (x, w, b))
        found.append((y, *first, *second, *third))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
        assert float(one.detach().abs().max()) > 0.1


def test_gradients_are_those_of_finite_differences():
    x, w, b = operands(3, False)
    assert torch.autograd.gradcheck(lambda *t: conv2d(*t, stride=1, padding=1), (x, w, b))
    assert torch.autograd.gradgradcheck(lambda *t: conv2d(*t, stride=1, padding=1), (x, w, b))


@pytest.mark.parametrize("function", [conv2d, conv_transpose2d])
def test_autocast_computes_in_bfloat16_and_gives_gradients_in_the_weights_precision(function):
    x, w, b = (t.detach().float().requires_grad_() for t in operands(4, function is conv_transpose2d))
    with torch.autocast("cpu", torch.bfloat16):
        y = function(x, w, b, stride=2, padding=1)
    assert y.dtype == torch.bfloat16
    exact = getattr(F, function.__name__)(x, w, b, stride=2, padding=1)
    torch.testing.assert_close(y.float(), exact, rtol=0.05, atol=0.1)
    gradients = torch.autograd.grad(y.float().sin().sum(), (x, w, b))
    assert {g.dtype for g in gradients} == {torch.float32}


def test_a_gradient_by_images_alone_computes_none_of_weights(monkeypatch):
    computed: list[int] = []
    forward = _WeightGradient.forward
    monkeypatch.setattr(_WeightGradient, "forward", staticmethod(lambda *a: (computed.append(1), forward(*a))[1]))
    x, w, b = operands(3, False)
    penalties = []
    for block, expected in ((contextlib.nullcontext(), 1), (WithoutWeightGradients(), 0)):
        computed.clear()
        with block:
            (g,) = torch.autograd.grad(conv2d(x, w, b, padding=1).sin().sum(), x, create_graph=True)
        assert len(computed) == expected
        penalties.append(torch.autograd.grad(g.square().sum(), (w, b)))
    for one, other in zip(*penalties, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_a_block_that_leaves_weights_out_says_nothing_of_other_graphs():
    x, w, b = operands(3, False)
    before = conv2d(x, w, b, padding=1).sum()
    seen = []
    with WithoutWeightGradients():
        seen.append(torch.autograd.grad(before, w, create_graph=True)[0])  # made outside
        thread = threading.Thread(
            target=lambda: seen.append(torch.autograd.grad(conv2d(x, w, b, padding=1).sum(), w, create_graph=True)[0])
        )
        thread.start()
        thread.join()
        with pytest.raises(RuntimeError, match="not have been used"):
            torch.autograd.grad(conv2d(x, w, b, padding=1).sum(), w, create_graph=True)
    torch.testing.assert_close(*seen)
    (after,) = torch.autograd.grad(conv2d(x, w, b, padding=1).sum(), w)
    torch.testing.assert_close(after, seen[0])
