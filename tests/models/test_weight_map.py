"""The table of weights against the layouts written down by hand."""

from __future__ import annotations

import pytest
import torch

from megatron_patch.models.weight_map import hf_shapes, invert, megatron_tensors

from ..checkpoint.models import MODELS, megatron_layer, padded


@pytest.mark.parametrize("name", MODELS)
def test_makes_the_layouts_that_megatron_has(name: str) -> None:
    shape = MODELS[name]
    vocab = shape.vocab_size or 0
    torch.manual_seed(0)
    hf = {name: torch.randn(size) for name, size in hf_shapes(shape, vocab).items()}
    made = {}
    for tensor in megatron_tensors(shape, vocab):
        rows = torch.zeros(tensor.shape)
        for offset, span in tensor.cut(0, tensor.rows):
            rows[offset : offset + span.rows] = hf[span.name][span.start : span.start + span.rows]
        made[tensor.name, tensor.layer] = rows
    for layer in range(shape.num_layers):
        for key, wanted in megatron_layer(hf, shape, layer).items():
            assert torch.equal(made.pop((f"decoder.layers.{key}", layer)), wanted)
    assert torch.equal(made.pop(("embedding.word_embeddings.weight", None)), padded(hf["model.embed_tokens.weight"]))
    assert torch.equal(made.pop(("decoder.final_layernorm.weight", None)), hf["model.norm.weight"])
    if not shape.tie_embeddings:
        assert torch.equal(made.pop(("output_layer.weight", None)), padded(hf["lm_head.weight"]))
    assert not made


@pytest.mark.parametrize("name", MODELS)
def test_turned_round_twice_is_itself(name: str) -> None:
    shape = MODELS[name]
    there = megatron_tensors(shape, 512)  # no padding, which the way back leaves out
    back = invert(there)
    assert {tensor.name: tensor.shape for tensor in back} == hf_shapes(shape, 512)
    again = {(tensor.name): tensor for tensor in invert(back) if tensor.layer is None}
    assert again["embedding.word_embeddings.weight"].spans == there[0].spans


def test_cuts_a_row_range_into_its_spans() -> None:
    tensor = next(t for t in megatron_tensors(MODELS["untied"], 500) if t.name.endswith("linear_qkv.weight"))
    parts = list(tensor.cut(60, 40))  # 4 query heads of 16 rows, a key head, a value head, the next group
    assert [(offset, span.name.split(".")[-2], span.start, span.rows) for offset, span in parts] == [
        (0, "q_proj", 60, 4),
        (4, "k_proj", 0, 16),
        (20, "v_proj", 0, 16),
        (36, "q_proj", 64, 4),
    ]
