"""What a size is called: bare in its family's own scripts, qualified (`mistral-7B`) everywhere."""

from __future__ import annotations

import re

from megatron_patch.common.messages import Message
from megatron_patch.common.values import Kind, ValueProblem, nearest_word
from megatron_patch.models.config import ModelConfig
from megatron_patch.models.family import Family, families

EXPERTS = re.compile(r"(.*-)?A[0-9.]+B", re.IGNORECASE)
"""How mixtures of experts are called: A3B, 30B-A3B."""
AUTO = "auto"
"""The size that takes the architecture from a checkpoint's config.json."""


def sizes(family: str | None = None) -> dict[str, ModelConfig]:
    """Every named model by the name that is used everywhere; of one family by bare name.

    Args:
        family: whose script is running.
    """
    if family is not None:
        return dict(families()[family].sizes)
    return {model.name: model for one in families().values() for model in one.sizes.values()}


def size_names(family: str | None = None) -> tuple[str, ...]:
    """What can be typed as MODEL_SIZE: the bare names first, then auto, then the qualified ones."""
    bare = families()[family] if family is not None else default_family()
    others = [f"{name}-{size}" for name, one in families().items() if one is not bare for size in one.sizes]
    return (*bare.sizes, AUTO, *others)


def default_family() -> Family:
    """The one whose sizes are known by their bare names everywhere."""
    return next(iter(families().values()))


def resolve_size(typed: str, family: str | None = None) -> str | None:
    """The name under which a size is known everywhere; `auto` as it is; None for what is not one.

    Args:
        typed: `8B`, `qwen3-8B`, `qwen2.5-7B` (a point for the underscore of a family's name).
        family: the one that a bare size is looked up in; None: that of the bare names.
    """
    if typed == AUTO:
        return AUTO
    bare = families()[family] if family is not None else default_family()
    if typed in bare.sizes:
        return bare.sizes[typed].name
    front, dash, size = typed.partition("-")
    qualified = families().get(front.replace(".", "_"))
    found = qualified.sizes.get(size) if qualified and dash else None
    return None if found is None else found.name


def qualify(typed: str, family: str | None) -> str:
    """A size as it is known everywhere, from what was typed in a family's script; what is not a size stays one of
    that family's, so that `8B` typed there is never another family's.

    Args:
        family: whose script is running; None: nobody's.
    """
    if family is None:
        return typed
    return resolve_size(typed, family) or f"{family}-{typed}"


def size_kind(family: str | None = None) -> Kind:
    """How MODEL_SIZE is read; the value is the name that is used everywhere.

    Args:
        family: whose script is running.
    """
    known = size_names(family)

    def parse(text: str) -> str:
        found = resolve_size(text, family)
        if found is None:
            if EXPERTS.fullmatch(text):
                raise ValueProblem("size-of-experts")
            near = nearest_word(text, known)
            raise ValueProblem("unknown-value-nearest", nearest=near) if near else ValueProblem("unknown-value")
        return found

    return Kind(parse=parse, expects=Message("expect-choice", words=known))


def model_of_size(typed: str, family: str | None = None) -> ModelConfig:
    """The row of a size.

    Raises:
        KeyError: with the list of the sizes that exist.
    """
    name = resolve_size(typed, family)
    if name is None or name == AUTO:
        raise KeyError(f"{typed!r} is not a size; valid: {', '.join(sizes())}")
    return sizes()[name]
