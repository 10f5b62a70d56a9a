"""Read metrics.jsonl as it grows: each line once, and all over when a resumed run has cut it."""

from __future__ import annotations

import os
from pathlib import Path

from megatron_patch.common.files import real_path
from megatron_patch.common.messages import Message
from megatron_patch.report.collect import Run, read_plan_of
from megatron_patch.runs.folder import METRICS, PLAN, is_run
from megatron_patch.runs.status import Ended, read_end, state_of

MOST_PROBLEMS = 5
"""That are shown."""


class Follower:
    """A run's folder, looked at again and again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run = Run(folder=folder, name=real_path(folder).name)
        self._file = (0, 0)
        """Inode of metrics.jsonl, and how many bytes of it are read."""
        self._plan_written = 0.0
        self.ended: Message | None = None
        """How and why no process of it is left, in words; None while one may be."""

    def exists(self) -> bool:
        """Whether there is anything of a run."""
        return is_run(self.folder)

    def look(self) -> None:
        """Take in what is new."""
        self._look_at_plan()
        self.ended = how_it_ended(self.folder)
        path = self.folder / METRICS
        try:
            with path.open("rb") as file:
                facts = os.fstat(file.fileno())
                inode, done = self._file
                if inode != facts.st_ino or facts.st_size < done:
                    self.run.steps, self.run.validation, self.run.problems = [], [], []
                    done = 0
                file.seek(done)
                text = file.read()
        except FileNotFoundError:  # no step is done yet
            return
        except OSError as error:
            self._note(Message("watch-unreadable", error=error.strerror))
            return
        whole = text[: text.rfind(b"\n") + 1]  # a line that is still being written is left for the next look
        self._file, self.run.written = (facts.st_ino, done + len(whole)), facts.st_mtime
        if self.ended is not None and len(whole) < len(text):
            self._note(Message("watch-torn", line=text[len(whole) :][:60].decode(errors="replace")))
        for line in whole.splitlines():
            try:
                self.run.take(line)
            except ValueError as error:
                self._note(Message("watch-line", line=line[:60].decode(errors="replace"), error=error))

    def _note(self, problem: Message) -> None:
        """Keep a problem; of many the first ones, which the screen has room for."""
        if len(self.run.problems) < MOST_PROBLEMS and problem not in self.run.problems:
            self.run.problems.append(problem)

    def _look_at_plan(self) -> None:
        try:
            written = (self.folder / PLAN).stat().st_mtime
            if written != self._plan_written:
                problems: list[Message] = []
                self.run.plan, self._plan_written = read_plan_of(self.folder, problems), written
                for problem in problems:
                    self._note(problem)
        except OSError:
            return


def how_it_ended(folder: Path) -> Message | None:
    """Whether a run has stopped, and why; None where it goes on, or where that cannot be known.

    What it said itself can be read from any machine. Whether it was killed can be told only on its own: elsewhere its
    locks may not be seen.
    """
    state, holder = state_of(folder)
    if state != "free":
        return None
    ended = read_end(folder)
    if ended is not None:
        return _in_words(ended)
    if holder is None or not holder.is_here:
        return None
    if holder.stopping:
        return Message("watch-stopped", cause=holder.stopping)
    return Message("watch-killed", holder=holder.said)


def _in_words(ended: Ended) -> Message:
    if ended.how == "finished":
        return Message("watch-finished")
    return Message("watch-stopped" if ended.how == "stopped" else "watch-failed", cause=ended.said)
