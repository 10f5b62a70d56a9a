"""Where the threads of a process are, looked at every few milliseconds: which line, and whether on a core.

A thread that waits for the GIL after a call that left it is seen in the line of that call, not on a core. Looking takes
the GIL too, so a traced run is not a timed one.
"""

from __future__ import annotations

import _thread
import linecache
import os
import sys
import threading
import time
from collections import Counter
from itertools import groupby
from pathlib import Path
from types import FrameType

SECONDS = 0.01
"""Between two looks."""


class ThreadSamples:
    """Looks until it is stopped; only at lines of files whose path has `part`."""

    def __init__(self, part: str) -> None:
        self._part, self._end, self._ended = part, threading.Event(), threading.Event()
        self._stats: dict[int, int] = {}
        self._main = threading.get_ident()
        self.looks: list[tuple[float, dict[int, tuple[str, bool]]]] = []
        """When, and by thread: its line, and whether it was on a core, or wanted one."""

    def start(self) -> None:
        """By a thread that `threading` does not know of: a process that knows of none but its first may be forked."""
        _thread.start_new_thread(self._run, ())

    def _run(self) -> None:
        while not self._end.wait(SECONDS):
            native = {thread.ident: thread.native_id for thread in threading.enumerate()}
            seen: dict[int, tuple[str, bool]] = {}
            for ident, frame in sys._current_frames().items():
                task = native.get(ident)
                if task is not None and ident != threading.get_ident():
                    seen[ident] = self._where(frame), self._on_core(task)
            self.looks.append((time.monotonic(), seen))
        self._ended.set()

    def stop(self) -> str:
        """End, and what was seen, for a screen."""
        self._end.set()
        self._ended.wait()
        return "\n".join([*self._main_lines(), *self._lines(), self._busy()]) if len(self.looks) > 1 else "too short"

    def _where(self, frame: FrameType | None) -> str:
        while frame is not None:
            code = frame.f_code
            if self._part in code.co_filename and code.co_filename != __file__:
                line = linecache.getline(code.co_filename, frame.f_lineno).strip()
                return f"{Path(code.co_filename).name} {code.co_name}: {line[:70]}"
            frame = frame.f_back
        return "(waits for work)"

    def _on_core(self, task: int) -> bool:
        try:
            if task not in self._stats:
                self._stats[task] = os.open(f"/proc/self/task/{task}/stat", os.O_RDONLY)
            return os.pread(self._stats[task], 512, 0).rpartition(b")")[2].split()[0] == b"R"
        except OSError:  # it has ended
            return False

    def _main_lines(self) -> list[str]:
        """What the main thread did, in order, as far as it took 1 % of the time."""
        began, lines = self.looks[0][0], []
        main = [(when, seen.get(self._main, ("", False))[0]) for when, seen in self.looks]
        for where, group in groupby(main, key=lambda look: look[1]):
            times = [when for when, _ in group]
            if len(times) >= max(1, len(self.looks) // 100):
                lines.append(f"  main {times[0] - began:6.2f} to {times[-1] - began:6.2f} s  {where}")
        return lines

    def _lines(self, most: int = 16) -> list[str]:
        """Thread-seconds of each line, and the share of them on a core."""
        each = (self.looks[-1][0] - self.looks[0][0]) / (len(self.looks) - 1)
        total: Counter[str] = Counter()
        on_core: Counter[str] = Counter()
        for _, seen in self.looks:
            for ident, (where, running) in seen.items():
                if ident != self._main:
                    total[where] += 1
                    on_core[where] += running
        return [
            f"  {count * each:7.2f} thread s, {on_core[where] / count:4.0%} on a core  {where}"
            for where, count in total.most_common(most)
        ]

    def _busy(self, parts: int = 12) -> str:
        """Threads on a core, mean of each twelfth of the time."""
        step = -(-len(self.looks) // parts)
        counts = [sum(running for _, running in seen.values()) for _, seen in self.looks]
        means = [counts[first : first + step] for first in range(0, len(counts), step)]
        return "  threads on a core, in time: " + " ".join(f"{sum(part) / len(part):.0f}" for part in means)
