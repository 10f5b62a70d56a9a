"""Split of the fused projection and RoPE in one pass over memory, forward and backward.

Transformer Engine 2.20 rotates queries and keys in one kernel each, after copies that take them out of the projection
and before one that puts the gradients back: 1.7 TB/s of what a copy reaches, 11.7 ms of 8B's 740 in bf16. Its fused
kernel (`--fused-single-qkv-rope`) moves two bytes at a time and is no faster; this one makes a step of 8B 1 % shorter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]

from megatron_patch.backend.patching import wrap

BLOCK_TOKENS, BLOCK_HEADS, WARPS = 4, 16, 4
"""Tokens and heads of one program, and its warps."""


@triton.jit  # type: ignore[untyped-decorator]
def _split_kernel(  # type: ignore[no-untyped-def]
    mixed,
    query,
    key,
    value,
    table,
    positions,
    tokens,
    heads,
    tokens_per_position,
    RATIO: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    PACKED: tl.constexpr,
    FORWARD: tl.constexpr,
):
    token = tl.program_id(0) * BLOCK_TOKENS + tl.arange(0, BLOCK_TOKENS)
    head = tl.program_id(1) * BLOCK_HEADS + tl.arange(0, BLOCK_HEADS)
    lane = tl.arange(0, HALF)
    groups, group, part = heads // (RATIO + 2), head // (RATIO + 2), head % (RATIO + 2)
    here = token < tokens
    inside = here[:, None, None] & (head < heads)[None, :, None]
    of_query = inside & (part < RATIO)[None, :, None]
    of_key = inside & (part == RATIO)[None, :, None]
    of_value = inside & (part == RATIO + 1)[None, :, None]

    row = tl.load(positions + token, mask=here, other=0) if PACKED else token // tokens_per_position
    angle = table + row[:, None] * (2 * HALF) + lane[None, :]
    cos = tl.load(angle, mask=here[:, None], other=1.0)[:, None, :]
    sin = tl.load(angle + HALF, mask=here[:, None], other=0.0)[:, None, :]

    far = token.to(tl.int64)[:, None]  # 2**31 elements are 350,000 tokens of 8B
    at_mixed = mixed + ((far * heads + head[None, :]) * (2 * HALF))[:, :, None] + lane[None, None, :]
    at_query = (far * (groups * RATIO) + (group * RATIO + part)[None, :]) * (2 * HALF)
    at_query = query + at_query[:, :, None] + lane[None, None, :]
    at_other = ((far * groups + group[None, :]) * (2 * HALF))[:, :, None] + lane[None, None, :]

    if FORWARD:
        first = tl.load(at_mixed, mask=inside, other=0.0).to(tl.float32)
        second = tl.load(at_mixed + HALF, mask=inside, other=0.0).to(tl.float32)
        turned_first = tl.where(of_value, first, first * cos - second * sin).to(query.dtype.element_ty)
        turned_second = tl.where(of_value, second, second * cos + first * sin).to(query.dtype.element_ty)
        tl.store(at_query, turned_first, mask=of_query)
        tl.store(at_query + HALF, turned_second, mask=of_query)
        tl.store(key + at_other, turned_first, mask=of_key)
        tl.store(key + at_other + HALF, turned_second, mask=of_key)
        tl.store(value + at_other, turned_first, mask=of_value)
        tl.store(value + at_other + HALF, turned_second, mask=of_value)
    else:
        first = tl.load(at_query, mask=of_query, other=0.0).to(tl.float32)
        second = tl.load(at_query + HALF, mask=of_query, other=0.0).to(tl.float32)
        first += tl.load(key + at_other, mask=of_key, other=0.0).to(tl.float32)
        second += tl.load(key + at_other + HALF, mask=of_key, other=0.0).to(tl.float32)
        first += tl.load(value + at_other, mask=of_value, other=0.0).to(tl.float32)
        second += tl.load(value + at_other + HALF, mask=of_value, other=0.0).to(tl.float32)
        turned_first = tl.where(of_value, first, first * cos + second * sin).to(mixed.dtype.element_ty)
        turned_second = tl.where(of_value, second, second * cos - first * sin).to(mixed.dtype.element_ty)
        tl.store(at_mixed, turned_first, mask=inside)
        tl.store(at_mixed + HALF, turned_second, mask=inside)


def _launch(
    mixed: torch.Tensor,
    parts: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    table: torch.Tensor,
    positions: torch.Tensor | None,
    *,
    forward: bool,
) -> None:
    """mixed [s, b, groups, (ratio + 2) x d], parts [s, b, heads, d] each, contiguous; table [rows, d]."""
    size, groups = table.size(-1), mixed.size(2)
    heads, tokens = mixed.size(3) // size * groups, mixed.size(0) * mixed.size(1)
    _split_kernel[(triton.cdiv(tokens, BLOCK_TOKENS), triton.cdiv(heads, BLOCK_HEADS))](
        mixed,
        *parts,
        table,
        table if positions is None else positions,
        tokens,
        heads,
        mixed.size(1),
        RATIO=heads // groups - 2,
        HALF=size // 2,
        BLOCK_TOKENS=BLOCK_TOKENS,
        BLOCK_HEADS=BLOCK_HEADS,
        PACKED=positions is not None,
        FORWARD=forward,
        num_warps=WARPS,
    )


class SplitAndRotate(torch.autograd.Function):
    """Queries and keys, rotated by their positions, and values, out of the fused projection."""

    @staticmethod
    def forward(
        ctx: Any, mixed: torch.Tensor, table: torch.Tensor, positions: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """
        Args:
            mixed: [s, b, groups, (ratio + 2) x d], in each group its queries, its key, its value.
            table: what `cosines_and_sines` gives, a row for each position.
            positions: int32 [s x b], the row of each token; None: token s has row s.
        Returns:
            [s, b, groups x ratio, d], and twice [s, b, groups, d], contiguous.
        """
        length, batch, groups, width = mixed.shape
        size = table.size(-1)
        query = mixed.new_empty(length, batch, groups * (width // size - 2), size)
        key, value = (mixed.new_empty(length, batch, groups, size) for _ in range(2))
        _launch(mixed.contiguous(), (query, key, value), table, positions, forward=True)
        ctx.save_for_backward(table, positions)
        ctx.shape = mixed.shape
        return query, key, value

    @staticmethod
    def backward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, None, None]:
        """The gradients of the three -> that of the projection's output."""
        table, positions = ctx.saved_tensors
        mixed = query.new_empty(ctx.shape)
        _launch(mixed, (query.contiguous(), key.contiguous(), value.contiguous()), table, positions, forward=False)
        return mixed, None, None


