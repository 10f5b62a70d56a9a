"""Copies of tensors in RAM, taken by threads while the GPU computes."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import wait
from typing import Any

import numpy as np
import torch

from megatron_patch.backend.gpu_threads import pool_on_this_gpu
from megatron_patch.backend.saving.gpu_copies import Content, Files, Held, values_of
from megatron_patch.backend.saving.optimizer_shards import Remainders
from megatron_patch.common.threads import own_cores

MOST_COPIERS = 8
"""Threads of each rank that copy from a GPU to RAM; half of its share of the cores, if that is less."""
PIECE_BYTES = 32 << 20
"""Each of them has two pinned buffers of this size."""


class Copier:
    """Copies to RAM from the GPU of the thread that makes it, and keeps that RAM for the next checkpoint."""

    def __init__(self) -> None:
        self._rooms: dict[Any, torch.Tensor] = {}
        self._pinned = threading.local()
        self._threads = pool_on_this_gpu(max(1, min(MOST_COPIERS, own_cores() // 2)))

    def copy(
        self, files: Files, ready: torch.cuda.Event, may_change: Callable[[], None]
    ) -> list[list[tuple[Any, Callable[[], Content]]]]:
        """Copies of all contents.

        Args:
            ready: when the GPU has made them.
            may_change: called when what is not Held has been copied; that comes first.
        """
        pairs = sorted((pair for items in files for pair in items), key=lambda pair: isinstance(pair[1], Held))
        jobs = {item.index: self._threads.submit(self._copy, item, content, ready) for item, content in pairs}
        wait(jobs[item.index] for item, content in pairs if not isinstance(content, Held))
        may_change()
        return [[(item, constant(jobs[item.index].result())) for item, _ in items] for items in files]

    def _copy(self, item: Any, content: Content, ready: torch.cuda.Event) -> Content:
        if isinstance(content, Held):
            content = content.content
        if not isinstance(content, (torch.Tensor, Remainders)):
            return content
        with self._stream(ready):
            if isinstance(content, Remainders):
                shape, dtype, where = content.low.shape, torch.float32, content.low.device.type
                parts = content.flat_parts(PIECE_BYTES // dtype.itemsize)
                pieces = (_bytes(part.in_fp32()) for part in parts)  # one after the other: the GPU has no room for all
            else:
                tensor = values_of(content).contiguous()
                shape, dtype, where = tensor.shape, tensor.dtype, tensor.device.type
                pieces = iter(_bytes(tensor).split(PIECE_BYTES))
            room = self._room(item.index, shape, dtype)
            both = zip(pieces, _bytes(room).split(PIECE_BYTES), strict=True)
            if where == "cuda":
                self._through_pinned_memory(both)
            else:
                for piece, place in both:
                    place.copy_(piece)
        return room

    def _room(self, index: Any, shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
        room = self._rooms.get(index)
        if room is None or room.shape != shape or room.dtype != dtype:
            nbytes = shape.numel() * dtype.itemsize
            memory = torch.from_numpy(np.empty(nbytes, np.uint8))  # numpy asks for huge pages, torch does not
            room = self._rooms[index] = memory.view(dtype).view(shape)
        return room

    @contextlib.contextmanager
    def _stream(self, ready: torch.cuda.Event) -> Iterator[None]:
        if not hasattr(self._pinned, "stream"):
            self._pinned.stream = torch.cuda.Stream()
        self._pinned.stream.wait_event(ready)
        with torch.cuda.stream(self._pinned.stream):
            yield

    def _through_pinned_memory(self, pieces: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Bytes, of and to, by way of two buffers: one is filled by the GPU while the other is emptied."""
        if not hasattr(self._pinned, "buffers"):
            self._pinned.buffers = [torch.empty(PIECE_BYTES, dtype=torch.uint8).pin_memory() for _ in range(2)]
        under_way: deque[tuple[torch.cuda.Event, torch.Tensor, torch.Tensor]] = deque()
        for number, (piece, place) in enumerate(pieces):
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


def constant(content: Content) -> Callable[[], Content]:
    """A maker of what is there already."""
    return lambda: content
