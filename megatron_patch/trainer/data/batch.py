"""From the data iterator of one rank of each tensor-parallel group to the tensors of every rank."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from megatron.core import mpu
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.utils import (
    flatten_batch_for_packed_sequences,
    get_batch_on_this_cp_rank,
    get_batch_on_this_tp_rank,
)
from megatron.training import get_args

from megatron_patch.backend.cpu.attention import rows_of_rank
from megatron_patch.backend.flops import count_packed_tokens
from megatron_patch.trainer.data.id_check import check_ids
from megatron_patch.trainer.errors import DatasetError

TOKEN_KEYS = ("tokens", "labels", "loss_mask", "position_ids")
KEYS = (*TOKEN_KEYS, "attention_mask", "cu_seqlens", "max_seqlen")
UNUSED_KEYS = ("cu_seqlens_padded", "local_cp_size", "hybrid_cp_group")

Raw = dict[str, torch.Tensor | None]


class Batch(NamedTuple):
    """One micro batch as this rank needs it; None where its pipeline stage does not."""

    tokens: torch.Tensor | None
    """[b, s / CP]; packed sequences of all rows in one: [1, b x s / CP]."""
    labels: torch.Tensor | None
    loss_mask: torch.Tensor | None
    """float32, the weight of each label."""
    attention_mask: torch.Tensor | None
    position_ids: torch.Tensor | None
    packed: PackedSeqParams | None
    """Where sequences begin and end, if rows hold several."""
    sources: torch.Tensor | None
    """[b], which of several validation sets each row comes from."""


def get_batch(data: Iterator[dict[str, torch.Tensor]] | None, vp_stage: int | None) -> Batch:
    """One micro batch, cut to this rank's part of the sequence.

    Only tensor-parallel rank 0 reads `data`; it broadcasts to its group, and every context-parallel rank keeps its
    balanced half-open chunks: of each row, or of each sequence in it when packed.

    Args:
        vp_stage: virtual pipeline stage of the model chunk that asks.
    Raises:
        DatasetError: see `id_check.check_ids`.
    """
    args = get_args()
    if not reads_data(vp_stage, packed=args.sft_packing):
        return Batch(*[None] * 7)
    tp_rank = mpu.get_tensor_model_parallel_rank()
    raw = _read(data) if tp_rank == 0 else {}
    sources = _broadcast_sources(raw.pop("source", None), args, vp_stage)
    batch = get_batch_on_this_tp_rank(
        raw | dict.fromkeys(UNUSED_KEYS),
        has_cu_seqlens=args.sft_packing,
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
        is_pipeline_first_stage=_is_first(vp_stage),
        is_pipeline_last_stage=_is_last(vp_stage),
    )
    packed = None
    if args.sft_packing:
        batch, packed = _pack(batch)
    else:
        batch = get_batch_on_this_cp_rank(batch, is_hybrid_cp=False, cp_group=mpu.get_context_parallel_group())
    tokens, labels, loss_mask, position_ids = (batch.get(key) for key in TOKEN_KEYS)
    return Batch(tokens, labels, loss_mask, batch.get("attention_mask"), position_ids, packed, sources)


def reads_data(vp_stage: int | None, *, packed: bool) -> bool:
    """Whether a model chunk needs data: the first and the last, and when packed all, for the sequences' ends."""
    return packed or _is_first(vp_stage) or _is_last(vp_stage)


def _is_first(vp_stage: int | None) -> bool:
    return bool(mpu.is_pipeline_first_stage(ignore_virtual=vp_stage is None, vp_stage=vp_stage))


def _is_last(vp_stage: int | None) -> bool:
    return bool(mpu.is_pipeline_last_stage(ignore_virtual=vp_stage is None, vp_stage=vp_stage))


def _read(data: Iterator[dict[str, torch.Tensor]] | None) -> Raw:
    if data is None:
        raise DatasetError("no-data-iterator")
    sample = next(data)
    check_ids(sample)
    return {key: _on_device(sample.get(key)) for key in (*KEYS, "source")}


def _on_device(tensor: torch.Tensor | None) -> torch.Tensor | None:
    return None if tensor is None else tensor.cuda(non_blocking=True)


def _broadcast_sources(sources: torch.Tensor | None, args: Any, vp_stage: int | None) -> torch.Tensor | None:
    """Validation rows say which set they are of; the last stage of every tensor-parallel rank wants to know."""
    if torch.is_grad_enabled() or args.sft_data is None or not _is_last(vp_stage):
        return None
    if sources is None:
        sources = torch.empty(args.micro_batch_size, dtype=torch.int64, device=torch.cuda.current_device())
    torch.distributed.broadcast(
        sources, mpu.get_tensor_model_parallel_src_rank(), group=mpu.get_tensor_model_parallel_group()
    )
    return sources


def _pack(batch: dict[str, Any]) -> tuple[dict[str, Any], PackedSeqParams]:
    """Join the rows of a micro batch into one stream of sequences, and keep this context-parallel rank's part."""
    batch = flatten_batch_for_packed_sequences(batch)
    ends = batch["cu_seqlens"][0]
    count_packed_tokens(ends)
    group = mpu.get_context_parallel_group()
    if group.size() > 1:
        rows = rows_of_rank(ends.tolist(), group.size(), group.rank()).to(ends.device)
        for key in TOKEN_KEYS:
            if batch.get(key) is not None:
                batch[key] = batch[key].index_select(1, rows)
    longest = int(batch["max_seqlen"].max())
    packed = PackedSeqParams(
        qkv_format="thd",
        cu_seqlens_q=ends,
        cu_seqlens_kv=ends,
        # Padding behind a sample counts as part of it, so the padded ends are the ends.
        cu_seqlens_q_padded=ends if group.size() > 1 else None,
        cu_seqlens_kv_padded=ends if group.size() > 1 else None,
        max_seqlen_q=longest,
        max_seqlen_kv=longest,
    )
    return batch, packed
