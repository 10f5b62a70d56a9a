"""What models are called elsewhere, and which of our sizes each is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from megatron_patch.common.errors import UserError
from megatron_patch.common.messages import Message, localized
from megatron_patch.common.values import nearest_word
from megatron_patch.models import (
    AUTO,
    ConfigError,
    differences,
    families,
    model_from_hf_config,
    resolve_size,
    size_names,
    sizes,
)

RECIPES = {name: one.sizes[size].name for one in families().values() for name, size in one.nemo_recipes.items()}
"""NeMo's recipes, as `pretrain_llm.py --model-name` took them."""
CONFIGS = {name: one.sizes[size].name for one in families().values() for name, size in one.nemo_configs.items()}
"""NeMo's configuration classes, as its converter's `--model-config-name` took them."""
MODEL_CLASSES = tuple(name for family in families().values() for name in family.nemo_classes)
"""NeMo's model classes, as its converter's `--model-name` took them: the size comes from the other flag."""
REFUSED = {name.lower(): why for family in families().values() for name, why in family.nemo_refused.items()}
"""NeMo's names of models that have no named size, and why not."""


class NameProblem(UserError, ValueError):
    """Not the name of a model that we know."""


def size_of(name: str) -> str:
    """Our size for any of these names, in any case.

    Raises:
        NameProblem: not one of them; the message says why.
    """
    spellings = {**RECIPES, **CONFIGS, **{size: size for size in size_names()}}
    known = {spelling.lower(): size for spelling, size in spellings.items()}
    if name.lower() in REFUSED:
        raise NameProblem(REFUSED[name.lower()])
    size = known.get(name.lower()) or resolve_size(name)
    if size is None:
        near = nearest_word(name, tuple(spellings))
        raise NameProblem("nemo-size-unknown-nearest", nearest=near) if near else NameProblem("nemo-size-unknown")
    return size


def size_of_hub_name(name: str) -> str | None:
    """The size of a repository such as meta-llama/Llama-3.1-8B-Instruct, from the rows' sources."""
    wanted = name.rsplit("/", 1)[-1].lower().removeprefix("meta-").removesuffix("-instruct")
    for size, model in sizes().items():
        repository = model.source.split("/blob/")[0].rsplit("/", 1)[-1].lower()
        if model.source.startswith("https://") and wanted == repository:
            return size
    others = {hub.lower(): one.sizes[size].name for one in families().values() for hub, size in one.hub_names.items()}
    return others.get(wanted)


def size_of_config(config: Mapping[str, Any]) -> str | None:
    """The named size that a config.json describes, if any does."""
    try:
        model = model_from_hf_config(config, "", "")
    except ConfigError:
        return None
    for size, row in sizes().items():
        if all(name == "vocab_size" for name, _, _ in differences(row, model)):
            return size
    return None


def listing() -> Iterator[str]:
    """All names, one line each."""
    named = [Message("nemo-auto", name=name) if name == AUTO else name for name in size_names()]
    yield localized("nemo-list-sizes", names=named)
    yield localized("nemo-list-recipes", names=[f"{name} = {size}" for name, size in RECIPES.items()])
    yield localized("nemo-list-configs", names=[f"{name} = {size}" for name, size in CONFIGS.items()])
