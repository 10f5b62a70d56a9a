"""What becomes of a run that does not go well: the one policy, for launchers and ranks. Standard library only.

    damaged checkpoint   set aside, and the newest sound one is taken; with none left the run ends (FAILED)
    spike                MP_ON_SPIKE: a loss or gradient norm far above the steps before it, or NaN or inf
        off                  NaN or inf ends the run (FAILED); nothing else is looked at
        skip                 the optimizer's step is not taken, on no rank; after SKIPS_IN_A_ROW the run ends (SPIKE)
        stop                 the run ends (SPIKE)
        rollback             the run goes on from the newest checkpoint before the spike, and the iterations between it
                             and the spike's are passed over with their data; a second time to the same checkpoint, or
                             with none before the spike, or at the last iteration: it ends (SPIKE)
    crash, hang          MP_MAX_RESTARTS: started again from the newest checkpoint, so often, unless the same step fails
                         twice in a row, or the rank said what to change (NOT_AGAIN): the same start would end the same

In every case a checkpoint that is being written is finished first, if the ranks still can; no checkpoint is written
after a spike. What happened is kept in `events.jsonl`, which no resume cuts.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any, Literal, Self, get_args

from megatron_patch.common.messages import Message, as_json, read_message
from megatron_patch.common.strict_json import parse_json

EVENTS = "events.jsonl"
SKIPS_IN_A_ROW = 5
"""Steps: when all are spikes, it is not the data."""
MOST, FURTHEST = 10**12, 10**6
"""Iterations of a run, and from a checkpoint to a spike: a file that says more is damaged."""


class Status(IntEnum):
    """Exit status of a launcher, and of a rank."""

    DONE = 0
    FAILED = 1
    REFUSED = 2
    """The command line is wrong, or the folder is in use: nothing was changed."""
    SPIKE = 3
    ROLLED_BACK = 4
    """The next start with the same command does the rest; one machine starts it by itself."""
    HUNG = 5
    NOT_AGAIN = 6
    """Of a rank only: what it said has to be changed first. Its launcher ends with FAILED."""
    LOST = 7
    """Of a rank, and of torchrun on one of several machines: no cause of its own, but a connection to another rank that
    is gone, or a collective in which nobody answered. The launcher waits for the machine that knows the cause."""


EventKind = Literal["skip", "spike", "rollback", "restart", "gave-up", "fallback", "hang", "slow"]


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened to a run besides training."""

    kind: EventKind
    iteration: int | None
    """The step at which it happened; None where that is not known."""
    words: str
    """A sentence for people, in English."""
    message: Message | None = None
    """The same in any language; None in files of earlier versions."""
    at: float = field(default_factory=time.time)
    """Seconds since 1970."""
    to: int | None = None
    """The checkpoint that a rollback goes back to."""
    details: tuple[str, ...] = ()
    """Documents of the batch, and the like."""

    @classmethod
    def of(cls, kind: EventKind, message: Message, *, iteration: int | None, **more: Any) -> Self:
        """That it happens now."""
        return cls(kind=kind, iteration=iteration, words=str(message), message=message, **more)

    @property
    def said(self) -> Message:
        """What happened."""
        return self.message or Message("uncoded", text=self.words)


def note_event(folder: Path, event: Event) -> None:
    """Append to `events.jsonl`. A full disk keeps nobody from going on."""
    with contextlib.suppress(OSError):
        line = json.dumps(vars(event) | {"message": as_json(event.message)}) + "\n"
        descriptor = os.open(folder / EVENTS, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(descriptor, line.encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read_events(folder: Path) -> list[Event]:
    """What happened to a run, oldest first; lines that are not events are passed over."""
    try:
        lines = (folder / EVENTS).read_text(errors="replace").splitlines()
    except OSError:
        return []
    return [event for line in lines if (event := _event(line)) is not None]


def _event(line: str) -> Event | None:
    try:
        content = parse_json(line)
        details = content["details"]
        event = Event(**content | {"details": tuple(details), "message": read_message(content.get("message"))})
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    right = (
        event.kind in get_args(EventKind)
        and isinstance(event.words, str)
        and all(
            number is None or (type(number) is int and 0 <= number < MOST) for number in (event.iteration, event.to)
        )
        and (event.to is None or event.iteration is None or 0 < event.iteration - event.to <= FURTHEST)
        and isinstance(event.at, float)
        and 0 <= event.at < 253e9
        and isinstance(details, list)
        and all(isinstance(one, str) for one in details)
    )
    return event if right else None


def passed_over(events: Iterable[Event]) -> set[int]:
    """Iterations whose data are not trained on: between a checkpoint that the run went back to and the spike."""
    rollbacks = [event for event in events if event.kind == "rollback"]
    return {
        iteration
        for event in rollbacks
        if event.to is not None and event.iteration is not None
        for iteration in range(event.to + 1, event.iteration + 1)
    }


def refuse_rollback(events: Iterable[Event], *, iteration: int, to: int | None, last: int) -> Message | None:
    """Why a run cannot go back from a spike; None where it can.

    Args:
        iteration: of the spike.
        to: the newest sound checkpoint before it.
        last: iteration of the run.
    """
    if to is None:
        return Message("rollback-nowhere")
    if iteration >= last:
        return Message("rollback-last")
    if any(event.kind == "rollback" and event.to == to for event in events):
        return Message("rollback-twice", to=to)
    return None


@dataclass(frozen=True, kw_only=True)
class Failure:
    """How the ranks of one start ended."""

    status: int
    """What a rank ended with: of Status, or minus a signal."""
    iteration: int
    """Steps that were done, -1 before training."""
    cause: Message

    @property
    def is_counted(self) -> bool:
        """A rollback is not: it has its own bound."""
        return self.status != Status.ROLLED_BACK


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether a run is started again."""

    again: bool
    words: Message | None
    """None where there is nothing to say."""


def after_failure(failure: Failure, failed_at: Sequence[int], *, most: int) -> Verdict:
    """Decide about a start.

    Args:
        failed_at: steps that were done at the failures before this one, since somebody started the run.
        most: restarts, MP_MAX_RESTARTS.
    """
    if not failure.is_counted:
        return Verdict(again=True, words=Message("again-after-spike"))
    if failure.status in (Status.NOT_AGAIN, Status.SPIKE, Status.REFUSED) or not most:
        return Verdict(again=False, words=None)
    if failed_at and failed_at[-1] == failure.iteration:
        if failure.iteration < 0:
            return Verdict(again=False, words=Message("again-before-step"))
        return Verdict(again=False, words=Message("again-same-step", step=failure.iteration))
    if len(failed_at) >= most:
        return Verdict(again=False, words=Message("again-too-often", most=most))
    return Verdict(again=True, words=Message("again", count=len(failed_at) + 1, most=most, cause=failure.cause))
