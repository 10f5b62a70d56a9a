"""The embedding's gradient, added row by row: the same bits as torch's dense one."""

from __future__ import annotations

import pytest
import torch

from megatron_patch.backend.gpu.kernels import add_rows


@pytest.mark.parametrize(
    ("precision", "sums"),
    [(torch.bfloat16, torch.bfloat16), (torch.bfloat16, torch.float32), (torch.float32, torch.float32)],
)
def test_add_rows_is_bitwise_the_dense_gradient(precision: torch.dtype, sums: torch.dtype) -> None:
    """Repeated ids, the first and the last row, and a table that holds something already."""
    torch.manual_seed(0)
    ids = torch.randint(0, 40, (300,))
    ids[:2] = torch.tensor([499, 0])
    rows, table = torch.randn(300, 64).to(precision), torch.randn(500, 64).to(sums)
    weight = torch.zeros(500, 64, dtype=precision, requires_grad=True)
    torch.nn.functional.embedding(ids, weight).backward(rows)
    expected = table + weight.grad
    add_rows(table, ids, rows)
    assert torch.equal(table, expected)


def test_add_rows_leaves_other_rows_alone() -> None:
    """Empty slots add zeros to row 0, nothing else."""
    table = torch.ones(10, 4)
    add_rows(table, torch.tensor([3, 3, 3]), torch.ones(3, 4))
    assert torch.equal(table[3], torch.full((4,), 4.0))
    table[3] = 1.0
    assert torch.equal(table, torch.ones(10, 4))
