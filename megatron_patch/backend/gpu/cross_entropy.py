"""Cross-entropy over 128k columns in two passes over the logits, in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from megatron_patch.backend.patching import BackendError, wrap


def use_in_place_cross_entropy() -> None:
    """Give `--cross-entropy-loss-fusion` Transformer Engine's Triton kernel, gradients written over the logits.

    Megatron 0.19.2's own fusion makes a dozen passes over fp32 copies of the logits (8192 x 128256: 4.2 GB each) and
    rounds their gradient to bf16 in every precision, fp32 and fp16 too. It refuses TE's kernel for the instability of
    earlier versions; TE 2.20's keeps the row maximum and sum in fp32 and computes both passes in fp32.
    tests/gpu compares it with float64.
    """
    from megatron.core.models.common.language_module import language_module
    from transformer_engine.pytorch.cross_entropy import parallel_cross_entropy

    @wrap(language_module, "fused_vocab_parallel_cross_entropy", why="0.19.2 makes a dozen passes over fp32 logits")
    def cross_entropy(
        original: Callable[..., Any], logits: torch.Tensor, labels: torch.Tensor, tp_group: Any
    ) -> torch.Tensor:
        """logits [s, b, v / TP], labels [s, b] over the whole vocabulary -> losses [s, b] in fp32."""
        if logits.dtype not in (torch.bfloat16, torch.float32):
            raise BackendError("loss-fusion-dtype", dtype=logits.dtype)
        group = tp_group if tp_group.size() > 1 else None
        return parallel_cross_entropy(logits.contiguous(), labels, dist_process_group=group, overwrite_input=True)
