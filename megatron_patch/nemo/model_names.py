"""What models are called elsewhere, and which of our sizes each is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from megatron_patch.common.errors import UserError
from megatron_patch.common.values import nearest_word
from megatron_patch.models import BESIDE_THE_WEIGHTS, LLAMA_3_1, MODELS, ConfigError, ModelConfig, model_from_hf_config

RECIPES = {
    "llama31_8b": "8B",
    "llama31_70b": "70B",
    "llama31_405b": "405B",
    "llama32_1b": "1B",
    "llama32_3b": "3B",
}
"""NeMo's recipes, as `pretrain_llm.py --model-name` took them."""
CONFIGS = {
    "Llama31Config8B": "8B",
    "Llama31Config70B": "70B",
    "Llama31Config405B": "405B",
    "Llama32Config1B": "1B",
    "Llama32Config3B": "3B",
}
"""NeMo's configuration classes, as its converter's `--model-config-name` took them."""
MODEL_CLASSES = ("LlamaModel", "llama")
"""NeMo's model classes, as its converter's `--model-name` took them: the size comes from the other flag."""
WITHOUT_SCALING = ("llama3_8b", "llama3_70b", "Llama3Config8B", "Llama3Config70B")
"""Llama 3, which has no RoPE scaling: trained as 3.1 it would read wrong positions without a word."""


class NameProblem(UserError, ValueError):
    """Not the name of a model that we know."""


def size_of(name: str) -> str:
    """Our size for any of these names, in any case.

    Raises:
        NameProblem: not one of them; the message says why.
    """
    sizes = {**RECIPES, **CONFIGS, **{size: size for size in (*MODELS, "auto")}}
    known = {spelling.lower(): size for spelling, size in sizes.items()}
    if name.lower() in {one.lower() for one in WITHOUT_SCALING}:
        raise NameProblem("nemo-size-llama3")
    if name.lower() not in known:
        near = nearest_word(name, tuple(sizes))
        raise NameProblem("nemo-size-unknown-nearest", nearest=near) if near else NameProblem("nemo-size-unknown")
    return known[name.lower()]


def size_of_hub_name(name: str) -> str | None:
    """The size of a repository such as meta-llama/Llama-3.1-8B-Instruct, from the rows' sources."""
    wanted = name.rsplit("/", 1)[-1].lower().removeprefix("meta-").removesuffix("-instruct")
    for size, model in MODELS.items():
        repository = model.source.split("/blob/")[0].rsplit("/", 1)[-1].lower()
        if model.source.startswith("https://") and wanted == repository:
            return size
    return "70B" if wanted == "llama-3.3-70b" else None  # the same architecture


def size_of_config(config: Mapping[str, Any]) -> str | None:
    """The named size that a config.json describes, if any does."""
    try:
        model = model_from_hf_config(config, "", "")
    except (ConfigError, TypeError, ValueError):
        return None
    facts = {field.name for field in fields(ModelConfig)} - BESIDE_THE_WEIGHTS - {"vocab_size"}
    for size, row in MODELS.items():
        if all(getattr(row, fact) == getattr(model, fact) for fact in facts):
            return size
    return None


def listing() -> Iterator[str]:
    """All names, one line each."""
    yield "sizes          " + ", ".join((*LLAMA_3_1.sizes, "auto (as the checkpoint's config.json says)"))
    yield "NeMo's recipes " + ", ".join(f"{name} = {size}" for name, size in RECIPES.items())
    yield "NeMo's configs " + ", ".join(f"{name} = {size}" for name, size in CONFIGS.items())


def supported_models() -> list[str]:
    """The lines of examples/llama3_1/supported_model.txt."""
    return [*MODEL_CLASSES, *RECIPES, *LLAMA_3_1.sizes, "auto"]


def supported_configs() -> list[str]:
    """The lines of examples/llama3_1/supported_config.txt."""
    return [*CONFIGS, *LLAMA_3_1.sizes, "auto"]
