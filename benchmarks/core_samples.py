"""How many cores a process and those that it has forked use, in time, and what their other threads wait in.

Looked at from outside, in /proc: nothing of the processes is slowed down but for the core that looks. A thread that
waits for the GIL, a lock of Python's or work waits in a futex; one that waits to write to a file that another writes
to, or for its memory map, in rwsem_down_*.
"""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from megatron_patch.common.machine import children_of

PARTS = 24
"""Of the time, in what is shown."""


def family_of(pid: int) -> list[int]:
    """A process and all that it, and those, have started."""
    found = [pid]
    for process in found:
        found += children_of(process)
    return found


class _Look(NamedTuple):
    when: float
    ran: dict[str, int]
    """Nanoseconds on a core so far, by thread."""
    ready: dict[str, int]
    """Nanoseconds in which a thread would have run, had a core been free."""
    stolen: float
    """Seconds of all cores that the machine under this virtual one gave to others, so far."""
    waits: Counter[str]
    """Threads that are not on a core, by the kernel's function that they are in."""


class CoreSamples:
    """Looks whenever it is told to."""

    def __init__(self) -> None:
        self._looks: list[_Look] = []

    def look(self, pid: int) -> None:
        """At a process and those that it has forked."""
        ran, ready = dict[str, int](), dict[str, int]()
        waits: Counter[str] = Counter()
        for process in family_of(pid):
            for task in Path(f"/proc/{process}/task").glob("*"):
                try:
                    ran[task.name], ready[task.name], _ = map(int, (task / "schedstat").read_text().split())
                    if (where := (task / "wchan").read_text()) != "0":  # of one that runs, or wants to
                        waits[where] += 1
                except (OSError, ValueError):  # it has ended
                    continue
        self._looks.append(_Look(time.monotonic(), ran, ready, stolen(), waits))

    def report(self) -> str:
        """What was seen, for a screen."""
        if len(self._looks) < 2:
            return "  too short"
        began, ended = self._looks[0].when, self._looks[-1].when
        step = (ended - began) / PARTS
        used, waits, ready = [0.0] * PARTS, defaultdict[str, float](float), 0.0
        for before, after in pairwise(self._looks):
            spent = _grown(before.ran, after.ran)
            ready += _grown(before.ready, after.ready)
            used[min(PARTS - 1, int((before.when - began) / step))] += spent
            for where, count in after.waits.items():
                waits[where] += count * (after.when - before.when)
        cores = " ".join(f"{spent / step:.0f}" for spent in used)
        most = sorted(waits.items(), key=lambda wait: -wait[1])[:8]
        slept = ", ".join(f"{seconds:.2f} {where}" for where, seconds in most)
        lost = f"{ready:.2f} ready without a core, {self._looks[-1].stolen - self._looks[0].stolen:.2f} stolen"
        return f"  cores in use, each {step * 1000:.0f} ms: {cores}\n  thread s not on a core: {slept}\n  {lost}"


def _grown(before: dict[str, int], after: dict[str, int]) -> float:
    """Seconds, over all threads."""
    return sum(now - before.get(task, 0) for task, now in after.items()) / 1e9


def stolen() -> float:
    """Seconds of all cores, since the start, in which this virtual machine had something to do and no core."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()
    return int(fields[8]) / os.sysconf("SC_CLK_TCK")
