"""Where rows come from: one interface over safetensors, pickles and torch_dist, and blocks made of it.

A block is some rows of a tensor to be made. They are read straight into memory that their thread uses again for the
next ones, cast if the element type changes, and looked through for NaN and infinity; what is written is made chunk by
chunk. Where blocks are only copied on, as when a model is filled, rows that stay as they are may come from a mapped
file instead; a conversion reads them: that takes no longer, and what many threads have mapped is unmapped by one
(0.04 s a GB).
"""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from megatron_patch.checkpoint.errors import CheckpointError, of_layer
from megatron_patch.checkpoint.formats.hf_folder import HFFolder, select_tensors
from megatron_patch.checkpoint.formats.safetensors_io import FileCache, TensorEntry
from megatron_patch.checkpoint.formats.torch_dist import SAFETENSORS_NAMES, TORCH_DTYPES
from megatron_patch.models.weight_map import Span, Tensor

BLOCK_BYTES = 64 << 20
"""Most bytes of a block."""
CHUNK_BYTES = 1 << 20
"""Most bytes of a chunk: what one worker thread holds, twice where it casts. It is looked at, hashed and written while
it lies in the core's own cache; with 8 MiB the same work takes a fifth more of a core's time."""
INFINITE: dict[torch.dtype, tuple[type[np.signedinteger[Any]], type[np.unsignedinteger[Any]], int, int]] = {
    torch.float32: (np.int32, np.uint32, 0x7F80_0000, 0xFF80_0000),
    torch.float16: (np.int16, np.uint16, 0x7C00, 0xFC00),
    torch.bfloat16: (np.int16, np.uint16, 0x7F80, 0xFF80),
}
"""Of each type the bits of both infinities as whole numbers of as many bits; those of NaNs follow upon them."""

VALUES = {
    (True, False): "value-nan",
    (False, False): "value-infinite",
    (True, True): "value-nan-cast",
    (False, True): "value-infinite-cast",
}
"""By whether it is NaN, and whether it became so in the cast."""


class Source(Protocol):
    """Tensors that can be read by row ranges, from several threads."""

    def element_type(self, name: str) -> str:
        """F32, F16 or BF16."""

    def read_rows(self, name: str, layer: int | None, start: int, out: torch.Tensor) -> None:
        """Fill `out`, contiguous and of the stored type, with rows from `start`."""

    def read_bytes(self, name: str, layer: int | None, start: int, rows: int, view: memoryview) -> bool:
        """Fill `view` with whole rows from `start` as they are stored; false where `read_rows` must do it."""
        return False

    def prefetch(self, name: str, layer: int | None, start: int, rows: int) -> None:
        """Have the disk read these rows, without waiting, where that can be done."""
        return


class MegatronReader(Source, Protocol):
    """The weights of one iteration of a Megatron checkpoint, in either format."""

    folder: Path
    shapes: dict[str, tuple[int, ...]]
    """By the names of the torch_dist format, layer axis included."""
    files: FileCache
    """What the weights are read through."""


class SafetensorsSource(Source):
    """The tensors of a Hugging Face folder."""

    def __init__(self, folder: HFFolder) -> None:
        self._folder = folder

    def element_type(self, name: str) -> str:
        """F32, F16 or BF16."""
        return self._folder.element_type(name)

    def read_rows(self, name: str, layer: int | None, start: int, out: torch.Tensor) -> None:
        """Fill `out`; Hugging Face's tensors have no layer axis."""
        assert layer is None
        self._folder.read_rows(name, start, bytes_of(out))

    def read_bytes(self, name: str, layer: int | None, start: int, rows: int, view: memoryview) -> bool:
        """Fill `view` with rows from `start`."""
        self._folder.read_rows(name, start, view)
        return True

    def view_rows(self, name: str, start: int, rows: int) -> memoryview:
        """The bytes of these rows, mapped."""
        return self._folder.view_rows(name, start, rows)


