"""Tanuki-8B of the GENIAC project: Llama 3's architecture without RoPE scaling, its own SentencePiece vocabulary.

The geometry is that of the project's training scripts; the initial standard deviation 0.008 and the RoPE base 500000
are those of its list of Megatron options. `tanuki-light` is the "super-light model" of one_RTX3090_test.sh.
"""

from __future__ import annotations

from megatron_patch.models.config import Family, ModelConfig

CONTEXT = 2048
"""Tokens of one sequence, and `--max-position-embeddings`."""

_ROWS = (
    ModelConfig(
        name="tanuki-light",
        num_layers=8,
        hidden_size=256,
        ffn_hidden_size=1024,
        num_attention_heads=4,
        num_query_groups=4,
        head_dim=64,
        vocab_size=None,
        tie_embeddings=False,
        max_position_embeddings=CONTEXT,
        init_method_std=0.008,
        source="GENIAC team Hatakeyama, Tanuki_pretraining/training/one_RTX3090_test.sh",
    ),
    ModelConfig(
        name="tanuki-8B",
        num_layers=32,
        hidden_size=4096,
        ffn_hidden_size=14336,
        num_attention_heads=32,
        num_query_groups=8,
        head_dim=128,
        vocab_size=None,
        tie_embeddings=False,
        max_position_embeddings=CONTEXT,
        init_method_std=0.008,
        source="GENIAC team Hatakeyama, Tanuki_pretraining/training/8B-A100_4_pretraining_initial_v2.sh",
    ),
)

TANUKI = Family(
    name="tanuki",
    hf_model_type="llama",
    hf_architecture="LlamaForCausalLM",
    sizes={model.name: model for model in _ROWS},
)
