"""How many threads a rank may start, threads that are there before their work is, and torch's threads after a fork."""

from __future__ import annotations

import os
import sys
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
    try:
        list(pool.map(lambda _: all_there.wait(), range(threads)))
    except BaseException:  # no more threads, or Ctrl-C: those that wait for them would keep this process for ever
        all_there.abort()
        raise
    return pool


def one_torch_thread() -> None:
    """For a process that was forked, before it has threads: its operations of torch, if any, take one core a thread.

    torch 2.11 makes the thread pool that a fork has lost anew when it is first asked for, by the first operation of any
    thread, and without a lock: other threads get none meanwhile, and raise "Invalid thread pool!". Here it is asked for
    while there is one thread. And with more than one, an operation would wait for threads of OpenMP that the fork has
    lost. Source: caffe2/utils/threadpool/pthreadpool-cpp.cc, `pthreadpool`; DataLoader's workers begin so too.
    """
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
