"""Where the seconds between the command and the first optimizer step go: `startup.json`, and one line on the screen."""

from __future__ import annotations

import os
import time
from pathlib import Path

from megatron_patch.common.files import write_json
from megatron_patch.common.messages import Message, localized, named
from megatron_patch.runs.folder import STARTUP


class Startup:
    """Wall time of each part, one after the other without gaps: the parts' sum is the whole."""

    def __init__(self, rank_began: float) -> None:
        """Take over what the launcher noted in MEGATRON_PATCH_STARTED: when it was called, when it became torchrun.

        Args:
            rank_began: seconds since the epoch at this rank's first line.
        """
        self.parts: dict[str, float] = {}
        noted = os.environ.get("MEGATRON_PATCH_STARTED", "").split()
        self.began = self._last = float(noted[0]) if noted else rank_began
        if noted:
            self.done("launcher", float(noted[1]))
            self.done("torchrun", rank_began)

    def done(self, part: str, now: float | None = None) -> None:
        """A part ends here, and the next one begins."""
        now = time.time() if now is None else now
        self.parts[part] = self.parts.get(part, 0.0) + now - self._last
        self._last = now

    @property
    def seconds(self) -> float:
        """Of all parts so far."""
        return self._last - self.began

    def line(self) -> str:
        """For the screen; parts that take less than half a tenth of a second are only in the file."""
        parts = [
            Message("run-startup-part", name=named(name), seconds=seconds)
            for name, seconds in self.parts.items()
            if seconds >= 0.05
        ]
        return localized("run-first-step", seconds=self.seconds, parts=parts)

    def write(self, folder: Path) -> None:
        """Put `startup.json`, of the newest start, into the run's folder."""
        record = {"began": self.began, "seconds": self.seconds, "parts": self.parts}
        write_json(folder / STARTUP, record)
