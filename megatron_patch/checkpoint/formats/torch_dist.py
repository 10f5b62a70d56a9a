"""Megatron's `torch_dist` checkpoints: safe reading by row ranges, and streamed writing.

Reading never unpickles anything but torch's metadata classes, and no tensor is loaded: the bytes of a chunk
are found inside its zip record and read with `pread`. Writing goes through torch's own `FileSystemWriter`,
with tensors that are made while they are written.
"""

from __future__ import annotations

import math
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import metadata as dcp_metadata
from torch.distributed.checkpoint.planner import TensorWriteData, WriteItem, WriteItemType

from megatron_patch.backend.saving.dcp_writer import Streamed, stream_items
from megatron_patch.backend.saving.errors import DamagedCheckpoint
from megatron_patch.backend.saving.restricted import parse_metadata
from megatron_patch.checkpoint.errors import CheckpointError, of_layer, sizes
from megatron_patch.checkpoint.formats.safetensors_io import FileCache
from megatron_patch.checkpoint.formats.torch_record import find_numbers
from megatron_patch.checkpoint.store import HashingFile, StagedFolder
from megatron_patch.common.messages import Message, at
from megatron_patch.runs.stored_chunks import ChunkError, check_chunk, read_checksums

TORCH_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
SAFETENSORS_NAMES = {dtype: name for name, dtype in TORCH_DTYPES.items()}
METADATA = ".metadata"
RECORDS_BYTES = 1 << 16
"""More than what torch.save writes around the numbers of one tensor."""


def read_metadata(folder: Path) -> dcp_metadata.Metadata:
    """The `.metadata` of a torch_dist folder, unpickled with nothing but its own classes allowed.

    Raises:
        CheckpointError: absent, damaged, or it refers to anything else.
    """
    try:
        return parse_metadata((folder / METADATA).read_bytes(), folder / METADATA)
    except FileNotFoundError:
        raise CheckpointError.at(folder, "no-metadata", file=METADATA) from None
    except OSError as error:
        raise CheckpointError.at(folder / METADATA, "cannot-be-read", error=error.strerror) from None
    except DamagedCheckpoint as error:
        raise CheckpointError.of(error.messages) from None


