"""A process that ends with the one that started it, however that ends: killed, or out of memory, it tells nobody."""

from __future__ import annotations

import ctypes
import os

PR_SET_PDEATHSIG = 1
"""Source: prctl(2)."""


def end_with_parent(number: int, parent: int | None = None) -> None:
    """Get this signal when the parent ends; now, where it has ended already.

    Args:
        parent: its process id, noted before a fork; else the parent is the one that there is now.
    """
    parent = os.getppid() if parent is None else parent
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:  # it ended before the line above
        os.kill(os.getpid(), number)
