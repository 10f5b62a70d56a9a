"""What a save holds on the GPU: overwritten at once, by the stream that training uses, and copied to RAM later."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from megatron_patch.backend.gpu_memory import GPU_MEMORY
from megatron_patch.backend.saving.gpu_copies import Held, hold
from megatron_patch.backend.saving.host_copies import Copier
from megatron_patch.backend.saving.optimizer_shards import Remainders


def test_held_copies() -> None:
    """Twice, the second time in the same memory; training's peak is told without it."""
    elements, copier = 40_000_001, Copier()
    for _ in range(2):
        halves = Remainders(
            weights=torch.randn(elements, device="cuda").bfloat16(),
            low=torch.randint(-32768, 32767, (elements,), dtype=torch.int16, device="cuda"),
        )
        moments = torch.randn(elements, device="cuda")
        expected = [halves.in_fp32().cpu(), moments.cpu()]
        before, _ = GPU_MEMORY.step_peak()
        files = hold([[(SimpleNamespace(index=0), halves)], [(SimpleNamespace(index=1), moments)]])
        assert all(isinstance(content, Held) for items in files for _, content in items)
        ready = torch.cuda.current_stream().record_event()
        for tensor in (halves.weights, halves.low, moments):
            tensor.zero_()
        copies = copier.copy(files, ready, lambda: None)
        del files
        GPU_MEMORY.give_back()
        assert GPU_MEMORY.step_peak()[0] < before
        for ((_, make),), values in zip(copies, expected, strict=True):
            assert torch.equal(make().view(torch.int32), values.view(torch.int32))  # bits: a half of NaN may be there
