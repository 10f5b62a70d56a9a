"""The one reader of config.json: every model that it takes is one that Megatron builds, every other is refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from megatron_patch.models import (
    ConfigError,
    RopeScaling,
    dropout_of,
    families,
    model_as_named,
    model_from_hf_config,
    model_of_size,
    model_to_hf_config,
)
from megatron_patch.models.megatron import rope_flags

RIGHT = model_to_hf_config(model_of_size("8B"), dtype="bfloat16")
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}


def read(changes: dict[str, Any], base: dict[str, Any] = RIGHT) -> Any:
    return model_from_hf_config({**base, **changes}, "8B", "config.json")


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"attention_bias": True}, "attention_bias is True; it must be false"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'; it must be \"silu\""),
        ({"model_type": "phi3"}, "model_type is 'phi3'; it must be one of llama"),
        ({"model_type": None}, "model_type is None"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "architectures is "),
        ({"num_experts": 8}, "num_experts is 8; it must be absent"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantization_config is "),
        ({"sliding_window": 4096}, "sliding_window is 4096; it must be null, or at least max_position_embeddings"),
        ({"sliding_window": "x"}, "sliding_window is 'x'"),
        ({"num_key_value_heads": 5}, "num_key_value_heads is 5; it must be a divisor of num_attention_heads, 32"),
        ({"head_dim": 33}, "head_dim is 33; it must be an even number"),
        ({"head_dim": None, "hidden_size": 4097}, "hidden_size is 4097; it must be a multiple of num_attention_heads"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings is 'yes'; it must be true or false"),
        ({"rope_theta": 500000.5}, "rope_theta is 500000.5; it must be a whole number"),
        ({"rms_norm_eps": float("inf")}, "rms_norm_eps is inf"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 4.0}}, "rope_scaling rope_type is 'linear'"),
        (
            {"rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 2.0}},
            "rope_scaling low_freq_factor",
        ),
        ({"rope_scaling": {"rope_type": "llama3"}}, "rope_scaling factor is missing"),
        ({"rope_scaling": {**YARN, "attention_factor": 2.0}}, "rope_scaling attention_factor is 2.0"),
        ({"rope_scaling": {**YARN, "mscale": 0.7}}, "rope_scaling mscale is 0.7"),
        ({"rope_scaling": None, "partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "rope_parameters partial"),
        ({"rope_parameters": [5]}, "rope_parameters is [5]; it must be an object"),
        ({"rope_parameters": {"rope_type": "default"}, "rope_scaling": YARN}, "rope_scaling is {'rope_type': 'yarn'"),
        (
            {"rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}, "rope_scaling": None},
            "rope_theta is 5",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused_by_its_key(changes: dict[str, Any], found: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read(changes)
    assert any(problem.startswith(f"config.json: {found}") for problem in refused.value.problems), refused.value


def test_all_problems_at_once() -> None:
    with pytest.raises(ConfigError) as refused:
        read({"hidden_size": None, "hidden_act": "gelu", "num_local_experts": 8, "rope_theta": "x"})
    assert len(refused.value.problems) == 4


def test_an_unknown_model_is_named_with_what_it_is() -> None:
    """Mixtral: the type, and the experts that say why."""
    with pytest.raises(ConfigError) as refused:
        read({"model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2})
    assert [problem.split()[1] for problem in refused.value.problems] == [
        "model_type", "num_local_experts", "num_experts_per_tok",
    ]  # fmt: skip


@pytest.mark.parametrize("key", ["hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size", "model_type"])
def test_a_missing_key_is_named(key: str) -> None:
    config = {name: value for name, value in RIGHT.items() if name != key}
    with pytest.raises(ConfigError, match=f"config.json: {key} is missing; it must be"):
        model_from_hf_config(config, "8B", "config.json")


@pytest.mark.parametrize("value", [None, True, 0, -1, 1.5, "x", [], [5], {}, {"factor": "x", "rope_type": "llama3"}])
@pytest.mark.parametrize("family", families())
def test_any_value_is_a_model_or_a_sentence(value: object, family: str) -> None:
    """What is read from a config.json goes into arithmetic: no other type gets so far."""
    row = dataclasses.replace(list(families()[family].sizes.values())[-1], vocab_size=1000)
    right = model_to_hf_config(row, dtype="bfloat16")
    for key in (*right, "rope_parameters", "sliding_window", "use_sliding_window", "layer_types", "num_experts"):
        try:
            model = read({key: value}, right)
        except ConfigError as error:
            assert all(problem.startswith("config.json: ") for problem in error.problems), key
            continue
        assert model.num_parameters() > 0 and model.context_length > 0 and model.rope_theta > 0, key
        assert model.num_attention_heads // model.num_query_groups >= 0 and model.norm_epsilon + 1 >= 0, key


@pytest.mark.parametrize(
    "changes",
    [
        {"sliding_window": 131072},
        {"sliding_window": 4096, "use_sliding_window": False},
        {"sliding_window": 4096, "layer_types": ["full_attention"] * 32},
        {"sliding_window": 4096, "use_sliding_window": True, "max_window_layers": 32},
    ],
)
def test_a_window_that_is_not_in_use_is_no_reason(changes: dict[str, Any]) -> None:
    assert read(changes) == read({})


def test_rope_in_both_spellings() -> None:
    """Llama 3 (not 3.1) and Llama 2 have plain RoPE; the oldest configs do not say its base."""
    plain = read({"rope_scaling": None})
    assert plain.rope_scaling is None
    assert read({"rope_scaling": None, "rope_theta": None}).rope_theta == 10000.0
    five = {"rope_scaling": None, "rope_theta": None, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}
    assert read(five) == plain
    older = {"type": "llama3", "factor": 8.0}
    assert read({"rope_scaling": older}) == read({})


def test_yarn() -> None:
    """As Qwen's model cards give it; the context is the factor times the original one."""
    wanted = RopeScaling(kind="yarn", factor=4.0, original_max_position_embeddings=32768)
    model = read({"rope_scaling": YARN, "max_position_embeddings": 40960})
    assert (model.rope_scaling, model.context_length) == (wanted, 131072)
    left_out = {"rope_scaling": {"type": "yarn", "factor": 4.0}, "max_position_embeddings": 32768}
    assert read(left_out).rope_scaling == wanted
    written = model_to_hf_config(model, dtype="bfloat16")
    assert written["rope_scaling"] == {**YARN, "beta_fast": 32.0, "beta_slow": 1.0}
    assert model_from_hf_config(written, model.name, model.source) == model


