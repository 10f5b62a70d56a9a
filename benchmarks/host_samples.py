"""Where Python spends the time of a training step: stacks of all threads, looked at every half millisecond.

For steps whose GPU waits for the host. Looking takes the GIL, so a watched step is slower: its figures are shares. The
backward pass runs in a thread of autograd's, which has no name.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import FrameType

SECONDS = 0.0005
"""Between two looks."""


class HostSamples(threading.Thread):
    """Looks until it is stopped."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._end = threading.Event()
        self._main = threading.main_thread().ident
        self._looks = 0
        self._lines: dict[str, Counter[str]] = {"forward": Counter(), "backward": Counter()}
        self._functions: dict[str, Counter[str]] = {"forward": Counter(), "backward": Counter()}

    def run(self) -> None:
        """Until `stop`."""
        sys.setswitchinterval(SECONDS / 5)
        while not self._end.is_set():
            time.sleep(SECONDS)
            self._looks += 1
            for ident, frame in sys._current_frames().items():
                if ident != threading.get_ident():
                    self._note("forward" if ident == self._main else "backward", frame)

    def stop(self, most: int = 45) -> str:
        """End, and what was seen, for a file."""
        self._end.set()
        self.join()
        parts = [f"{self._looks} looks"]
        for thread in ("forward", "backward"):
            lines, functions = self._lines[thread], self._functions[thread]
            for title, counts in (("line", lines), ("function and what it calls", functions)):
                parts.append(f"\n{thread}: {title}")
                parts += [f"{count / self._looks:7.1%}  {where}" for where, count in counts.most_common(most)]
        return "\n".join(parts)

    def _note(self, thread: str, frame: FrameType | None) -> None:
        if frame is None or frame.f_code.co_filename.endswith("threading.py"):
            return  # waits for work
        self._lines[thread][_where(frame, frame.f_lineno)] += 1
        seen = set()
        while frame is not None:
            seen.add(_where(frame, frame.f_code.co_firstlineno))
            frame = frame.f_back
        self._functions[thread].update(seen)


def _where(frame: FrameType, line: int) -> str:
    path = Path(frame.f_code.co_filename)
    return f"{'/'.join(path.parts[-2:])}:{line} {frame.f_code.co_qualname}"
