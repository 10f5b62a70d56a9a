"""How far it is: a live bar on a terminal, a line now and then in a file."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType

SECONDS_BETWEEN_LINES = 5.0


class Bar:
    """Counts bytes (or steps) from any thread.

    with Bar("writing", total) as bar:
        bar(nbytes)
    """

    def __init__(self, what: str, total: int, *, unit: str = "bytes") -> None:
        self._what, self._total, self._unit = what, max(total, 1), unit
        self._done, self._started = 0, time.monotonic()
        self._said = self._started
        self._lock = threading.Lock()
        self._live = _live_bar(what, self._total, unit) if sys.stderr.isatty() else None

    def __enter__(self) -> Bar:
        if self._live:
            self._live[0].start()
        return self

    def __call__(self, amount: int) -> None:
        with self._lock:
            self._done += amount
            if self._live:
                self._live[0].update(self._live[1], advance=amount)
            elif time.monotonic() - self._said > SECONDS_BETWEEN_LINES:
                self._said = time.monotonic()
                print(f"{self._what}: {100 * self._done // self._total} %{self._pace()}", file=sys.stderr, flush=True)

    def _pace(self) -> str:
        seconds = time.monotonic() - self._started
        left = seconds * (self._total - self._done) / max(self._done, 1)
        speed = f", {self._done / max(seconds, 1e-9) / 1e9:.2f} GB/s" if self._unit == "bytes" else ""
        return f"{speed}, {left:.0f} s left"

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        if self._live:
            self._live[0].stop()


def _live_bar(what: str, total: int, unit: str):  # type: ignore[no-untyped-def]
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    amounts = (DownloadColumn(), TransferSpeedColumn()) if unit == "bytes" else (MofNCompleteColumn(),)
    columns = ("{task.description}", BarColumn(), *amounts, TimeRemainingColumn())
    progress = Progress(*columns, console=Console(stderr=True))
    return progress, progress.add_task(what, total=total)
