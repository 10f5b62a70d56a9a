"""Every batch holds ids of the tokenizer alone: looked at on the CPU, before a rank's device sees it.

Before a start the launcher looks at the ends of the data and at a share of what lies between. What it has missed ends
the run here, with file and place: embedding and loss would mask such ids silently at TP > 1, a GPU would read beside
the table, and `GPTDataset` takes -1 for padding.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from megatron.core.datasets import gpt_dataset
from megatron.training import get_args, get_tokenizer
from megatron.training.utils import get_blend_and_blend_per_split

from megatron_patch.common.messages import Message
from megatron_patch.data.check_idxmap import wrong_token
from megatron_patch.data.idxmap.reader import BrokenIndex, read_index
from megatron_patch.trainer.errors import DatasetError

NOT_AN_ID = 1 << 40
"""Stands in a sample that holds a negative number: the process that reads the batch says which."""


class GPTDataset(gpt_dataset.GPTDataset):  # type: ignore[misc]
    """Megatron's, under its name, which is part of the names of index files."""

    def _query_document_sample_shuffle_indices(self, idx: int) -> tuple[Any, Any, list[int]]:
        text, documents, lengths = super()._query_document_sample_shuffle_indices(idx)
        if text[: sum(lengths)].min(initial=0) < 0:  # behind that its own padding
            text[0] = NOT_AN_ID
        return text, documents, lengths


def check_ids(sample: dict[str, torch.Tensor]) -> None:
    """Refuse a batch that holds something else than ids.

    Raises:
        DatasetError: with file and place, where an idxmap holds it.
    """
    args = get_args()
    count = known_ids(args.padded_vocab_size)
    for key in ("tokens", "labels"):
        least, highest = (int(end) for end in torch.aminmax(sample[key]))
        if least < 0 or highest >= count:
            if found := _where(args, count):
                raise DatasetError.of([found])
            raise DatasetError("token-id-beyond", id=least if least < 0 else highest, count=count)


@functools.cache
def known_ids(padded: int) -> int:
    """Highest id of the tokenizer + 1; at most the rows of the embedding."""
    tokenizer = get_tokenizer()
    return min(padded, int(getattr(tokenizer, "ids", None) or getattr(tokenizer, "vocab_size", None) or padded))


def _where(args: Any, count: int) -> Message | None:
    """The first number in the data that is not an id; None if these are not idxmaps. Reads all, as the run is over."""
    if args.mock_data or args.sft_data is not None:
        return None
    blend, blend_per_split = get_blend_and_blend_per_split(args)
    blends = [blend] if blend is not None else blend_per_split or []
    for prefix in dict.fromkeys(prefix for one in blends if one is not None for prefix in one[0]):
        try:
            index = read_index(Path(f"{prefix}.idx"))
            if found := wrong_token(index, Path(f"{prefix}.bin"), count, None):
                return found
        except (BrokenIndex, OSError):
            continue
    return None
