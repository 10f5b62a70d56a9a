"""What a person's terminal gets: text, never orders to it. Standard library only.

A file name, a tensor's name, a value of a plan or a row of data may hold escapes that move the cursor, rename the
window or write into the clipboard, and marks that turn the order of letters around. Every CLI calls `guard` first: from
then on such characters are shown as `\\x1b` on both of its streams. What draws on purpose (rich) takes the stream from
`raw`.
"""

from __future__ import annotations

import atexit
import os
import re
import sys
import unicodedata
from typing import IO, Any

from megatron_patch.common.disk import say_instead_of_a_traceback
from megatron_patch.common.messages import localized, named

INTERRUPTED = 130
"""Exit status of a command that Ctrl-C ended, as a shell's."""
ORDERS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 without tab and line feed, DEL, C1
    "\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb"  # bidirectional and invisible marks
    "\ud800-\udfff\U000e0000-\U000e007f]"  # bytes that are not UTF-8, tags
)
TOKENS = re.compile(r"\b(hf_|sk-|ghp_|gho_|github_pat_|glpat-|wandb_v1_)[A-Za-z0-9_-]{20,}")
"""Secrets that can be told by how they begin."""


def plain(text: str) -> str:
    """Text that a terminal only shows, lines and tabs kept; the rest of a token is left out."""
    return TOKENS.sub(r"\1...", ORDERS.sub(_escaped, text))


def _escaped(found: re.Match[str]) -> str:
    return found.group().encode("unicode_escape").decode()


class Guarded:
    """A text stream that writes `plain` text; in all else the stream itself."""

    def __init__(self, stream: IO[str], *, bars: bool = False) -> None:
        """
        Args:
            bars: carriage returns pass, for the bars of tqdm.
        """
        self.stream, self.bars = stream, bars

    def write(self, text: str) -> int:
        """As of any text stream."""
        parts = text.split("\r") if self.bars else [text]
        try:
            self.stream.write("\r".join(map(plain, parts)))
        except OSError as error:
            give_up(self.stream, error)
        return len(text)

    def flush(self) -> None:
        """As of any text stream."""
        try:
            self.stream.flush()
        except OSError as error:
            give_up(self.stream, error)

    def writelines(self, lines: Any) -> None:
        """As of any text stream."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def give_up(stream: IO[str], error: OSError) -> None:
    """Nobody reads a stream any more, as after `| head`, or its disk is full: the work goes on and is finished, what is
    still said goes nowhere. Of a full disk the other stream hears."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
    if not isinstance(error, BrokenPipeError):
        other = sys.stderr if stream is raw(sys.stdout) else sys.stdout
        print(localized("stream-lost", stream=stream.name, error=named(str(error.strerror))), file=other)


def _flush_at_exit() -> None:
    """Python itself would complain of a reader that is gone, and end with status 120."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, Guarded):
            stream.flush()


def guard(*, bars: bool = False) -> None:
    """Guard standard output and error of this process; an error of a disk ends it in one sentence."""
    say_instead_of_a_traceback()
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, Guarded):
            stream.bars |= bars
        elif stream is not None:
            setattr(sys, name, Guarded(stream, bars=bars))
    atexit.unregister(_flush_at_exit)
    atexit.register(_flush_at_exit)


def raw(stream: IO[str]) -> IO[str]:
    """The stream under a guarded one, for who draws on purpose and makes its texts plain itself."""
    return stream.stream if isinstance(stream, Guarded) else stream


def width_of(text: str) -> int:
    """How wide a terminal shows it: Chinese characters take two columns."""
    return sum(2 if unicodedata.east_asian_width(one) in "WF" else 1 for one in text)


def padded(text: str, width: int) -> str:
    """Filled up with spaces to so many columns."""
    return text + " " * (width - width_of(text))


def masked(value: str) -> str:
    """A value whose name nobody knows, so that it may be a secret: numbers, short words and paths are shown."""
    shown = len(value) <= 8 or value.replace(".", "").isdigit() or value.startswith(("/", "./", "../", "~"))
    return value if shown and not SECRET.match(value) else f"{value[:3]}..."


SECRET = re.compile("(hf_|sk-|ghp_|gho_|glpat-|wandb_)")
