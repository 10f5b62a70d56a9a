"""The one reader and writer of `config.json`. Strict: what Megatron 0.19.2 cannot do is refused, by the key's name.

Both spellings of RoPE are read: `rope_theta` with `rope_scaling` (transformers 4), and `rope_parameters` (5).
Written is that of transformers 4, which every reader understands.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megatron_patch.common.messages import Message, at
from megatron_patch.common.strict_json import is_whole, read_json
from megatron_patch.models.config import DYNAMIC, LLAMA3, YARN, ConfigError, ModelConfig, RopeScaling, differences
from megatron_patch.models.family import Family, by_model_type, family_of
from megatron_patch.models.names import AUTO, model_of_size, sizes

NEEDED = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
LARGEST = {
    "hidden_size": 1 << 20,
    "intermediate_size": 1 << 22,
    "num_hidden_layers": 1000,
    "num_attention_heads": 1 << 13,
    "vocab_size": 1 << 24,
    "num_key_value_heads": 1 << 13,
    "head_dim": 1 << 16,
    "max_position_embeddings": 1 << 31,
}
"""Of each whole number; several times what any published model has, so that nothing takes long for a false one."""
LARGEST_REAL = 1e12
"""Of any other number."""
COUNTS = tuple(LARGEST)
"""Whole numbers; those that are not needed may be null."""
DROPOUTS = (
    "dropout",
    "attention_dropout",
    "attn_pdrop",
    "embd_pdrop",
    "embed_dropout",
    "hidden_dropout",
    "hidden_dropout_prob",
    "resid_dropout",
    "resid_pdrop",
    "residual_dropout",
)
"""Keys that name a dropout, in transformers' configurations."""
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "num_experts_per_tok", "moe_intermediate_size")
FIXED: Mapping[str, Any] = {"hidden_act": "silu", "partial_rotary_factor": 1.0, "rope_interleaved": False}
"""What the common part of all families has, where a `config.json` says it at all."""
MEGATRON_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""What `RotaryEmbedding` of megatron-core 0.19.2 has as constants."""
SCALING_KEYS = {
    LLAMA3: ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    YARN: ("factor", "original_max_position_embeddings", "beta_fast", "beta_slow"),
    DYNAMIC: ("factor",),
}
ROPE_NAMES = frozenset({"rope_type", "type", "rope_theta", "partial_rotary_factor"})
"""Other keys of `rope_scaling` and `rope_parameters` that are read."""


def read_json_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a folder.

    Raises:
        ConfigError: absent, not readable, or not a JSON object.
    """
    file = folder / "config.json"
    try:
        config = read_json(file)
    except FileNotFoundError:
        raise ConfigError.at(folder, "config-absent") from None
    except (OSError, ValueError) as error:
        raise ConfigError.at(file, "config-not-json", error=error) from None
    if not isinstance(config, dict):
        raise ConfigError.at(file, "config-not-object")
    return config


def model_from_hf_config(config: Mapping[str, Any], name: str, source: str) -> ModelConfig:
    """The model that a `config.json` describes.

    Args:
        name: what the model is called from here on.
        source: where the config comes from, for messages.
    Raises:
        ConfigError: with every problem: a missing key, a wrong type, a model_type that no family has, or something
            that the family's architecture or Megatron does not have.
    """
    family = _family(config, source)
    reader = _Reader({**family.defaults, **config}, source)
    _check_features(reader, family)
    counts = {key: reader.count(key, needed=key in NEEDED) for key in COUNTS}
    heads, hidden = counts["num_attention_heads"] or 1, counts["hidden_size"] or 1
    groups = counts["num_key_value_heads"] or heads
    if heads % groups:
        reader.refuse("num_key_value_heads", groups, "config-divisor", heads=heads)
    if counts["head_dim"] is None and hidden % heads:
        reader.refuse("hidden_size", hidden, "config-multiple", heads=heads)
    head_dim = counts["head_dim"] or hidden // heads
    if head_dim % 2:
        reader.refuse("head_dim", head_dim, "config-even")
    theta, scaling = _rope(reader, counts["max_position_embeddings"])
    epsilon = reader.number("rms_norm_eps", 1e-6)
    std = reader.number("initializer_range", 0.02)
    tied = reader.flag("tie_word_embeddings")
    biased = family.qkv_bias if isinstance(family.qkv_bias, bool) else reader.flag(family.qkv_bias)
    if reader.problems:
        raise ConfigError.of(reader.problems)
    return ModelConfig(
        name=name,
        model_type=family.model_type,
        num_layers=counts["num_hidden_layers"] or 0,
        hidden_size=hidden,
        ffn_hidden_size=counts["intermediate_size"] or 0,
        num_attention_heads=heads,
        num_query_groups=groups,
        head_dim=head_dim,
        vocab_size=counts["vocab_size"],
        tie_embeddings=tied,
        qkv_bias=biased,
        qk_norm=family.qk_norm,
        max_position_embeddings=counts["max_position_embeddings"] or 2048,
        rope_theta=theta,
        rope_scaling=scaling,
        norm_epsilon=epsilon,
        init_method_std=std,
        source=source,
    )


