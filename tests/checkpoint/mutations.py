"""Ways in which a converted checkpoint can be wrong, done to the weights that are converted.

Each returns what it did to, and where the layer check has to point.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

from .models import SMALL, read_weights

Weights = dict[str, torch.Tensor]
HEAD = SMALL.head_dim
PER_GROUP = SMALL.num_attention_heads // SMALL.num_query_groups


def name(layer: int, what: str) -> str:
    return f"model.layers.{layer}.{what}.weight"


def swap_kv_heads(w: Weights) -> tuple[int, str]:
    for what in ("self_attn.k_proj", "self_attn.v_proj"):
        weight = w[name(2, what)]
        w[name(2, what)] = weight.view(SMALL.num_query_groups, HEAD, -1).flip(0).reshape(weight.shape)
    return 2, "key"


def swap_values_only(w: Weights) -> tuple[int, str]:
    what = name(0, "self_attn.v_proj")
    w[what] = w[what].roll(HEAD, 0)
    return 0, "value"


def fuse_keys_before_queries(w: Weights) -> tuple[int, str]:
    q, k = w[name(1, "self_attn.q_proj")], w[name(1, "self_attn.k_proj")]
    h = q.shape[1]
    fused = torch.cat([k.view(-1, 1, HEAD, h), q.view(-1, PER_GROUP, HEAD, h)], dim=1)
    w[name(1, "self_attn.q_proj")] = fused[:, :PER_GROUP].reshape(q.shape).contiguous()
    w[name(1, "self_attn.k_proj")] = fused[:, PER_GROUP:].reshape(k.shape).contiguous()
    return 1, "query"


def interleave_rope_pairs(w: Weights) -> tuple[int, str]:
    """The order of Meta's own format: pairs are neighbours, not halves."""
    q = w[name(0, "self_attn.q_proj")]
    w[name(0, "self_attn.q_proj")] = q.view(-1, 2, HEAD // 2, q.shape[1]).transpose(1, 2).reshape(q.shape).contiguous()
    return 0, "query"


def one_tensor_by_one_percent(w: Weights) -> tuple[int, str]:
    w[name(3, "self_attn.o_proj")] *= 1.01
    return 3, "attention"


def one_number_by_one_percent(w: Weights) -> tuple[int, str]:
    weight = w[name(2, "mlp.down_proj")]
    weight.view(-1)[weight.abs().argmax()] *= 1.01
    return 2, "mlp"


def swap_gate_and_up(w: Weights) -> tuple[int, str]:
    gate, up = name(1, "mlp.gate_proj"), name(1, "mlp.up_proj")
    w[gate], w[up] = w[up], w[gate]
    return 1, "mlp"


def zero_input_norm(w: Weights) -> tuple[int, str]:
    w[name(3, "input_layernorm")].zero_()
    return 3, "input_norm"


def zero_second_norm(w: Weights) -> tuple[int, str]:
    w[name(0, "post_attention_layernorm")].zero_()
    return 0, "pre_mlp_norm"


def zero_final_norm(w: Weights) -> tuple[None, str]:
    w["model.norm.weight"].zero_()
    return None, "final_norm"


def shift_vocabulary(w: Weights) -> tuple[None, str]:
    w["model.embed_tokens.weight"] = w["model.embed_tokens.weight"].roll(1, 0)
    return None, "embedding"


def shift_output_vocabulary(w: Weights) -> tuple[None, str]:
    w["lm_head.weight"] = w["lm_head.weight"].roll(1, 0)
    return None, "logits"


def swap_two_layers(w: Weights) -> tuple[int, str]:
    for what in [n.partition("layers.1.")[2] for n in list(w) if "layers.1." in n]:
        one, two = f"model.layers.1.{what}", f"model.layers.2.{what}"
        w[one], w[two] = w[two], w[one]
    return 1, "input_norm"


def norm_of_queries_off(w: Weights) -> tuple[int, str]:
    w[name(2, "self_attn.q_norm")][3] *= 1.01
    return 2, "query"


def norm_of_keys_left_out(w: Weights) -> tuple[int, str]:
    w[name(1, "self_attn.k_norm")].fill_(1.0)
    return 1, "key"


def bias_permuted(w: Weights) -> tuple[int, str]:
    what = "model.layers.3.self_attn.q_proj.bias"
    w[what] = w[what].roll(HEAD, 0)
    return 3, "query"


def bias_dropped(w: Weights) -> tuple[int, str]:
    w["model.layers.0.self_attn.v_proj.bias"].zero_()
    return 0, "value"


BY_FEATURE = {"qk_norm": (norm_of_queries_off, norm_of_keys_left_out), "qkv_bias": (bias_permuted, bias_dropped)}
"""Of the models that have such weights: by field of ModelConfig."""

WEIGHTS: tuple[Callable[[Weights], tuple[int | None, str]], ...] = (
    swap_kv_heads,
    swap_values_only,
    fuse_keys_before_queries,
    interleave_rope_pairs,
    one_tensor_by_one_percent,
    one_number_by_one_percent,
    swap_gate_and_up,
    zero_input_norm,
    zero_second_norm,
    zero_final_norm,
    shift_vocabulary,
    shift_output_vocabulary,
    swap_two_layers,
)

CONFIGURATIONS: dict[str, tuple[Callable[[dict], object], int, str]] = {
    "drop the RoPE scaling": (lambda c: c.update(rope_scaling=None), 0, "query"),
    "RoPE scaling of Llama 3.2": (lambda c: c["rope_scaling"].update(factor=32.0), 0, "query"),
    "another RoPE base": (lambda c: c.update(rope_theta=10000.0), 0, "query"),
    "another norm epsilon": (lambda c: c.update(rms_norm_eps=1e-3), 0, "input_norm"),
}
"""Done to the config.json that the Megatron side is built from."""


def mutated(hf: Path, target: Path, mutation: Callable[[Weights], tuple[int | None, str]]) -> tuple[int | None, str]:
    """Write a copy of a Hugging Face folder with one thing wrong, and say what the check must name."""
    weights = read_weights(hf)
    expected = mutation(weights)
    shutil.copytree(hf, target, ignore=shutil.ignore_patterns("*.safetensors*"))
    save_file({key: tensor.contiguous() for key, tensor in weights.items()}, target / "model.safetensors")
    return expected


def change_config(folder: Path, change: Callable[[dict], object]) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))
