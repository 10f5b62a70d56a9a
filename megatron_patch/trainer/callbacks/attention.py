"""Which attention kernel Transformer Engine chose, an end of the run where it is the slow one at long sequences, and
whether the split and rotation before it are one kernel."""

from __future__ import annotations

from typing import Any

from megatron_patch.trainer.callbacks.base import Callback, Rank


def make(rank: Rank) -> Callback | None:
    """On every rank: each chooses for itself."""
    return AttentionChoice(rank)


class AttentionChoice(Callback):
    """Has every choice said once."""

    def __init__(self, rank: Rank) -> None:
        self._rank = rank

    def arguments(self, args: Any) -> None:
        if args.transformer_impl == "transformer_engine":
            from megatron_patch.backend.gpu.attention import watch_attention

            watch_attention(
                self._rank.screen.say,
                seq_length=args.seq_length,
                allow_unfused=args.allow_unfused_attention,
                prefer_flash=args.attention_backend.name == "auto" and not _offloads_activations(args),
            )
            if args.qkv_rope == "together":
                from megatron_patch.backend.gpu.qkv_rope import split_and_rotate_together

                split_and_rotate_together(self._rank.screen.say)


def _offloads_activations(args: Any) -> bool:
    """Not tried with FlashAttention 4."""
    return bool(args.cpu_offloading_num_layers or args.fine_grained_activation_offloading)
