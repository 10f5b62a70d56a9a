"""What a model is: the numbers of its architecture, and arithmetic on them. Imports no torch.

The launcher, the converter, the layer check, the ranks and the reports all describe a model by one `ModelConfig`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from megatron_patch.common.errors import Refusal

VOCAB_ALIGNMENT = 128
"""Padded vocabulary sizes are multiples of this at every TP, so that a checkpoint fits every layout."""
LLAMA3, YARN, DYNAMIC = "llama3", "yarn", "dynamic"
"""Kinds of RoPE scaling, as `config.json` spells `rope_type`."""


class ConfigError(Refusal):
    """A model that this project does not train, or a `config.json` that describes none."""


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """How RoPE's frequencies are stretched over a longer context: `rope_scaling` of `config.json`."""

    kind: str = LLAMA3
    """`llama3` (frequency bands; Llama 3.1), `yarn` (arXiv:2309.00071), or `dynamic`: none up to
    max_position_embeddings, and no longer sequence is trained."""
    factor: float
    """Divisor of the low frequencies: 8 for Llama 3.1, 32 for Llama 3.2, 4 in Qwen's model cards."""
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    """`llama3`: Megatron 0.19.2 has both as constants."""
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    """`yarn`: rotations over the original context at which a frequency is kept, and at which it is divided."""
    original_max_position_embeddings: int = 8192
    """Context length in tokens before scaling."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """One model: what its Hugging Face `config.json` says about the architecture."""

    name: str
    """What the user types as MODEL_SIZE."""
    model_type: str = "llama"
    """`model_type` of `config.json`, which names the family (plans of earlier versions do not say it)."""
    num_layers: int
    hidden_size: int
    ffn_hidden_size: int
    num_attention_heads: int
    num_query_groups: int
    """KV heads of grouped-query attention."""
    head_dim: int
    """Columns of one head; need not be hidden_size / num_attention_heads."""
    vocab_size: int | None
    """Unpadded; None takes the tokenizer's."""
    tie_embeddings: bool
    """The LM head is the embedding."""
    qkv_bias: bool = False
    """The projections to queries, keys and values have biases."""
    qk_norm: bool = False
    """Queries and keys are normalized head by head, before RoPE."""
    max_position_embeddings: int
    rope_theta: float = 500000.0
    rope_scaling: RopeScaling | None = None
    norm_epsilon: float = 1e-5
    init_method_std: float = 0.02
    source: str
    """Where these numbers come from."""

    @property
    def context_length(self) -> int:
        """Tokens that the model reads at most: YaRN stretches the original context, whatever `config.json` repeats."""
        scaling = self.rope_scaling
        if scaling is None or scaling.kind != YARN:
            return self.max_position_embeddings
        return max(self.max_position_embeddings, int(scaling.factor * scaling.original_max_position_embeddings))

    @property
    def query_width(self) -> int:
        """Columns of all query heads."""
        return self.head_dim * self.num_attention_heads

    @property
    def kv_width(self) -> int:
        """Columns of all key heads, and of all value heads."""
        return self.head_dim * self.num_query_groups

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
        """Parameters of one transformer layer, norms and biases included."""
        qkv = self.query_width + 2 * self.kv_width
        attention = self.hidden_size * (qkv + self.query_width) + (qkv if self.qkv_bias else 0)
        return attention + 3 * self.hidden_size * self.ffn_hidden_size + self.norms_per_layer()

    def norms_per_layer(self) -> int:
        """Those of them that every tensor-parallel rank has whole: the norms."""
        return 2 * self.hidden_size + (2 * self.head_dim if self.qk_norm else 0)


NOT_COMPARED = frozenset({"name", "source", "max_position_embeddings", "init_method_std"})
"""Fields of ModelConfig that may differ between two checkpoints of one model."""


def differences(one: ModelConfig, other: ModelConfig) -> list[tuple[str, Any, Any]]:
    """The fields that make two models two, with both values. A vocabulary that one does not know is not among them."""
    fields = [field.name for field in dataclasses.fields(ModelConfig) if field.name not in NOT_COMPARED]
    pairs = [(name, getattr(one, name), getattr(other, name)) for name in fields]
    unknown = one.vocab_size is None or other.vocab_size is None
    return [pair for pair in pairs if pair[1] != pair[2] and not (unknown and pair[0] == "vocab_size")]


def model_from_dict(content: Mapping[str, Any]) -> ModelConfig:
    """A model that `dataclasses.asdict` took apart, as plan.json keeps it; also of plans with fewer fields.

    Raises:
        KeyError, TypeError: this is not one.
    """
    scaling = content["rope_scaling"]
    return ModelConfig(**{**content, "rope_scaling": RopeScaling(**scaling) if scaling else None})


def padded_vocab_size(vocab_size: int, alignment: int = VOCAB_ALIGNMENT) -> int:
    """Rows of the embedding in a checkpoint: the vocabulary rounded up, the same at every TP that divides it."""
    return -(-vocab_size // alignment) * alignment
