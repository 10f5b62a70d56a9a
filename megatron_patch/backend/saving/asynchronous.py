"""Checkpoints that are written while training goes on.

After the step everybody agrees on who writes what. Then threads copy this rank's part to RAM while training goes on.
What they have not copied the optimizer may not change: as much as there is room for is copied on the GPU before, and
for the rest the optimizer waits, after the next forward and backward passes. Another thread writes, hears from
all ranks, and rank 0 gives the checkpoint its name. Megatron 0.19.2 copies in the step, and writes in a process that
imports all of torch.
"""

from __future__ import annotations

import datetime
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from megatron_patch.backend.gpu_memory import GPU_MEMORY
from megatron_patch.backend.gpu_threads import pool_on_this_gpu
from megatron_patch.backend.patching import BackendError, replace, wrap
from megatron_patch.backend.saving.dcp_writer import note_checksums, without_crc32, write_items
from megatron_patch.backend.saving.errors import StuckSave
from megatron_patch.backend.saving.folders import final_of
from megatron_patch.backend.saving.gpu_copies import Content, Files, held_bytes, hold, values_of
from megatron_patch.backend.saving.host_copies import Copier, constant
from megatron_patch.backend.saving.optimizer_shards import REMAINDERS, Remainders, place_of
from megatron_patch.common.disk import explain, naming
from megatron_patch.common.messages import Message, as_json, from_json, named
from megatron_patch.runs.heartbeat import HEART
from megatron_patch.runs.stored_chunks import iteration_of

FILES = 2
"""Of each rank, written side by side."""
LOOKS_EVERY = 1.0
"""Seconds."""
WAITING = "waiting for other ranks"
WRITING = "writing "
OTHERS_LATER = 20.0
"""Seconds."""


@dataclass
class Times:
    """What a save made training wait for, and how long it took itself: on the monotonic clock, in seconds."""

    started: float = 0.0
    prepared: float = 0.0
    """Seconds from Megatron's call until the threads began, without `before`."""
    before: float = 0.0
    """Seconds in which training waited for the save before."""
    waited: float = 0.0
    """Seconds in which the optimizer waited."""
    copied: float = 0.0
    nbytes: int = 0
    held: int = 0
    """Bytes of them that were copied on the GPU first."""

    def begin(self, files: Files, nbytes: int) -> None:
        """The threads begin now with these."""
        self.started = time.monotonic()
        self.before = _state.get("waited", 0.0)
        self.prepared = self.started - _state.get("asked", self.started) - self.before
        self.nbytes, self.held = nbytes, held_bytes(files)

    def told(self) -> str:
        """One line, when it is over."""
        held = f", {self.held / 1e9:.1f} of {self.nbytes / 1e9:.1f} GB held on the GPU"
        held = held if self.held or torch.cuda.is_available() else ""
        before = f"waited {self.before:.1f} s for the save before, " if self.before >= 0.1 else ""
        copied, written = self.copied - self.started, time.monotonic() - self.started
        return (
            f"asynchronous checkpoint: {before}prepared in {self.prepared:.2f} s{held}, in RAM after {copied:.1f} s, "
            f"written after {written:.1f} s; the optimizer waited {self.waited:.2f} s"
        )


