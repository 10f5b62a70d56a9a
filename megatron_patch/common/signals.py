"""Signals of this process, answered otherwise for a while."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterable, Iterator


@contextlib.contextmanager
def handled_by(handler: Callable[[int, object], object], numbers: Iterable[int]) -> Iterator[None]:
    """These signals, until the end of the block; then as before. For the main thread."""
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        for number in before:
            signal.signal(number, handler)
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


@contextlib.contextmanager
def answered_afterwards() -> Iterator[None]:
    """Signals that would end what is done by an exception are answered at the end of the block, also where that ends by
    an error: until then what it makes is known, and what it removes is gone. Python calls handlers in the main thread,
    so in others there is nothing to do."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came = list[int]()
    ours = [number for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if callable(signal.getsignal(number))]
    try:
        with handled_by(lambda number, _: came.append(number), ours):
            yield
    finally:
        for one in came:
            signal.raise_signal(one)
