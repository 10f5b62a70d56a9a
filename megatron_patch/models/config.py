"""What a model family is: facts, no behaviour beyond arithmetic on them.

Nothing here imports torch: the launcher, the converter and the ranks all read the same rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

VOCAB_ALIGNMENT = 128
"""Padded vocabulary sizes are multiples of this at every TP, so that a checkpoint fits every layout."""


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """Llama 3's frequency-dependent RoPE scaling, as in `config.json` under `rope_scaling`."""

    factor: float
    """Divisor of the low frequencies: 8 for Llama 3.1, 32 for Llama 3.2."""
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 8192
    """Context length in tokens before scaling."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """One size of a family: the architecture facts of its Hugging Face `config.json`."""

    name: str
    """What the user types as MODEL_SIZE."""
    num_layers: int
    hidden_size: int
    ffn_hidden_size: int
    num_attention_heads: int
    num_query_groups: int
    """KV heads of grouped-query attention."""
    head_dim: int
    vocab_size: int | None
    """Unpadded; None takes the tokenizer's."""
    tie_embeddings: bool
    max_position_embeddings: int
    rope_theta: float = 500000.0
    rope_scaling: RopeScaling | None = None
    norm_epsilon: float = 1e-5
    init_method_std: float = 0.02
    source: str
    """Where the row comes from."""

    def num_parameters(self, vocab_size: int | None = None) -> int:
        """Parameters of the whole model, tied embeddings counted once.

        Args:
            vocab_size: rows of the embedding; the model's own if None.
        Raises:
            ValueError: neither the model nor the caller knows the vocabulary.
        """
        vocab = vocab_size or self.vocab_size
        if vocab is None:
            raise ValueError(f"{self.name} takes its vocabulary from the tokenizer: pass vocab_size")
        embeddings = vocab * self.hidden_size * (1 if self.tie_embeddings else 2)
        return embeddings + self.num_layers * self.parameters_per_layer() + self.hidden_size

    def parameters_per_layer(self) -> int:
        """Parameters of one transformer layer, its two norms included."""
        h = self.hidden_size
        qkv = h * self.head_dim * (self.num_attention_heads + 2 * self.num_query_groups)
        out = h * self.head_dim * self.num_attention_heads
        return qkv + out + 3 * h * self.ffn_hidden_size + 2 * h


BESIDE_THE_WEIGHTS = frozenset({"name", "source", "max_position_embeddings", "init_method_std"})
"""Fields of ModelConfig that may differ between two checkpoints of one model."""


def model_of_facts(facts: Mapping[str, Any]) -> ModelConfig:
    """A model that `dataclasses.asdict` took apart, as plan.json keeps it.

    Raises:
        KeyError, TypeError: these are not the facts of one.
    """
    scaling = facts["rope_scaling"]
    return ModelConfig(**{**facts, "rope_scaling": RopeScaling(**scaling) if scaling else None})


