"""What this rank does, for the launcher's watch over it (`runs/heartbeat.py`)."""

from __future__ import annotations

from typing import Any

from megatron_patch.backend.hooks import Step
from megatron_patch.runs.heartbeat import HEART
from megatron_patch.trainer.callbacks.base import Callback, Rank


def make(rank: Rank) -> Callback | None:
    """On every rank."""
    return Heartbeat()


class Heartbeat(Callback):
    """Names the phase; `trainer/step.py` and the backend say when they get on in it."""

    priority = 50

    def built(self, part: str) -> None:
        HEART.advance(f"start-up ({part})", timed=False)

    def train_start(self, args: Any, model: list[Any]) -> None:
        HEART.advance("the first step", step=args.iteration + 1)

    def step(self, step: Step) -> None:
        HEART.advance("between two steps", step=step.iteration + 1)

    def evaluated(self, iteration: int, split: str, loss: float | None, parts: dict[str, float]) -> None:
        HEART.advance("between two steps")

    def close(self) -> None:
        HEART.advance("the end", timed=False)
