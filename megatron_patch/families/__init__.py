"""Model families as data. A second family is one file of rows and one line here."""

from __future__ import annotations

from megatron_patch.families.base import (
    BESIDE_THE_WEIGHTS,
    VOCAB_ALIGNMENT,
    ConfigError,
    Family,
    RopeScaling,
    Shape,
    padded_vocab_size,
    shape_from_hf_config,
    shape_of_facts,
    shape_to_hf_config,
)
from megatron_patch.families.llama3_1 import LLAMA_3_1
from megatron_patch.families.tanuki import TANUKI

FAMILIES = {family.name: family for family in (LLAMA_3_1, TANUKI)}
SHAPES = {name: shape for family in FAMILIES.values() for name, shape in family.shapes.items()}
"""Every size of every family; a test keeps their names apart."""

__all__ = [
    "BESIDE_THE_WEIGHTS",
    "FAMILIES",
    "LLAMA_3_1",
    "SHAPES",
    "TANUKI",
    "VOCAB_ALIGNMENT",
    "ConfigError",
    "Family",
    "RopeScaling",
    "Shape",
    "padded_vocab_size",
    "shape_from_hf_config",
    "shape_of_facts",
    "shape_to_hf_config",
]
