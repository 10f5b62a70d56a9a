"""Samples as training rows: a torch Dataset in which every item is a pure function of its number.

Resuming needs no state: item `i` is row `i % rows` of epoch `i // rows`, in the order that seed and epoch decide.
Items have the shapes of megatron-core's own SFT dataset (megatron/training/datasets/sft_dataset.py, 0.19.2), so
`get_batch_on_this_tp_rank`, `get_batch_on_this_cp_rank` and `flatten_batch_for_packed_sequences` take them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from megatron_patch.common.messages import Message
from megatron_patch.data.sft.blend import interleave
from megatron_patch.data.sft.layout import RowLayout, lay_out
from megatron_patch.data.sft.prepare import Component
from megatron_patch.data.sft.selection import Samples


class RowDataset(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Rows of one set of samples, epoch after epoch."""

    def __init__(
        self, samples: Samples, layout: RowLayout, *, num_rows: int | None = None, seed: int | None, boundaries: int = 0
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
        """Rows in which every sample lies once."""
        return len(self.packing)

    @property
    def fill(self) -> float:
        """Share of all positions that carry a sample, 0 to 1."""
        return self.packing.fill(int(self.samples.lengths.sum()))

    def describe(self) -> Message:
        """For people: rows, fill and epochs."""
        one = {"samples": len(self.samples.lengths), "rows": self.rows_per_epoch, "length": self.layout.seq_length}
        epochs = self.num_rows / max(1, self.rows_per_epoch)
        return Message("sft-rows", **one, filled=self.fill, taken=self.num_rows, epochs=epochs)

    def members(self, number: int) -> list[int]:
        """The samples in item `number`, in their order in the row."""
        epoch, at = divmod(number, len(self.packing))
        members, order = self._order(epoch)
        row = order[at]
        inside: list[int] = members[self.packing.starts[row] : self.packing.starts[row + 1]].tolist()
        return inside

    def _order(self, epoch: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The sample in each slot, and the order of the rows; the last epoch asked for is remembered."""
        if self._epoch is None or self._epoch[0] != epoch:
            count = len(self.samples.lengths)
            if self.seed is None:
                dealt, order = np.arange(count), np.arange(len(self.packing))
            else:
                random = np.random.Generator(np.random.PCG64([self.seed, epoch]))
                dealt, order = random.permutation(count), random.permutation(len(self.packing))
            footprints = self.layout.footprints(self.samples.lengths)
            self._epoch = (epoch, self.packing.deal(footprints, dealt), order)
        return self._epoch[1], self._epoch[2]

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        """One row, as `layout.lay_out` makes it; see there for names, shapes and meaning."""
        row = [self.samples.sample(member) for member in self.members(number)]
        arrays = lay_out(row, self.layout, self.boundaries)
        return {name: torch.from_numpy(values) for name, values in arrays.items()}


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

    def describe(self) -> Message:
        """For people: what each dataset contributes."""
        taken = np.bincount(self.which, minlength=len(self.parts))
        shares = zip(self.parts, taken, strict=True)
        told = [Message("sft-share", taken=int(rows), rows=part.rows_per_epoch) for part, rows in shares]
        return Message("sft-shares", shares=told)

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        """See `RowDataset`."""
        part = self.parts[int(self.which[number])]
        return part[int(self.row[number])]


def training_rows(
    components: list[Component], layout: RowLayout, *, num_rows: int, seed: int
) -> RowDataset | BlendedRows:
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


def validation_rows(component: Component, layout: RowLayout) -> RowDataset:
    """One validation set: every sample once, always in the same rows."""
    return RowDataset(component.samples, layout, seed=None)


class ValidationRows(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """The same rows in every validation, an equal number of each set, with `source`: which set a row is of."""

    def __init__(self, components: list[Component], layout: RowLayout, *, per_evaluation: int, num_rows: int) -> None:
        """Args:
        components: the sets.
        per_evaluation: rows of one validation; a set with fewer than its share is gone through again.
        num_rows: rows of all validations of the run.
        """
        self.parts = [validation_rows(component, layout) for component in components]
        self.num_rows = num_rows
        self.which, self.row = interleave([1.0] * len(components), per_evaluation)
        boundaries = max(part.boundaries for part in self.parts)
        for part in self.parts:
            part.boundaries = boundaries

    def __len__(self) -> int:
        return self.num_rows

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        """As `RowDataset`, with `source`, int64 []."""
        at = number % len(self.which)
        which = int(self.which[at])
        part = self.parts[which]
        return part[int(self.row[at]) % part.rows_per_epoch] | {"source": torch.tensor(which)}