def dropout_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a `config.json` whose dropout is not 0, and what they say; transformers' defaults where it is silent.

    Weights can be converted and scored whatever it says: only training has dropout.
    """
    family = by_model_type().get(str(config.get("model_type")))
    said = {**(family.defaults if family else {}), **config}
    return {key: said[key] for key in DROPOUTS if said.get(key)}


def model_as_named(config: Mapping[str, Any], size: str, source: str) -> ModelConfig:
    """The model that a `config.json` describes, held against the size that somebody named.

    More rows of vocabulary than the size has are accepted: tokens were added.

    Args:
        size: of any family, or `auto` to take what the config says.
    Raises:
        ConfigError: as `model_from_hf_config`; or they disagree, in one sentence with both values of each field.
    """
    model = model_from_hf_config(config, size, source)
    if size == AUTO:
        return model
    if (problem := disagreement(model, model_of_size(size))) is not None:
        raise ConfigError.of([at(source, problem)])
    return model


def disagreement(found: ModelConfig, named: ModelConfig) -> Message | None:
    """That `found` is not the size that `named` is: all fields in one sentence, and which size it is if it is one."""
    fields = [
        Message("model-differs-in", field=field, found=mine, wanted=wanted)
        for field, mine, wanted in unlike(found, named)
    ]
    if not fields:
        return None
    alike = [name for name, size in sizes().items() if not unlike(found, size)]
    if alike:
        return Message("model-is-another", size=named.name, alike=alike, differences=fields)
    return Message("model-differs", size=named.name, differences=fields)


def unlike(found: ModelConfig, other: ModelConfig) -> list[tuple[str, object, object]]:
    """As `differences`, the values as people read them. More vocabulary than the other's is accepted."""
    return [
        (field, _shown(mine), _shown(theirs))
        for field, mine, theirs in differences(found, other)
        if field != "vocab_size" or mine < theirs
    ]


def _shown(value: object) -> object:
    if not isinstance(value, RopeScaling):
        return str(value)
    usual = RopeScaling(kind=value.kind, factor=0.0)
    facts = {key: getattr(value, key) for key in SCALING_KEYS[value.kind]}
    return " ".join([value.kind, *(f"{key} {one}" for key, one in facts.items() if one != getattr(usual, key))])


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 200 else f"{shown[:200]}..."


