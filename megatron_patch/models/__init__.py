"""Model families as data. A second family is one file of rows and one line here."""

from __future__ import annotations

from megatron_patch.models.config import (
    BESIDE_THE_WEIGHTS,
    VOCAB_ALIGNMENT,
    ConfigError,
    Family,
    ModelConfig,
    RopeScaling,
    model_from_hf_config,
    model_of_facts,
    model_to_hf_config,
    padded_vocab_size,
)
from megatron_patch.models.llama import LLAMA_3_1
from megatron_patch.models.tanuki import TANUKI

FAMILIES = {family.name: family for family in (LLAMA_3_1, TANUKI)}
MODELS = {name: model for family in FAMILIES.values() for name, model in family.sizes.items()}
"""Every size of every family; a test keeps their names apart."""

__all__ = [
    "BESIDE_THE_WEIGHTS",
    "FAMILIES",
    "LLAMA_3_1",
    "MODELS",
    "TANUKI",
    "VOCAB_ALIGNMENT",
    "ConfigError",
    "Family",
    "ModelConfig",
    "RopeScaling",
    "model_from_hf_config",
    "model_of_facts",
    "model_to_hf_config",
    "padded_vocab_size",
]
