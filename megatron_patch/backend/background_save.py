"""Checkpoints that are written while training goes on.

In the step everybody agrees on who writes what. Then threads copy this rank's part to RAM while the next forward and
backward passes run; the optimizer waits for them, since it changes what they copy. Another thread writes, hears from
all ranks, and rank 0 gives the checkpoint its name. Megatron 0.19.2 copies in the step, and writes in a process that
imports all of torch.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .dcp_writer import without_crc32, write_items
from .optimizer_shards import MADE_WHEN_WRITTEN
from .patching import BackendError, replace, wrap

FILES = 2
"""Of each rank, written side by side."""
MOST_COPIERS = 8
"""Threads of each rank that copy from a GPU to RAM; half of its share of the cores, if that is less."""
PIECE_BYTES = 32 << 20
"""Each of them has two pinned buffers of this size."""

Content = Any
"""What a WriteItem stands for: a tensor, its maker, or a BytesIO."""


class Save:
    """This rank's part of one checkpoint, planned and not yet written: what Megatron calls an AsyncRequest."""

    def __init__(self, writer: Any, metadata: Any, started: float) -> None:
        self.finalize_fns: list[Callable[[], None]] = []
        """Called one after the other when all ranks have written, on every rank."""
        self.copied = threading.Event()
        """The optimizer may go on."""
        self._writer, self._metadata = writer, metadata
        self._started = started
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def add_finalize_fn(self, function: Callable[[], None]) -> None:
        """Megatron's way to add one."""
        self.finalize_fns.append(function)

    def execute_sync(self) -> None:
        """Write now, tensor by tensor, without copies in RAM."""
        self._write([[(item, _fetched(content)) for item, content in file] for file in self._writer.write_buckets])

    def start(self) -> None:
        """Copy and write in another thread."""
        ready = torch.cuda.current_stream().record_event()
        self._thread = threading.Thread(target=self._run, args=(torch.cuda.current_device(), ready), daemon=True)
        self._thread.start()

    def done(self, *, wait: bool) -> bool:
        """Whether it is over.

        Raises:
            BackendError: some rank could not write its part; or whatever else ended the thread.
        """
        assert self._thread is not None
        if wait:
            self._thread.join()
        if self._thread.is_alive():
            return False
        if self._error is not None:
            raise self._error
        return True

    def _run(self, device: int, ready: torch.cuda.Event) -> None:
        try:
            copies = _copier().copy(self._writer.write_buckets, device, ready)
            self.copied.set()
            copied = time.monotonic() - self._started
            self._write(copies)
            for function in self.finalize_fns:
                function()
            took = time.monotonic() - self._started
            print(
                f"saved beside training: copied to RAM within {copied:.1f} s, written within {took:.1f} s", flush=True
            )
        except BaseException as error:
            self._error = error
        finally:
            self.copied.set()

    def _write(self, files: list[list[tuple[Any, Callable[[], Content]]]]) -> None:
        rank = torch.distributed.get_rank()
        results: Any
        try:
            with without_crc32(), ThreadPoolExecutor(FILES) as pool:
                jobs = [
                    pool.submit(_write_file, Path(self._writer.checkpoint_dir) / f"__{rank}_{number}.distcp", items)
                    for number, items in enumerate(files)
                ]
                results = [result for job in jobs for result in job.result()]
        except Exception as error:
            results = f"rank {rank}: {type(error).__name__}: {error}"
        everybodys = [None] * torch.distributed.get_world_size() if rank == 0 else None
        torch.distributed.gather_object(results, everybodys, dst=0, group=_group())
        failures = [found for found in everybodys or () if isinstance(found, str)]
        if rank == 0 and not failures:
            self._writer.finish(self._metadata, everybodys)
        verdict = [failures]
        torch.distributed.broadcast_object_list(verdict, src=0, group=_group())
        if verdict[0]:
            raise BackendError(f"a checkpoint was not written: {'; '.join(verdict[0])}")


_state: dict[str, Any] = {}
"""`save` under way, `group` of gloo, `copier`."""


