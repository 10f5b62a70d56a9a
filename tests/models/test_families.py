"""The rows against Hugging Face: their config class reads them, their model has as many parameters and tensors."""

from __future__ import annotations

import dataclasses
import os
import re
from importlib import import_module
from typing import Any

import pytest
import torch
import transformers

from megatron_patch.launch.command import REPOSITORY
from megatron_patch.models import (
    ConfigError,
    ModelConfig,
    families,
    family_of,
    model_from_dict,
    model_from_hf_config,
    model_of_size,
    model_to_hf_config,
    padded_vocab_size,
    resolve_size,
    size_names,
    sizes,
)
from megatron_patch.models.family import Family
from megatron_patch.models.weight_map import hf_shapes

MODELS = list(sizes().values())
FAMILIES = list(families().values())

PUBLISHED = {
    # Layers, hidden, FFN, heads, KV heads, head, vocabulary, tied, base of RoPE, epsilon, parameters: from each
    # config.json on the hub, and the parameters that the hub counts in its safetensors.
    # Held on 2026-11-26 against other projects' tables of the same files: Qwen2.5 (base models) and Qwen3 against
    # torchtune's model builders; the former also against a verbatim copy of the seven config.json; Seed-OSS against a
    # copy of its config.json in another project's tests. Mistral and Llama were not held against a second source.
    # The Instruct models of Qwen2.5 14B, 32B and 72B have an epsilon of 1e-6 (torchtune): `auto` reads them.
    "1B": (16, 2048, 8192, 32, 8, 64, 128256, True, 5e5, 1e-5, 1_235_814_400),
    "3B": (28, 3072, 8192, 24, 8, 128, 128256, True, 5e5, 1e-5, 3_212_749_824),
    "8B": (32, 4096, 14336, 32, 8, 128, 128256, False, 5e5, 1e-5, 8_030_261_248),
    "70B": (80, 8192, 28672, 64, 8, 128, 128256, False, 5e5, 1e-5, 70_553_706_496),
    "405B": (126, 16384, 53248, 128, 8, 128, 128256, False, 5e5, 1e-5, 405_853_388_800),
    "mistral-7B": (32, 4096, 14336, 32, 8, 128, 32768, False, 1e6, 1e-5, 7_248_023_552),
    "seed_oss-36B": (64, 5120, 27648, 80, 8, 128, 155136, False, 1e7, 1e-6, 36_151_104_512),
    "qwen2_5-0.5B": (24, 896, 4864, 14, 2, 64, 151936, True, 1e6, 1e-6, 494_032_768),
    "qwen2_5-1.5B": (28, 1536, 8960, 12, 2, 128, 151936, True, 1e6, 1e-6, 1_543_714_304),
    "qwen2_5-3B": (36, 2048, 11008, 16, 2, 128, 151936, True, 1e6, 1e-6, 3_085_938_688),
    "qwen2_5-7B": (28, 3584, 18944, 28, 4, 128, 152064, False, 1e6, 1e-6, 7_615_616_512),
    "qwen2_5-14B": (48, 5120, 13824, 40, 8, 128, 152064, False, 1e6, 1e-5, 14_770_033_664),
    "qwen2_5-32B": (64, 5120, 27648, 40, 8, 128, 152064, False, 1e6, 1e-5, 32_763_876_352),
    "qwen2_5-72B": (80, 8192, 29568, 64, 8, 128, 152064, False, 1e6, 1e-5, 72_706_203_648),
    "qwen3-0.6B": (28, 1024, 3072, 16, 8, 128, 151936, True, 1e6, 1e-6, 596_049_920),
    "qwen3-1.7B": (28, 2048, 6144, 16, 8, 128, 151936, True, 1e6, 1e-6, 1_720_574_976),
    "qwen3-4B": (36, 2560, 9728, 32, 8, 128, 151936, True, 1e6, 1e-6, 4_022_468_096),
    "qwen3-8B": (36, 4096, 12288, 32, 8, 128, 151936, False, 1e6, 1e-6, 8_190_735_360),
    "qwen3-14B": (40, 5120, 17408, 40, 8, 128, 151936, False, 1e6, 1e-6, 14_768_307_200),
    "qwen3-32B": (64, 5120, 25600, 64, 8, 128, 151936, False, 1e6, 1e-6, 32_762_123_264),
}


