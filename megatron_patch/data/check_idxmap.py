"""Whether pretraining and SFT idxmaps can be trained on: `python -m megatron_patch.data.check_idxmap`.

The driver runs this in a process of its own before a start, as it imports no numpy itself: a dry run stays quick. It
reads a JSON object from standard input, `{"prefixes": [...], "vocab_size": N, "sft": false}`, and prints a JSON list of
what is wrong, `[[PREFIX, MESSAGE], ...]`. The structure of the index is checked whole; of the tokens as much as BUDGET,
spread over the file.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from megatron_patch.common.messages import Message, as_json
from megatron_patch.data.idxmap.prepared import why
from megatron_patch.data.idxmap.reader import BrokenIndex, Index, problems_of, read_index, size_problem

BUDGET = 1 << 28
"""Bytes of tokens looked at in all datasets together: a second, from a disk that is not slow."""
BLOCK = 1 << 22
"""Bytes of tokens looked at at once."""


def problems(prefix: str, *, vocab_size: int, sft: bool, budget: int = BUDGET) -> list[Message]:
    """What is wrong with a dataset, with file and place; empty if nothing is.

    Args:
        vocab_size: ids must be below it.
        sft: its numbers are tokens and labels, which `open_idxmap` checks, all of them, on each rank.
    """
    try:
        index = read_index(Path(f"{prefix}.idx"))
    except BrokenIndex as error:
        return list(error.messages)
    found = problems_of(index)
    data = Path(f"{prefix}.bin")
    if wrong := size_problem(index, data):
        found.append(wrong)
    if not found and not sft and (wrong := wrong_token(index, data, vocab_size, budget)):
        found.append(wrong)
    return found


def wrong_token(index: Index, data: Path, vocab_size: int, budget: int | None) -> Message | None:
    """The first number met that is not an id of the vocabulary."""
    for start, tokens in blocks(index, data, budget):
        if int(tokens.max()) < vocab_size and int(tokens.min()) >= 0:
            continue
        at = int(np.argmax((tokens < 0) | (tokens >= vocab_size)))
        where = {"sequence": index.sequence_at(start + at), "byte": (start + at) * index.dtype.itemsize}
        token = int(tokens[at])
        return Message("idxmap-wrong-id-in", file=data, token=token, **where, why=why(token, vocab_size))
    return None


def blocks(index: Index, data: Path, budget: int | None = None) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """Tokens by blocks, each with the number of tokens before it; with a budget in bytes evenly spread ones only."""
    tokens = np.memmap(data, dtype=index.dtype, mode="r")
    size = BLOCK // index.dtype.itemsize
    starts: Sequence[int] = range(0, len(tokens), size)
    if budget is not None and len(starts) * BLOCK > budget:
        take = max(2, budget // BLOCK)
        starts = [starts[(len(starts) - 1) * number // (take - 1)] for number in range(take)]
    for start in starts:
        yield start, tokens[start : start + size]


def main() -> int:
    """The process that the driver starts."""
    asked = json.load(sys.stdin)
    prefixes = asked["prefixes"]
    budget = BUDGET // max(1, len(prefixes))
    found = [
        (prefix, as_json(problem))
        for prefix in prefixes
        for problem in problems(prefix, vocab_size=asked["vocab_size"], sft=asked["sft"], budget=budget)
    ]
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
