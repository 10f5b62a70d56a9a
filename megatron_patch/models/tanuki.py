"""Tanuki-8B of the GENIAC project: Llama's architecture without RoPE scaling, its own SentencePiece vocabulary.

The numbers are those of the project's training scripts; the initial standard deviation 0.008 and the RoPE base 500000
are those of its list of Megatron options. `tanuki-light` is the "super-light model" of one_RTX3090_test.sh.
"""

from __future__ import annotations

from dataclasses import replace

from megatron_patch.models import llama

_SCRIPTS = "GENIAC team Hatakeyama, Tanuki_pretraining/training/"

FAMILY = replace(
    llama.FAMILY,
    name="tanuki",
    bare_names=False,
    script="llama3_1/run_mcore_llama3_1.sh",
    every_size={
        "vocab_size": None,
        "max_position_embeddings": 2048,
        "tie_embeddings": False,
        "init_method_std": 0.008,
    },
    rows={
        "light": {
            "num_layers": 8,
            "hidden_size": 256,
            "ffn_hidden_size": 1024,
            "num_attention_heads": 4,
            "num_query_groups": 4,
            "source": _SCRIPTS + "one_RTX3090_test.sh",
        },
        "8B": {
            "num_layers": 32,
            "hidden_size": 4096,
            "ffn_hidden_size": 14336,
            "num_attention_heads": 32,
            "num_query_groups": 8,
            "source": _SCRIPTS + "8B-A100_4_pretraining_initial_v2.sh",
        },
    },
    nemo_recipes={},
    nemo_configs={},
    nemo_classes=(),
    nemo_refused={},
    hub_names={},
)
