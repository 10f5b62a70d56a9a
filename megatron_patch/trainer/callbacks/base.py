"""What a callback is told, and what it may know of the rank in which it lives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from megatron_patch.backend.hooks import Step
from megatron_patch.common.messages import Message
from megatron_patch.trainer.screen import Screen
from megatron_patch.trainer.startup import Startup


@dataclass(frozen=True, kw_only=True)
class Rank:
    """One process of a run."""

    rank: int
    world_size: int
    output_dir: Path
    """The run's folder."""
    device: str
    """Name of what it computes on: `NVIDIA H200`, `CPU process`."""
    unit: str
    """What one rank runs on, for rates: `GPU` or `process`."""
    screen: Screen
    startup: Startup
    """The account of the way to the first step."""

    @property
    def speaks(self) -> bool:
        """Whether this rank records and shows for all: the last one, as only the last pipeline stage knows the loss."""
        return self.screen.speaks


@dataclass(frozen=True, kw_only=True)
class End:
    """How a run ended on this rank."""

    how: Literal["finished", "stopped", "failed"]
    """All iterations are done; it was asked to end; something went wrong."""
    cause: Message | None
    """None where all iterations are done."""
    iteration: int
    """Steps that are done."""


class Callback:
    """Told what happens, in the order of these methods, on every rank that has one. An error in it ends the run."""

    priority: ClassVar[int] = 0
    """Who has more is told first."""

    def arguments(self, args: Any) -> None:
        """Megatron's arguments are read and checked; nothing is built yet."""

    def built(self, part: str) -> None:
        """A part of the way to the first step is behind."""

    def train_start(self, args: Any, model: list[Any]) -> None:
        """Everything is built and loaded; `args.iteration` steps are done already."""

    def step_begins(self, iteration: int) -> None:
        """An iteration, counted from 1, begins; one that is passed over does not."""

    def step(self, step: Step) -> None:
        """An optimizer step is done."""

    def evaluated(self, iteration: int, split: str, loss: float | None, parts: dict[str, float]) -> None:
        """`split` (`validation` or `test`) has been evaluated after `iteration` steps.

        Args:
            loss: over all of it; None on ranks without the last pipeline stage.
            parts: of each of its data sets by name, where it has several.
        """

    def stops(self) -> Message | None:
        """Why training is done after this step, the same on all ranks; None where it goes on."""
        return None

    def saved(self, iteration: int) -> None:
        """Training goes on after a checkpoint; an asynchronous one may still be written."""

    def end(self, end: End) -> None:
        """Training is over, the process group is gone, and the other ranks need not be waited for."""

    def close(self) -> None:
        """Free what is held, however the run ended; called once, in the opposite order, before `end`."""