def cosines_and_sines(angles: torch.Tensor) -> torch.Tensor:
    """The table of a RoPE.

    Args:
        angles: Megatron's, [rows, 1, 1, d] in fp32, both halves alike; not interleaved.
    Returns:
        fp32 [rows, d], cosines in the first half, sines in the second. Kept with the angles, which Megatron keeps.
    """
    table: torch.Tensor | None = getattr(angles, "cosines_and_sines", None)
    if table is None:
        half = angles[:, 0, 0, : angles.size(-1) // 2].float()
        table = torch.cat([half.cos(), half.sin()], dim=-1)
        angles.cosines_and_sines = table  # type: ignore[attr-defined]
    return table


def positions_in_packs(ends: torch.Tensor, tokens: int, cp_size: int, cp_rank: int) -> torch.Tensor:
    """The position of each token of this rank within its own sequence.

    Args:
        ends: cu_seqlens over all context-parallel ranks, padded, int32 [sequences + 1].
        tokens: of this rank.
    Returns:
        int32 [tokens]; each rank holds chunks r and 2 x CP - 1 - r of each sequence.
    """
    mine = ends // cp_size
    token = torch.arange(tokens, device=ends.device, dtype=ends.dtype)
    sequence = torch.searchsorted(mine, token, right=True) - 1
    place, length = token - mine[sequence], (mine[1:] - mine[:-1])[sequence]
    if cp_size == 1:
        return place.to(torch.int32)
    half = length // 2
    second = length * cp_size - (cp_rank + 1) * half + place - half
    return torch.where(place < half, place + cp_rank * half, second).to(torch.int32)


def obstacle(attention: Any, angles: Any, inference_context: Any) -> str | None:
    """Why a layer's split and rotation cannot be one kernel; None where they can."""
    config, size = attention.config, attention.hidden_size_per_attention_head
    if inference_context is not None or config.fused_single_qkv_rope or not config.apply_rope_fusion:
        return "asked for otherwise"
    if not isinstance(angles, torch.Tensor):
        return "no RoPE, or two"
    if any(type(norm).__name__ not in ("NoneType", "IdentityOp") for norm in _norms(attention)):
        return "q/k norms lie between"
    if config.rotary_interleaved or config.attention_output_gate or attention._yarn_concentration_factor != 1.0:
        return "another kind of RoPE"
    if angles.size(-1) != size or size not in (64, 128, 256) or angles.size(1) != 1:
        return f"rotates {angles.size(-1)} of {size}"
    if config.num_query_groups < attention.world_size:
        return "ranks share a KV head"
    return None


def _norms(attention: Any) -> tuple[Any, Any]:
    return attention.q_layernorm, attention.k_layernorm


def split_and_rotate_together(say: Callable[[str], None]) -> None:
    """Give Megatron's self-attention this kernel wherever it applies.

    Args:
        say: gets one line, by the first layer.
    """
    from megatron.core.transformer.attention import SelfAttention

    why = "0.19.2 splits, rotates and puts together in six passes"
    said: set[str | None] = set()

    @wrap(SelfAttention, "forward", why=why)
    def forward(original: Callable[..., Any], self: Any, hidden_states: Any, attention_mask: Any, **rest: Any) -> Any:
        angles = rest.get("rotary_pos_emb")
        found = obstacle(self, angles, rest.get("inference_context"))
        if found not in said:
            said.add(found)
            say("RoPE and the split of q, k, v: " + (f"apart ({found})" if found else "one kernel"))
        if found:
            return original(self, hidden_states, attention_mask, **rest)
        self.rotation = angles, rest.get("packed_seq_params")
        try:
            return original(self, hidden_states, attention_mask, **(rest | {"rotary_pos_emb": None}))
        finally:
            self.rotation = None

    @wrap(SelfAttention, "get_query_key_value_tensors", why=why)
    def get_query_key_value_tensors(original: Callable[..., Any], self: Any, *args: Any, **kwargs: Any) -> Any:
        rotation = getattr(self, "rotation", None)
        if rotation is None:
            return original(self, *args, **kwargs)
        mixed, _ = original(self, *args, **(kwargs | {"split_qkv": False}))
        angles, packed = rotation
        return SplitAndRotate.apply(mixed, cosines_and_sines(angles), _positions(self, mixed, packed))


def _positions(attention: Any, mixed: torch.Tensor, packed: Any) -> torch.Tensor | None:
    """Of packed sequences, computed by the first layer of a micro batch and kept with its boundaries."""
    if packed is None or packed.qkv_format != "thd":
        return None
    kept: torch.Tensor | None = getattr(packed, "positions", None)
    if kept is None:
        ends = packed.cu_seqlens_q if packed.cu_seqlens_q_padded is None else packed.cu_seqlens_q_padded
        group = attention.pg_collection.cp
        kept = positions_in_packs(ends, mixed.size(0) * mixed.size(1), group.size(), group.rank())
        packed.positions = kept
    return kept