@dataclass
class _Reader:
    """A `config.json` that is read value by value; what is wrong is collected."""

    config: Mapping[str, Any]
    source: str
    problems: list[Message] = field(default_factory=list)

    def refuse(self, key: str, found: object, right: str, /, **values: object) -> None:
        """
        Args:
            right: code of what it has to be, and its values.
        """
        wanted = Message(right, **values)
        self.problems.append(at(self.source, "config-value", key=key, found=_short(found), right=wanted))

    def miss(self, key: str, right: str, /, **values: object) -> None:
        self.problems.append(at(self.source, "config-key-missing", key=key, right=Message(right, **values)))

    def count(self, key: str, *, needed: bool) -> int | None:
        if key not in self.config and needed:
            self.miss(key, "config-whole", most=LARGEST[key])
            return None
        found = self.config.get(key)
        most = LARGEST[key]
        if is_whole(found, 1, most):
            return found
        if found is not None or needed:
            self.refuse(key, found, "config-whole", most=most)
        return None

    def number(self, key: str, default: float, where: Mapping[str, Any] | None = None, prefix: str = "") -> float:
        found = (self.config if where is None else where).get(key)
        if found is None:
            return default
        if isinstance(found, int | float) and not isinstance(found, bool) and 0 < found <= LARGEST_REAL:
            return float(found)
        self.refuse(f"{prefix}{key}", found, "config-number", most=f"{LARGEST_REAL:g}")
        return default

    def flag(self, key: str) -> bool:
        found = self.config.get(key)
        if found is not None and not isinstance(found, bool):
            self.refuse(key, found, "config-flag")
        return found is True


def _family(config: Mapping[str, Any], source: str) -> Family:
    """The family of a config; an unknown one is refused together with what else shows what model it is."""
    known = by_model_type()
    kind = config.get("model_type")
    if isinstance(kind, str) and kind in known:
        return known[kind]
    reader = _Reader(config, source)
    if "model_type" in config:
        reader.refuse("model_type", kind, "config-one-of", names=list(known))
    else:
        reader.miss("model_type", "config-one-of", names=list(known))
    _check_experts(reader)
    _check_window(reader)
    raise ConfigError.of(reader.problems)


def _check_features(reader: _Reader, family: Family) -> None:
    """What the architecture of the family, and our part of Megatron, does not have."""
    for key, wanted in {**FIXED, **family.fixed}.items():
        found = reader.config.get(key, wanted)
        if found is not None and (found != wanted or isinstance(found, bool) is not isinstance(wanted, bool)):
            reader.refuse(key, found, "config-family", value=json.dumps(wanted), family=family.name)
    named = reader.config.get("architectures")
    if named is not None and (not isinstance(named, list) or family.architecture not in named):
        reader.refuse("architectures", named, "config-exactly", value=f'["{family.architecture}"]')
    if reader.config.get("quantization_config") is not None:
        reader.refuse("quantization_config", reader.config["quantization_config"], "config-quantized")
    _check_experts(reader)
    _check_window(reader)


def _check_experts(reader: _Reader) -> None:
    for key in EXPERTS:
        if reader.config.get(key):
            reader.refuse(key, reader.config[key], "config-experts")


def _check_window(reader: _Reader) -> None:
    """A sliding window is refused where it is in use: Megatron has one for all layers, and the check knows none."""
    window, layers = reader.config.get("sliding_window"), reader.config.get("layer_types")
    if window is None or reader.config.get("use_sliding_window") is False:
        return
    if not isinstance(window, int) or isinstance(window, bool):
        reader.refuse("sliding_window", window, "config-window")
        return
    if isinstance(layers, list) and layers and "sliding_attention" not in layers:
        return
    first, count = reader.config.get("max_window_layers"), reader.config.get("num_hidden_layers")
    if isinstance(first, int) and isinstance(count, int) and first >= count:
        return
    longest = reader.config.get("max_position_embeddings")
    if isinstance(longest, int) and window < longest:
        reader.refuse("sliding_window", window, "config-window-long", longest=longest)


def _rope(reader: _Reader, longest: int | None) -> tuple[float, RopeScaling | None]:
    """RoPE's base, and how its frequencies are stretched: said once, or twice the same. Of two that differ
    transformers takes one, and not the same in every version."""
    given = [(key, reader.config[key]) for key in ("rope_parameters", "rope_scaling") if reader.config.get(key)]
    for key, value in given:
        if not isinstance(value, Mapping):
            reader.refuse(key, value, "config-object")
            return 10000.0, None
    key, rope = given[0] if given else ("rope_scaling", {})
    prefix = f"{key} "
    if any(rope.get(name) != value for _, other in given[1:] for name, value in other.items()):
        reader.refuse("rope_scaling", given[1][1], "config-rope-twice", key=key)
    inner = reader.number("rope_theta", 10000.0, rope, prefix)
    theta = reader.number("rope_theta", inner)
    if rope.get("rope_theta") is not None and theta != inner:
        reader.refuse("rope_theta", theta, "config-theta-twice", value=inner, key=key)
    if theta != int(theta):
        reader.refuse("rope_theta", theta, "config-theta-whole")
    partial = rope.get("partial_rotary_factor", 1.0)
    if partial != 1.0:
        reader.refuse(f"{prefix}partial_rotary_factor", partial, "config-exactly", value="1.0")
    return theta, _scaling(reader, rope, prefix, longest)