@dataclass(frozen=True, kw_only=True)
class PlacedChunk:
    """A box of a tensor and where it lies."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    file: Path
    start: int
    """Of the torch.save archive within the file."""
    length: int


class TorchDistReader:
    """The model tensors of one torch_dist folder (`release` or `iter_NNNNNNN`), by row ranges.

    Optimizer state, random states and Megatron's arguments are never read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shapes: dict[str, tuple[int, ...]] = {}
        """Layer axis included."""
        self._element_types: dict[str, str] = {}
        self.chunks: dict[str, list[PlacedChunk]] = {}
        self._layers: dict[str, dict[int, list[PlacedChunk]]] = {}
        self._metadata = read_metadata(folder)
        try:
            self._checksums = read_checksums(folder)
        except ChunkError as error:
            raise CheckpointError.of(error.messages) from None
        self._payloads: dict[tuple[Path, int], int] = {}
        self.files, self._scratch = FileCache(), threading.local()
        problems: list[Message] = []
        for name, facts in self._metadata.state_dict_metadata.items():
            if isinstance(facts, dcp_metadata.TensorStorageMetadata) and not name.startswith("optimizer."):
                problems += self._add(name, facts)
        if problems:
            raise CheckpointError.of(problems)

    def _add(self, name: str, facts: dcp_metadata.TensorStorageMetadata) -> Iterator[Message]:
        element_type = SAFETENSORS_NAMES.get(facts.properties.dtype)
        if element_type is None:
            return  # not a weight
        self.shapes[name], self._element_types[name] = tuple(facts.size), element_type
        self.chunks[name] = []
        for chunk in facts.chunks:
            index = dcp_metadata.MetadataIndex(name, chunk.offsets)
            where = self._metadata.storage_data.get(index)
            file = self.folder / where.relative_path if where else self.folder
            size = self._size(file)
            if where is None or size is None:
                place = {"offsets": sizes(chunk.offsets), "file": file.name}
                yield at(self.folder, "tensor-file-missing", tensor=name, **place)
            elif size < (end := where.offset + where.length):
                yield at(file, "tensor-file-cut", size=size, tensor=name, end=end)
            else:
                box = {"offsets": tuple(chunk.offsets), "sizes": tuple(chunk.sizes)}
                self.chunks[name].append(PlacedChunk(**box, file=file, start=where.offset, length=where.length))

    def _size(self, file: Path) -> int | None:
        """Bytes of a file; None where it is none, or none of this folder."""
        try:
            found = file.stat()
        except (OSError, ValueError):  # a name that no file can have
            return None
        return found.st_size if file.parent == self.folder and stat.S_ISREG(found.st_mode) else None

    def element_type(self, name: str) -> str:
        """F32, F16 or BF16."""
        return self._element_types[name]

    def _parts(
        self, name: str, layer: int | None, start: int, rows: int
    ) -> Iterator[tuple[PlacedChunk, int, slice, slice]]:
        """The chunks that hold some of these rows: the first such row in the chunk, and which rows and columns it has.

        Rows are counted from `start`.
        """
        lead = 0 if layer is None else 1
        for chunk in self.chunks[name] if layer is None else self._of_layer(name, layer):
            (row0, *columns0), (held, *columns) = chunk.offsets[lead:], chunk.sizes[lead:]
            within = 0 if layer is None else layer - chunk.offsets[0]
            first, last = max(start, row0), min(start + rows, row0 + held)
            if first < last:
                across = slice(columns0[0], columns0[0] + columns[0]) if columns else slice(0, 1)
                yield chunk, within * held + first - row0, slice(first - start, last - start), across

    def _of_layer(self, name: str, layer: int) -> list[PlacedChunk]:
        """The chunks that hold some of a layer: of a large model they are few among thousands."""
        if name not in self._layers:
            layers: dict[int, list[PlacedChunk]] = {}
            for chunk in self.chunks[name]:
                for held in range(chunk.offsets[0], chunk.offsets[0] + chunk.sizes[0]):
                    layers.setdefault(held, []).append(chunk)
            self._layers[name] = layers
        return self._layers[name].get(layer, [])

    def read_rows(self, name: str, layer: int | None, start: int, out: torch.Tensor) -> None:
        """Fill `out`, `[rows, columns]` or `[rows]` in the stored type, with rows from `start` of one layer.

        Raises:
            CheckpointError: the chunks do not cover the rows, or a chunk is not what the metadata says.
        """
        missing = out.numel()
        for chunk, row, rows, columns in self._parts(name, layer, start, out.shape[0]):
            part = out[rows, columns] if out.dim() == 2 else out[rows]
            self._fill(name, chunk, row, part)
            missing -= part.numel()
        if missing:
            rows_of = {"first": start, "last": start + out.shape[0], "tensor": of_layer(name, layer)}
            raise CheckpointError.at(self.folder, "rows-missing", **rows_of)

    def read_bytes(self, name: str, layer: int | None, start: int, rows: int, view: memoryview) -> bool:
        """Fill `view` with whole rows from `start`; false where a chunk has fewer columns, or rows are missing."""
        parts = list(self._parts(name, layer, start, rows))
        width = math.prod(self.shapes[name][1 if layer is None else 2 :])
        whole = all(columns.stop - columns.start == width for *_, columns in parts)
        if not whole or sum(held.stop - held.start for _, _, held, _ in parts) != rows:
            return False
        row_bytes = width * TORCH_DTYPES[self._element_types[name]].itemsize
        for chunk, row, held, _ in parts:
            part = view[held.start * row_bytes : held.stop * row_bytes]
            self.files.read_into(chunk.file, self._payload(name, chunk) + row * row_bytes, part)
        return True

    def prefetch(self, name: str, layer: int | None, start: int, rows: int) -> None:
        """Have the disk read these rows, and the small records around them, without waiting."""
        itemsize = TORCH_DTYPES[self._element_types[name]].itemsize
        for chunk, row, held, columns in self._parts(name, layer, start, rows):
            row_bytes = (columns.stop - columns.start) * itemsize
            nbytes = (held.stop - held.start) * row_bytes + RECORDS_BYTES
            self.files.prefetch(chunk.file, chunk.start + row * row_bytes, nbytes)

    def _fill(self, name: str, chunk: PlacedChunk, row: int, part: torch.Tensor) -> None:
        """Fill `part` with rows from `row` of a chunk; `part` is strided where the chunk has fewer columns."""
        row_bytes = part[0].numel() * part.element_size()
        offset = self._payload(name, chunk) + row * row_bytes
        target = part if part.is_contiguous() else self._borrow(part)
        self.files.read_into(chunk.file, offset, memoryview(target.view(torch.uint8).numpy()).cast("B"))
        if target is not part:
            part.copy_(target)

    def _borrow(self, part: torch.Tensor) -> torch.Tensor:
        """A contiguous tensor like `part` from this thread's scratch memory."""
        kept: torch.Tensor | None = getattr(self._scratch, "memory", None)
        if kept is None or kept.numel() < part.numel() * part.element_size():
            kept = self._scratch.memory = torch.empty(part.numel() * part.element_size(), dtype=torch.uint8)
        return kept[: part.numel() * part.element_size()].view(part.dtype).view(part.shape)

    def _payload(self, name: str, chunk: PlacedChunk) -> int:
        """Where in the file the numbers of a chunk begin.

        Raises:
            CheckpointError: the record is not a plain contiguous tensor of the type and sizes that it should be.
        """
        key = (chunk.file, chunk.start)
        if key not in self._payloads:
            self._verify(chunk)
            try:
                self._payloads[key] = find_numbers(
                    chunk.file, chunk.start, chunk.length, chunk.sizes, TORCH_DTYPES[self._element_types[name]]
                )
            except Exception as error:  # torch's reader raises half a dozen types, AttributeError among them
                facts = {"tensor": name, "byte": chunk.start, "error": error}
                raise CheckpointError.at(chunk.file, "tensor-damaged", **facts) from None
        return self._payloads[key]

    def _verify(self, chunk: PlacedChunk) -> None:
        """Hold a chunk of a run's checkpoint against its SHA-256; a converted one has its manifest."""
        if self._checksums is not None:
            try:
                check_chunk(self.folder, self._checksums, chunk.file.name, chunk.start, chunk.length)
            except ChunkError as error:
                raise CheckpointError.of(error.messages) from None


