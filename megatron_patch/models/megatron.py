"""A model in Megatron's words, said once: flags of its parser, fields of its configuration, and back. No torch.

The part that all families share is Llama's decoder; what differs are fields of `ModelConfig`.
"""

from __future__ import annotations

from typing import Any

from megatron_patch.common.messages import Message
from megatron_patch.models.config import DYNAMIC, LLAMA3, VOCAB_ALIGNMENT, YARN, ModelConfig, RopeScaling

ARCHITECTURE = (
    "--add-qkv-bias --attention-dropout --disable-bias-linear --ffn-hidden-size --group-query-attention "
    "--hidden-dropout --hidden-size --init-method-std --kv-channels --max-position-embeddings --norm-epsilon "
    "--normalization --num-attention-heads --num-layers --num-query-groups --position-embedding-type "
    "--qk-layernorm --rope-scaling-factor --rotary-base --rotary-scaling-factor --swiglu "
    "--untie-embeddings-and-output-weights --use-rope-scaling --yarn-beta-fast --yarn-beta-slow "
    "--yarn-original-max-position-embeddings"
)
"""All flags that a model may have."""


def architecture_flags(model: ModelConfig, init_method_std: float | None = None) -> list[str]:
    """The flags that make Megatron's parser build this model. Dropout is Megatron's 0.1 by default, Llama's is 0.

    Args:
        init_method_std: another than the model's own.
    """
    flags = ["--num-layers", str(model.num_layers), "--hidden-size", str(model.hidden_size)]
    flags += ["--ffn-hidden-size", str(model.ffn_hidden_size)]
    flags += ["--num-attention-heads", str(model.num_attention_heads), "--kv-channels", str(model.head_dim)]
    flags += ["--group-query-attention", "--num-query-groups", str(model.num_query_groups)]
    flags += ["--max-position-embeddings", str(model.max_position_embeddings)]
    flags += [*rope_flags(model), "--normalization", "RMSNorm", "--norm-epsilon", repr(model.norm_epsilon)]
    flags += ["--swiglu", "--disable-bias-linear", "--attention-dropout", "0", "--hidden-dropout", "0"]
    flags += ["--add-qkv-bias"] if model.qkv_bias else []
    flags += ["--qk-layernorm"] if model.qk_norm else []
    flags += [] if model.tie_embeddings else ["--untie-embeddings-and-output-weights"]
    return [*flags, "--init-method-std", repr(init_method_std or model.init_method_std)]


def rope_flags(model: ModelConfig) -> list[str]:
    """Base and scaling. YaRN's factor has a flag of its own; Megatron leaves its mscale at 1, as model cards do.

    Dynamic scaling is none: it begins beyond `max_position_embeddings`, and no sequence is longer.
    """
    scaling, base = model.rope_scaling, ["--rotary-base", str(int(model.rope_theta))]
    if scaling is None or scaling.kind == DYNAMIC:
        return ["--position-embedding-type", "rope", *base]
    if scaling.kind == LLAMA3:
        return [
            "--position-embedding-type",
            "rope",
            *base,
            "--use-rope-scaling",
            "--rope-scaling-factor",
            repr(scaling.factor),
        ]
    return [
        *("--position-embedding-type", "yarn", *base, "--rotary-scaling-factor", repr(scaling.factor)),
        *("--yarn-original-max-position-embeddings", str(scaling.original_max_position_embeddings)),
        *("--yarn-beta-fast", repr(scaling.beta_fast), "--yarn-beta-slow", repr(scaling.beta_slow)),
    ]


def transformer_fields(model: ModelConfig) -> dict[str, Any]:
    """The architecture as keyword arguments of `TransformerConfig`; its activation is SiLU, which only torch has."""
    return {
        "num_layers": model.num_layers,
        "hidden_size": model.hidden_size,
        "ffn_hidden_size": model.ffn_hidden_size,
        "num_attention_heads": model.num_attention_heads,
        "num_query_groups": model.num_query_groups,
        "kv_channels": model.head_dim,
        "normalization": "RMSNorm",
        "layernorm_epsilon": model.norm_epsilon,
        "gated_linear_unit": True,
        "add_bias_linear": False,
        "add_qkv_bias": model.qkv_bias,
        "qk_layernorm": model.qk_norm,
        "attention_dropout": 0.0,
        "hidden_dropout": 0.0,
    }


