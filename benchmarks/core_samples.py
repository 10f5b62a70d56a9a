"""How many cores a process and those that it has forked use, in time, and what their other threads wait in.

Looked at from outside, in /proc: nothing of the processes is slowed down but for the core that looks. A thread that
waits for the GIL, a lock of Python's or work waits in a futex; one that waits to write to a file that another writes
to, or for its memory map, in rwsem_down_*.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from megatron_patch.common.machine import children_of

PARTS = 24
"""Of the time, in what is shown."""


class _Look(NamedTuple):
    when: float
    ran: dict[str, int]
    """Nanoseconds on a core so far, by thread."""
    waits: Counter[str]
    """Threads that are not on a core, by the kernel's function that they are in."""


class CoreSamples:
    """Looks whenever it is told to."""

    def __init__(self) -> None:
        self._looks: list[_Look] = []

    def look(self, pid: int) -> None:
        """At a process and those that it has forked."""
        ran: dict[str, int] = {}
        waits: Counter[str] = Counter()
        for process in (pid, *children_of(pid)):
            for task in Path(f"/proc/{process}/task").glob("*"):
                try:
                    ran[task.name] = int((task / "schedstat").read_text().split()[0])
                    if (where := (task / "wchan").read_text()) != "0":  # of one that runs, or wants to
                        waits[where] += 1
                except (OSError, IndexError):  # it has ended
                    continue
        self._looks.append(_Look(time.monotonic(), ran, waits))

    def report(self) -> str:
        """What was seen, for a screen."""
        if len(self._looks) < 2:
            return "  too short"
        began, ended = self._looks[0].when, self._looks[-1].when
        step = (ended - began) / PARTS
        used, waits = [0.0] * PARTS, defaultdict[str, float](float)
        for before, after in pairwise(self._looks):
            spent = sum(ran - before.ran.get(task, 0) for task, ran in after.ran.items()) / 1e9
            used[min(PARTS - 1, int((before.when - began) / step))] += spent
            for where, count in after.waits.items():
                waits[where] += count * (after.when - before.when)
        cores = " ".join(f"{spent / step:.0f}" for spent in used)
        most = sorted(waits.items(), key=lambda wait: -wait[1])[:8]
        slept = ", ".join(f"{seconds:.2f} {where}" for where, seconds in most)
        return f"  cores in use, each {step * 1000:.0f} ms: {cores}\n  thread s not on a core: {slept}"