def test_dynamic_scaling_begins_beyond_the_context() -> None:
    """As InternLM3 has it: up to max_position_embeddings it is plain RoPE, and no longer sequence is trained."""
    model = read({"rope_scaling": {"type": "dynamic", "factor": 6.0}})
    assert model.context_length == model.max_position_embeddings
    assert rope_flags(model) == rope_flags(read({"rope_scaling": None}))
    assert model_to_hf_config(model, dtype="bfloat16")["rope_scaling"] == {"factor": 6.0, "rope_type": "dynamic"}
    theirs = [LlamaConfig(**{**RIGHT, "rope_scaling": one}) for one in ({"rope_type": "dynamic", "factor": 6.0}, None)]
    frequencies = [LlamaRotaryEmbedding(config).inv_freq for config in theirs]
    assert torch.equal(*frequencies)


def test_dropout_is_found() -> None:
    assert dropout_of(RIGHT) == {}
    assert dropout_of({**RIGHT, "attention_dropout": 0.1, "resid_pdrop": 0, "hidden_dropout": None}) == {
        "attention_dropout": 0.1
    }


def test_a_named_size_is_held_against_the_config() -> None:
    assert model_as_named({**RIGHT, "vocab_size": 128264}, "8B", "config.json").vocab_size == 128264  # added tokens
    with pytest.raises(ConfigError) as refused:
        model_as_named({**RIGHT, "vocab_size": 128255, "rope_theta": 1e6}, "8B", "config.json")
    assert refused.value.problems == [
        "config.json: not the architecture of MODEL_SIZE 8B: vocab_size 128255 (not 128256), rope_theta "
        "1000000.0 (not 500000.0)"
    ]


def test_the_size_that_it_is_is_named() -> None:
    """Five fields are different: one sentence, with what to type."""
    with pytest.raises(ConfigError) as refused:
        model_as_named(RIGHT, "70B", "config.json")
    (said,) = refused.value.problems
    assert said.startswith("config.json: the architecture of 8B, not of MODEL_SIZE 70B: num_layers 32 (not 80), ")
