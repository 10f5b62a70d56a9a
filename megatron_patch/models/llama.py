"""Llama 3.1, the two small sizes that Meta published as Llama 3.2, and by `auto` every folder of Llama's architecture:
Llama 2, Llama 3, TinyLlama, SmolLM2. Facts from each `config.json`."""

from __future__ import annotations

from megatron_patch.models.config import RopeScaling
from megatron_patch.models.family import TINY, Family

_3_1, _3_2 = RopeScaling(factor=8.0), RopeScaling(factor=32.0)


def _source(repository: str) -> str:
    return f"https://huggingface.co/meta-llama/{repository}/blob/main/config.json"


FAMILY = Family(
    name="llama3_1",
    model_type="llama",
    architecture="LlamaForCausalLM",
    bare_names=True,
    fixed={"attention_bias": False, "mlp_bias": False},
    written={"pretraining_tp": 1},
    defaults={"max_position_embeddings": 2048},
    every_size={"vocab_size": 128256, "max_position_embeddings": 131072, "rope_scaling": _3_1, "tie_embeddings": False},
    rows={
        "tiny": TINY,
        "1B": {
            "num_layers": 16,
            "hidden_size": 2048,
            "ffn_hidden_size": 8192,
            "num_attention_heads": 32,
            "num_query_groups": 8,
            "tie_embeddings": True,
            "rope_scaling": _3_2,
            "source": _source("Llama-3.2-1B"),
        },
        "3B": {
            "num_layers": 28,
            "hidden_size": 3072,
            "ffn_hidden_size": 8192,
            "num_attention_heads": 24,
            "num_query_groups": 8,
            "tie_embeddings": True,
            "rope_scaling": _3_2,
            "source": _source("Llama-3.2-3B"),
        },
        "8B": {
            "num_layers": 32,
            "hidden_size": 4096,
            "ffn_hidden_size": 14336,
            "num_attention_heads": 32,
            "num_query_groups": 8,
            "source": _source("Llama-3.1-8B"),
        },
        "70B": {
            "num_layers": 80,
            "hidden_size": 8192,
            "ffn_hidden_size": 28672,
            "num_attention_heads": 64,
            "num_query_groups": 8,
            "source": _source("Llama-3.1-70B"),
        },
        "405B": {
            "num_layers": 126,
            "hidden_size": 16384,
            "ffn_hidden_size": 53248,
            "num_attention_heads": 128,
            "num_query_groups": 8,
            "source": _source("Llama-3.1-405B"),
        },
    },
    nemo_recipes={
        "llama31_8b": "8B",
        "llama31_70b": "70B",
        "llama31_405b": "405B",
        "llama32_1b": "1B",
        "llama32_3b": "3B",
    },
    nemo_configs={
        "Llama31Config8B": "8B",
        "Llama31Config70B": "70B",
        "Llama31Config405B": "405B",
        "Llama32Config1B": "1B",
        "Llama32Config3B": "3B",
    },
    nemo_classes=("LlamaModel", "llama"),
    nemo_refused=dict.fromkeys(("llama3_8b", "llama3_70b", "Llama3Config8B", "Llama3Config70B"), "nemo-size-llama3"),
    hub_names={"Llama-3.3-70B": "70B"},
)