class Save:
    """This rank's part of one checkpoint, planned and not yet written: what Megatron calls an AsyncRequest."""

    def __init__(self, writer: Any, metadata: Any) -> None:
        self.finalize_fns: list[Callable[[], None]] = []
        """Called one after the other when all ranks have written, on every rank."""
        self.copied = threading.Event()
        """The optimizer may go on."""
        self._writer, self._metadata = writer, metadata
        self._folder = Path(writer.checkpoint_dir)
        self._files: Files = []
        self._times = Times()
        self._advanced = time.monotonic()
        self._doing = "copying to RAM"
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def add_finalize_fn(self, function: Callable[[], None]) -> None:
        """Megatron's way to add one."""
        self.finalize_fns.append(function)

    def execute_sync(self) -> None:
        """Write now, tensor by tensor, without copies in RAM."""
        files = [[(item, _fetched(content)) for item, content in file] for file in self._writer.write_buckets]
        self._write(files, lambda doing: HEART.advance(doing))

    def start(self) -> None:
        """Copy and write in another thread."""
        self._files = hold(self._writer.write_buckets)
        self._times.begin(
            self._files, sum(_nbytes(content) for file in self._writer.write_buckets for _, content in file)
        )
        ready = torch.cuda.current_stream().record_event()
        self._thread = threading.Thread(target=self._run, args=(torch.cuda.current_device(), ready), daemon=True)
        self._thread.start()

    def done(self, *, wait: bool) -> bool:
        """Whether it is over.

        Raises:
            BackendError: some rank could not write its part; or whatever else ended the thread.
        """
        assert self._thread is not None
        while wait and self._thread.is_alive():
            self._thread.join(LOOKS_EVERY)
            self.refuse_to_wait_for_ever()
        if self._thread.is_alive():
            self.refuse_to_wait_for_ever()
            return False
        if self._error is not None:
            raise self._error
        return True

    def wait_until_copied(self) -> None:
        """Until the optimizer may go on. Raises StuckSave."""
        began = time.monotonic()
        while not self.copied.wait(LOOKS_EVERY):
            self.refuse_to_wait_for_ever()
        self._times.waited += time.monotonic() - began

    def refuse_to_wait_for_ever(self) -> None:
        """
        Raises:
            StuckSave: nothing was written for as long as ranks wait for each other. A rank that only waits for others
                says so later: whoever is stuck speaks first.
        """
        silent = time.monotonic() - self._advanced
        patience = _state.get("patience", math.inf) + (OTHERS_LATER if self._doing == WAITING else 0.0)
        if silent > patience:
            facts = {"path": final_of(self._folder), "doing": _told(self._doing), "seconds": f"{silent:.0f}"}
            raise StuckSave("save-stuck", **facts)

    def _note(self, doing: str) -> None:
        self._doing, self._advanced = doing, time.monotonic()

    def _run(self, device: int, ready: torch.cuda.Event) -> None:
        try:
            torch.cuda.set_device(device)
            copies = self._copies(ready)
            self._times.copied = time.monotonic()
            self._write(copies, self._note)
            self._note("naming it")
            for function in self.finalize_fns:
                function()
            print(self._times.told(), flush=True)
            self._note("reading it back")
            for follow_up in AFTERWARDS:
                follow_up(final_of(self._folder))
        except BaseException as error:
            self._error = error
        finally:
            self.copied.set()

    def _copies(self, ready: torch.cuda.Event) -> list[list[tuple[Any, Callable[[], Content]]]]:
        files, self._files = self._files, []  # nobody else has what is held on the GPU
        try:
            return _copier().copy(files, ready, self.copied.set)
        finally:
            del files
            GPU_MEMORY.give_back()

    def _write(self, files: list[list[tuple[Any, Callable[[], Content]]]], note: Callable[[str], None]) -> None:
        rank = torch.distributed.get_rank()
        results: Any
        try:
            with without_crc32(), pool_on_this_gpu(FILES) as pool:
                jobs = [
                    pool.submit(_write_file, self._folder / f"__{rank}_{number}.distcp", items, note)
                    for number, items in enumerate(files)
                ]
                results = [result for job in jobs for result in job.result()]
        except Exception as error:
            results = as_json(Message("save-of-rank", rank=rank, error=self._why(error)))
        note(WAITING)
        everybodys = [None] * torch.distributed.get_world_size() if rank == 0 else None
        torch.distributed.gather_object(results, everybodys, dst=0, group=thread_group())
        failures = [found for found in everybodys or () if isinstance(found, dict)]
        if rank == 0 and not failures:
            self._finish(everybodys or [])
        verdict: list[Any] = [failures]
        torch.distributed.broadcast_object_list(verdict, src=0, group=thread_group())
        if verdict[0]:
            raise BackendError("save-failed", failures=list(map(from_json, verdict[0])))

    def _why(self, error: Exception) -> Message | str:
        """What this rank could not do; of a full disk, how much it lacks."""
        needed = sum(_nbytes(content) for file in self._writer.write_buckets for _, content in file)
        written = sum(file.stat().st_size for file in self._folder.glob(f"__{torch.distributed.get_rank()}_*"))
        return explain(error, needed=needed, written=written) or f"{type(error).__name__}: {error}"

    def _finish(self, by_rank: list[Any]) -> None:
        self._writer.finish(self._metadata, by_rank)
        results = [result for of_rank in by_rank for result in of_rank]
        note_checksums(self._folder, results, iteration=iteration_of(final_of(self._folder)))


class Errand:
    """Something that a thread does while training goes on; stands where a Save stands."""

    def __init__(self, function: Callable[[], None]) -> None:
        self._function = function
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def wait_until_copied(self) -> None:
        """There is nothing to copy."""

    def done(self, *, wait: bool) -> bool:
        """See Save.done."""
        if wait:
            self._thread.join()
        if self._error is not None:
            raise self._error
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._function()
        except BaseException as error:
            self._error = error


_state: dict[str, Any] = {}
"""`save` under way, `group` of gloo, `copier`; when the newest was `asked` for, seconds it `waited` for the last."""
AFTERWARDS: list[Callable[[Path], None]] = []
"""Called by all ranks' threads with the folder of each asynchronous checkpoint that is complete."""


