"""Reading torch distributed checkpoints: by several threads, each chunk held against its checksum first."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch.distributed.checkpoint import FileSystemReader

from megatron_patch.backend.gpu_threads import pool_on_this_gpu
from megatron_patch.backend.patching import wrap
from megatron_patch.backend.saving.dcp_writer import item_name
from megatron_patch.backend.saving.errors import DamagedCheckpoint, UnloadableCheckpoint
from megatron_patch.common.threads import own_cores
from megatron_patch.runs.stored_chunks import ChunkError, check_chunk

MOST_READERS = 8
"""Threads of each rank; each holds one tensor of the checkpoint. A rank's share of the cores, if that is less."""
NOT_DAMAGE = (errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""Errors of the system that say nothing about the file."""


def read_in_threads() -> None:
    """Let each rank read as many tensors at a time as it has cores."""

    @wrap(FileSystemReader, "read_data", why="2.11 reads one tensor after another, and believes what it reads")
    def read_data(original: Callable[..., Any], self: Any, plan: Any, planner: Any) -> Any:
        chunks: dict[tuple[str, int], list[Any]] = {}
        for item in plan.items:
            place = self.storage_data[item.storage_index]
            chunks.setdefault((place.relative_path, place.offset), []).append(item)
        pool = pool_on_this_gpu(max(1, min(MOST_READERS, own_cores())))

        def read(items: list[Any]) -> None:
            _verify(self, items[0])
            for item in items:
                with _named(self, item):
                    original(self, replace(plan, items=[item]), planner)

        try:
            for _ in pool.map(read, chunks.values()):
                pass
        finally:
            pool.shutdown(cancel_futures=True)
        return original(self, replace(plan, items=[]), planner)  # a future that is done


def _verify(reader: Any, item: Any) -> None:
    """Hold the chunk that an item lies in against its SHA-256, where the checkpoint has them."""
    checksums = getattr(reader, "checksums", None)
    if checksums is None:
        return
    place = reader.storage_data[item.storage_index]
    try:
        with _named(reader, item):
            check_chunk(Path(reader.path), checksums, place.relative_path, place.offset, place.length)
    except ChunkError as error:
        raise DamagedCheckpoint.of(error.messages) from None


@contextlib.contextmanager
def _named(reader: Any, item: Any) -> Iterator[None]:
    """Let errors of reading an item say which, and of which file."""
    try:
        yield
    except (UnloadableCheckpoint, ChunkError):
        raise
    except Exception as error:
        file = f"{reader.path}/{reader.storage_data[item.storage_index].relative_path}"
        innocent = isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in NOT_DAMAGE)
        kind = UnloadableCheckpoint if innocent else DamagedCheckpoint
        what = f"{type(error).__name__}: {error}"
        raise kind.at(file, "item-unreadable", item=item_name(item.storage_index), error=what) from error
