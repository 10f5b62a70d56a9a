"""ended.json: that the run has finished or was asked to stop; `watch` reads it."""

from __future__ import annotations

from megatron_patch.runs.status import record_end
from megatron_patch.trainer.callbacks.base import Callback, End, Rank


def make(rank: Rank) -> Callback | None:
    """On the rank that speaks. What goes wrong is noted where it is said: `streams.py`, `torchrun.py`."""
    return EndRecord(rank) if rank.speaks else None


class EndRecord(Callback):
    """After the export."""

    priority = -20

    def __init__(self, rank: Rank) -> None:
        self._rank = rank

    def end(self, end: End) -> None:
        record_end(self._rank.output_dir, end.how, end.cause, end.iteration)