def save_in_the_background(args: Any) -> None:
    """Let Megatron's training loop hand every checkpoint over. Call it once, with Megatron's arguments."""
    from megatron.training import checkpointing, training

    args.async_save, args.async_strategy = True, "mcore"
    _state["patience"] = 60.0 * args.distributed_timeout_minutes
    replace(checkpointing, "schedule_async_save", _start, why="0.19.2 writes in another process")
    replace(checkpointing, "is_empty_async_queue", lambda: True, why="0.19.2 warns of a save that waits for the last")
    replace(training, "maybe_finalize_async_save", _finalize, why="0.19.2 asks all ranks' processes after each step")
    _let_optimizers_wait()
    _keep_cached_memory(training)

    @wrap(training, "save_checkpoint", why="0.19.2 does not say what of a save training waits for")
    def save(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        _state.update(asked=time.monotonic(), waited=0.0)
        return original(*args, **kwargs)

    @wrap(training, "train", why="groups can be made only while torchrun lives, and the last save may come after")
    def train(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        thread_group()
        return original(*args, **kwargs)


def _keep_cached_memory(training: Any) -> None:
    why = "0.19.2 gives torch's cached memory back, for the process that saves; the next step has to get it again"

    @wrap(training, "save_checkpoint_and_time", why=why)
    def save(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        empty_cache, torch.cuda.empty_cache = torch.cuda.empty_cache, lambda: None
        try:
            return original(*args, **kwargs)
        finally:
            torch.cuda.empty_cache = empty_cache


def use_own_writer() -> None:
    """Plan as Megatron does, and write as this module does, in the background or not."""
    from megatron.core.dist_checkpointing.strategies import filesystem_async
    from megatron.core.dist_checkpointing.strategies.torch import TorchDistSaveShardedStrategy

    why = "0.19.2 copies everything to RAM first, and turns all fp8 weights into bf16 on the GPU"

    @wrap(filesystem_async.FileSystemWriterAsync, "prepare_write_data", why=why)
    def prepare(original: Callable[..., Any], self: Any, plan: Any, planner: Any) -> None:
        files = filesystem_async._split_by_size_and_type(FILES, plan.items)
        self.write_buckets = [[(item, _content(item, planner)) for item in items] for items in files if items]
        REMAINDERS.clear()

    @wrap(TorchDistSaveShardedStrategy, "_get_save_and_finalize_callbacks", why=why)
    def request(original: Callable[..., Any], self: Any, writer: Any, planned: Any, strategy: str) -> Save:
        _, metadata, _ = planned
        thread_group()  # made by all ranks together, before any thread needs it
        return Save(writer, metadata)


def wait_for_last_save() -> None:
    """Until what is under way has its name, and what follows is done."""
    _finalize(blocking=True)


def finish_last_save() -> None:
    """As `wait_for_last_save`, for a rank that fails: what becomes of the save is said in its log alone."""
    try:
        wait_for_last_save()
    except Exception as error:
        print(f"the checkpoint under way was not written: {error}", flush=True)


def do_meanwhile(function: Callable[[], None]) -> None:
    """Do something in another thread, on all ranks, before the next save begins."""
    _state["save"] = Errand(function)


def _start(save: Save) -> None:
    _state["save"] = save
    save.start()


def _finalize(blocking: bool = False, terminate: bool = False) -> None:
    save, began = _state.get("save"), time.monotonic()
    if save is not None and save.done(wait=blocking):
        del _state["save"]
    if blocking:
        _state["waited"] = _state.get("waited", 0.0) + time.monotonic() - began


def _let_optimizers_wait() -> None:
    from megatron.core.optimizer import optimizer

    for kind in (optimizer.MixedPrecisionOptimizer, optimizer.FP32Optimizer, optimizer.ChainedOptimizer):

        @wrap(kind, "step", why="0.19.2 has copied everything before the next step begins")
        def step(original: Callable[..., Any], self: Any, *args: Any, **kwargs: Any) -> Any:
            if "save" in _state:
                _state["save"].wait_until_copied()
            return original(self, *args, **kwargs)


def thread_group() -> Any:
    """gloo's, of all ranks, for the threads: NCCL's belong to the training loop."""
    if "group" not in _state:
        _state["group"] = torch.distributed.new_group(backend="gloo", timeout=datetime.timedelta(days=1))
    return _state["group"]


def _content(item: Any, planner: Any) -> Content:
    content = planner.resolve_data(item)
    if isinstance(content, torch.Tensor) and content.device.type == "meta":
        return REMAINDERS[place_of(item.index)]
    return content


def _fetched(content: Content) -> Callable[[], Content]:
    if isinstance(content, (torch.Tensor, Remainders)):
        return lambda: _alone(values_of(content).cpu())
    return constant(content)


def _alone(tensor: torch.Tensor) -> torch.Tensor:
    """torch.save writes the whole storage of a view."""
    return tensor.clone() if tensor.untyped_storage().nbytes() != tensor.nbytes else tensor


def _write_file(path: Path, items: list[tuple[Any, Callable[[], Content]]], note: Callable[[str], None]) -> list[Any]:
    def noted() -> Iterator[tuple[Any, Callable[[], Content]]]:
        for item in items:
            note(f"{WRITING}{path.name}")
            yield item

    with naming(path), path.open("wb") as stream:
        results = write_items(stream, path.name, noted())
        stream.flush()
        os.fsync(stream.fileno())
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # nobody reads it soon
    return results


def _nbytes(content: Content) -> int:
    if isinstance(content, Remainders):
        return content.low.numel() * torch.float32.itemsize
    return content.nbytes if isinstance(content, torch.Tensor) else len(content.getbuffer())


def _told(doing: str) -> Message:
    """What a save does, for a screen."""
    if doing.startswith(WRITING):
        return Message("save-writing", file=doing.removeprefix(WRITING))
    return named(doing)


def _copier() -> Copier:
    if "copier" not in _state:
        _state["copier"] = Copier()
    return _state["copier"]
