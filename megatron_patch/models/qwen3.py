"""Qwen3, dense: queries and keys are normalized head by head, heads of 128 whatever the hidden size; no biases.

Numbers from each `config.json`. The small sizes tie their embeddings.
"""

from __future__ import annotations

from typing import Any

from megatron_patch.models.family import TINY, Family


def _size(layers: int, hidden: int, ffn: int, heads: int, name: str, *, tied: bool = False) -> dict[str, Any]:
    return {
        "num_layers": layers,
        "hidden_size": hidden,
        "ffn_hidden_size": ffn,
        "num_attention_heads": heads,
        "num_query_groups": 8,
        "head_dim": 128,
        "tie_embeddings": tied,
        "source": f"https://huggingface.co/Qwen/Qwen3-{name}/blob/main/config.json",
    }


FAMILY = Family(
    name="qwen3",
    model_type="qwen3",
    architecture="Qwen3ForCausalLM",
    qk_norm=True,
    fixed={"attention_bias": False},
    written={"sliding_window": None, "use_sliding_window": False},
    defaults={
        "head_dim": 128,
        "max_position_embeddings": 32768,
        "num_key_value_heads": 32,
        "use_sliding_window": False,
    },
    every_size={
        "vocab_size": 151936,
        "max_position_embeddings": 40960,
        "rope_theta": 1e6,
        "norm_epsilon": 1e-6,
    },
    rows={
        "tiny": {**TINY, "head_dim": 64, "tie_embeddings": True},
        "0.6B": _size(28, 1024, 3072, 16, "0.6B", tied=True),
        "1.7B": _size(28, 2048, 6144, 16, "1.7B", tied=True),
        "4B": _size(36, 2560, 9728, 32, "4B", tied=True),
        "8B": _size(36, 4096, 12288, 32, "8B"),
        "14B": _size(40, 5120, 17408, 40, "14B"),
        "32B": _size(64, 5120, 25600, 64, "32B"),
    },
)
