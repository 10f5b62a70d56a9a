"""Writing torch distributed checkpoints from tensors that do not exist yet.

torch 2.11's `FileSystemWriter` can be given tensors only through a planner, keeps the last tensor of every key
until a file is closed, and loses an exception raised in one of its threads: the checkpoint is then incomplete and
nobody is told. Here every large item is a file of its own, and the first error ends the writing.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystem, _StorageInfo
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex, StorageMeta
from torch.distributed.checkpoint.planner import WriteItem, WriteItemType
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from megatron_patch.common.spread import spread
from megatron_patch.runs.stored_chunks import StoredChunk, write_checksums

SMALL_BYTES = 1 << 20
"""Of a tensor whose archive is made in memory."""
Maker = Callable[[], Any]
"""Makes a tensor, or the object of an item that is not one, when its turn comes."""
Opener = Callable[[Path], Any]
"""Opens a file for writing; the result is written front to back and closed."""


class _Planner(dcp.DefaultSavePlanner):
    """Plans items that do not exist yet."""

    def __init__(self, items: Sequence[tuple[WriteItem, Maker]]) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self._makers = {item.index: make for item, make in items}
        self._items = [item for item, _ in items]

    def create_local_plan(self) -> dcp.SavePlan:
        self.plan = dcp.SavePlan(self._items, planner_data={})
        return self.plan

    def resolve_data(self, write_item: WriteItem) -> Any:
        return self._makers[write_item.index]()


class _FileSystem(FileSystem):
    """Opens files by a function of ours."""

    def __init__(self, opener: Opener) -> None:
        self._opener = opener

    @contextlib.contextmanager
    def create_stream(self, path: Any, mode: str) -> Iterator[Any]:
        with contextlib.closing(self._opener(Path(path))) as stream:
            yield stream


@dataclass(frozen=True)
class HashedResult(WriteResult):
    """Where an item was written, and the SHA-256 of its bytes."""

    sha256: str = ""


@dataclass(frozen=True, kw_only=True)
class Streamed:
    """A contiguous tensor whose numbers are made while it is written."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    parts: Iterable[memoryview]
    """Its bytes, in order; each is written before the next is asked for."""


class _ChunkStream:
    """A stream for torch.save, whose C++ writer crashes the process when Python's write raises (a full disk).

    Hashes what passes, unless the stream does.
    """

    def __init__(self, stream: Any, digest: Any | None, parts: Iterable[memoryview] = ()) -> None:
        self._stream, self._digest, self.parts = stream, digest, parts
        self._error: Exception | None = None

    def write(self, data: Any) -> int:
        if self._error is None:
            try:
                self._write(data)
            except OSError as error:
                self._error = error
        return len(data)

    def _write(self, data: Any) -> None:
        if self._digest is not None:
            self._digest.update(data)  # leaves the GIL to the other file's thread
        self._stream.write(data)

    def seek(self, nbytes: int, _whence: int) -> None:
        """Where torch leaves room for numbers that it does not have: write them."""
        if self._error is not None:
            return
        try:
            made = 0
            for part in self.parts:
                self._write(part)
                made += len(part)
            if made != nbytes:
                raise RuntimeError(f"{made} bytes were made of a tensor of {nbytes}")
        except Exception as error:
            self._error = error

    def flush(self) -> None:
        """The stream flushes itself."""

    def check(self) -> None:
        """Raise what was held back."""
        if self._error is not None:
            raise self._error


def write_items(
    stream: Any, name: str, items: Iterable[tuple[WriteItem, Maker]], *, hashes: bool = True
) -> list[WriteResult]:
    """Write one file of a checkpoint, making each item when its turn comes.

    Args:
        stream: at its beginning.
        name: of the file, for the checkpoint's index.
        items: tensors must come out on the CPU and alone in their storage, or as `Streamed`; bytes are written as they
            are.
        hashes: the SHA-256 of each item; false where the stream has one of the whole file.
    """
    results: list[WriteResult] = []
    for item, make in items:
        content, start, digest = make(), stream.tell(), hashlib.sha256() if hashes else None
        chunk = _ChunkStream(stream, digest)
        # an archive is made in memory unless it is large: small writes cost a system call each
        if isinstance(content, io.BytesIO):
            chunk.write(content.getvalue())  # getbuffer in a cycle of garbage crashes Python 3.12.1
        elif isinstance(content, Streamed):
            _save_streamed(content, chunk)
        elif isinstance(content, torch.Tensor) and content.nbytes > SMALL_BYTES:
            torch.save(content, chunk)  # type: ignore[arg-type]  # it only writes
        else:
            archive = io.BytesIO()
            torch.save(content, archive)
            chunk.write(archive.getvalue())
        chunk.check()
        del content
        length = stream.tell() - start
        place = _StorageInfo(name, start, length)
        results.append(HashedResult(item.index, length, place, digest.hexdigest() if digest else ""))
    return results


