"""Small models for the tests, and what Megatron must hold of them, written down a second time by hand.

Nothing here uses `weight_map.py`: that is what it is compared with.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from megatron_patch.checkpoint.random_model import make_hf_checkpoint
from megatron_patch.models import ModelConfig, RopeScaling, families, model_of_size


def small(model: ModelConfig) -> ModelConfig:
    """The same architecture in 4 layers of almost nothing, with grouped-query attention."""
    return replace(
        model,
        hidden_size=64,
        ffn_hidden_size=96,
        num_attention_heads=8,
        num_query_groups=2,
        head_dim=16,  # not hidden size / heads
        vocab_size=500,  # not a multiple of 128
    )


SMALL = small(model_of_size("tiny"))
"""Llama 3.1's RoPE scaling, untied."""
FAMILIES = {
    name: small(one.sizes["tiny"]) for name, one in families().items() if not one.bare_names and "tiny" in one.sizes
}
"""Every other family that has a debug size: a new file in models/ is one more parameter of the tests that read this."""

MODELS = {
    "untied": SMALL,
    "tied": replace(SMALL, tie_embeddings=True, rope_scaling=model_of_size("1B").rope_scaling),
    "multi head": replace(SMALL, num_query_groups=8),
    "multi query": replace(SMALL, num_query_groups=1, num_layers=3),
    "Llama 2": replace(SMALL, num_query_groups=8, head_dim=8, rope_scaling=None, rope_theta=10000.0),
    "SmolLM2": replace(
        SMALL, tie_embeddings=True, rope_scaling=None, hidden_size=96, num_attention_heads=6, num_query_groups=3
    ),
    "YaRN": replace(
        SMALL, rope_scaling=RopeScaling(kind="yarn", factor=4.0, original_max_position_embeddings=64), rope_theta=1e6
    ),
    **FAMILIES,
}
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def make_model(folder: Path, shape: ModelConfig, precision: str = "bf16", *, shard_bytes: int | None = None) -> Path:
    """A Hugging Face folder with everything that one has: weights, tokenizer, chat template, generation config."""
    tokenizer = folder.with_name(folder.name + "-tokenizer")
    make_tokenizer(tokenizer)
    make_hf_checkpoint(folder, shape, precision=precision, tokenizer=tokenizer, shard_bytes=shard_bytes)
    (folder / "manifest.json").unlink()  # folders from the hub have none
    return folder


def make_tokenizer(folder: Path) -> None:
    """A byte-level tokenizer without merges, with a special token and a chat template."""
    folder.mkdir(parents=True, exist_ok=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<|end_of_text|>", special=True)])
    tokenizer.save(str(folder / "tokenizer.json"))
    facts = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end_of_text|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(facts))
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    (folder / "generation_config.json").write_text('{"temperature": 0.6}')


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a Hugging Face folder, by the safetensors package."""
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def megatron_layer(hf: dict[str, torch.Tensor], shape: ModelConfig, layer: int) -> dict[str, torch.Tensor]:
    """One layer as Megatron holds it at TP 1, under the names of its checkpoint."""
    at = {name.removeprefix(f"model.layers.{layer}."): tensor for name, tensor in hf.items() if f".{layer}." in name}
    d, groups = shape.head_dim, shape.num_query_groups

    def fused(part: str, *columns: int) -> torch.Tensor:
        q, k, v = (at[f"self_attn.{one}_proj.{part}"].view(groups, -1, d, *columns) for one in "qkv")
        return torch.cat([q, k, v], dim=1).reshape(-1, *columns)

    more = {}
    if shape.qkv_bias:
        more["self_attention.linear_qkv.bias"] = fused("bias")
    if shape.qk_norm:
        more["self_attention.q_layernorm.weight"] = at["self_attn.q_norm.weight"]
        more["self_attention.k_layernorm.weight"] = at["self_attn.k_norm.weight"]
    return more | {
        "self_attention.linear_qkv.layer_norm_weight": at["input_layernorm.weight"],
        "self_attention.linear_qkv.weight": fused("weight", shape.hidden_size),
        "self_attention.linear_proj.weight": at["self_attn.o_proj.weight"],
        "mlp.linear_fc1.layer_norm_weight": at["post_attention_layernorm.weight"],
        "mlp.linear_fc1.weight": torch.cat([at["mlp.gate_proj.weight"], at["mlp.up_proj.weight"]]),
        "mlp.linear_fc2.weight": at["mlp.down_proj.weight"],
    }


def rank_slice(name: str, whole: torch.Tensor, tp: int, rank: int) -> torch.Tensor:
    """What a tensor-parallel rank holds of a tensor."""
    if whole.dim() == 1:
        return whole.chunk(tp)[rank] if name.endswith(".bias") else whole
    if name.endswith(("linear_proj.weight", "linear_fc2.weight")):
        return whole.chunk(tp, dim=1)[rank]
    if name.endswith("linear_fc1.weight"):
        gate, up = whole.chunk(2)
        return torch.cat([gate.chunk(tp)[rank], up.chunk(tp)[rank]])
    return whole.chunk(tp)[rank]


def padded(tensor: torch.Tensor) -> torch.Tensor:
    """Rows of zeros up to the next multiple of 128."""
    rows = -tensor.shape[0] % 128
    return torch.cat([tensor, tensor.new_zeros(rows, tensor.shape[1])])


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal type, shape and bytes: -0.0 is not 0.0 here."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))
