"""Operations of a step that metrics.jsonl reports: beside adapters no weight's gradient is computed."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

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
WEIGHTS = LAYERS * HIDDEN * (2 * HIDDEN + 2 * WIDTH + 3 * FFN) + HIDDEN * VOCABULARY
"""Of Llama 3.1 8B's matmuls: all but norms and embedding."""


class Args(SimpleNamespace):
    """Megatron's arguments; what is not set is None."""

    def __getattr__(self, name: str) -> None:
        return None


@pytest.mark.parametrize("packed", [False, True])
def test_adapters_leave_out_the_gradients_of_the_weights(packed: bool) -> None:
    from megatron.training import training

    from megatron_patch.backend.hooks import _flops

    samples = 4
    tokens, squares = (12_000.0, 12_000.0 * 1_000) if packed else (None, None)
    count = tokens or samples * LENGTH
    attention = 3 * 2 * LAYERS * HIDDEN * (squares or samples * LENGTH**2)  # scores and values, half of them masked
    full = _flops(training, Args(**ARGS), samples, squares, tokens)
    assert full == pytest.approx(6 * WEIGHTS * count + attention, rel=1e-3)
    adapters = _flops(training, Args(**ARGS, lora_rank=16), samples, squares, tokens)
    assert adapters == pytest.approx(4 * WEIGHTS * count + attention, rel=1e-3)
