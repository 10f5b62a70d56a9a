"""A checkpoint of the local layers has the names that Transformer Engine's spec loads."""

from __future__ import annotations

import pytest
import torch
from torch.distributed.checkpoint import FileSystemReader

from .harness import Run, read_checkpoint

LAYERS, HIDDEN, FFN, QKV, VOCAB = 4, 64, 128, 128, 256
MODELS = {
    "embedding.word_embeddings.weight": (VOCAB, HIDDEN),
    "decoder.layers.self_attention.linear_qkv.layer_norm_weight": (LAYERS, HIDDEN),
    "decoder.layers.self_attention.linear_qkv.weight": (LAYERS, QKV, HIDDEN),
    "decoder.layers.self_attention.linear_proj.weight": (LAYERS, HIDDEN, HIDDEN),
    "decoder.layers.mlp.linear_fc1.layer_norm_weight": (LAYERS, HIDDEN),
    "decoder.layers.mlp.linear_fc1.weight": (LAYERS, 2 * FFN, HIDDEN),
    "decoder.layers.mlp.linear_fc2.weight": (LAYERS, HIDDEN, FFN),
    "decoder.final_layernorm.weight": (HIDDEN,),
    "output_layer.weight": (VOCAB, HIDDEN),
}
EXTRA_STATES = [
    f"decoder.layers.{module}._extra_state/shard_{layer}_{LAYERS}"
    for module in ("self_attention.linear_qkv", "self_attention.linear_proj", "mlp.linear_fc1", "mlp.linear_fc2")
    for layer in range(LAYERS)
] + ["decoder.final_layernorm._extra_state/shard_0_1"]


@pytest.fixture(scope="module")
def names(first: Run) -> set[str]:
    """Every key of a checkpoint."""
    return set(FileSystemReader(first.output / "checkpoints" / "iter_0000003").read_metadata().state_dict_metadata)


def test_weights(first: Run) -> None:
    """Stacked over the layers, in fp32; nothing else is called a weight."""
    tensors = read_checkpoint(first.output / "checkpoints" / "iter_0000003")
    weights = {name: tensor for name, tensor in tensors.items() if not name.startswith("optimizer.")}
    assert {name: tuple(tensor.shape) for name, tensor in weights.items()} == MODELS
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


def test_extra_states(names: set[str]) -> None:
    """Transformer Engine's loader asks for them; the list is that of TE 2.20's modules in the layer spec."""
    assert set(EXTRA_STATES) <= names


def test_full_state(names: set[str]) -> None:
    """Both moments of every weight, random states, and the common state with scheduler and data position."""
    moments = {f"optimizer.state.{moment}.{name}" for moment in ("exp_avg", "exp_avg_sq") for name in MODELS}
    assert moments <= names
    assert {"rng_state/shard_0.0_1.1", "common_state/shard_0_1"} <= names