def _scaling(reader: _Reader, rope: Mapping[str, Any], prefix: str, longest: int | None) -> RopeScaling | None:
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind == "default":
        return None
    if kind not in tuple(SCALING_KEYS):
        reader.refuse(f"{prefix}rope_type", kind, "config-one-of", names=["default", *SCALING_KEYS])
        return None
    if "factor" not in rope:
        reader.miss(f"{prefix}factor", "config-factor")
        return None
    for key in sorted(rope.keys() - ROPE_NAMES - set(SCALING_KEYS[kind])):
        if rope[key] is not None:
            reader.refuse(f"{prefix}{key}", rope[key], "config-no-such-number", kind=kind)
    defaults = {"original_max_position_embeddings": longest or 8192} if kind == YARN else {}
    plain = RopeScaling(kind=kind, factor=1.0)
    numbers = {
        key: reader.number(key, defaults.get(key, getattr(plain, key)), rope, prefix) for key in SCALING_KEYS[kind]
    }
    context = numbers.pop("original_max_position_embeddings", plain.original_max_position_embeddings)
    if context != int(context):
        reader.refuse(f"{prefix}original_max_position_embeddings", context, "config-only-whole")
    scaling = RopeScaling(kind=kind, original_max_position_embeddings=int(context), **numbers)
    for key, wanted in MEGATRON_LLAMA3.items() if kind == LLAMA3 else ():
        if getattr(scaling, key) != wanted:
            reader.refuse(f"{prefix}{key}", getattr(scaling, key), "config-constant", value=wanted)
    return scaling


def model_to_hf_config(model: ModelConfig, *, dtype: str, vocab_size: int | None = None) -> dict[str, Any]:
    """The `config.json` of a model.

    Special tokens are null until somebody knows the tokenizer's: transformers' defaults are real tokens, and the row of
    the one that pads gets no gradient there.

    Args:
        dtype: `float32`, `bfloat16` or `float16`, written as `torch_dtype`.
        vocab_size: rows of the embedding; the model's own if None.
    """
    family = family_of(model)
    config = {
        **family.fixed,
        **family.written,
        "architectures": [family.architecture],
        "attention_dropout": 0.0,
        "bos_token_id": None,
        "eos_token_id": None,
        "head_dim": model.head_dim,
        "hidden_act": "silu",
        "hidden_size": model.hidden_size,
        "initializer_range": model.init_method_std,
        "intermediate_size": model.ffn_hidden_size,
        "max_position_embeddings": model.max_position_embeddings,
        "model_type": family.model_type,
        "num_attention_heads": model.num_attention_heads,
        "num_hidden_layers": model.num_layers,
        "num_key_value_heads": model.num_query_groups,
        "pad_token_id": None,
        "rms_norm_eps": model.norm_epsilon,
        "rope_scaling": _rope_to_hf(model.rope_scaling),
        "rope_theta": model.rope_theta,
        "tie_word_embeddings": model.tie_embeddings,
        "torch_dtype": dtype,
        "use_cache": True,
        "vocab_size": vocab_size or model.vocab_size,
    }
    if isinstance(family.qkv_bias, str):
        config[family.qkv_bias] = model.qkv_bias
    return dict(sorted(config.items()))


def _rope_to_hf(scaling: RopeScaling | None) -> dict[str, Any] | None:
    if scaling is None:
        return None
    facts = {key: getattr(scaling, key) for key in SCALING_KEYS[scaling.kind]}
    return dict(sorted({**facts, "rope_type": scaling.kind}.items()))
