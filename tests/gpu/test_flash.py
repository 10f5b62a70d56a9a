"""FlashAttention 4 in the place of cuDNN: the same losses, whole rows and packed ones."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from .harness import BF16, train

HEADS = "--kv-channels 128 "
"""The width of heads that it is taken for."""
TOLERANCE = 5e-3
"""Nats over 20 iterations: the same products, added up in another order, in bf16."""

pytestmark = pytest.mark.skipif(
    find_spec("flash_attn") is None or not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0),
    reason="needs a Hopper GPU and flash-attn-4",
)


def test_whole_rows(tmp_path: Path, data: Path) -> None:
    """Taken where nobody chose; cuDNN where one order of sums is asked for, or where it is asked for itself."""
    flags = f"{BF16} {HEADS} --micro-batch-size 1 --seed 7"
    flash = train(tmp_path / "flash", data, flags, exact=False)
    cudnn = train(tmp_path / "cudnn", data, f"{flags} --attention-backend fused", exact=False)
    exact = train(tmp_path / "exact", data, flags)
    assert "attention FlashAttention 4" in flash.stdout
    assert "attention cuDNN" in cudnn.stdout and "attention cuDNN" in exact.stdout
    assert max(abs(a - b) for a, b in zip(flash.losses, cudnn.losses, strict=True)) <= TOLERANCE