@dataclass(frozen=True, kw_only=True)
class Block:
    """Rows of a tensor to be written, as one item and one file of the checkpoint."""

    name: str
    shape: tuple[int, ...]
    """Of the whole tensor, layer axis included."""
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]

    @property
    def numel(self) -> int:
        """Elements."""
        return torch.Size(self.sizes).numel()


def _same(content: Any) -> Any:
    return content


def _streamed(dtype: torch.dtype, shape: tuple[int, ...], chunks: Callable[[], Iterator[memoryview]]) -> Streamed:
    return Streamed(dtype=dtype, shape=shape, parts=chunks())


def write_torch_dist(
    folder: Path,
    stage: StagedFolder,
    blocks: dict[Block, Callable[[], Iterator[memoryview]]],
    objects: dict[str, Any],
    dtype: torch.dtype,
    workers: int,
) -> None:
    """Write a torch_dist folder.

    Args:
        folder: within the stage.
        blocks: what makes the bytes of each, in `dtype`, when its turn comes, in a worker thread.
        objects: the entries that are not tensors, by key.
        workers: threads.
    """
    properties = dcp_metadata.TensorProperties(dtype=dtype)
    items = []
    for block, chunks in blocks.items():
        chunk = dcp_metadata.ChunkStorageMetadata(torch.Size(block.offsets), torch.Size(block.sizes))
        data = TensorWriteData(chunk, properties, torch.Size(block.shape))
        index = dcp_metadata.MetadataIndex(block.name, block.offsets)
        item = WriteItem(index, WriteItemType.SHARD, tensor_data=data)
        items.append((item, partial(_streamed, dtype, block.sizes, chunks)))
    for name, content in objects.items():
        item = WriteItem(dcp_metadata.MetadataIndex(name), WriteItemType.BYTE_IO)
        items.append((item, partial(_same, content)))
    stream_items(folder, items, lambda file: HashingFile(file, stage), workers)
    # upstream wrote it under another name, flushed, and renamed it
    stage.sums.pop((folder / f"{METADATA}.tmp").relative_to(stage.path).as_posix())
    stage.record_small(folder / METADATA)
