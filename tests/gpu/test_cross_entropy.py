"""The in-place cross-entropy against float64."""

from __future__ import annotations

import pytest
import torch

VOCAB_SIZE = 128256


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 4e-3), (torch.float32, 1e-5)])
def test_against_float64(dtype: torch.dtype, tolerance: float) -> None:
    """Losses to 1e-5, gradients to the rounding of their own precision; extreme logits and masked tokens too."""
    from transformer_engine.pytorch.cross_entropy import parallel_cross_entropy

    torch.manual_seed(0)
    logits = torch.randn(64, 2, VOCAB_SIZE, device="cuda", dtype=dtype) * 8
    logits[0, 0, 5], logits[1, 1] = 3e4, 0.0
    labels = torch.randint(VOCAB_SIZE, (64, 2), device="cuda")
    weights = torch.rand(64, 2, device="cuda")
    weights[3] = 0.0
    exact = logits.double().requires_grad_()
    expected = torch.nn.functional.cross_entropy(exact.flatten(0, 1), labels.flatten(), reduction="none").view(64, 2)
    (expected * weights).sum().backward()
    logits.requires_grad_()
    inner = logits * 1  # the kernel writes the gradient over its input, which must not be a leaf
    losses = parallel_cross_entropy(inner, labels, overwrite_input=True)
    (losses * weights).sum().backward()
    assert torch.isfinite(losses).all()
    assert ((losses - expected).abs() / expected.abs().clamp(min=1)).max() < 1e-5
    assert (logits.grad.double() - exact.grad).norm() / exact.grad.norm() < tolerance
    assert (logits.grad[3] == 0).all()
