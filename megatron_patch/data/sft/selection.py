"""Which rows of a dataset are trained on, at a sequence length: the rest is counted and reported."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from megatron_patch.common.messages import Message
from megatron_patch.data.rows import place
from megatron_patch.data.sft.cache import TokenizedCache
from megatron_patch.data.sft.loss_mask import EARLIER_TURN, LAST_TURN, Tokens, trained
from megatron_patch.data.sft.report import NOTHING_TRAINED, TOO_LONG, DataReport, TooMuchLost

OVERLONG = ("truncate", "drop", "error")
MAX_LOST = 0.1
"""Share of the rows that may be lost before training refuses to start."""

Mask = npt.NDArray[np.bool_]


class Samples(Protocol):
    """What a dataset lays out in rows: the samples of a cache, or of an idxmap."""

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """[samples], positions of each: one less than its tokens, since each position predicts the next token."""

    def sample(self, number: int) -> tuple[Tokens, Tokens, Mask]:
        """Inputs, labels, and which of the labels are trained on; [length] each."""

    def origin(self, number: int) -> Message | str:
        """Where the sample comes from, for people."""


@dataclass(frozen=True, kw_only=True)
class SelectedRows:
    """The rows of a cache that are trained on: `Samples`."""

    cache: TokenizedCache
    rows: npt.NDArray[np.int64]
    """[samples], rows of the cache, ascending."""
    lengths: npt.NDArray[np.int64]
    loss: str
    """Of `loss_mask.LOSSES`."""

    @property
    def conversations(self) -> npt.NDArray[np.int64]:
        """[samples], the conversation that each comes from, numbered from 0."""
        places = self.cache.origins[self.rows]
        return np.unique(places, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)

    def sample(self, number: int) -> tuple[Tokens, Tokens, Mask]:
        """See `Samples`."""
        tokens, turns = self.cache.row(int(self.rows[number]))
        end = int(self.lengths[number]) + 1
        return tokens[: end - 1], tokens[1:end], trained(turns[:end], self.loss)[1:]

    def origin(self, number: int) -> Message | str:
        """See `Samples`."""
        return place(*self.cache.origin(int(self.rows[number])))


def select(
    cache: TokenizedCache, *, seq_length: int, loss: str, overlong: str = "truncate", max_lost: float = MAX_LOST
) -> tuple[SelectedRows, DataReport]:
    """Decide about each row, and account for those that are not used.

    Args:
        seq_length: positions of a training row.
        loss: of `loss_mask.LOSSES`.
        overlong: a row of more than `seq_length + 1` tokens is cut (`truncate`), left out (`drop`), or an error.
        max_lost: largest share of the rows that may go unused.
    Raises:
        TooMuchLost: more than that is lost, a row is too long and that is an error, or nothing is left.
    """
    if overlong not in OVERLONG:
        raise ValueError(f"overlong is {overlong!r}; valid: {', '.join(OVERLONG)}")
    report = copy.deepcopy(cache.report)
    lengths = np.diff(cache.offsets)
    too_long = np.flatnonzero(lengths > seq_length + 1)
    _report_too_long(cache, report, too_long, lengths, overlong, seq_length)
    positions = np.minimum(lengths, seq_length + 1) - 1
    targets = _count_targets(cache, positions, loss)
    keep = targets > 0
    if overlong == "drop":
        keep[too_long] = False
        targets[too_long] = 1  # already accounted for
    for row in np.flatnonzero(targets == 0):
        tokens, most = int(lengths[row]), seq_length + 1
        why = Message("row-none-trained", tokens=tokens, loss=loss)
        if tokens > most:
            why = Message("row-none-trained-cut", most=most, tokens=tokens)
        report.lose(NOTHING_TRAINED, *cache.origin(int(row)), why)
    rows = np.flatnonzero(keep)
    report.samples = len(rows)
    report.tokens = int(positions[rows].sum())
    report.trained_tokens = int(targets[rows].sum())
    report.check(max_lost)
    return SelectedRows(cache=cache, rows=rows, lengths=positions[rows], loss=loss), report


def _report_too_long(
    cache: TokenizedCache,
    report: DataReport,
    too_long: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    overlong: str,
    seq_length: int,
) -> None:
    for row in too_long:
        why = Message("row-too-long", tokens=int(lengths[row]), most=seq_length + 1)
        if overlong == "truncate":
            report.truncated.add(*cache.origin(int(row)), why)
        else:
            report.lose(TOO_LONG, *cache.origin(int(row)), why)
    if overlong == "error" and len(too_long):
        raise TooMuchLost("sft-overlong", report=report.lines())


def _count_targets(cache: TokenizedCache, positions: npt.NDArray[np.int64], loss: str) -> npt.NDArray[np.int64]:
    """Trained tokens of each row within its first `positions + 1` tokens."""
    if loss == "all":
        return np.maximum(positions, 0)
    least = LAST_TURN if loss == "last" else EARLIER_TURN
    counts = np.zeros(len(positions), dtype=np.int64)
    for first, last in _blocks(cache.offsets):
        start, end = cache.offsets[first], cache.offsets[last]
        running = np.concatenate([[0], np.cumsum(cache.turns[start:end] >= least)])
        heads = cache.offsets[first:last] - start
        counts[first:last] = running[heads + positions[first:last] + 1] - running[np.minimum(heads + 1, end - start)]
    return np.maximum(counts, 0)  # a row of no tokens at all


def _blocks(offsets: npt.NDArray[np.int64], tokens: int = 1 << 24) -> Iterator[tuple[int, int]]:
    """Ranges of rows with about so many tokens: bounds the memory of a running sum."""
    first = 0
    while first < len(offsets) - 1:
        last = int(np.searchsorted(offsets, offsets[first] + tokens, side="right"))
        last = min(max(last - 1, first + 1), len(offsets) - 1)
        yield first, last
        first = last
