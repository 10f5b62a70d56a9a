"""Samples as training rows: a torch Dataset in which every item is a pure function of its number.

Resuming needs no state: item `i` is row `i % rows` of epoch `i // rows`, in the order that seed and epoch decide.
Items have the shapes of megatron-core's own SFT dataset (megatron/training/datasets/sft_dataset.py, 0.19.2), so
`get_batch_on_this_tp_rank`, `get_batch_on_this_cp_rank` and `flatten_batch_for_packed_sequences` take them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from megatron_patch.data.sft.blend import interleave
from megatron_patch.data.sft.packing import Packing, pack, padded
from megatron_patch.data.sft.prepare import Component
from megatron_patch.data.sft.selection import Samples

AVERAGES = ("token", "sequence")


@dataclass(frozen=True, kw_only=True)
class Layout:
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
        if self.average not in AVERAGES:
            raise ValueError(f"average is {self.average!r}; valid: {', '.join(AVERAGES)}")
        if self.seq_length % self.multiple:
            raise ValueError(f"sequence length {self.seq_length} is not a multiple of 2 x CP = {self.multiple}")

    @property
    def multiple(self) -> int:
        """Packed samples take up a multiple of so many positions."""
        return 2 * self.context_parallel_size if self.context_parallel_size > 1 else 1

    def rows(self, lengths: npt.NDArray[np.int64]) -> Packing:
        """Distribute samples of these lengths over rows."""
        if self.packing:
            return pack(padded(lengths, self.multiple), self.seq_length)
        return Packing(slots=lengths, starts=np.arange(len(lengths) + 1), capacity=self.seq_length)


class RowDataset(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Rows of one set of samples, epoch after epoch."""

    def __init__(
        self, samples: Samples, layout: Layout, *, num_rows: int | None = None, seed: int | None, boundaries: int = 0
    ) -> None:
        """Args:
        num_rows: length of the dataset; None for one epoch.
        seed: of the order; None keeps the order of the data, for validation.
        boundaries: entries of `cu_seqlens`, where datasets must agree on it; 0 takes what is needed.
        """
        self.samples = samples
        self.layout = layout
        self.packing = layout.rows(samples.lengths)
        self.num_rows = len(self.packing) if num_rows is None else num_rows
        self.seed = seed
        self.boundaries = boundaries or self.packing.widest + 2
        self._epoch: tuple[int, npt.NDArray[np.int64], npt.NDArray[np.int64]] | None = None

    def __len__(self) -> int:
        return self.num_rows

    @property
    def rows_per_epoch(self) -> int:
        return len(self.packing)

    @property
    def fill(self) -> float:
        """Share of all positions that carry a sample, 0 to 1."""
        return self.packing.fill(int(self.samples.lengths.sum()))

    def members(self, number: int) -> list[int]:
        """The samples in item `number`, in their order in the row."""
        epoch, at = divmod(number, len(self.packing))
        members, order = self._order(epoch)
        row = order[at]
        return members[self.packing.starts[row] : self.packing.starts[row + 1]].tolist()

    def _order(self, epoch: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The sample in each slot, and the order of the rows; the last epoch asked for is remembered."""
        if self._epoch is None or self._epoch[0] != epoch:
            count = len(self.samples.lengths)
            if self.seed is None:
                dealt, order = np.arange(count), np.arange(len(self.packing))
            else:
                random = np.random.Generator(np.random.PCG64([self.seed, epoch]))
                dealt, order = random.permutation(count), random.permutation(len(self.packing))
            lengths = self.samples.lengths
            if self.layout.packing:
                lengths = padded(lengths, self.layout.multiple)
            self._epoch = (epoch, self.packing.deal(lengths, dealt), order)
        return self._epoch[1], self._epoch[2]

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        """One row.

        Returns:
            `tokens`, `labels`, `position_ids` int64 [seq_length]; `loss_mask` float32 [seq_length], the weight of
            each label; when packing also `cu_seqlens` int32 [boundaries], where samples start and the row ends, filled
            up with `seq_length`, and `max_seqlen` int32 [], the longest of them. Padding behind a sample (for CP)
            counts as part of it and the end of the row as a sample of its own: attention is causal, so neither
            reaches a token that is trained on, and the same boundaries serve as padded ones.
        """
        size = self.layout.seq_length
        tokens = np.full(size, self.layout.pad_id, dtype=np.int64)
        labels = np.full(size, self.layout.pad_id, dtype=np.int64)
        weights = np.zeros(size, dtype=np.float32)
        positions = np.empty(size, dtype=np.int64)
        starts = [0]
        for member in self.members(number):
            inputs, targets, mask = self.samples.sample(member)
            at = starts[-1]
            body = slice(at, at + len(inputs))
            tokens[body], labels[body] = inputs, targets
            weights[body] = mask / (mask.sum() if self.layout.average == "sequence" else 1)
            end = at + int(padded(np.int64(len(inputs)), self.layout.multiple)) if self.layout.packing else size
            positions[at:end] = np.arange(end - at)
            starts.append(end)
        positions[starts[-1] :] = np.arange(size - starts[-1])
        row: dict[str, Any] = {"tokens": tokens, "labels": labels, "loss_mask": weights, "position_ids": positions}
        item = {name: torch.from_numpy(values) for name, values in row.items()}
        if self.layout.packing:
            ends = np.full(self.boundaries, size, dtype=np.int32)
            ends[: len(starts)] = starts
            item["cu_seqlens"] = torch.from_numpy(ends)
            item["max_seqlen"] = torch.tensor(np.diff(ends).max(), dtype=torch.int32)
        return item


class BlendedRows(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Rows of several datasets by weight; item `i` depends on `i` alone here too."""

    def __init__(self, parts: list[RowDataset], weights: list[float], num_rows: int) -> None:
        """Args:
        parts: of one layout.
        weights: positive shares of the rows, not normalised.
        """
        self.parts = parts
        self.which, self.row = interleave(weights, num_rows)
        boundaries = max(part.boundaries for part in parts)
        for part in parts:
            part.boundaries = boundaries

    def __len__(self) -> int:
        return len(self.which)

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        """See `RowDataset`."""
        return self.parts[self.which[number]][int(self.row[number])]


def training_rows(components: list[Component], layout: Layout, *, num_rows: int, seed: int) -> RowDataset | BlendedRows:
    """The training set of a run.

    Args:
        components: of `prepare.open_components`.
        num_rows: rows that training takes: iterations x global batch size.
        seed: of the order, with the epoch.
    """
    # Each dataset its own order: equal ones would otherwise repeat each other row by row.
    parts = [
        RowDataset(component.samples, layout, num_rows=num_rows, seed=seed + number)
        for number, component in enumerate(components)
    ]
    if len(parts) == 1:
        return parts[0]
    weights = [component.weight or part.rows_per_epoch for component, part in zip(components, parts, strict=True)]
    return BlendedRows(parts, weights, num_rows)


def validation_rows(component: Component, layout: Layout) -> RowDataset:
    """One validation set: every sample once, always in the same rows."""
    return RowDataset(component.samples, layout, seed=None)
