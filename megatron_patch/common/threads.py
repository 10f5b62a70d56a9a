"""How many threads a rank may start, threads that are there before their work is, and torch's threads after a fork."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, ThreadPoolExecutor
from contextlib import contextmanager

from megatron_patch.common.errors import WorkersRefused


@contextmanager
def limits_told() -> Iterator[None]:
    """Say of threads or processes that could not be begun that there are limits.

    Raises:
        WorkersRefused: in the place of what the system said.
    """
    try:
        yield
    except BrokenExecutor:
        raise
    except (OSError, RuntimeError) as error:  # of threads Python raises "can't start new thread"
        why = error.strerror if isinstance(error, OSError) else error
        raise WorkersRefused("workers-refused", error=why) from None


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
