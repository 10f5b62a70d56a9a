"""Threads of a rank whose GPU is not the first one: what they compute with Transformer Engine's kernels."""

from __future__ import annotations

import pytest
import torch

from megatron_patch.backend.gpu_threads import pool_on_this_gpu
from megatron_patch.backend.saving.gpu_copies import values_of


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_fp8_values_of_another_gpu() -> None:
    """In threads that begin with the first GPU this was an illegal memory access, and a checkpoint was not written."""
    from transformer_engine.pytorch import Float8CurrentScalingQuantizer
    from transformer_engine_torch import DType

    torch.cuda.set_device(1)
    try:
        quantizer = Float8CurrentScalingQuantizer(DType.kFloat8E4M3, device=torch.device("cuda", 1))
        weight = quantizer(torch.randn(256, 128, device="cuda", dtype=torch.bfloat16))
        with pool_on_this_gpu(2) as pool:
            assert list(pool.map(lambda _: torch.cuda.current_device(), range(4))) == [1] * 4
            found = pool.submit(lambda: values_of(weight).cpu()).result()
        assert torch.equal(found, values_of(weight).cpu())
    finally:
        torch.cuda.set_device(0)
