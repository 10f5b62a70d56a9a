"""How a rank's part of the optimizer is described: rectangles of tensors, and fp32 copies from 16 bits of them."""

from __future__ import annotations

import itertools

import pytest
import torch

from megatron_patch.backend.saving.optimizer_shards import Remainders, rectangles

MIDDLE = 0x8000
"""Lower half of an fp32 number that lies in the middle between two of bf16."""


@pytest.mark.parametrize("shape", [(13,), (1, 7), (5, 1), (4, 6)])
def test_rectangles_hold_every_range(shape: tuple[int, ...]) -> None:
    """Each range of each shape: its elements in order, nothing else, in at most three pieces."""
    elements = torch.arange(torch.Size(shape).numel()).view(shape)
    for start, end in itertools.combinations(range(elements.numel() + 1), 2):
        pieces = []
        for position, size in rectangles(start, end, shape):
            piece = elements
            for axis, (first, length) in enumerate(zip(position, size, strict=True)):
                piece = piece.narrow(axis, first, length)
            pieces.append(piece.flatten())
        assert torch.cat(pieces).tolist() == list(range(start, end))
        assert len(pieces) <= 3


def test_no_rectangle_of_nothing() -> None:
    """A rank may have no part of a parameter."""
    assert list(rectangles(4, 4, (3, 5))) == []


def kept_by_transformer_engine(copies: torch.Tensor) -> Remainders:
    """Bit by bit what its kernel stores: the lower half, and the upper, plus one where the lower is negative."""
    bits = copies.view(torch.int32)
    low = bits.to(torch.int16)
    upper = (bits >> 16) + (low < 0)
    return Remainders(weights=upper.to(torch.int16).view(torch.bfloat16), low=low)


def copies() -> torch.Tensor:
    """fp32 numbers of all sizes and both signs, some of them in the middle between two of bf16."""
    numbers = torch.randn(10_000, generator=torch.Generator().manual_seed(0)) * 10.0 ** torch.linspace(-30, 3, 10_000)
    bits = numbers.view(torch.int32)
    bits[::10] = (bits[::10] & ~0xFFFF) | MIDDLE
    return bits.view(torch.float32)


def test_copies_come_back() -> None:
    """A checkpoint has the fp32 copies themselves, in any block; loading makes the same 16 bits of them."""
    numbers = copies()
    kept = kept_by_transformer_engine(numbers)
    assert torch.equal(kept.block(0, (100, 100)).in_fp32(), numbers.view(100, 100))
    assert torch.equal(kept.block(130, (7,)).in_fp32(), numbers[130:137])
    again = Remainders(weights=torch.zeros_like(kept.weights), low=torch.zeros_like(kept.low))
    to_fix = []
    for first in (0, 40):  # read in two rectangles, before the weights
        part = again.block(0, (100, 100)).narrowed((0, first), (100, 60))
        to_fix.append(part.keep(numbers.view(100, 100)[:, first : first + 60]))
    again.weights.copy_(kept.weights)
    for fix in to_fix:
        fix()
    assert torch.equal(again.low, kept.low)


def test_copies_of_another_optimizer() -> None:
    """Weights that torch rounded, to even from the middle: the same copies, but for 1 ulp where it rounded down."""
    numbers = copies()
    weights = numbers.to(torch.bfloat16)
    kept = Remainders(weights=weights, low=torch.empty(len(numbers), dtype=torch.int16))
    kept.keep(numbers)()
    found = kept.in_fp32()
    error = (found.view(torch.int32) - numbers.view(torch.int32)).abs()
    assert error.max() == 1 and 0 < (error > 0).sum() < 1000
    assert ((error == 0) | ((numbers.view(torch.int32) & 0xFFFF) == MIDDLE)).all()
