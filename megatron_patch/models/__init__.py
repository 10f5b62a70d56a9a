"""The model: what it is, what it is called, and how Hugging Face and Megatron write it down. Imports no torch.

    config.py        ModelConfig: the numbers of an architecture, and arithmetic on them
    family.py        what the file of a family says: llama.py, qwen3.py ...; a new file is found by itself
    names.py         sizes: `8B` in the family's own scripts, `qwen3-8B` everywhere
    hf_config.py     the one reader and writer of config.json
    megatron.py      a model in Megatron's flags and configuration, and back
    weight_map.py    which rows of which Hugging Face tensor make which Megatron tensor

Nothing outside this folder names a family.
"""

from __future__ import annotations

from megatron_patch.models.config import (
    VOCAB_ALIGNMENT,
    ConfigError,
    ModelConfig,
    RopeScaling,
    differences,
    model_from_dict,
    padded_vocab_size,
)
from megatron_patch.models.family import Family, by_model_type, families, family_of
from megatron_patch.models.hf_config import (
    disagreement,
    dropout_of,
    model_as_named,
    model_from_hf_config,
    model_to_hf_config,
    read_json_config,
    unlike,
)
from megatron_patch.models.names import (
    AUTO,
    default_family,
    model_of_size,
    qualify,
    resolve_size,
    size_kind,
    size_names,
    sizes,
)

__all__ = [
    "AUTO",
    "VOCAB_ALIGNMENT",
    "ConfigError",
    "Family",
    "ModelConfig",
    "RopeScaling",
    "by_model_type",
    "default_family",
    "differences",
    "disagreement",
    "dropout_of",
    "families",
    "family_of",
    "model_as_named",
    "model_from_dict",
    "model_from_hf_config",
    "model_of_size",
    "model_to_hf_config",
    "padded_vocab_size",
    "qualify",
    "read_json_config",
    "resolve_size",
    "size_kind",
    "size_names",
    "sizes",
    "unlike",
]
