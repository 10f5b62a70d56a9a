"""The same work on many items: on several cores, results in the items' order."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from megatron_patch.common.errors import WorkerKilled
from megatron_patch.common.machine import usable_cores
from megatron_patch.common.messages import Message
from megatron_patch.common.parent import end_with_parent
from megatron_patch.common.threads import limits_told, one_torch_thread

AHEAD = 3
"""Items in flight for each worker: bounds the memory."""

MOST_PER_CORE = 4
"""Workers: more only wait for each other, and a machine that forks thousands is lost."""

_inherited: Callable[[Any], Any]
"""What a forked worker does: it is there already, only items and results travel."""


def workers_for(asked: int) -> int:
    """How many processes are taken where so many are asked for: 0 is every core, and no core gets more than four."""
    cores = usable_cores()
    return min(asked, MOST_PER_CORE * cores) if asked else cores


def more_than_taken(asked: int) -> Message | str:
    """What is said after the number that was taken; nothing where it is the number that was asked for."""
    return "" if workers_for(asked) >= asked else Message("processes-asked", asked=asked, most=MOST_PER_CORE)


def in_order[Result](work: Callable[[Any], Result], items: Iterable[Any], workers: int) -> Iterator[Result]:
    """The work's result for each item, in their order whatever the number of workers.

    Args:
        workers: processes, forked from this one; 1 works in this one.
    Raises:
        WorkerKilled: whatever ended it. And whatever the work raises.
        WorkersRefused: the machine does not give so many.
    """
    global _inherited
    if workers == 1:
        yield from map(work, items)
        return
    workers = workers_for(workers)
    _inherited = work
    context = multiprocessing.get_context("fork")
    running: deque[Future[Result]] = deque()
    # An executor, unlike a Pool, notices when a worker is killed.
    others = set(multiprocessing.active_children())
    with limits_told():
        executor = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(os.getpid(),))
    with executor as pool:
        try:
            for item in items:
                running.append(_submit(pool, item, others))
                if len(running) > workers * AHEAD:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        except BrokenProcessPool:
            raise WorkerKilled("worker-killed") from None
        finally:
            for future in running:
                future.cancel()


def _submit(pool: ProcessPoolExecutor, item: Any, others: set[Any]) -> Future[Any]:
    """Ask for an item's result; the first time all workers begin, or none.

    The executor forgets those that it has begun before one could not be, and this process would wait for them for ever.

    Args:
        others: children of this process that are no workers.
    """
    try:
        with limits_told():
            return pool.submit(_run, item)
    except BaseException:
        for begun in set(multiprocessing.active_children()) - others:
            begun.kill()
            begun.join()
        raise


def _run(item: Any) -> Any:
    return _inherited(item)


def _begin(parent: int) -> None:
    """A worker ends with its parent, however that ends; and has one core, over which no threads of its own fight."""
    end_with_parent(signal.SIGKILL, parent)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    one_torch_thread()
