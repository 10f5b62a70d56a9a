"""The layer of Llama and its relatives (qkv bias, q/k norm) without Transformer Engine: Megatron's local modules,
our attention core and norm.

Reached by `--spec megatron_patch.backend.cpu.layers local_layer_spec`. On a GPU with Transformer Engine no `--spec` is
given and Megatron builds its own; both write the same checkpoint keys.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build

from megatron_patch.backend.cpu.attention import SDPACoreAttention
from megatron_patch.backend.cpu.norm import RMSNorm, StandaloneRMSNorm

if TYPE_CHECKING:
    from megatron.training.models.gpt import GPTModelConfig


def local_layer_spec(model_config: GPTModelConfig, vp_stage: int | None = None) -> TransformerBlockSubmodules:
    """The layers of one pipeline stage, and the final norm.

    A whole block is returned, not one layer: for one layer Megatron 0.19.2 picks the final norm itself, the one that
    asserts against sequence parallelism.

    Args:
        model_config: as `gpt_config_from_args` builds it.
        vp_stage: virtual pipeline stage of this model chunk.
    """
    transformer = model_config.transformer
    layer = get_gpt_layer_local_spec(normalization=transformer.normalization, qk_layernorm=transformer.qk_layernorm)
    layer.submodules.input_layernorm = RMSNorm
    layer.submodules.pre_mlp_layernorm = RMSNorm
    attention = layer.submodules.self_attention.submodules
    attention.core_attention = SDPACoreAttention
    if transformer.qk_layernorm:
        attention.q_layernorm = attention.k_layernorm = StandaloneRMSNorm
    num_layers = get_num_layers_to_build(transformer, vp_stage)
    return TransformerBlockSubmodules(layer_specs=[layer] * num_layers, layer_norm=StandaloneRMSNorm)
