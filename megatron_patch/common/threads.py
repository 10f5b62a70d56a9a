"""How many threads a rank may start, and threads that are there before their work is."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor


def own_cores() -> int:
    """This rank's share of the machine's cores; 0 where there are more ranks than cores."""
    return len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def started_pool(threads: int) -> ThreadPoolExecutor:
    """An executor whose threads have all begun: each needs memory mapped, which waits for busy ones before it.

    Args:
        threads: fewer than one counts as one.
    """
    threads = max(1, threads)
    pool, all_there = ThreadPoolExecutor(threads), threading.Barrier(threads)
    list(pool.map(lambda _: all_there.wait(), range(threads)))
    return pool
