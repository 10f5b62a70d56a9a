"""Seed-OSS 36B: biases on q, k and v, and heads of 128 whatever the hidden size. Numbers from its `config.json`.

The published folders name dropouts of 0.1: training here has none, so they have to be set to 0 before it begins.
"""

from __future__ import annotations

from megatron_patch.models.family import TINY, Family

FAMILY = Family(
    name="seed_oss",
    model_type="seed_oss",
    architecture="SeedOssForCausalLM",
    qkv_bias="attention_bias",
    fixed={"attention_out_bias": False, "mlp_bias": False},
    written={"residual_dropout": 0.0},
    defaults={
        "attention_bias": True,
        "attention_dropout": 0.1,
        "head_dim": 128,
        "max_position_embeddings": 524288,
        "num_key_value_heads": 8,
        "residual_dropout": 0.1,
    },
    every_size={
        "vocab_size": 155136,
        "max_position_embeddings": 524288,
        "rope_theta": 1e7,
        "norm_epsilon": 1e-6,
        "qkv_bias": True,
        "tie_embeddings": False,
    },
    rows={
        "tiny": {**TINY, "head_dim": 64},
        "36B": {
            "num_layers": 64,
            "hidden_size": 5120,
            "ffn_hidden_size": 27648,
            "num_attention_heads": 80,
            "num_query_groups": 8,
            "head_dim": 128,
            "source": "https://huggingface.co/ByteDance-Seed/Seed-OSS-36B-Base/blob/main/config.json",
        },
    },
)
