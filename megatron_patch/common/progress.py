"""How far a long job is: a live bar on a terminal, a line now and then in a file."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

LINE_SECONDS = 15.0
"""Between two lines where stderr is no terminal."""


class WorkBar:
    """A context manager; draws on `console`, which should be stderr.

    It is refreshed by hand: a thread that draws would be there when workers are forked.
    """

    def __init__(self, console: Console, what: str, total: int) -> None:
        """Args:
        what: `tokenizing`, as the first word.
        total: bytes of the files.
        """
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        self._bar = Progress(
            *columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal, auto_refresh=False
        )
        self._task = self._bar.add_task(what, total=total)
        self._console, self._what, self._total = console, what, total
        self._bytes = self._rows = 0
        self._began = self._said = time.monotonic()

    def advance(self, size: int, rows: int) -> None:
        """So many bytes and rows more are done."""
        self._bytes += size
        self._rows += rows
        self._bar.update(self._task, advance=size, description=f"{self._what}, {self._rows:,} rows")
        self._bar.refresh()
        now = time.monotonic()
        if not self._console.is_terminal and now - self._said >= LINE_SECONDS:
            self._said = now
            share = min(1.0, self._bytes / max(1, self._total))
            speed = self._bytes / 1e6 / (now - self._began)
            self._console.print(f"{self._what}: {self._rows:,} rows, {share:.0%}, {speed:.1f} MB/s", highlight=False)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