@pytest.mark.parametrize("size", PUBLISHED)
def test_each_size_has_its_published_numbers(size: str) -> None:
    layers, hidden, ffn, heads, groups, head, vocabulary, tied, theta, epsilon, parameters = PUBLISHED[size]
    model = model_of_size(size)
    assert (model.num_layers, model.hidden_size, model.ffn_hidden_size) == (layers, hidden, ffn)
    assert (model.num_attention_heads, model.num_query_groups, model.head_dim) == (heads, groups, head)
    assert (model.vocab_size, model.tie_embeddings) == (vocabulary, tied)
    assert (model.rope_theta, model.norm_epsilon) == (theta, epsilon)
    assert model.num_parameters() == parameters


def test_llama_3_2_scales_rope_by_32_and_3_1_by_8() -> None:
    factors = {size: model_of_size(size).rope_scaling for size in ("1B", "3B", "8B", "70B", "405B")}
    assert {size: one.factor for size, one in factors.items() if one} == {
        "1B": 32.0, "3B": 32.0, "8B": 8.0, "70B": 8.0, "405B": 8.0,
    }  # fmt: skip
    assert {model_of_size(size).max_position_embeddings for size in factors} == {131072}


def config_of(model: ModelConfig) -> Any:
    config_class = getattr(transformers, family_of(model).transformers_class("Config"))
    return config_class(**model_to_hf_config(model, dtype="bfloat16", vocab_size=model.vocab_size or 1000))


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
def test_parameters_and_tensors_are_hugging_faces(model: ModelConfig) -> None:
    """A meta-device model has all shapes and no memory: 405B takes a second."""
    model_class = getattr(transformers, family_of(model).transformers_class("ForCausalLM"))
    vocab = model.vocab_size or 1000
    with torch.device("meta"):
        theirs = model_class(config_of(model))
    assert {name: tuple(one.shape) for name, one in theirs.named_parameters()} == hf_shapes(model, vocab)
    assert model.num_parameters(vocab) == sum(parameter.numel() for parameter in theirs.parameters())
    assert model.parameters_per_layer() == sum(one.numel() for one in theirs.model.layers[0].parameters())


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_the_check_finds_the_familys_classes(family: Any) -> None:
    module = import_module(family.transformers_module)
    assert all(hasattr(module, family.transformers_class(part)) for part in ("DecoderLayer", "RMSNorm", "ForCausalLM"))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_family_has_a_script_and_no_row_of_padding(family: Any) -> None:
    """transformers gives the row of pad_token_id no gradient, and some classes have a real token for a default."""
    assert os.access(REPOSITORY / family.driver, os.X_OK)
    config = config_of(next(iter(family.sizes.values())))
    assert (config.pad_token_id, config.bos_token_id, config.eos_token_id) == (None, None, None)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_what_a_config_leaves_out_is_what_transformers_takes(family: Any) -> None:
    """A config.json with the needed keys alone means the same model here and there."""
    needed = {
        "model_type": family.model_type, "hidden_size": 1024, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 32, "vocab_size": 500,
    }  # fmt: skip
    theirs = getattr(transformers, family.transformers_class("Config"))(**needed).to_dict()
    theirs = {key: value for key, value in theirs.items() if value is not None}
    assert read_or_refused(needed) == read_or_refused(theirs)


