"""Mistral 7B v0.3: Llama's decoder without RoPE scaling. Numbers from its `config.json`.

Earlier versions name a sliding window of 4096, which is refused: it is in use there.
"""

from __future__ import annotations

from megatron_patch.models.family import TINY, Family

FAMILY = Family(
    name="mistral",
    model_type="mistral",
    architecture="MistralForCausalLM",
    written={"sliding_window": None},
    defaults={"sliding_window": 4096, "max_position_embeddings": 131072, "num_key_value_heads": 8},
    every_size={
        "vocab_size": 32768,
        "max_position_embeddings": 32768,
        "rope_theta": 1e6,
        "tie_embeddings": False,
    },
    rows={
        "tiny": TINY,
        "7B": {
            "num_layers": 32,
            "hidden_size": 4096,
            "ffn_hidden_size": 14336,
            "num_attention_heads": 32,
            "num_query_groups": 8,
            "source": "https://huggingface.co/mistralai/Mistral-7B-v0.3/blob/main/config.json",
        },
    },
)
