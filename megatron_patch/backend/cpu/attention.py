"""Causal attention for the local layer spec: torch's SDPA, with context parallelism and packed sequences.

Megatron 0.19.2's own `DotProductAttention` keeps S x S scores, and refuses context parallelism and packing.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from megatron.core import tensor_parallel
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel.mappings import gather_from_sequence_parallel_region
from megatron.core.transformer.enums import AttnBackend, AttnMaskType
from megatron.core.transformer.module import MegatronModule
from torch.nn.attention import SDPBackend, sdpa_kernel

if TYPE_CHECKING:
    from megatron.core.packed_seq_params import PackedSeqParams
    from megatron.core.transformer import TransformerConfig

CAUSAL_MASKS = (None, AttnMaskType.causal, AttnMaskType.padding_causal)


class SDPACoreAttention(MegatronModule):
    """softmax(Q K^T / sqrt(d)) V with a causal mask, over `scaled_dot_product_attention`.

    `--attention-backend unfused` takes torch's plain S x S kernel, any other its default choice (flash on a CPU).

    With context parallelism each sequence is cut into 2 x CP chunks and rank r holds chunks r and 2 x CP - 1 - r
    (Megatron's balanced split). K and V are gathered over the group, as their heads are few under grouped-query
    attention; the backward pass reduce-scatters dK and dV.
    """

    def __init__(
        self,
        config: TransformerConfig,
        layer_number: int,
        attn_mask_type: AttnMaskType,
        attention_type: str,
        attention_dropout: float | None = None,
        softmax_scale: float | None = None,
        cp_comm_type: str | None = None,
        pg_collection: ProcessGroupCollection | None = None,
    ) -> None:
        super().__init__(config=config)
        if attn_mask_type not in CAUSAL_MASKS or attention_type != "self":
            raise ValueError(f"causal self attention only, not {attention_type} with {attn_mask_type}")
        if config.attention_backend == AttnBackend.local:
            raise ValueError("--attention-backend local is Megatron's own attention; take auto, flash or unfused")
        groups = pg_collection or ProcessGroupCollection.use_mpu_process_groups(required_pgs=["cp"])
        self.cp_group = groups.cp
        self.scale = softmax_scale or 1.0 / math.sqrt(config.kv_channels)
        self.dropout = config.attention_dropout if attention_dropout is None else attention_dropout
        self.plain = config.attention_backend == AttnBackend.unfused

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        attn_mask_type: AttnMaskType | None = None,
        attention_bias: torch.Tensor | None = None,
        packed_seq_params: PackedSeqParams | None = None,
    ) -> torch.Tensor:
        """Attend within each sequence.

        Args:
            query: [s, b, heads, d], or [t, heads, d] when packed; s and t are this rank's part under CP.
            key, value: the same with the KV heads.
            packed_seq_params: `cu_seqlens_q` [n + 1] (padded ones, if given) count tokens of all CP ranks.
        Returns:
            [s, b, heads x d], or [t, heads x d] when packed.
        Raises:
            ValueError: a mask or bias is given, or packed lengths do not fit the tokens.
        """
        if attention_mask is not None or attention_bias is not None or attn_mask_type not in CAUSAL_MASKS:
            raise ValueError(
                "causal attention without explicit masks: pass --no-create-attention-mask-in-dataloader "
                f"(mask type {attn_mask_type})"
            )
        packed = query.dim() == 3
        if packed:
            query, key, value = (x.unsqueeze(1) for x in (query, key, value))
        size = self.cp_group.size()
        bounds = _sequence_bounds(query.shape[0] * size, packed_seq_params)
        if size > 1:
            key, value = self._gather_in_order(key, value, bounds)
        spans = _spans(bounds, size, self.cp_group.rank())
        out = torch.cat([self._attend(query[rows], key[seen], value[seen]) for rows, seen in spans])
        return out.squeeze(1) if packed else out

    def _attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """[q, b, heads, d] against [k, b, groups, d], the last query aligned with the last key."""
        q_len, k_len = query.shape[0], key.shape[0]
        mask = None
        if q_len != k_len:
            mask = torch.ones(q_len, k_len, dtype=torch.bool, device=query.device).tril(k_len - q_len)
        q, k, v = (x.permute(1, 2, 0, 3) for x in (query, key, value))
        options: dict[str, Any] = {"attn_mask": mask, "is_causal": mask is None, "scale": self.scale}
        if self.training and self.dropout > 0.0:
            with tensor_parallel.get_cuda_rng_tracker().fork():  # other heads, other dropout, at every TP rank
                out = self._sdpa(q, k, v, dropout_p=self.dropout, **options)
        else:
            out = self._sdpa(q, k, v, **options)
        return out.permute(2, 0, 1, 3).flatten(2)

    def _sdpa(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: Any) -> torch.Tensor:
        if not self.plain:
            return F.scaled_dot_product_attention(q, k, v, enable_gqa=True, **options)
        with sdpa_kernel(SDPBackend.MATH):
            return F.scaled_dot_product_attention(q, k, v, enable_gqa=True, **options)

    def _gather_in_order(
        self, key: torch.Tensor, value: torch.Tensor, bounds: list[tuple[int, int]]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """K and V of all CP ranks, rows in the order of the text."""
        order = text_order(bounds, self.cp_group.size(), key.shape[0])
        both = torch.cat([key, value], dim=-1).contiguous()
        gathered = gather_from_sequence_parallel_region(both, True, self.cp_group)
        ordered = gathered.index_select(0, order.to(gathered.device))
        return ordered.split([key.shape[-1], value.shape[-1]], dim=-1)


def _sequence_bounds(total: int, packed: PackedSeqParams | None) -> list[tuple[int, int]]:
    """First and last-plus-one token of each sequence, over all CP ranks."""
    if packed is None:
        return [(0, total)]
    cu_seqlens = packed.cu_seqlens_q if packed.cu_seqlens_q_padded is None else packed.cu_seqlens_q_padded
    ends = cu_seqlens.tolist()
    if ends[0] != 0 or ends[-1] != total or any(a > b for a, b in pairwise(ends)):
        raise ValueError(f"cu_seqlens must rise from 0 to the {total} tokens of the pack, not {ends}")
    return [(a, b) for a, b in pairwise(ends) if a < b]


def _spans(bounds: list[tuple[int, int]], cp_size: int, cp_rank: int) -> list[tuple[slice, slice]]:
    """For each chunk of this rank, its queries (rows of this rank) and the keys it may see (rows of the text)."""
    if cp_size == 1:
        return [(slice(a, b), slice(a, b)) for a, b in bounds]
    spans = []
    for start, end in bounds:
        chunk, local = _chunk_length(start, end, cp_size), start // cp_size
        for place, number in enumerate((cp_rank, 2 * cp_size - 1 - cp_rank)):
            rows = slice(local + place * chunk, local + (place + 1) * chunk)
            spans.append((rows, slice(start, start + (number + 1) * chunk)))
    return spans


def rows_of_rank(ends: list[int], cp_size: int, cp_rank: int) -> torch.Tensor:
    """Which tokens of a pack one context-parallel rank holds: chunks r and 2 x CP - 1 - r of each sequence.

    The split of Transformer Engine's `thd_get_partitioned_indices`, which a CPU does not have.

    Args:
        ends: cu_seqlens, rising from 0 to the tokens of the pack.
    Returns:
        [tokens / CP], int64.
    """
    pieces = []
    for start, end in pairwise(ends):
        chunk = _chunk_length(start, end, cp_size)
        for number in (cp_rank, 2 * cp_size - 1 - cp_rank):
            pieces.append(torch.arange(start + number * chunk, start + (number + 1) * chunk))
    return torch.cat(pieces)


def text_order(bounds: list[tuple[int, int]], cp_size: int, rows_per_rank: int) -> torch.Tensor:
    """Where each token of the text stands in the concatenation of all CP ranks' rows.

    Args:
        bounds: start and end of each sequence in the text, in tokens.
        rows_per_rank: tokens that one CP rank holds.
    Returns:
        [tokens], int64.
    """
    pieces = []
    for start, end in bounds:
        chunk = _chunk_length(start, end, cp_size)
        for number in range(2 * cp_size):
            rank, place = (number, 0) if number < cp_size else (2 * cp_size - 1 - number, 1)
            first = rank * rows_per_rank + start // cp_size + place * chunk
            pieces.append(torch.arange(first, first + chunk))
    return torch.cat(pieces)


def _chunk_length(start: int, end: int, cp_size: int) -> int:
    if (end - start) % (2 * cp_size):
        raise ValueError(f"a sequence of {end - start} tokens is not a multiple of 2 x CP = {2 * cp_size}")
    return (end - start) // (2 * cp_size)
