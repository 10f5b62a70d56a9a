"""The launcher's watch over its ranks: one that hangs is named with its phase, and ends the run, in time.

Without it the ranks that wait for it say that a collective timed out, and are taken for the ones that failed.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from megatron_patch.common.messages import Message, localized
from megatron_patch.runs.heartbeat import FOLDER, find_hung, read_beats

DEFAULT_MINUTES = 10
"""Of Megatron's --distributed-timeout-minutes."""
EARLIER = 2.0
"""Seconds before the ranks themselves would give up."""
LOOKS_EVERY = 0.5
WORD_AT = 0.25
"""Share of the patience after which it is said that a rank hangs."""


class Watchdog:
    """Reads the heartbeats of this machine's ranks in a thread."""

    def __init__(
        self,
        folder: Path,
        flags: Sequence[str],
        *,
        is_alone: bool,
        say: Callable[[str], None],
        kill: Callable[[], None],
    ) -> None:
        """
        Args:
            folder: for the heartbeats; it exists.
            flags: of the ranks.
            is_alone: there is no other machine, for whose ranks those here may be waiting.
            say: shows a line at once.
            kill: ends all ranks.
        """
        self._folder, self._is_alone, self._say, self._kill = folder, is_alone, say, kill
        minutes = dict(itertools.pairwise(flags)).get("--distributed-timeout-minutes", "")
        self._patience = 60.0 * (float(minutes) if minutes.isdecimal() else DEFAULT_MINUTES) - EARLIER
        self.verdict: Message | None = None
        """Which ranks hung, once they were killed for it."""

    def start(self) -> None:
        """Tell the ranks where to beat, and watch them from now on."""
        os.environ[FOLDER] = str(self._folder)
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def _watch(self) -> None:
        told, last = False, time.monotonic()
        since = last
        while self.verdict is None:
            time.sleep(LOOKS_EVERY)
            now = time.monotonic()
            if now - last > 10 * LOOKS_EVERY:  # this process was stopped itself, and the ranks with it
                since = now
            last = now
            patience = min(self._patience, now - since)
            hung = self._hung(now, patience) if patience == self._patience else {}
            if hung:
                self.verdict = Message("hang-verdict", hang=in_words(hung), seconds=self._patience)
                self._kill()
                return
            early = self._hung(now, self._patience * WORD_AT) if patience > self._patience * WORD_AT else {}
            if early and not told:
                left = self._patience * (1 - WORD_AT)
                self._say(localized("hang-early", hang=in_words(early), seconds=left))
            told = bool(early)

    def _hung(self, now: float, patience: float) -> dict[int, Message]:
        return find_hung(read_beats(self._folder), now, patience, is_alone=self._is_alone)


def in_words(hung: dict[int, Message]) -> Message:
    """`rank 1 hangs: ...`, of several ranks the first in full."""
    first, what = next(iter(hung.items()))
    if len(hung) == 1:
        return Message("hang-one", rank=first, what=what)
    return Message("hang-several", ranks=list(hung), rank=first, what=what)
