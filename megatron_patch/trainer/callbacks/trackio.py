"""Trackio: its local database (TRACKIO_DIR, else its own folder in the home folder), or TRACKIO_SPACE_ID.

Asked for by MP_LOGGERS. `trackio show` opens the board.
"""

from __future__ import annotations

import os
from typing import Any

from megatron_patch.trainer.callbacks.base import Callback, Rank
from megatron_patch.trainer.loggers import PROJECT, ExternalLogger


def make(rank: Rank) -> Callback | None:
    """On the rank that speaks."""
    return Trackio(rank) if rank.speaks else None


class Trackio(ExternalLogger):
    """A run is known there by its name: ours ends with eight digits of the id."""

    name = "trackio"

    def open(self, run_id: str, config: dict[str, Any], *, resumed: bool) -> None:
        import trackio

        self._run = trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", PROJECT),
            name=f"{self.run_name}-{run_id[:8]}",
            space_id=os.environ.get("TRACKIO_SPACE_ID"),
            config=config,
            resume="allow",
            embed=False,
            auto_log_gpu=False,
        )

    def log(self, metrics: dict[str, float], iteration: int) -> None:
        self._run.log(metrics, step=iteration)

    def finish(self) -> None:
        self._run.finish()