def yarn_attributes(model: ModelConfig) -> dict[str, Any]:
    """What `GPTModel` and the rotation read from the configuration under YaRN, where it declares no such fields.

    Source: `_apply_yarn_config_from_args` of megatron-core 0.19.2.
    """
    scaling = model.rope_scaling
    if scaling is None or scaling.kind != YARN:
        return {}
    return {
        "yarn_rotary_scaling_factor": scaling.factor,
        "yarn_original_max_position_embeddings": scaling.original_max_position_embeddings,
        "yarn_beta_fast": scaling.beta_fast,
        "yarn_beta_slow": scaling.beta_slow,
        "yarn_mscale": 1.0,
        "yarn_mscale_all_dim": 0.0,
        "yarn_correction_range_round_to_int": True,
    }


def gpt_fields(model: ModelConfig) -> dict[str, Any]:
    """The rest of the architecture, as keyword arguments of `GPTModel`."""
    scaling = model.rope_scaling
    fields: dict[str, Any] = {
        "max_sequence_length": model.max_position_embeddings,
        "share_embeddings_and_output_weights": model.tie_embeddings,
        "position_embedding_type": "yarn" if scaling and scaling.kind == YARN else "rope",
        "rotary_base": int(model.rope_theta),
    }
    if scaling and scaling.kind == LLAMA3:
        fields |= {"rope_scaling": True, "rope_scaling_factor": scaling.factor}
    return fields


def tensor_parallel_problem(model: ModelConfig, tp: int) -> Message | None:
    """Why a model cannot be sharded over TP ranks; None if it can.

    TP may exceed the KV heads if it is a multiple of them: every rank then gets the whole key and value of its group
    by one more all-gather. Source: `get_query_key_value_tensors` in attention.py, megatron-core 0.19.2.
    """
    if model.num_attention_heads % tp:
        return Message("tp-heads", heads=model.num_attention_heads)
    if model.num_query_groups % tp and tp % model.num_query_groups:
        return Message("tp-kv-heads", groups=model.num_query_groups)
    if model.ffn_hidden_size % tp:
        return Message("tp-ffn", columns=model.ffn_hidden_size)
    if VOCAB_ALIGNMENT % tp:
        return Message("tp-vocabulary", multiple=VOCAB_ALIGNMENT)
    return None


def model_of_arguments(args: Any) -> ModelConfig:
    """The model that Megatron was told to build.

    Args:
        args: as its parser leaves them.
    """
    return ModelConfig(
        name="",
        num_layers=args.num_layers,
        hidden_size=args.hidden_size,
        ffn_hidden_size=args.ffn_hidden_size,
        num_attention_heads=args.num_attention_heads,
        num_query_groups=args.num_query_groups if args.group_query_attention else args.num_attention_heads,
        head_dim=args.kv_channels,
        vocab_size=args.padded_vocab_size,
        tie_embeddings=not args.untie_embeddings_and_output_weights,
        qkv_bias=args.add_qkv_bias,
        qk_norm=args.qk_layernorm,
        max_position_embeddings=args.max_position_embeddings,
        rope_theta=float(args.rotary_base),
        rope_scaling=_scaling_of_arguments(args),
        norm_epsilon=args.layernorm_epsilon,
        init_method_std=args.init_method_std,
        source="the arguments of this run",
    )


def _scaling_of_arguments(args: Any) -> RopeScaling | None:
    if args.position_embedding_type == "yarn":
        return RopeScaling(
            kind=YARN,
            factor=args.rotary_scaling_factor,
            original_max_position_embeddings=args.yarn_original_max_position_embeddings,
            beta_fast=args.yarn_beta_fast,
            beta_slow=args.yarn_beta_slow,
        )
    return RopeScaling(factor=args.rope_scaling_factor) if args.use_rope_scaling else None