def read_or_refused(config: dict[str, Any]) -> ModelConfig | list[str]:
    """Mistral's defaults have a sliding window."""
    try:
        return model_from_hf_config(config, "", "")
    except ConfigError as error:
        return error.problems


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_tiny_has_what_the_large_ones_have(family: Any) -> None:
    if "tiny" not in family.sizes:
        pytest.skip("its debug size is a published one")
    tiny, *others = family.sizes.values()
    assert tiny.num_query_groups < tiny.num_attention_heads
    assert (tiny.qkv_bias, tiny.qk_norm) == (others[-1].qkv_bias, others[-1].qk_norm)
    assert tiny.rope_scaling == others[-1].rope_scaling
    with pytest.raises(ValueError, match="vocabulary from the tokenizer"):
        tiny.num_parameters()


def test_the_vocabulary_is_padded_to_a_multiple() -> None:
    assert padded_vocab_size(128256) == 128256
    assert padded_vocab_size(258) == 384
    assert padded_vocab_size(1, 8) == 8


def test_one_family_has_the_bare_names() -> None:
    assert [family.name for family in FAMILIES if family.bare_names] == [FAMILIES[0].name] == ["llama3_1"]
    assert size_names()[:7] == ("tiny", "1B", "3B", "8B", "70B", "405B", "auto")


def test_names_are_apart() -> None:
    names = [model.name for family in FAMILIES for model in family.sizes.values()]
    assert len(set(names)) == len(names) == len(MODELS)


def test_families_of_one_model_type_differ_in_their_sizes_only() -> None:
    """A config.json does not say which of them it is."""
    named = {"name", "script", "bare_names", "rows", "every_size", "hub_names"}
    for family in FAMILIES:
        first = family_of(next(iter(family.sizes.values())))
        for field in dataclasses.fields(family):
            if field.name not in named and not field.name.startswith("nemo_"):
                assert getattr(family, field.name) == getattr(first, field.name), (family.name, field.name)


@pytest.mark.parametrize(
    ("typed", "family", "name"),
    [
        ("8B", None, "8B"),
        ("llama3_1-8B", None, "8B"),
        ("llama3.1-8B", None, "8B"),
        ("tanuki-8B", None, "tanuki-8B"),
        ("8B", "tanuki", "tanuki-8B"),
        ("8B", "llama3_1", "8B"),
        ("llama3_1-70B", "tanuki", "70B"),
        ("7B", "mistral", "mistral-7B"),
        ("mistral-7B", None, "mistral-7B"),
        ("7B", "qwen2_5", "qwen2_5-7B"),
        ("qwen2.5-7B", None, "qwen2_5-7B"),
        ("36B", "seed_oss", "seed_oss-36B"),
        ("qwen3-8B", "mistral", "qwen3-8B"),
        ("auto", "tanuki", "auto"),
        ("70B", "tanuki", None),
        ("7B", None, None),
        ("tanuki", None, None),
        ("-8B", None, None),
        ("", None, None),
    ],
)
def test_a_bare_size_belongs_to_its_family_a_qualified_one_to_all(
    typed: str, family: str | None, name: str | None
) -> None:
    assert resolve_size(typed, family) == name


def test_an_unknown_size_lists_the_known() -> None:
    with pytest.raises(KeyError, match=re.escape("valid: tiny, 1B, 3B, 8B, 70B, 405B")):
        model_of_size("7B")


def test_a_plan_of_an_earlier_version_is_read() -> None:
    """plan.json of 2026-11-25: fields that came later have the values that were the only ones."""
    model = model_of_size("8B")
    old = dataclasses.asdict(model)
    for field in ("model_type", "qkv_bias", "qk_norm"):
        del old[field]
    for field in ("kind", "beta_fast", "beta_slow"):
        del old["rope_scaling"][field]
    assert model_from_dict(old) == model


def test_a_bias_that_the_config_says_is_a_fact_of_every_row() -> None:
    """Without it a family was described without biases, and every test of it passed."""
    row = {"num_layers": 1, "hidden_size": 8, "num_attention_heads": 2, "source": "here"}
    with pytest.raises(ValueError, match="the row has to say qkv_bias"):
        Family(name="x", model_type="x", architecture="XForCausalLM", qkv_bias="attention_bias", rows={"1B": row}).sizes  # noqa: B018
