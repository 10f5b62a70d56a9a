"""Signals of this process, answered otherwise for a while."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterable, Iterator


@contextlib.contextmanager
def handled_by(handler: Callable[[int, object], object], numbers: Iterable[int]) -> Iterator[None]:
    """These signals, until the end of the block; then as before. For the main thread."""
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
