"""The adapters' sums in place, against what autograd makes of the plain formula."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from megatron_patch.peft.lora import _AddInPlace, _Fork

SCALE = 0.7


def leaves(dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    shapes = {"x": (6, 2, 16), "weight": (24, 16), "a": (4, 16), "b": (24, 4)}
    return [torch.randn(s, generator=generator, dtype=dtype).requires_grad_() for s in shapes.values()]


def gradients(output: torch.Tensor, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    seed = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view(output.shape)
    return [output.detach().clone(), *torch.autograd.grad(output, inputs, seed)]


@pytest.mark.parametrize("forked", [False, True])
def test_the_sums_in_place_are_the_formula(forked: bool) -> None:
    x, weight, a, b = leaves(torch.float64)
    plain = functional.linear(x, weight) + SCALE * functional.linear(functional.linear(x, a), b)
    wanted = gradients(plain, [x, weight, a, b])
    seen, h = _Fork.apply(x, a) if forked else (x, functional.linear(x, a))
    found = gradients(_AddInPlace.apply(functional.linear(seen, weight), h, b, SCALE), [x, weight, a, b])
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def test_the_base_is_overwritten_and_not_copied() -> None:
    x, weight, a, b = leaves(torch.float32)
    base = functional.linear(x, weight)
    assert _AddInPlace.apply(base, functional.linear(x, a), b, SCALE).data_ptr() == base.data_ptr()
