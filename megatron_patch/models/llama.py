"""Llama 3.1, and the two small sizes that Meta published as Llama 3.2. Facts only, from each `config.json`."""

from __future__ import annotations

from megatron_patch.models.config import Family, ModelConfig, RopeScaling

LLAMA_3_1_ROPE = RopeScaling(factor=8.0)
LLAMA_3_2_ROPE = RopeScaling(factor=32.0)
VOCAB_SIZE = 128256
CONTEXT = 131072

_ROWS = (
    ModelConfig(
        name="tiny",  # a debug model: trains on two CPU cores, exercises GQA, RoPE scaling and untied embeddings
        num_layers=4,
        hidden_size=256,
        ffn_hidden_size=768,
        num_attention_heads=8,
        num_query_groups=2,
        head_dim=32,
        vocab_size=None,
        tie_embeddings=False,
        max_position_embeddings=CONTEXT,
        rope_scaling=LLAMA_3_1_ROPE,
        source="this project",
    ),
    ModelConfig(
        name="1B",
        num_layers=16,
        hidden_size=2048,
        ffn_hidden_size=8192,
        num_attention_heads=32,
        num_query_groups=8,
        head_dim=64,
        vocab_size=VOCAB_SIZE,
        tie_embeddings=True,
        max_position_embeddings=CONTEXT,
        rope_scaling=LLAMA_3_2_ROPE,
        source="https://huggingface.co/meta-llama/Llama-3.2-1B/blob/main/config.json",
    ),
    ModelConfig(
        name="3B",
        num_layers=28,
        hidden_size=3072,
        ffn_hidden_size=8192,
        num_attention_heads=24,
        num_query_groups=8,
        head_dim=128,
        vocab_size=VOCAB_SIZE,
        tie_embeddings=True,
        max_position_embeddings=CONTEXT,
        rope_scaling=LLAMA_3_2_ROPE,
        source="https://huggingface.co/meta-llama/Llama-3.2-3B/blob/main/config.json",
    ),
    ModelConfig(
        name="8B",
        num_layers=32,
        hidden_size=4096,
        ffn_hidden_size=14336,
        num_attention_heads=32,
        num_query_groups=8,
        head_dim=128,
        vocab_size=VOCAB_SIZE,
        tie_embeddings=False,
        max_position_embeddings=CONTEXT,
        rope_scaling=LLAMA_3_1_ROPE,
        source="https://huggingface.co/meta-llama/Llama-3.1-8B/blob/main/config.json",
    ),
    ModelConfig(
        name="70B",
        num_layers=80,
        hidden_size=8192,
        ffn_hidden_size=28672,
        num_attention_heads=64,
        num_query_groups=8,
        head_dim=128,
        vocab_size=VOCAB_SIZE,
        tie_embeddings=False,
        max_position_embeddings=CONTEXT,
        rope_scaling=LLAMA_3_1_ROPE,
        source="https://huggingface.co/meta-llama/Llama-3.1-70B/blob/main/config.json",
    ),
    ModelConfig(
        name="405B",
        num_layers=126,
        hidden_size=16384,
        ffn_hidden_size=53248,
        num_attention_heads=128,
        num_query_groups=8,
        head_dim=128,
        vocab_size=VOCAB_SIZE,
        tie_embeddings=False,
        max_position_embeddings=CONTEXT,
        rope_scaling=LLAMA_3_1_ROPE,
        source="https://huggingface.co/meta-llama/Llama-3.1-405B/blob/main/config.json",
    ),
)

LLAMA_3_1 = Family(
    name="llama3_1",
    hf_model_type="llama",
    hf_architecture="LlamaForCausalLM",
    sizes={model.name: model for model in _ROWS},
)