class PickleSource(Source):
    """The tensors of `pytorch_model*.bin`, mapped into memory and unpickled with weights_only."""

    def __init__(self, folder: HFFolder) -> None:
        self._tensors: dict[str, torch.Tensor] = {}
        entries: dict[str, TensorEntry] = {}
        for file in folder.pickles:
            try:
                loaded = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
                self._tensors |= loaded
            except Exception as error:  # torch raises half a dozen types here
                reason = str(error).splitlines()[0]
                raise CheckpointError.at(file, "weights-only-refused", error=reason) from None
            for name, tensor in loaded.items():
                dtype = SAFETENSORS_NAMES.get(tensor.dtype)
                if dtype is None:
                    types = list(TORCH_DTYPES)
                    raise CheckpointError.at(file, "tensor-type", tensor=name, dtype=tensor.dtype, types=types)
                entries[name] = TensorEntry(name=name, file=file, dtype=dtype, shape=tuple(tensor.shape), offset=0)
        folder.tensors = select_tensors(entries, folder.model, folder.path, folder.notes)

    def element_type(self, name: str) -> str:
        """F32, F16 or BF16."""
        return SAFETENSORS_NAMES[self._tensors[name].dtype]

    def read_rows(self, name: str, layer: int | None, start: int, out: torch.Tensor) -> None:
        """Fill `out`."""
        out.copy_(self._tensors[name][start : start + out.shape[0]].reshape(out.shape))


def open_source(folder: HFFolder) -> Source:
    """The tensors of an opened Hugging Face folder, of whichever kind it is.

    Raises:
        CheckpointError: a pickle folder does not hold the tensors of the architecture, or holds more than tensors.
    """
    return PickleSource(folder) if folder.pickles else SafetensorsSource(folder)


def bytes_of(tensor: torch.Tensor) -> memoryview:
    """The memory of a contiguous tensor."""
    return memoryview(tensor.view(torch.uint8).numpy()).cast("B")


