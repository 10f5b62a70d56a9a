"""From the data iterator of one rank of each tensor-parallel group to the tensors of every rank."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from megatron.core import mpu
from megatron.core.utils import get_batch_on_this_cp_rank, get_batch_on_this_tp_rank
from megatron.training import get_args
from megatron.training.utils import is_first_or_last_pipeline_stage

from .errors import DataError

TOKEN_KEYS = ("tokens", "labels", "loss_mask", "attention_mask", "position_ids")
PACKING_KEYS = ("cu_seqlens", "cu_seqlens_padded", "max_seqlen", "local_cp_size", "hybrid_cp_group")


def get_batch(data: Iterator[dict[str, torch.Tensor]] | None, vp_stage: int | None) -> tuple[Any, ...]:
    """One micro batch, cut to this rank's part of the sequence.

    Only tensor-parallel rank 0 reads `data`; it broadcasts to its group, and every context-parallel rank keeps its
    balanced half-open chunks.

    Args:
        vp_stage: virtual pipeline stage of the model chunk that asks.
    Returns:
        tokens, labels, loss_mask, attention_mask, position_ids, each [b, s / CP]; None where the pipeline stage
        does not need it.
    Raises:
        DataError: a token id is not in the vocabulary.
    """
    args = get_args()
    if not is_first_or_last_pipeline_stage(vp_stage):
        return (None,) * len(TOKEN_KEYS)
    tp_rank = mpu.get_tensor_model_parallel_rank()
    batch = _read(data, args.padded_vocab_size) if tp_rank == 0 else {}
    batch |= dict.fromkeys(PACKING_KEYS)
    batch = get_batch_on_this_tp_rank(
        batch,
        has_cu_seqlens=False,
        is_hybrid_cp=False,
        create_attention_mask_in_dataloader=args.create_attention_mask_in_dataloader,
        broadcast_src_rank=mpu.get_tensor_model_parallel_src_rank(),
        broadcast_group=mpu.get_tensor_model_parallel_group(),
        cp_size=args.context_parallel_size,
        tp_rank=tp_rank,
        micro_batch_size=args.micro_batch_size,
        seq_length=args.seq_length,
        mtp_on_this_rank=False,
        pipeline_model_parallel_size=args.pipeline_model_parallel_size,
        is_pipeline_first_stage=mpu.is_pipeline_first_stage(),
        is_pipeline_last_stage=mpu.is_pipeline_last_stage(),
    )
    batch = get_batch_on_this_cp_rank(batch, is_hybrid_cp=False, cp_group=mpu.get_context_parallel_group())
    return tuple(batch.get(key) for key in TOKEN_KEYS)


def _read(data: Iterator[dict[str, torch.Tensor]] | None, vocab_size: int) -> dict[str, torch.Tensor | None]:
    if data is None:
        raise DataError("this rank has no data iterator")
    sample = next(data)
    for key in ("tokens", "labels"):
        highest = int(sample[key].max())
        if highest >= vocab_size:
            # Embedding and loss mask such ids silently at TP > 1, and read beside the table on a GPU.
            raise DataError(
                f"the data hold token id {highest}, but the vocabulary has {vocab_size} rows: "
                "was it made with another tokenizer?"
            )
    return {key: _on_device(sample.get(key)) for key in TOKEN_KEYS}


def _on_device(tensor: torch.Tensor | None) -> torch.Tensor | None:
    return None if tensor is None else tensor.cuda(non_blocking=True)
