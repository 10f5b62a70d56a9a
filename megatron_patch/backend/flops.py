"""Floating-point operations of a step: what TFLOP/s and MFU are made of.

Megatron's count of the matmuls and of the visible half of attention, each once forward and twice backward (gradients of
its inputs and of its weights), without what recomputation repeats; and less of it where less is computed: no gradient
of a frozen weight, no logits at positions that are not trained. Adapters' own matmuls are added.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch


@dataclass
class _Known:
    """What Megatron's arguments do not say."""

    frozen_layers: int = 0
    frozen_head: bool = False
    adapters: int = 0
    """Weights of adapters, of the whole model."""
    positions: int = 0
    """That have got logits on this rank since the last step."""


_KNOWN = _Known()


def count_frozen(*, layers: int, head: bool, adapters: int = 0) -> None:
    """Say what is not trained, of the whole model, and how many weights of adapters are.

    Args:
        layers: number of frozen layers.
        head: whether the LM head is frozen.
    """
    _KNOWN.frozen_layers, _KNOWN.frozen_head, _KNOWN.adapters = layers, head, adapters


def count_logits(positions: int) -> None:
    """Let the count of this step know at how many positions this rank computes logits, under --trained-logits."""
    if torch.is_grad_enabled():  # validation would be counted into the next step
        _KNOWN.positions += positions


def count_packed_tokens(ends: torch.Tensor) -> None:
    """Let Megatron's count of this step know the lengths of the packed sequences.

    Args:
        ends: cu_seqlens of one micro batch, int32 [sequences + 1].
    """
    from megatron.training import training

    if torch.is_grad_enabled():
        training.update_seqlen_stats_from_cu_seqlens(ends)


def step_flops(training: Any, args: Any, samples: int, squares: float | None, tokens: float | None) -> float:
    """Of a global batch, over all ranks; every rank has to ask.

    Args:
        training: megatron.training.training.
        samples: of the global batch.
        squares: sum of the squared lengths of packed sequences; None: samples of the sequence length.
        tokens: sum of their lengths.
    """
    known = _KNOWN
    tokens = samples * args.seq_length if tokens is None else tokens
    count = partial(training.num_floating_point_operations, batch_size=samples)
    whole = float(count(args, seqlen_squared_sum_in_batch=squares, total_real_tokens_in_batch=tokens))
    matmuls = partial(count, seqlen_squared_sum_in_batch=0)
    head = partial(matmuls, _part(args, layers=0, rows=args.padded_vocab_size))
    left_out = matmuls(_part(args, layers=known.frozen_layers, rows=0), total_real_tokens_in_batch=tokens) / 3
    positions = _positions(args) if args.trained_logits else tokens
    left_out += head(total_real_tokens_in_batch=tokens - positions)
    if known.frozen_head:
        left_out += head(total_real_tokens_in_batch=positions) / 3
    return whole - left_out + 6.0 * known.adapters * tokens


def _part(args: Any, *, layers: int, rows: int) -> Any:
    """The arguments of a model of so many layers, and of an LM head of so many rows."""
    changed = copy.copy(args)
    changed.num_layers, changed.padded_vocab_size = layers, rows
    return changed


def _positions(args: Any) -> int:
    """That have got logits since the last step, of all ranks; those of a tensor-parallel group share them."""
    everywhere = torch.tensor([_KNOWN.positions], dtype=torch.int64, device="cuda")
    _KNOWN.positions = 0
    torch.distributed.all_reduce(everywhere)
    return int(everywhere.item()) // int(args.tensor_model_parallel_size)
