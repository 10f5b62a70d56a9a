"""Ranks and alphas that some modules have for themselves, as PEFT's rank_pattern and alpha_pattern say them.

Standard library only.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from megatron_patch.common.messages import Message
from megatron_patch.common.strict_json import JsonError, parse_json
from megatron_patch.common.values import Kind, ValueProblem

type Pattern = tuple[tuple[str, float], ...]
"""Regular expressions for the end of a module's name (`q_proj`, `layers.0.self_attn.q_proj`), and what they say."""

MOST_LENGTH = 200
"""Of an expression; a name of PEFT's own has 40."""


def pattern_problems(name: str, told: Any, *, whole: bool) -> Iterator[Message]:
    """What is wrong with one of the two.

    Args:
        told: of adapter_config.json.
        whole: its numbers are ranks.
    """
    if not isinstance(told, dict):
        yield Message("peft-pattern", name=name, found=f"{told!r:.80}")
        return
    for key, value in told.items():
        if not (isinstance(value, int if whole else (int, float)) and 0 < value < math.inf) or value is True:
            code = "peft-pattern-whole" if whole else "peft-pattern-real"
            yield Message(code, name=name, key=key, found=f"{value!r:.80}")
        if len(key) > MOST_LENGTH or not _compiles(key):
            yield Message("peft-pattern-key", name=name, key=f"{key:.80}")


def pattern_of(told: Any) -> Pattern:
    """Of adapter_config.json, in its order; of nothing, nothing."""
    return tuple((told or {}).items())


def parse_pattern(text: str | None) -> Pattern:
    """As it is typed: a JSON object."""
    return pattern_of(parse_json(text)) if text else ()


def typed_pattern(pattern: Pattern) -> str | None:
    """As parse_pattern reads it; None where there is none."""
    return json.dumps(dict(pattern)) if pattern else None


def typed_patterns(*, whole: bool) -> Kind:
    """A JSON object on the command line; kept as text."""

    def parse(text: str) -> str | None:
        try:
            told = parse_json(text, unique=True)
        except JsonError as error:
            raise ValueProblem.of(error.messages) from None
        if problems := list(pattern_problems("JSON", told, whole=whole)):
            raise ValueProblem.of(problems)
        return typed_pattern(pattern_of(told))

    return Kind(parse=parse, expects=Message("expect-patterns"))


@cache
def key_of(pattern: Pattern, module: str) -> str | None:
    """The first expression that fits a module's name, `model.layers.0.self_attn.q_proj`.

    Source: `get_pattern_key` of peft 0.21, utils/other.py.
    """
    return next((key for key, _ in pattern if re.match(rf"(.*\.)?({key})$", module)), None)


@cache
def value_of(pattern: Pattern, module: str) -> float | None:
    """What the pattern says of a module."""
    key = key_of(pattern, module)
    return None if key is None else dict(pattern)[key]


def _compiles(key: str) -> bool:
    try:
        re.compile(rf"(.*\.)?({key})$")
    except (re.error, RecursionError, OverflowError):
        return False
    return True
