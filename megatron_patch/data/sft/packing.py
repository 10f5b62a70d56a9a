"""Best-fit decreasing packing, by lengths: how samples share rows of the sequence length.

What a row looks like depends on the lengths in it alone, so lengths are packed, not samples: equal ones are handled
together, and the work grows with the number of different lengths rather than of samples. Which sample of a length
sits in which row is dealt out anew in each epoch.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Packing:
    """Rows as lists of lengths. Row `i` holds the slots `starts[i]` to `starts[i + 1]`."""

    slots: Ints
    """[samples], the length that fits each slot, padding included."""
    starts: Ints
    """[rows + 1]"""
    capacity: int
    """Positions of a row."""

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def widest(self) -> int:
        """Largest number of samples in a row."""
        return int(np.diff(self.starts).max(initial=0))

    def fill(self, positions: int) -> float:
        """Share of all positions that carry a sample, 0 to 1.

        Args:
            positions: of all samples together, without padding.
        """
        return positions / (len(self) * self.capacity)

    def deal(self, lengths: Ints, order: Ints) -> Ints:
        """Put samples into the slots.

        Args:
            lengths: [samples], padded, as they were packed.
            order: [samples], a permutation: equal lengths are dealt in this order.
        Returns:
            [samples], the sample in each slot.
        """
        members = np.empty(len(order), dtype=np.int64)
        members[np.argsort(self.slots, kind="stable")] = order[np.argsort(lengths[order], kind="stable")]
        return members


def padded(lengths: Ints, multiple: int) -> Ints:
    """Lengths rounded up: context parallelism cuts each sample into `2 * CP` equal parts."""
    return -(-lengths // multiple) * multiple


def pack(lengths: Ints, capacity: int) -> Packing:
    """Best-fit decreasing: the longest first, each into the fullest row that still takes it.

    Args:
        lengths: [samples], 1 to `capacity`.
        capacity: positions of a row.
    Raises:
        ValueError: a length out of that range.
    """
    if len(lengths) and not (lengths.min() >= 1 and lengths.max() <= capacity):
        raise ValueError(f"lengths are {lengths.min()} to {lengths.max()}; they must be 1 to {capacity}")
    shelf = _Shelf(capacity)
    counts = np.bincount(lengths)
    for length in np.flatnonzero(counts)[::-1]:
        shelf.place(int(length), int(counts[length]))
    return shelf.packing()


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """Some rows with the same lengths in them: those of `base`, and `times` more of `length`."""

    count: int
    base: _Rows | None
    length: int
    times: int

    def lengths(self) -> list[int]:
        found: list[int] = []
        rows: _Rows | None = self
        while rows is not None:
            found += [rows.length] * rows.times
            rows = rows.base
        return found


@dataclass
class _Shelf:
    """Open rows by what is free in them."""

    capacity: int
    free: dict[int, list[_Rows]] = field(default_factory=dict)
    sizes: list[int] = field(default_factory=list)
    """The keys of `free`, ascending."""

    def place(self, length: int, count: int) -> None:
        """Place `count` samples of one length."""
        while count:
            at = bisect_left(self.sizes, length)
            if at == len(self.sizes):
                times = self.capacity // length
                count -= self._fill(None, -(-count // times), self.capacity, length, count)
                continue
            size = self.sizes[at]
            rows = self.free[size].pop()
            if not self.free[size]:
                del self.free[size], self.sizes[at]
            count -= self._fill(rows, rows.count, size, length, count)

    def _fill(self, base: _Rows | None, available: int, size: int, length: int, count: int) -> int:
        """Put samples into `available` equal rows, as many into each as fit; returns how many found a place.

        A row that has just taken a sample is the fullest that takes the next one: best fit fills it to the end.
        """
        times = size // length
        full = min(available, count // times)
        rest = count - full * times if full < available else 0
        rest = min(rest, times - 1)
        if full:
            self._open(_Rows(count=full, base=base, length=length, times=times), size - times * length)
        if rest:
            self._open(_Rows(count=1, base=base, length=length, times=rest), size - rest * length)
        untouched = available - full - bool(rest)
        if base is not None and untouched:
            self._open(_Rows(count=untouched, base=base.base, length=base.length, times=base.times), size)
        return full * times + rest

    def _open(self, rows: _Rows, size: int) -> None:
        if size not in self.free:
            insort(self.sizes, size)
            self.free[size] = []
        self.free[size].append(rows)

    def packing(self) -> Packing:
        """All rows, the fullest first."""
        slots, widths = [np.zeros(0, dtype=np.int64)], [np.zeros(1, dtype=np.int64)]
        for size in self.sizes:
            for rows in self.free[size]:
                lengths = rows.lengths()
                slots.append(np.tile(np.array(lengths, dtype=np.int64), rows.count))
                widths.append(np.full(rows.count, len(lengths), dtype=np.int64))
        return Packing(slots=np.concatenate(slots), starts=np.cumsum(np.concatenate(widths)), capacity=self.capacity)
