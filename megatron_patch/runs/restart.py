"""A launcher that becomes the driver again: how MP_MAX_RESTARTS and rollbacks are carried out on one machine.

The driver leaves its own command in the environment of torchrun; what is decided is in `recovery.py`. The process stays
the same, and so does its lock on the run's folder: nobody else can start in between. Standard library only.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from megatron_patch.common.messages import Message
from megatron_patch.common.strict_json import parse_json
from megatron_patch.runs import status as run_status
from megatron_patch.runs.folder import METRICS
from megatron_patch.runs.recovery import Event, Failure, after_failure, note_event

ASKS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
"""Signals on which the ranks finish their step, save and end: a scheduler's, a person's, a closed terminal's, Slurm's
early warning."""
ASKS_RANKS = signal.SIGRTMIN
"""What a launcher that stands before torchrun sends it when the run is asked to end. What else torchrun is sent, by a
terminal or Slurm, has reached the launcher too."""
ENDS_RANKS = signal.SIGUSR2
"""What a launcher that stands before torchrun sends it when another machine is gone: the ranks are killed at once, and
the launcher has said why."""
AGAIN = "MEGATRON_PATCH_AGAIN"
"""Environment variable of torchrun, and of the driver that it becomes: an Again as JSON."""


@dataclass(frozen=True, kw_only=True)
class Again:
    """How a run is started again, and what became of the starts so far."""

    command: tuple[str, ...]
    most: int
    """Restarts, MP_MAX_RESTARTS."""
    failed_at: tuple[int, ...] = ()
    """Steps that were done at each failure that was followed by a restart."""
    added: tuple[str, ...] = ()
    """Variables of the ranks that the driver set and the user had not: the next driver does not take them for his."""

    def variable(self) -> dict[str, str]:
        """As it goes into the environment."""
        return {AGAIN: json.dumps(dataclasses.asdict(self))}


def read_again(text: str) -> Again | None:
    """Of the variable; None where it is not set."""
    if not text:
        return None
    content = parse_json(text)
    return Again(
        command=tuple(content["command"]),
        most=int(content["most"]),
        failed_at=tuple(map(int, content["failed_at"])),
        added=tuple(content["added"]),
    )


def start_again(again: Again | None, failure: Failure, folder: Path, lock: int | None) -> None:
    """Become the driver, unless the policy says no: then return, having said why."""
    if again is None:
        return
    verdict = after_failure(failure, again.failed_at, most=again.most)
    if verdict.words:
        print(verdict.words.localized(), file=sys.stderr, flush=True)
    iteration = max(failure.iteration, 0)
    if not verdict.again:
        if verdict.words:
            said = Message("gave-up", cause=failure.cause, verdict=verdict.words)
            note_event(folder, Event.of("gave-up", said, iteration=iteration))
        return
    if failure.is_counted and verdict.words:
        note_event(folder, Event.of("restart", verdict.words, iteration=iteration))
        again = dataclasses.replace(again, failed_at=(*again.failed_at, failure.iteration))
    ours = {name: value for name, value in os.environ.items() if name not in again.added} | again.variable()
    if lock is not None:
        os.set_inheritable(lock, True)
        ours[run_status.INHERITED] = str(lock)
    sys.stdout.flush()
    os.execve(again.command[0], list(again.command), ours)


class StepCounter:
    """How many steps a start has done: metrics.jsonl is written anew when training begins."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / METRICS
        self._before = self._facts()

    def steps_done(self) -> int:
        """-1 where training has not begun."""
        return -1 if self._facts() in (None, self._before) else _last_iteration(self._file)

    def _facts(self) -> tuple[int, int] | None:
        try:
            found = self._file.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns


def _last_iteration(file: Path) -> int:
    """Of the last whole line."""
    try:
        with file.open("rb") as stream:
            stream.seek(max(0, file.stat().st_size - 65536))
            return int(parse_json(stream.read().rpartition(b"\n")[0].splitlines()[-1])["iteration"])
    except (OSError, ValueError, TypeError, KeyError, IndexError):
        return 0