def _save_streamed(content: Streamed, chunk: _ChunkStream) -> None:
    promised = torch.empty(content.shape, dtype=content.dtype)  # memory that nobody touches costs nothing
    with torch.serialization.skip_data():
        if promised.nbytes > SMALL_BYTES:
            chunk.parts = content.parts
            torch.save(promised, chunk)  # type: ignore[arg-type]  # it only writes and leaves room
        else:
            archive = io.BytesIO()
            within = _ChunkStream(archive, None, content.parts)
            torch.save(promised, within)  # type: ignore[arg-type]
            within.check()
            chunk.write(archive.getvalue())


def note_checksums(folder: Path, results: Iterable[WriteResult], *, iteration: int | None) -> None:
    """Write `checksums.json` beside what `write_items` has written, after `.metadata`."""
    chunks = (
        StoredChunk(
            file=result.storage_data.relative_path,
            offset=result.storage_data.offset,
            length=result.storage_data.length,
            sha256=result.sha256,
            item=item_name(result.index),
        )
        for result in results
        if isinstance(result, HashedResult)
    )
    write_checksums(folder, chunks, iteration=iteration)


def item_name(index: MetadataIndex) -> str:
    """Key of an item, and where in its tensor it begins."""
    return index.fqn + (f" at {list(index.offset)}" if index.offset and any(index.offset) else "")


class _Writer(dcp.FileSystemWriter):
    """One file for each tensor, one for everything else."""

    def __init__(self, folder: Path, opener: Opener, workers: int) -> None:
        super().__init__(folder, thread_count=workers, sync_files=False)  # the opener's files flush themselves
        self.fs = _FileSystem(opener)

    def write_data(self, plan: dcp.SavePlan, planner: dcp.SavePlanner) -> Future[list[WriteResult]]:
        objects = [item for item in plan.items if item.type == WriteItemType.BYTE_IO]
        groups = [[item] for item in plan.items if item.type != WriteItemType.BYTE_IO] + [objects]
        numbered = list(enumerate(groups))
        written = spread(lambda group: self._write_file(planner, *group), numbered, self.thread_count, _moment)
        # what came from another process is a copy, which .metadata would hold a second time
        own = {item.index: item.index for item in plan.items}
        results = [replace(result, index=own[result.index]) for of_file in written for result in of_file]
        done: Future[list[WriteResult]] = Future()
        done.set_result(results)
        return done

    def _write_file(self, planner: dcp.SavePlanner, number: int, items: list[WriteItem]) -> list[WriteResult]:
        name = f"__0_{number}.distcp"
        with self.fs.create_stream(self.fs.concat_path(self.path, name), "wb") as stream:
            makers = [(item, partial(planner.resolve_data, item)) for item in items]
            return write_items(stream, name, makers, hashes=False)  # the opener's files hash themselves

    def storage_meta(self) -> StorageMeta:
        """Upstream puts the path and a random id there; without them the same input gives the same bytes."""
        return StorageMeta()

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Upstream's, after counting."""
        if sum(map(len, results)) != len({r.index for of_rank in results for r in of_rank}):
            raise RuntimeError("two items of a checkpoint have the same name and place")
        super().finish(metadata, results)


def _moment(group: tuple[int, list[WriteItem]]) -> float:
    """Large files first: at the end all cores have something to do."""
    _, items = group
    return -sum(item.tensor_data.chunk.sizes.numel() for item in items if item.tensor_data is not None)


def stream_items(folder: Path, items: Sequence[tuple[WriteItem, Maker]], opener: Opener, workers: int) -> None:
    """Write a checkpoint folder, making each item when its turn comes, in a worker thread.

    Args:
        items: tensors must come out contiguous, on the CPU, and as their item says, or as `Streamed`.
        opener: also flushes what it opened.
        workers: threads; each holds one item in memory, or one part of it.
    Raises:
        whatever the first maker or opener raised.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)  # it is meant
        try:
            with without_crc32():
                dcp.save({}, storage_writer=_Writer(folder, opener, workers), planner=_Planner(items), no_dist=True)
        except CheckpointException as wrapped:
            (error, _), *_ = wrapped.failures.values()
            raise error from None


@contextlib.contextmanager
def without_crc32() -> Iterator[None]:
    """Let torch.save, in all threads, leave out checksums that torch.load never looks at; SHA-256 takes no longer."""
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        yield
    finally:
        torch.serialization.set_crc32_options(before)
