"""How long this rank computes forward passes, without what it waits for other data-parallel ranks and stages."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import torch


class Stopwatch:
    """Sums up; on a GPU by events in its stream, which cost no waiting."""

    def __init__(self) -> None:
        self.on_gpu = False
        self._seconds = 0.0
        self._events: list[tuple[Any, Any]] = []

    @contextlib.contextmanager
    def measured(self) -> Iterator[None]:
        """Around one forward pass; validation does not count."""
        if not torch.is_grad_enabled():
            yield
        elif self.on_gpu:
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            yield
            end.record()
            self._events.append((begin, end))
        else:
            began = time.perf_counter()
            yield
            self._seconds += time.perf_counter() - began

    def take(self) -> float:
        """Seconds since the last call, of a step whose loss is known: the device is done with it."""
        seconds: float = self._seconds + sum(begin.elapsed_time(end) for begin, end in self._events) / 1e3
        self._seconds, self._events = 0.0, []
        return seconds
