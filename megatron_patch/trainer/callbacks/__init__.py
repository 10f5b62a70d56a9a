"""What watches a run, one file each: a file in this folder that has a `make` is a callback, and nothing else names it.

def make(rank: Rank) -> Callback | None:      None where this rank, or this run, has no use for it
    ...
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from typing import Any

from megatron_patch.backend.hooks import Step
from megatron_patch.common.messages import Message
from megatron_patch.trainer.callbacks.base import Callback, End, Rank

__all__ = ["Callback", "Callbacks", "End", "Rank", "Step", "make_all"]


def make_all(rank: Rank) -> Callbacks:
    """The callbacks of every file in this folder."""
    found = []
    for module in pkgutil.iter_modules(__path__):
        make = getattr(importlib.import_module(f"{__name__}.{module.name}"), "make", None)
        callback = make(rank) if make is not None else None
        found += [callback] if callback is not None else []
    return Callbacks(found)


class Callbacks(Callback):
    """All of them, told by priority one after the other; this is what `backend.hooks.observe` tells."""

    def __init__(self, each: Iterable[Callback]) -> None:
        self.each = sorted(each, key=lambda callback: -callback.priority)
        self.started = False
        """Training has begun."""
        self.iteration = 0
        """Steps that are done."""

    def arguments(self, args: Any) -> None:
        for callback in self.each:
            callback.arguments(args)

    def built(self, part: str) -> None:
        for callback in self.each:
            callback.built(part)

    def train_start(self, args: Any, model: list[Any]) -> None:
        self.started, self.iteration = True, args.iteration
        for callback in self.each:
            callback.train_start(args, model)

    def step_begins(self, iteration: int) -> None:
        for callback in self.each:
            callback.step_begins(iteration)

    def step(self, step: Step) -> None:
        self.iteration = step.iteration
        for callback in self.each:
            callback.step(step)

    def evaluated(self, iteration: int, split: str, loss: float | None, parts: dict[str, float]) -> None:
        for callback in self.each:
            callback.evaluated(iteration, split, loss, parts)

    def stops(self) -> Message | None:
        return next((why for callback in self.each if (why := callback.stops())), None)

    def saved(self, iteration: int) -> None:
        for callback in self.each:
            callback.saved(iteration)

    def end(self, end: End) -> None:
        for callback in self.each:
            callback.end(end)

    def close(self) -> None:
        for callback in reversed(self.each):
            callback.close()
