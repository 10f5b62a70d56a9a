"""Operations of a step that metrics.jsonl reports: what is not computed is not counted."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from megatron_patch.backend.flops import count_frozen, step_flops

LAYERS, HIDDEN, FFN, HEADS, GROUPS, VOCABULARY, LENGTH = 32, 4096, 14336, 32, 8, 128256, 4096
ARGS = {
    "num_layers": LAYERS,
    "hidden_size": HIDDEN,
    "ffn_hidden_size": FFN,
    "num_attention_heads": HEADS,
    "num_query_groups": GROUPS,
    "kv_channels": HIDDEN // HEADS,
    "padded_vocab_size": VOCABULARY,
    "seq_length": LENGTH,
    "group_query_attention": True,
    "swiglu": True,
}
WIDTH = HIDDEN // HEADS * GROUPS
LAYER = HIDDEN * (2 * HIDDEN + 2 * WIDTH + 3 * FFN)
HEAD = HIDDEN * VOCABULARY
"""Weights of the matmuls of Llama 3.1 8B: of one layer, and of the LM head."""
PACKED, PLAIN = (12_000.0, 12_000.0 * 1_000), (None, None)


class Args(SimpleNamespace):
    """Megatron's arguments; what is not set is None."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


@pytest.fixture(autouse=True)
def everything_trained() -> Iterator[None]:
    yield
    count_frozen(layers=0, head=False)


@pytest.mark.parametrize(("tokens", "squares"), [PLAIN, PACKED], ids=["plain", "packed"])
@pytest.mark.parametrize(
    ("layers", "head", "adapters"),
    [(0, False, 0), (LAYERS, True, 0), (LAYERS, True, 42_000_000), (20, False, 0), (0, True, 0), (1, True, 0)],
)
def test_frozen_weights_have_no_gradient(
    layers: int, head: bool, adapters: int, tokens: float | None, squares: float | None
) -> None:
    """Two operations of each weight and token forward, two for the gradient of the input, two for the weight's own."""
    from megatron.training import training

    samples = 4
    count = tokens or samples * LENGTH
    attention = 3 * 2 * LAYERS * HIDDEN * (squares or samples * LENGTH**2)  # scores and values, half of them masked
    count_frozen(layers=layers, head=head, adapters=adapters)
    trained = (LAYERS - layers) * LAYER + (0 if head else HEAD) + adapters
    frozen = layers * LAYER + (HEAD if head else 0)
    expected = (6 * trained + 4 * frozen) * count + attention
    assert step_flops(training, Args(**ARGS), samples, squares, tokens) == pytest.approx(expected, rel=1e-9)


def test_megatrons_count_where_everything_is_computed() -> None:
    from megatron.training import training

    args = Args(**ARGS)
    assert step_flops(training, args, 4, None, None) == training.num_floating_point_operations(args, 4)