def save_in_the_background(args: Any) -> None:
    """Let Megatron's training loop hand every checkpoint over. Call it once, with Megatron's arguments."""
    from megatron.training import checkpointing, training

    args.async_save, args.async_strategy = True, "mcore"
    replace(checkpointing, "schedule_async_save", _start, why="0.19.2 writes in another process")
    replace(checkpointing, "is_empty_async_queue", lambda: True, why="0.19.2 warns of a save that waits for the last")
    replace(
        training, "maybe_finalize_async_save", _finalize, why="0.19.2 asks its process with an all-reduce each step"
    )
    _let_optimizers_wait()

    @wrap(training, "train", why="groups can be made only while torchrun lives, and the last save may come after")
    def train(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        _group()
        return original(*args, **kwargs)


def use_own_writer() -> None:
    """Plan as Megatron does, and write as this module does, in the background or not."""
    from megatron.core.dist_checkpointing.strategies import filesystem_async
    from megatron.core.dist_checkpointing.strategies.torch import TorchDistSaveShardedStrategy

    why = "0.19.2 copies everything to RAM first, and turns all fp8 weights into bf16 on the GPU"

    @wrap(filesystem_async.FileSystemWriterAsync, "prepare_write_data", why=why)
    def prepare(original: Callable[..., Any], self: Any, plan: Any, planner: Any) -> None:
        files = filesystem_async._split_by_size_and_type(FILES, plan.items)
        self.write_buckets = [[(item, _content(item, planner)) for item in items] for items in files if items]
        MADE_WHEN_WRITTEN.clear()

    @wrap(TorchDistSaveShardedStrategy, "async_save", why="0.19.2 starts no clock")
    def async_save(original: Callable[..., Any], self: Any, *args: Any, **kwargs: Any) -> Save:
        _state["started"] = time.monotonic()
        return original(self, *args, **kwargs)

    @wrap(TorchDistSaveShardedStrategy, "_get_save_and_finalize_callbacks", why=why)
    def request(original: Callable[..., Any], self: Any, writer: Any, planned: Any, strategy: str) -> Save:
        _, metadata, _ = planned
        _group()  # made by all ranks together, before any thread needs it
        return Save(writer, metadata, _state["started"])


def wait_for_last_save() -> None:
    """Until what is under way has its name; nothing to do without `save_in_the_background`."""
    _finalize(blocking=True)


def _start(save: Save) -> None:
    _state["save"] = save
    save.start()


def _finalize(blocking: bool = False, terminate: bool = False) -> None:
    save = _state.get("save")
    if save is not None and save.done(wait=blocking):
        del _state["save"]


def _let_optimizers_wait() -> None:
    from megatron.core.optimizer import optimizer

    for kind in (optimizer.MixedPrecisionOptimizer, optimizer.FP32Optimizer, optimizer.ChainedOptimizer):

        @wrap(kind, "step", why="0.19.2 has copied everything before the next step begins")
        def step(original: Callable[..., Any], self: Any, *args: Any, **kwargs: Any) -> Any:
            if "save" in _state:
                _state["save"].copied.wait()
            return original(self, *args, **kwargs)


def _group() -> Any:
    """gloo's, of all ranks, for the threads: NCCL's belong to the training loop."""
    if "group" not in _state:
        _state["group"] = torch.distributed.new_group(backend="gloo", timeout=datetime.timedelta(days=1))
    return _state["group"]


def _content(item: Any, planner: Any) -> Content:
    content = planner.resolve_data(item)
    if isinstance(content, torch.Tensor) and content.device.type == "meta":
        return MADE_WHEN_WRITTEN[item.index.fqn, tuple(item.index.offset)]
    return content


def _tensor(content: Content) -> torch.Tensor:
    """The values of a tensor or maker, in a precision that torch.load knows."""
    tensor = content() if callable(content) else content
    return tensor.dequantize() if "dequantize" in type(tensor).__dict__ else tensor.detach()


def _fetched(content: Content) -> Callable[[], Content]:
    if isinstance(content, torch.Tensor) or callable(content):
        return lambda: _alone(_tensor(content).cpu())
    return _constant(content)


def _constant(content: Content) -> Callable[[], Content]:
    return lambda: content


def _alone(tensor: torch.Tensor) -> torch.Tensor:
    """torch.save writes the whole storage of a view."""
    return tensor.clone() if tensor.untyped_storage().nbytes() != tensor.nbytes else tensor


def _write_file(path: Path, items: list[tuple[Any, Callable[[], Content]]]) -> list[Any]:
    with path.open("wb") as stream:
        results = write_items(stream, path.name, items)
        stream.flush()
        os.fsync(stream.fileno())
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # nobody reads it soon
    return results


class _Copier:
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
        return [[(item, _constant(job.result())) for item, job in items] for items in jobs]

    def _copy(self, item: Any, content: Content, device: int, ready: torch.cuda.Event) -> Content:
        if not (isinstance(content, torch.Tensor) or callable(content)):
            return content
        with self._stream(device, ready):
            tensor = _tensor(content).contiguous()
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


def _copier() -> _Copier:
    if "copier" not in _state:
        _state["copier"] = _Copier()
    return _state["copier"]
