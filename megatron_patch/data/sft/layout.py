"""How samples lie in a training row: arrays that a dataset turns into tensors, and `inspect` prints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from megatron_patch.data.jsonl import DataError
from megatron_patch.data.sft.loss_mask import Tokens
from megatron_patch.data.sft.packing import Packing, pack, padded
from megatron_patch.data.sft.selection import Mask

AVERAGES = ("token", "sequence")


@dataclass(frozen=True, kw_only=True)
class RowLayout:
    """How samples become rows."""

    seq_length: int
    """Positions of a row."""
    packing: bool
    """Several samples in a row, each attending to itself alone; without it one, padded."""
    pad_id: int
    """Fills what no sample covers; never trained on."""
    context_parallel_size: int = 1
    """Above 1 each packed sample is padded to a multiple of twice as many positions, to be cut evenly."""
    average: str = "token"
    """`token`: each trained token weighs 1; `sequence`: each sample weighs 1, shared by its trained tokens."""

    def __post_init__(self) -> None:
        """
        Raises:
            DataError: context parallelism cannot cut such rows evenly.
        """
        if self.average not in AVERAGES:
            raise ValueError(f"average is {self.average!r}; valid: {', '.join(AVERAGES)}")
        if self.seq_length % self.multiple:
            raise DataError("sft-multiple", length=self.seq_length, multiple=self.multiple)

    @property
    def multiple(self) -> int:
        """Packed samples take up a multiple of so many positions."""
        return 2 * self.context_parallel_size if self.context_parallel_size > 1 else 1

    def footprints(self, lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Positions that samples of these lengths take up, padding behind each included."""
        return padded(lengths, self.multiple) if self.packing else lengths

    def rows(self, lengths: npt.NDArray[np.int64]) -> Packing:
        """Distribute samples of these lengths over rows."""
        if self.packing:
            return pack(self.footprints(lengths), self.seq_length)
        return Packing(slots=lengths, starts=np.arange(len(lengths) + 1), capacity=self.seq_length)


def lay_out(
    samples: list[tuple[Tokens, Tokens, Mask]], layout: RowLayout, boundaries: int
) -> dict[str, npt.NDArray[Any]]:
    """One row.

    Args:
        samples: inputs, labels and mask of each, see `selection.Samples`.
        boundaries: entries of `cu_seqlens`.
    Returns:
        `tokens`, `labels`, `position_ids` int64 [seq_length]; `loss_mask` float32 [seq_length], the weight of each
        label; when packing also `cu_seqlens` int32 [boundaries], where samples start and the row ends, filled up with
        `seq_length`, and `max_seqlen` int32 [], the longest of them. Padding behind a sample (for CP) counts as part
        of it, and the end of the row as a sample of its own: attention is causal, so neither reaches a token that
        is trained on, and the same boundaries serve as padded ones.
    """
    size = layout.seq_length
    tokens = np.full(size, layout.pad_id, dtype=np.int64)
    labels = np.full(size, layout.pad_id, dtype=np.int64)
    weights = np.zeros(size, dtype=np.float32)
    positions = np.empty(size, dtype=np.int64)
    starts = [0]
    for inputs, targets, mask in samples:
        at = starts[-1]
        body = slice(at, at + len(inputs))
        tokens[body], labels[body] = inputs, targets
        weights[body] = mask / (mask.sum() if layout.average == "sequence" else 1)
        end = at + (-(-len(inputs) // layout.multiple) * layout.multiple) if layout.packing else size
        positions[at:end] = np.arange(end - at)
        starts.append(end)
    positions[starts[-1] :] = np.arange(size - starts[-1])
    row: dict[str, npt.NDArray[Any]] = {
        "tokens": tokens,
        "labels": labels,
        "loss_mask": weights,
        "position_ids": positions,
    }
    if layout.packing:
        ends = np.full(boundaries, size, dtype=np.int32)
        ends[: len(starts)] = starts
        row["cu_seqlens"] = ends
        row["max_seqlen"] = np.array(np.diff(ends).max(), dtype=np.int32)
    return row
