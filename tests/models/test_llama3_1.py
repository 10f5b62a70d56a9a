"""The rows against Hugging Face: their config class reads them, their model has as many parameters."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from megatron_patch.models import (
    FAMILIES,
    LLAMA_3_1,
    ConfigError,
    ModelConfig,
    model_from_hf_config,
    model_to_hf_config,
    padded_vocab_size,
)

MODELS = list(LLAMA_3_1.sizes.values())

PUBLISHED = {
    # From each config.json on the hub: layers, hidden, FFN, heads, KV heads, head, tied, RoPE factor, parameters.
    "1B": (16, 2048, 8192, 32, 8, 64, True, 32.0, 1_235_814_400),
    "3B": (28, 3072, 8192, 24, 8, 128, True, 32.0, 3_212_749_824),
    "8B": (32, 4096, 14336, 32, 8, 128, False, 8.0, 8_030_261_248),
    "70B": (80, 8192, 28672, 64, 8, 128, False, 8.0, 70_553_706_496),
    "405B": (126, 16384, 53248, 128, 8, 128, False, 8.0, 405_853_388_800),
}


@pytest.mark.parametrize("size", PUBLISHED)
def test_published_facts(size: str) -> None:
    layers, hidden, ffn, heads, groups, head, tied, factor, parameters = PUBLISHED[size]
    model = LLAMA_3_1.size(size)
    assert (model.num_layers, model.hidden_size, model.ffn_hidden_size) == (layers, hidden, ffn)
    assert (model.num_attention_heads, model.num_query_groups, model.head_dim) == (heads, groups, head)
    assert (model.vocab_size, model.tie_embeddings, model.max_position_embeddings) == (128256, tied, 131072)
    assert (model.rope_theta, model.norm_epsilon) == (500000.0, 1e-5)
    assert model.rope_scaling is not None
    assert model.rope_scaling.factor == factor
    assert model.num_parameters() == parameters


def config_of(model: ModelConfig) -> LlamaConfig:
    return LlamaConfig(**model_to_hf_config(model, dtype="bfloat16", vocab_size=model.vocab_size or 1000))


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_hugging_face_reads_every_row(model: ModelConfig) -> None:
    """Row -> config.json -> transformers -> its own config.json -> row: nothing is lost in either spelling of RoPE."""
    ours = model_to_hf_config(model, dtype="bfloat16", vocab_size=model.vocab_size or 1000)
    theirs = config_of(model).to_dict()
    for config in (ours, theirs):
        again = model_from_hf_config(config, model.name, model.source)
        assert again == dataclasses.replace(model, vocab_size=model.vocab_size or 1000)
    assert "rope_parameters" in theirs  # the spelling of transformers 5 was really read


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_parameters_are_hugging_faces(model: ModelConfig) -> None:
    """A meta-device model has all shapes and no memory: 405B takes a second."""
    with torch.device("meta"):
        theirs = LlamaForCausalLM(config_of(model))
    assert model.num_parameters(model.vocab_size or 1000) == sum(parameter.numel() for parameter in theirs.parameters())


def test_tiny_has_what_the_large_ones_have() -> None:
    tiny = LLAMA_3_1.size("tiny")
    assert tiny.num_query_groups < tiny.num_attention_heads
    assert not tiny.tie_embeddings
    assert tiny.rope_scaling == LLAMA_3_1.size("8B").rope_scaling
    with pytest.raises(ValueError, match="vocabulary from the tokenizer"):
        tiny.num_parameters()


def test_padding() -> None:
    assert padded_vocab_size(128256) == 128256
    assert padded_vocab_size(258) == 384
    assert padded_vocab_size(1, 8) == 8


def test_an_unknown_size_lists_the_known() -> None:
    with pytest.raises(KeyError, match="valid: tiny, 1B, 3B, 8B, 70B, 405B"):
        LLAMA_3_1.size("7B")
    assert FAMILIES["llama3_1"] is LLAMA_3_1


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"attention_bias": True}, "attention_bias is True, Llama 3 has False"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"num_hidden_layers": None}, "missing num_hidden_layers"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope_type is 'yarn'"),
    ],
)
def test_other_architectures_are_refused(changes: dict[str, object], found: str) -> None:
    config = model_to_hf_config(LLAMA_3_1.size("8B"), dtype="bfloat16") | changes
    config = {key: value for key, value in config.items() if value is not None or key == "rope_scaling"}
    with pytest.raises(ConfigError, match=found):
        model_from_hf_config(config, "8B", "config.json")


@pytest.mark.parametrize("value", [None, True, 0, -1, 1.5, "x", [], [5], {}, {"factor": "x", "rope_type": "llama3"}])
def test_any_value_is_a_shape_or_a_sentence(value: object) -> None:
    """What is read from a config.json goes into arithmetic: no other type gets so far."""
    right = model_to_hf_config(LLAMA_3_1.size("8B"), dtype="bfloat16")
    for key in (*right, "rope_parameters"):
        try:
            model = model_from_hf_config(right | {key: value}, "8B", "config.json")
        except ConfigError as error:
            assert str(error).startswith("config.json: "), key
            continue
        assert model.num_parameters() > 0 and model.max_position_embeddings > 0 and model.rope_theta > 0, key
        assert model.num_attention_heads // model.num_query_groups >= 0 and model.norm_epsilon + 1 >= 0, key


def test_llama_3_without_scaling() -> None:
    """Llama 3 (not 3.1) and Llama 2 have plain RoPE."""
    config = model_to_hf_config(LLAMA_3_1.size("8B"), dtype="bfloat16") | {"rope_scaling": None}
    assert model_from_hf_config(config, "8B", "config.json").rope_scaling is None
