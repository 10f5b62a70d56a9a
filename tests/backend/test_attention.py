"""The attention core against plain softmax: grouped queries, packed sequences, context parallelism."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.enums import AttnBackend, AttnMaskType
from megatron.core.utils import get_batch_on_this_cp_rank

from megatron_patch.backend.cpu import attention
from megatron_patch.backend.cpu.attention import SDPACoreAttention, text_order

HEADS, GROUPS, HEAD_DIM = 4, 2, 8


class FakeGroup:
    """Stands for one rank of a context-parallel group."""

    def __init__(self, size: int, rank: int) -> None:
        self._size, self._rank = size, rank

    def size(self) -> int:
        return self._size

    def rank(self) -> int:
        return self._rank


def core(
    size: int = 1, rank: int = 0, backend: AttnBackend = AttnBackend.flash, **options: object
) -> SDPACoreAttention:
    """The module under test, as one CP rank builds it."""
    config = TransformerConfig(
        num_layers=1, hidden_size=HEADS * HEAD_DIM, num_attention_heads=HEADS, num_query_groups=GROUPS,
        attention_dropout=0.0, attention_backend=backend, **options,
    )  # fmt: skip
    groups = SimpleNamespace(cp=FakeGroup(size, rank))
    return SDPACoreAttention(config, 1, AttnMaskType.causal, "self", pg_collection=groups)


def inputs(tokens: int, batch: int | None = None, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    """Random query, key and value that require gradients."""
    torch.manual_seed(tokens)
    outer = (tokens,) if batch is None else (tokens, batch)
    return [torch.randn(*outer, n, HEAD_DIM, dtype=dtype, requires_grad=True) for n in (HEADS, GROUPS, GROUPS)]


def plain(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Textbook causal attention of one sequence: [s, heads, d] -> [s, heads x d]."""
    key, value = (x.repeat_interleave(HEADS // GROUPS, dim=1) for x in (key, value))
    scores = torch.einsum("qhd,khd->hqk", query, key) / math.sqrt(HEAD_DIM)
    future = torch.ones(len(query), len(query), dtype=torch.bool).triu(1)
    weights = scores.masked_fill(future, -torch.inf).softmax(-1)
    return torch.einsum("hqk,khd->qhd", weights, value).flatten(1)


def packed(lengths: list[int], padded: bool = False) -> SimpleNamespace:
    """What Megatron hands over for a pack of these lengths."""
    ends = torch.tensor([0, *lengths]).cumsum(0).int()
    return SimpleNamespace(cu_seqlens_q=ends - 1 if padded else ends, cu_seqlens_q_padded=ends if padded else None)


@pytest.mark.parametrize("backend", [AttnBackend.flash, AttnBackend.unfused, AttnBackend.auto])
def test_causal(backend: AttnBackend) -> None:
    """Two sequences in a batch, grouped queries."""
    q, k, v = inputs(16, batch=2)
    out = core(backend=backend)(q, k, v)
    expected = torch.stack([plain(q[:, i], k[:, i], v[:, i]) for i in range(2)], dim=1)
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("as_padded", [False, True])
def test_packed_is_each_sequence_alone(as_padded: bool) -> None:
    """Forward and gradients; padded bounds win over unpadded ones."""
    lengths = [5, 1, 10, 8]
    q, k, v = inputs(24)
    out = core()(q, k, v, packed_seq_params=packed(lengths, as_padded))
    pieces = zip(*(x.split(lengths) for x in (q, k, v)), strict=True)
    expected = torch.cat([plain(*piece) for piece in pieces])
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    grads = torch.autograd.grad(out.square().sum(), (q, k, v))
    torch.testing.assert_close(grads, torch.autograd.grad(expected.square().sum(), (q, k, v)), rtol=1e-10, atol=1e-10)


def cp_rows(lengths: list[int], size: int, rank: int) -> torch.Tensor:
    """Tokens of one rank: chunks r and 2 x CP - 1 - r of each sequence."""
    pieces = [piece.chunk(2 * size) for piece in torch.arange(sum(lengths)).split(lengths)]
    return torch.cat([torch.cat([piece[rank], piece[2 * size - 1 - rank]]) for piece in pieces])


def attend_on_all_ranks(
    monkeypatch: pytest.MonkeyPatch, tensors: list[torch.Tensor], lengths: list[int], size: int, as_pack: bool
) -> torch.Tensor:
    """What the CP ranks compute, put back into the order of the text; the gather sees all ranks at once."""
    rows = [cp_rows(lengths, size, rank) for rank in range(size)]
    q, k, v = tensors
    everyone = torch.cat([torch.cat([k[r], v[r]], dim=-1) for r in rows])
    monkeypatch.setattr(
        attention, "gather_from_sequence_parallel_region", lambda mine, *rest: everyone.view(-1, *mine.shape[1:])
    )
    params = packed(lengths) if as_pack else None
    outs = [
        core(size, rank, context_parallel_size=size)(q[r], k[r], v[r], packed_seq_params=params)
        for rank, r in enumerate(rows)
    ]
    return torch.cat(outs)[torch.cat(rows).argsort()]


@pytest.mark.parametrize(("lengths", "size"), [([32], 2), ([48], 3), ([8, 16, 4, 4], 2)])
def test_context_parallel(monkeypatch: pytest.MonkeyPatch, lengths: list[int], size: int) -> None:
    """One sequence or a pack, over 2 and 3 ranks: forward and gradients of the undivided text."""
    tensors = inputs(sum(lengths))
    out = attend_on_all_ranks(monkeypatch, tensors, lengths, size, as_pack=True)
    pieces = zip(*(x.split(lengths) for x in tensors), strict=True)
    expected = torch.cat([plain(*piece) for piece in pieces])
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    grads = torch.autograd.grad(out.square().sum(), tensors)
    wanted = torch.autograd.grad(expected.square().sum(), tensors)
    torch.testing.assert_close(grads, wanted, rtol=1e-10, atol=1e-10)


def test_context_parallel_with_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The unpacked form, [s, b, heads, d]."""
    q, k, v = inputs(16, batch=2)
    out = attend_on_all_ranks(monkeypatch, [q, k, v], [16], 2, as_pack=False)
    expected = torch.stack([plain(q[:, i], k[:, i], v[:, i]) for i in range(2)], dim=1)
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)


def test_a_wrong_order_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests above would notice keys in the order of the ranks instead of the text's."""
    monkeypatch.setattr(attention, "text_order", lambda bounds, size, rows: torch.arange(size * rows))
    tensors = inputs(32)
    out = attend_on_all_ranks(monkeypatch, tensors, [32], 2, as_pack=False)
    assert (out - plain(*tensors)).abs().max() > 1e-2


@pytest.mark.parametrize("size", [2, 4])
def test_the_split_is_megatrons(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """`cp_rows` and `text_order` follow the split that Megatron gives the batch."""
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda group: group.size())
    monkeypatch.setattr(torch.distributed, "get_rank", lambda group: group.rank())
    theirs = [
        get_batch_on_this_cp_rank({"tokens": torch.arange(32)[None]}, False, FakeGroup(size, rank))["tokens"][0]
        for rank in range(size)
    ]
    assert [rows.tolist() for rows in theirs] == [cp_rows([32], size, rank).tolist() for rank in range(size)]
    assert torch.cat(theirs)[text_order([(0, 32)], size, 32 // size)].tolist() == list(range(32))


@pytest.mark.parametrize(
    ("lengths", "size", "message"),
    [
        ([8, 6], 1, r"rise from 0 to the 16 tokens of the pack, not \[0, 8, 14\]"),
        ([10, 6], 2, r"a sequence of 10 tokens is not a multiple of 2 x CP = 4"),
    ],
)
def test_lengths_that_do_not_fit(lengths: list[int], size: int, message: str) -> None:
    """Nothing is cut or left out in silence."""
    q, k, v = (x[: 16 // size] for x in inputs(16))
    with pytest.raises(ValueError, match=message):
        core(size, context_parallel_size=size)(q, k, v, packed_seq_params=packed(lengths))


def test_masks_are_refused() -> None:
    """An explicit mask would be ignored; it is an error instead."""
    q, k, v = inputs(8, batch=1)
    with pytest.raises(ValueError, match="--no-create-attention-mask-in-dataloader"):
        core()(q, k, v, attention_mask=torch.ones(1, 1, 8, 8, dtype=torch.bool))
    with pytest.raises(ValueError, match="Megatron's own attention"):
        core(backend=AttnBackend.local)