class BlockMaker:
    """Makes blocks out of a source in a given element type, in per-thread memory."""

    def __init__(
        self, source: Source, dtype: torch.dtype, where: Path, *, mapped: bool = False, whole: bool = False
    ) -> None:
        """
        Args:
            where: the source's folder, for messages.
            mapped: rows of safetensors that stay as they are are not read but mapped.
            whole: a block is one chunk: the source's numbers depend on the rows that they are computed with.
        """
        self._source, self.dtype, self._where, self._whole = source, dtype, where, whole
        self._mapped = source if mapped and isinstance(source, SafetensorsSource) else None
        self._memory = threading.local()

    @property
    def element_type(self) -> str:
        """Of the blocks, as safetensors spells it."""
        return SAFETENSORS_NAMES[self.dtype]

    def make(self, slices: list[tuple[Tensor, int]], rows: int, sizes: tuple[int, ...]) -> torch.Tensor:
        """Rows of one tensor, or the same rows of several layers on top of each other.

        Args:
            slices: tensors and the first row to take of each.
            rows: how many of each.
            sizes: the shape of the result.
        Returns:
            a tensor that is valid until this thread makes the next one, and is not to be written to.
        """
        if self._mapped and len(slices) == 1 and (view := self._view(self._mapped, *slices[0], rows)) is not None:
            return view.view(sizes)
        block = self._scratch("block", slices[0][0].row_numel * rows * len(slices), self.dtype)
        per_slice = block.view(len(slices), rows, -1)
        for part, (tensor, start) in zip(per_slice, slices, strict=True):
            self._fill(tensor, start, part)
        return block.view(sizes)

    def chunks(self, tensor: Tensor, start: int, rows: int) -> Iterator[memoryview]:
        """The bytes of some rows of a block. Each chunk is valid until this thread makes the next one."""
        step = rows if self._whole else rows_of(tensor, self.dtype.itemsize, CHUNK_BYTES)
        for first in range(start, start + rows, step):
            count = min(step, start + rows - first)
            read = None if self._whole else self._read(tensor, first, count)
            yield bytes_of(self.make([(tensor, first)], count, (count, *tensor.row_shape))) if read is None else read

    def _read(self, tensor: Tensor, start: int, rows: int) -> memoryview | None:
        """The bytes of some rows, None where they have to be cast or put together: in few calls that leave the GIL."""
        row = tensor.row_numel * self.dtype.itemsize
        kept = self._bytes("block", rows * row)[: rows * row]
        filled = 0
        for offset, span in tensor.cut(start, rows):
            part = kept[offset * row : (offset + span.rows) * row]
            same = TORCH_DTYPES[self._source.element_type(span.name)] == self.dtype
            if not same or not self._source.read_bytes(span.name, span.layer, span.start, span.rows, memoryview(part)):
                return None
            self._look_at_bits(part, span)
            filled += span.rows
        kept[filled * row :] = 0  # padding of the vocabulary
        return memoryview(kept)

    def _look_at_bits(self, part: np.ndarray, span: Span) -> None:
        """As `_look`, with fewer calls that leave the GIL."""
        signed, unsigned, infinite, minus_infinite = INFINITE[self.dtype]
        if part.size and (part.view(signed).max() >= infinite or part.view(unsigned).max() >= minus_infinite):
            self._look(torch.frombuffer(part, dtype=self.dtype).view(span.rows, -1), span)

    def prefetch(self, tensor: Tensor, start: int, rows: int) -> None:
        """Have the disk read what a block will be made of, without waiting."""
        for _, span in tensor.cut(start, rows):
            self._source.prefetch(span.name, span.layer, span.start, span.rows)

    def _view(self, source: SafetensorsSource, tensor: Tensor, start: int, rows: int) -> torch.Tensor | None:
        """Rows that are one span and need no cast, where they lie in the source's file."""
        spans = [span for _, span in tensor.cut(start, rows)]
        if len(spans) != 1 or spans[0].rows != rows:
            return None
        (span,) = spans
        if TORCH_DTYPES[source.element_type(span.name)] != self.dtype:
            return None
        mapped = source.view_rows(span.name, span.start, rows)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that it cannot be written to
            view = torch.frombuffer(mapped, dtype=self.dtype)
        if view.data_ptr() % self.dtype.itemsize:
            return None
        self._look(view.view(rows, -1), span)
        return view

    def _fill(self, tensor: Tensor, start: int, out: torch.Tensor) -> None:
        filled = 0
        for offset, span in tensor.cut(start, out.shape[0]):
            part = out[offset : offset + span.rows]
            dtype = TORCH_DTYPES[self._source.element_type(span.name)]
            read = part if dtype == self.dtype else self._scratch("cast", part.numel(), dtype).view(part.shape)
            self._source.read_rows(span.name, span.layer, span.start, read)
            self._look(read, span)
            if read is not part:
                part.copy_(read)
                self._look(part, span, cast=True)
            filled += span.rows
        out[filled:].zero_()  # padding of the vocabulary

    def _look(self, part: torch.Tensor, span: Span, *, cast: bool = False) -> None:
        """Refuse NaN and infinity. Smallest and largest are the cheapest sums that show both."""
        if part.numel() and not all(math.isfinite(edge.item()) for edge in part.aminmax()):
            row, *_ = torch.nonzero(~torch.isfinite(part.float()))[0].tolist()
            code = VALUES[bool(part[row].isnan().any()), cast]
            facts = {"tensor": of_layer(span.name, span.layer), "row": span.start + row}
            raise CheckpointError.at(self._where, code, **facts, **({"dtype": self.dtype} if cast else {}))

    def _scratch(self, use: str, numel: int, dtype: torch.dtype) -> torch.Tensor:
        """Memory of this thread, as a tensor whose storage is exactly its size (torch.save writes storages)."""
        return torch.frombuffer(self._bytes(use, numel * dtype.itemsize), dtype=dtype, count=numel)

    def _bytes(self, use: str, nbytes: int) -> np.ndarray:
        """At least so much memory of this thread."""
        kept: np.ndarray | None = getattr(self._memory, use, None)
        if kept is None or len(kept) < nbytes:
            kept = np.empty(max(nbytes, BLOCK_BYTES), np.uint8)  # pages that are not used cost nothing
            setattr(self._memory, use, kept)
        return kept


def rows_per_block(tensor: Tensor, itemsize: int) -> int:
    """Rows of a tensor that make a block of at most BLOCK_BYTES."""
    return rows_of(tensor, itemsize, BLOCK_BYTES)


def rows_of(tensor: Tensor, itemsize: int, most_bytes: int) -> int:
    """Rows of a tensor that have at most so many bytes together, at least one."""
    return max(1, min(tensor.rows, most_bytes // (tensor.row_numel * itemsize)))
