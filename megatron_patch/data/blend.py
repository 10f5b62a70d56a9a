"""What DATASET_PATH and Megatron's `--data-path` may say: the one parser of blends. Standard library only."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from megatron_patch.data.jsonl import DataError

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?inf|nan", re.ASCII)
MOST_WORDS = 32
"""Of one path with spaces in it, which is looked for among many paths: else the looks grow with their square."""
Exists = Callable[[str], bool]


@dataclass(frozen=True, kw_only=True)
class BlendPart:
    """One dataset of a blend."""

    paths: tuple[str, ...]
    weight: float | None
    """Share of the training rows, not normalised; None without weights: as many rows as it has."""


def words_of(text: str, exists: Exists) -> list[str]:
    """The words of one argument; a path with spaces in it is one word, the longest that exists."""
    if exists(text):
        return [text]
    words = text.split()
    joined, start = [], 0
    while start < len(words):
        longest = min(len(words), start + MOST_WORDS)
        ends = (end for end in range(longest, start, -1) if exists(" ".join(words[start:end])))
        end = next(ends, start + 1)
        joined.append(" ".join(words[start:end]))
        start = end
    return joined


def parse_blend(words: Sequence[str], exists: Exists = lambda word: False) -> list[BlendPart]:
    """`0.3 A 0.7 B` is two parts; `A B` is one, all rows of which are mixed.

    Args:
        words: as in Megatron's `--data-path`.
        exists: whether a word that looks like a weight is a path.
    Raises:
        DataError: a weight that is none, or paths and weights that do not take turns.
    """
    if not words:
        raise DataError("blend-empty")
    weights = [float(word) if NUMBER.fullmatch(word) else None for word in words[::2]]
    if weights[0] is None or len(words) == 1 or exists(words[0]):
        return [BlendPart(paths=tuple(words), weight=None)]
    if len(words) % 2 or None in weights:
        raise DataError("blend-form", found=" ".join(words))
    numbers = [weight for weight in weights if weight is not None]
    if wrong := [weight for weight in numbers if not 0 < weight < float("inf")]:
        raise DataError("blend-form", found=", ".join(f"{weight:g}" for weight in wrong))
    return [BlendPart(paths=(path,), weight=weight) for path, weight in zip(words[1::2], numbers, strict=True)]
