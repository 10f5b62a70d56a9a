"""Qwen2.5: biases on q, k and v; the small sizes tie their embeddings. Numbers from each base model's `config.json`.

Every config.json names a sliding window, and says with use_sliding_window false that it is not in use.
"""

from __future__ import annotations

from typing import Any

from megatron_patch.models.family import TINY, Family


def _size(layers: int, hidden: int, ffn: int, heads: int, groups: int, name: str, **more: Any) -> dict[str, Any]:
    return {
        "num_layers": layers,
        "hidden_size": hidden,
        "ffn_hidden_size": ffn,
        "num_attention_heads": heads,
        "num_query_groups": groups,
        "source": f"https://huggingface.co/Qwen/Qwen2.5-{name}/blob/main/config.json",
        **more,
    }


_SMALL = {"vocab_size": 151936, "tie_embeddings": True}
_LONG = {"max_position_embeddings": 131072}

FAMILY = Family(
    name="qwen2_5",
    model_type="qwen2",
    architecture="Qwen2ForCausalLM",
    qkv_bias=True,
    written={"sliding_window": None, "use_sliding_window": False},
    defaults={"max_position_embeddings": 32768, "num_key_value_heads": 32, "use_sliding_window": False},
    every_size={
        "vocab_size": 152064,
        "max_position_embeddings": 32768,
        "rope_theta": 1e6,
        "norm_epsilon": 1e-6,
        "tie_embeddings": False,
    },
    rows={
        "tiny": {**TINY, "tie_embeddings": True},
        "0.5B": _size(24, 896, 4864, 14, 2, "0.5B", **_SMALL),
        "1.5B": _size(28, 1536, 8960, 12, 2, "1.5B", **_SMALL, **_LONG),
        "3B": _size(36, 2048, 11008, 16, 2, "3B", **_SMALL),
        "7B": _size(28, 3584, 18944, 28, 4, "7B", **_LONG),
        "14B": _size(48, 5120, 13824, 40, 8, "14B", **_LONG, norm_epsilon=1e-5),
        "32B": _size(64, 5120, 27648, 40, 8, "32B", **_LONG, norm_epsilon=1e-5),
        "72B": _size(80, 8192, 29568, 64, 8, "72B", **_LONG, norm_epsilon=1e-5),
    },
)
