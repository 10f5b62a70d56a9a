"""`megatron-patch chat` as a person has it: keys typed into a terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import subprocess
import sys
import termios
import time
from pathlib import Path

from .conftest import PONG

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 600
"""Seconds; nothing takes this long unless it hangs."""


class Terminal:
    """A program with a terminal of its own."""

    def __init__(self, command: list[str]) -> None:
        self._ours, theirs = pty.openpty()
        self.job = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | {"TERM": "dumb"}, stdin=theirs, stdout=theirs, stderr=theirs,
            start_new_session=True, preexec_fn=lambda: fcntl.ioctl(theirs, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(theirs)
        self.written = ""

    def type(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def wait_for(self, pattern: str, again: str = "") -> str:
        """What is written until that comes; `again` is typed once more for each second without a word."""
        end = time.monotonic() + PATIENCE
        seen = ""
        while not re.search(pattern, seen):
            left = max(0.0, end - time.monotonic())
            ready, _, _ = select.select([self._ours], [], [], min(left, 1.0) if again else left)
            assert ready or (again and left), f"{pattern!r} never came:\n{self.written!r}"
            if not ready:
                self.type(again)
                continue
            piece = os.read(self._ours, 65536).decode(errors="replace")
            seen, self.written = seen + piece, self.written + piece
        return seen

    def close(self) -> None:
        self.job.kill()
        os.close(self._ours)


def test_a_conversation(model: Path) -> None:
    """Ctrl-C ends an answer, not the program; the answers come as they are written."""
    words = [str(model), "--temperature", "0", "--max-new-tokens", "8000"]
    terminal = Terminal([sys.executable, "-m", "megatron_patch.generate.chat", *words])
    try:
        terminal.wait_for("/reset.*\n> ")
        terminal.type("ping\n")
        assert f"\n{PONG}\r\n" in terminal.wait_for("done\r\n> ")
        terminal.type("ping\n")
        terminal.wait_for("pong again\r\n> ")
        terminal.type("/reset\n")
        terminal.wait_for(r"\[new conversation\]\r\n> ")
        terminal.type("sing\n")
        terminal.wait_for("la la la")
        terminal.type("\x03")
        terminal.wait_for(r"\[stopped after \d+ tokens\]\r\n> ")
        terminal.type("half a line\x03")
        terminal.wait_for("\r\n> ", again="\x03")  # Python misses one between its prompt and its read
        terminal.type("/system shout\n")
        terminal.wait_for(r"\[new conversation\]\r\n> ")
        terminal.type("ping\n")
        terminal.wait_for("PONG\r\n> ")
        terminal.type("/quit\n")
        assert terminal.job.wait(PATIENCE) == 0
        assert "Traceback" not in terminal.written
    finally:
        terminal.close()