def padded_vocab_size(vocab_size: int, alignment: int = VOCAB_ALIGNMENT) -> int:
    """Rows of the embedding in a checkpoint: the vocabulary rounded up, the same at every TP that divides it."""
    return -(-vocab_size // alignment) * alignment


@dataclass(frozen=True, kw_only=True)
class Family:
    """A set of sizes that share one architecture, one chat template and one set of scripts."""

    name: str
    hf_model_type: str
    """`model_type` in `config.json`."""
    hf_architecture: str
    """The one entry of `architectures` in `config.json`."""
    sizes: Mapping[str, ModelConfig]

    def size(self, name: str) -> ModelConfig:
        """The row of one size.

        Raises:
            KeyError: with the list of the sizes that exist.
        """
        if name not in self.sizes:
            raise KeyError(f"{name!r} is not a size of {self.name}; valid: {', '.join(self.sizes)}")
        return self.sizes[name]


class ConfigError(ValueError):
    """A `config.json` that does not describe a model this project trains."""


NEEDED = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
COUNTS = (*NEEDED, "num_key_value_heads", "head_dim", "max_position_embeddings")
"""Keys of `config.json` that are whole numbers; those that are not needed may be null."""


def model_from_hf_config(config: Mapping[str, Any], name: str, source: str) -> ModelConfig:
    """Read the architecture facts of a Hugging Face Llama `config.json`.

    Accepts both spellings of the RoPE facts: `rope_theta` with `rope_scaling` (transformers 4), and
    `rope_parameters` (transformers 5).

    Raises:
        ConfigError: a missing key, a value that is none, or a feature that the Llama 3 architecture does not have.
    """
    _check(config, source)
    heads = config["num_attention_heads"]
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(rope, Mapping):
        raise ConfigError(f"{source}: the RoPE facts are {rope!r}, not an object")
    theta = config.get("rope_theta") or rope.get("rope_theta") or 10000.0
    _check_number(theta, "rope_theta", source)
    return ModelConfig(
        name=name,
        num_layers=config["num_hidden_layers"],
        hidden_size=config["hidden_size"],
        ffn_hidden_size=config["intermediate_size"],
        num_attention_heads=heads,
        num_query_groups=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or config["hidden_size"] // heads,
        vocab_size=config["vocab_size"],
        tie_embeddings=bool(config.get("tie_word_embeddings", False)),
        max_position_embeddings=config.get("max_position_embeddings") or 2048,
        rope_theta=float(theta),
        rope_scaling=_rope_scaling(rope, source),
        norm_epsilon=config.get("rms_norm_eps", 1e-6),
        init_method_std=config.get("initializer_range", 0.02),
        source=source,
    )


def _check(config: Mapping[str, Any], source: str) -> None:
    """Raises ConfigError: see model_from_hf_config."""
    missing = [key for key in NEEDED if key not in config]
    if missing:
        raise ConfigError(f"{source}: missing {', '.join(missing)}")
    for key in COUNTS:
        found = config.get(key)
        counts = isinstance(found, int) and not isinstance(found, bool) and found > 0
        if not counts and (key in NEEDED or found is not None):
            raise ConfigError(f"{source}: {key} is {found!r}, not a whole number above 0")
    for key in ("rms_norm_eps", "initializer_range"):
        _check_number(config.get(key, 1.0), key, source)
    for key, wanted in (("attention_bias", False), ("mlp_bias", False), ("hidden_act", "silu")):
        if config.get(key, wanted) != wanted:
            raise ConfigError(f"{source}: {key} is {config[key]!r}, Llama 3 has {wanted!r}")


def _check_number(value: object, key: str, source: str) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
        raise ConfigError(f"{source}: {key} is {value!r}, not a number above 0")


def _rope_scaling(rope: Mapping[str, Any], source: str) -> RopeScaling | None:
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind == "default":
        return None
    if kind != "llama3":
        raise ConfigError(f"{source}: rope_type is {kind!r}; supported: default, llama3")
    keys = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    facts = {key: rope[key] for key in keys if key in rope}
    for key, value in facts.items():
        _check_number(value, f"rope_scaling {key}", source)
    return RopeScaling(**facts)


def model_to_hf_config(model: ModelConfig, *, dtype: str, vocab_size: int | None = None) -> dict[str, Any]:
    """The `config.json` of a model, in the transformers 4 spelling that every reader understands.

    Args:
        dtype: `float32`, `bfloat16` or `float16`, written as `torch_dtype`.
        vocab_size: rows of the embedding; the model's own if None.
    """
    scaling = model.rope_scaling
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "head_dim": model.head_dim,
        "hidden_act": "silu",
        "hidden_size": model.hidden_size,
        "initializer_range": model.init_method_std,
        "intermediate_size": model.ffn_hidden_size,
        "max_position_embeddings": model.max_position_embeddings,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": model.num_attention_heads,
        "num_hidden_layers": model.num_layers,
        "num_key_value_heads": model.num_query_groups,
        "pretraining_tp": 1,
        "rms_norm_eps": model.norm_epsilon,
        "rope_scaling": None
        if scaling is None
        else {
            "factor": scaling.factor,
            "high_freq_factor": scaling.high_freq_factor,
            "low_freq_factor": scaling.low_freq_factor,
            "original_max_position_embeddings": scaling.original_max_position_embeddings,
            "rope_type": "llama3",
        },
        "rope_theta": model.rope_theta,
        "tie_word_embeddings": model.tie_embeddings,
        "torch_dtype": dtype,
        "use_cache": True,
        "vocab_size": vocab_size or model.vocab_size,
    }
