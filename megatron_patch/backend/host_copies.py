"""Copies of tensors in RAM, taken by threads while the GPU computes."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

MOST_COPIERS = 8
"""Threads of each rank that copy from a GPU to RAM; half of its share of the cores, if that is less."""
PIECE_BYTES = 32 << 20
"""Each of them has two pinned buffers of this size."""

Content = Any
"""What a WriteItem stands for: a tensor, its maker, or a BytesIO."""


class Copier:
    """Copies to RAM, and keeps that RAM for the next checkpoint."""

    def __init__(self) -> None:
        self._rooms: dict[Any, torch.Tensor] = {}
        self._pinned = threading.local()
        cores = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        self._threads = ThreadPoolExecutor(max(1, min(MOST_COPIERS, cores // 2)))

    def copy(
        self, files: list[list[tuple[Any, Content]]], device: int, ready: torch.cuda.Event
    ) -> list[list[tuple[Any, Callable[[], Content]]]]:
        """Copies of all contents; `ready` is when the GPU has made them."""
        jobs = [
            [(item, self._threads.submit(self._copy, item, content, device, ready)) for item, content in items]
            for items in files
        ]
        return [[(item, constant(job.result())) for item, job in items] for items in jobs]

    def _copy(self, item: Any, content: Content, device: int, ready: torch.cuda.Event) -> Content:
        if not (isinstance(content, torch.Tensor) or callable(content)):
            return content
        with self._stream(device, ready):
            tensor = values_of(content).contiguous()
            room = self._room(item.index, tensor)
            if tensor.device.type == "cuda":
                self._through_pinned_memory(_bytes(tensor), _bytes(room))
            else:
                room.copy_(tensor)
        return room

    def _room(self, index: Any, tensor: torch.Tensor) -> torch.Tensor:
        room = self._rooms.get(index)
        if room is None or room.shape != tensor.shape or room.dtype != tensor.dtype:
            memory = torch.from_numpy(np.empty(tensor.nbytes, np.uint8))  # numpy asks for huge pages, torch does not
            room = self._rooms[index] = memory.view(tensor.dtype).view(tensor.shape)
        return room

    @contextlib.contextmanager
    def _stream(self, device: int, ready: torch.cuda.Event) -> Iterator[None]:
        torch.cuda.set_device(device)
        if not hasattr(self._pinned, "stream"):
            self._pinned.stream = torch.cuda.Stream()
        self._pinned.stream.wait_event(ready)
        with torch.cuda.stream(self._pinned.stream):
            yield

    def _through_pinned_memory(self, source: torch.Tensor, target: torch.Tensor) -> None:
        """Bytes by way of two buffers: one is filled by the GPU while the other is emptied."""
        if not hasattr(self._pinned, "buffers"):
            self._pinned.buffers = [torch.empty(PIECE_BYTES, dtype=torch.uint8).pin_memory() for _ in range(2)]
        under_way: deque[tuple[torch.cuda.Event, torch.Tensor, torch.Tensor]] = deque()
        for number, (piece, place) in enumerate(zip(source.split(PIECE_BYTES), target.split(PIECE_BYTES), strict=True)):
            if len(under_way) == 2:
                _arrive(*under_way.popleft())
            buffer = self._pinned.buffers[number % 2][: len(piece)]
            buffer.copy_(piece, non_blocking=True)
            event = torch.cuda.Event(blocking=True)
            event.record()
            under_way.append((event, buffer, place))
        while under_way:
            _arrive(*under_way.popleft())


def _arrive(event: torch.cuda.Event, buffer: torch.Tensor, place: torch.Tensor) -> None:
    event.synchronize()
    place.copy_(buffer)


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view(-1).view(torch.uint8)


def values_of(content: Content) -> torch.Tensor:
    """The values of a tensor or maker, in a precision that torch.load knows."""
    tensor = content() if callable(content) else content
    return tensor.dequantize() if "dequantize" in type(tensor).__dict__ else tensor.detach()


def constant(content: Content) -> Callable[[], Content]:
    """A maker of what is there already."""
    return lambda: content
