"""A process that ends with the one that started it, however that ends: killed, or out of memory, it tells nobody. And
one that is the parent of all that its children have started, when these end."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER, PR_GET_CHILD_SUBREAPER = 36, 37
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


@contextmanager
def adopting_orphans() -> Iterator[None]:
    """Until the end of the block processes that a child has started become children of this one when it ends, so that
    this one can wait for them; otherwise the first process of the machine or container gets them, and may not."""
    libc, before = ctypes.CDLL(None), ctypes.c_int()
    libc.prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(before))
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
    try:
        yield
    finally:
        libc.prctl(PR_SET_CHILD_SUBREAPER, before.value)
