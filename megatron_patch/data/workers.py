"""The same work on many items: on several cores, results in the items' order."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

AHEAD = 3
"""Items in flight for each worker: bounds the memory."""

_inherited: Callable[[Any], Any]
"""What a forked worker does: it is there already, only items and results travel."""


def in_order[Result](work: Callable[[Any], Result], items: Iterable[Any], workers: int) -> Iterator[Result]:
    """The work's result for each item, in their order whatever the number of workers.

    Args:
        workers: processes, forked from this one; 1 works in this one.
    Raises:
        RuntimeError: a worker was killed. And whatever the work raises.
    """
    global _inherited
    if workers == 1:
        yield from map(work, items)
        return
    _inherited = work
    context = multiprocessing.get_context("fork")
    running: deque[Future[Result]] = deque()
    # An executor, unlike a Pool, notices when a worker is killed.
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_one_thread) as pool:
        try:
            for item in items:
                running.append(pool.submit(_run, item))
                if len(running) > workers * AHEAD:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        except BrokenProcessPool:
            raise RuntimeError("a worker was killed (out of memory?): start the same command again") from None
        finally:
            for future in running:
                future.cancel()


def _run(item: Any) -> Any:
    return _inherited(item)


def _one_thread() -> None:
    """Each worker has one core: the tokenizer's own threads would fight over them."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
