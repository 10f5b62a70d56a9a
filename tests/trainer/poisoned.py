"""The trainer with a model that one token makes infinite: `torchrun poisoned.py FLAGS`.

The embedding's row of token POISON holds inf where a run begins from random weights; a checkpoint keeps it. A document
with that token has a loss of NaN, and no other has.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from megatron_patch.trainer import entry

POISON = 253


def poison(model_chunks: list[Any]) -> None:
    for chunk in model_chunks:
        embedding = getattr(chunk, "embedding", None)
        if embedding is None:
            continue
        table = embedding.word_embeddings
        if table.vocab_start_index <= POISON < table.vocab_end_index:
            with torch.no_grad():
                table.weight[POISON - table.vocab_start_index] = math.inf


if __name__ == "__main__":
    after_construction = entry._after_construction

    def infect(args: Any, callbacks: Any, model_chunks: list[Any]) -> list[Any]:
        built = after_construction(args, callbacks, model_chunks)
        poison(built)
        return built

    entry._after_construction = infect
    entry.main()
