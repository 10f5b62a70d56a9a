"""The lines that a person reads while a rank trains; the rank's log has all the others."""

from __future__ import annotations

from typing import TextIO

from megatron_patch.common.progress import LiveLine


class Screen:
    """The standard output that torchrun was given. Of all ranks one speaks: the last, which alone knows the loss."""

    def __init__(self, stream: TextIO, *, speaks: bool) -> None:
        self.stream, self.speaks = stream, speaks
        self.live: LiveLine | None = None
        """What is drawn at the bottom, if anything is."""

    def say(self, line: str) -> None:
        """Show one line, if this rank is the one that speaks."""
        if self.speaks:
            self.say_here(line)

    def say_here(self, line: str) -> None:
        """Show one line, whichever rank this is: of each machine, one asks for it."""
        if self.live is not None:
            self.live.say(line)
        else:
            print(line, file=self.stream, flush=True)
