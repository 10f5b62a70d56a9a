"""Several datasets by weight: what DATASET_PATH may say, and which sample comes from which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from megatron_patch.data.jsonl import DataError


@dataclass(frozen=True, kw_only=True)
class Part:
    """One dataset of a blend."""

    paths: tuple[str, ...]
    weight: float | None
    """Share of the training rows, not normalised; None without weights: as many rows as it has."""


def parse_blend(words: Sequence[str]) -> list[Part]:
    """`0.3 A 0.7 B` is two parts; `A B` is one, all rows of which are mixed.

    Args:
        words: as in Megatron's `--data-path`.
    Raises:
        DataError: a weight that is none, or paths and weights that do not take turns.
    """
    if not words:
        raise DataError("no dataset is named")
    weights = [_weight(word) for word in words[::2]]
    if weights[0] is None or len(words) == 1:
        return [Part(paths=tuple(words), weight=None)]
    paths = words[1::2]
    if len(paths) != len(weights) or None in weights:
        raise DataError(f"a weighted blend is WEIGHT PATH WEIGHT PATH ...; found {' '.join(words)}")
    numbers = [weight for weight in weights if weight is not None]
    if wrong := [weight for weight in numbers if not 0 < weight < float("inf")]:
        raise DataError(f"weights are positive numbers; found {', '.join(f'{weight:g}' for weight in wrong)}")
    return [Part(paths=(path,), weight=weight) for path, weight in zip(paths, numbers, strict=True)]


def _weight(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None


def interleave(weights: Sequence[float], count: int) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.int64]]:
    """Which dataset each of `count` rows comes from, and which of its rows, counted from 0 without end.

    The j-th row of a dataset of share w is due at (j + 1/2) / w: after any number of rows, each dataset has had its
    share of them to within one row.
    """
    shares = np.array(weights, dtype=np.float64) / sum(weights)
    due = [(np.arange(int(np.ceil(count * share)) + 2) + 0.5) / share for share in shares]
    which = np.concatenate([np.full(len(times), number, dtype=np.int16) for number, times in enumerate(due)])
    row = np.concatenate([np.arange(len(times), dtype=np.int64) for times in due])
    order = np.argsort(np.concatenate(due), kind="stable")[:count]
    return which[order], row[order]
