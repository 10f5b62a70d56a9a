"""Where the time until the first step went: startup.json, and one line on the screen."""

from __future__ import annotations

from typing import Any

from megatron_patch.backend.hooks import Step
from megatron_patch.trainer.callbacks.base import Callback, Rank
from megatron_patch.trainer.startup import Startup


def make(rank: Rank) -> Callback | None:
    """On every rank: which one speaks is not what takes the time."""
    return StartupAccount(rank)


class StartupAccount(Callback):
    """Notes each part as it is done."""

    priority = 40

    def __init__(self, rank: Rank) -> None:
        self._rank = rank
        self._startup: Startup | None = rank.startup

    def built(self, part: str) -> None:
        if self._startup is not None:
            self._startup.done(part)

    def train_start(self, args: Any, model: list[Any]) -> None:
        self.built("data")

    def step(self, step: Step) -> None:
        startup, self._startup = self._startup, None
        if startup is not None and self._rank.speaks:
            startup.done("first step")
            startup.write(self._rank.output_dir)
            self._rank.screen.say(startup.line())
