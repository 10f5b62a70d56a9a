"""The residual's gradient that goes into the norm: the sums that autograd makes, and no graph that keeps itself alive.

The functions stand for Transformer Engine's, which need a GPU (tests/gpu/test_fewer_passes.py has the real ones).
"""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch

from megatron_patch.backend.gpu.residual import NormBackward, branching, take_branch

Layer = tuple[torch.Tensor, torch.Tensor]


def norm_gradient(grad: torch.Tensor, x: torch.Tensor, deviation: torch.Tensor, weight: torch.Tensor) -> Layer:
    """Of x / rms(x) * weight."""
    normed, scaled = x * deviation, grad * weight
    x_grad = deviation * (scaled - normed * (scaled * normed).mean(-1, keepdim=True))
    return x_grad, (grad * normed).sum(0)


def adding_gradient(
    grad: torch.Tensor, x: torch.Tensor, add: torch.Tensor, deviation: torch.Tensor, weight: torch.Tensor
) -> Layer:
    x_grad, weight_grad = norm_gradient(grad, x, deviation, weight)
    return x_grad + add, weight_grad


def make(alone: Any, adding: Any) -> tuple[Any, NormBackward]:
    """A norm-and-linear function as Transformer Engine's, and what its backward pass calls."""
    norm = NormBackward(alone, adding)

    class NormedLinear(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor, gain: torch.Tensor, matrix: torch.Tensor) -> Any:
            rows = x.reshape(-1, x.shape[-1])
            deviation = rows.square().mean(-1, keepdim=True).rsqrt()
            if ctx is not None:
                ctx.save_for_backward(rows, deviation, gain, matrix)
                ctx.shape, ctx.wanted = x.shape, x.requires_grad
            return (rows * deviation * gain @ matrix).reshape(*x.shape[:-1], -1), None, None

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            rows, deviation, gain, matrix = ctx.saved_tensors
            grad = grads[0].reshape(len(rows), -1)
            x_grad, gain_grad = norm(grad @ matrix.T, rows, deviation, gain)
            return x_grad.reshape(ctx.shape) if ctx.wanted else None, gain_grad, (rows * deviation * gain).T @ grad

    return NormedLinear, norm


def weights(layers: int) -> list[Layer]:
    torch.manual_seed(1)
    return [
        (torch.randn(6, dtype=torch.double, requires_grad=True), torch.randn(6, 6, dtype=torch.double) / 3)
        for _ in range(layers)
    ]


def through(function: Any, x: torch.Tensor, layers: list[Layer], *, branch: bool) -> torch.Tensor:
    """x + f(x), layer by layer."""
    for gain, matrix in layers:
        out, *rest = function.apply(x, gain, matrix)
        assert len(rest) == 2
        x = (take_branch(x) if branch else x) + out.tanh()
    return x


@pytest.mark.parametrize("knows", [True, False], ids=["RMSNorm", "another norm"])
@pytest.mark.parametrize("leaf", [True, False], ids=["input wants a gradient", "first layer, embedding frozen"])
def test_gradients_are_autograds(knows: bool, leaf: bool) -> None:
    """Where the norm's kernel adds, and where the function never asks for one that does."""
    calls = []

    def adding(*args: torch.Tensor) -> Layer:
        calls.append(1)
        return adding_gradient(*args)

    function, norm = make(norm_gradient, adding)
    if not knows:
        norm = NormBackward(norm_gradient, adding)  # one that the function does not call
    layers = weights(3)
    begin = torch.randn(4, 2, 6, dtype=torch.double, requires_grad=leaf)
    wanted = [gain for gain, _ in layers] + ([begin] if leaf else [])
    found = torch.autograd.grad(through(branching(function, norm), begin, layers, branch=True).square().sum(), wanted)
    expected = torch.autograd.grad(through(function, begin, layers, branch=False).square().sum(), wanted)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    assert len(calls) == (3 if knows else 0)
    assert norm.residual is None


def test_a_branch_that_nobody_takes_changes_nothing() -> None:
    function, norm = make(norm_gradient, adding_gradient)
    ((gain, matrix),) = weights(1)
    x = torch.randn(4, 2, 6, dtype=torch.double, requires_grad=True)
    out, *_ = branching(function, norm).apply(x, gain, matrix)
    (found,) = torch.autograd.grad((x + out).square().sum(), x)
    (expected,) = torch.autograd.grad((x + function.apply(x, gain, matrix)[0]).square().sum(), x)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_without_a_graph_nothing_is_left() -> None:
    """Validation calls `forward` with no context."""
    function, norm = make(norm_gradient, adding_gradient)
    ((gain, matrix),) = weights(1)
    x = torch.randn(4, 2, 6, dtype=torch.double)
    with torch.no_grad():
        out, *_ = branching(function, norm).forward(None, x, gain, matrix)
    assert out.shape == x.shape and take_branch(x) is x


def test_activations_are_freed() -> None:
    """With the loss, without waiting for the garbage collector."""
    function, norm = make(norm_gradient, adding_gradient)
    ((gain, matrix),) = weights(1)
    gc.disable()
    try:
        x = torch.randn(4, 2, 6, dtype=torch.double, requires_grad=True) * 1
        gone = weakref.ref(x.untyped_storage())
        y = through(branching(function, norm), x, [(gain, matrix)], branch=True)
        del x
        assert gone() is not None
        del y
        assert gone() is None
    finally:
        gc.enable()
