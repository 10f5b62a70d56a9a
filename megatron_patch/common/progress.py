"""How far a job is: one live line on a terminal, an ordinary line now and then anywhere else.

`LiveLine` draws; `WorkBar` counts bytes, rows or parts and has them drawn. Nothing here starts a thread (workers are
forked beside it) or takes over `sys.stdout` and `sys.stderr` (rich does both if it is let).
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from types import TracebackType
from typing import IO, TYPE_CHECKING, NamedTuple, Self

from megatron_patch.common.messages import localized
from megatron_patch.common.terminal import plain, raw, width_of

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment
    from rich.text import Text

ALWAYS = 100
"""Worth of a part that is never left out."""
BAR_WORTH = 50
"""Parts that are worth less than this give way to the bar; those that are worth more push it out."""
BAR_WIDTH = range(8, 41)
"""Columns of the bar."""
REDRAWN_EVERY = 0.1
"""Seconds, at the soonest."""
LINE_SECONDS = 10.0
"""Between two lines where there is no terminal."""


class Plain:
    """What rich draws, its texts plain: rich itself lets escapes in them through."""

    def __init__(self, shown: RenderableType) -> None:
        self._shown = shown

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        from rich.segment import Segment

        for one in console.render(self._shown, options):
            yield one if one.control else Segment(plain(one.text), one.style)


class LinePart(NamedTuple):
    """Words of a live line."""

    text: str
    worth: int
    """Where not all fits, what is worth least goes first."""


def fit(head: str, parts: Sequence[LinePart], columns: int) -> tuple[str, int]:
    """What of a live line fits.

    Args:
        head: first words; they always stay.
    Returns:
        The parts that stay, joined; and the columns of the bar, 0 where there is no room for one.
    """
    kept = list(parts)
    while True:
        text = " | ".join(part.text for part in kept)
        room = columns - width_of(head) - width_of(text) - 2
        least = min(kept, key=lambda part: part.worth, default=None)
        if room >= BAR_WIDTH[0]:
            return text, min(room, BAR_WIDTH[-1])
        if least is None or least.worth == ALWAYS or (least.worth > BAR_WORTH and room >= -1):
            return text, 0
        kept.remove(least)


def is_live(stream: IO[str]) -> bool:
    """Whether a line can be drawn over on this stream."""
    return stream.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")


class LiveLine:
    """The last line of a terminal, drawn over again and again; other lines go above it."""

    def __init__(self, stream: IO[str], total: int) -> None:
        from rich.console import Console
        from rich.live import Live

        self._stream, self._total = stream, max(total, 1)
        self._console = Console(file=raw(stream), force_terminal=True)
        self._head, self._parts, self._done, self._drawn = "", [LinePart("", ALWAYS)], 0, 0.0
        self._live = Live(
            get_renderable=lambda: Plain(self._line()),
            console=self._console,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def start(self) -> None:
        """Take the last line of the terminal; `show` draws it."""
        self._live.start()

    def show(self, head: str, done: int, parts: Sequence[LinePart]) -> None:
        """Draw it anew, unless that was done a moment ago.

        Args:
            head: first words, such as `12/100`.
            done: of the total, for the bar.
            parts: what follows the bar, as far as there is room.
        """
        self._head, self._done, self._parts = head, done, list(parts)
        if time.monotonic() - self._drawn >= REDRAWN_EVERY or done >= self._total:
            self._drawn = time.monotonic()
            self._look_at_size()
            self._live.refresh()

    def say(self, line: str) -> None:
        """Print a line above it."""
        self._look_at_size()
        self._console.print(plain(line), highlight=False, markup=False, soft_wrap=True)

    def stop(self) -> None:
        """Leave it as it is, and the terminal as it was."""
        self._live.stop()

    def _look_at_size(self) -> None:
        """rich asks file descriptors 0, 1 and 2, which may be something else than this stream."""
        try:
            columns = os.get_terminal_size(self._stream.fileno()).columns
        except OSError:
            return
        if columns:  # 0 where nobody has told the terminal
            self._console.width = columns

    def _line(self) -> Text:
        from rich.text import Text

        text, width = fit(self._head, self._parts, self._console.width - 1)
        filled = round(width * min(1.0, self._done / self._total))
        line = Text(f"{self._head} ", no_wrap=True, overflow="crop", end="")
        if width:
            line.append("━" * filled, style="cyan").append("━" * (width - filled), style="bright_black").append(" ")
        return line.append(text)


class WorkBar:
    """Counts the work of a job from any thread, and shows it.

    with WorkBar("bar-writing", nbytes) as bar:
        bar.advance(1 << 20)
    """

    def __init__(self, what: str, total: int, *, unit: str = "bytes", stream: IO[str] | None = None) -> None:
        """
        Args:
            what: code of the first word, `writing`.
            total: of the whole job.
            unit: code of what is counted, `bar-parts`; bytes are shown as GB or MB with their speed.
            stream: standard error unless given.
        """
        self._what, self._total, self._unit = localized(what), max(total, 1), unit
        self._stream = sys.stderr if stream is None else stream
        self._live = LiveLine(self._stream, self._total) if is_live(self._stream) else None
        self._done = self._rows = 0
        self._began = self._said = time.monotonic()
        self._lock = threading.Lock()

    def advance(self, amount: int, rows: int = 0) -> None:
        """So much more is done, which was so many rows of a file."""
        with self._lock:
            self._done += amount
            self._rows += rows
            now = time.monotonic()
            if self._live is not None:
                self._live.show(f"{self._what} {self._amount()}", self._done, self._parts(now))
            elif now - self._said >= LINE_SECONDS:
                self._said = now
                words = [f"{self._done / self._total:.0%}", *(part.text for part in self._parts(now))]
                print(localized("bar-line", what=self._what, words=words), file=self._stream, flush=True)

    def _amount(self) -> str:
        if self._unit != "bytes":
            return localized(self._unit, done=self._done, total=self._total)
        name, size = ("GB", 1e9) if self._total >= 1e9 else ("MB", 1e6)
        return f"{self._done / size:.1f}/{self._total / size:.1f} {name}"

    def _parts(self, now: float) -> list[LinePart]:
        seconds, done = max(now - self._began, 1e-9), max(self._done, 1)
        left = timedelta(seconds=round(seconds * max(0, self._total - self._done) / done))
        rows = [LinePart(localized("bar-rows", rows=self._rows), 60)] if self._rows else []
        speed = [LinePart(f"{self._done / seconds / 1e6:,.1f} MB/s", 30)] if self._unit == "bytes" else []
        return [*rows, *speed, LinePart(localized("bar-left", left=left), ALWAYS)]

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
            self._live.show(f"{self._what} {self._amount()}", 0, [])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
