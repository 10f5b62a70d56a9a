"""Reading and writing safetensors by row ranges, without the safetensors package.

The safetensors package reads whole tensors and writes whole files from memory. Here a tensor may be larger
than the memory that is granted, so rows are read with `pread` and files are written front to back. The
format is eight bytes of header length, a JSON header, and the tensors' bytes.
"""

from __future__ import annotations

import ctypes
import json
import math
import mmap
import os
import struct
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_patch.checkpoint.errors import CheckpointError, sizes
from megatron_patch.common.messages import Message, at
from megatron_patch.common.strict_json import JsonError, is_whole, parse_json

ITEM_SIZES = {"F32": 4, "F16": 2, "BF16": 2}
"""Bytes of the element types that weights have."""
MAX_HEADER_BYTES = 100_000_000
"""As in the safetensors package: a longer header is an attack or damage."""
MOST_BYTES = 1 << 62
"""Of any offset and of any axis."""
MOST_AXES = 64
"""Of a tensor, as NumPy has them."""
MOST_PROBLEMS = 20
"""That are told of one file."""
MADV_POPULATE_READ = 22
_libc = ctypes.CDLL(None)


@dataclass(frozen=True, kw_only=True)
class TensorEntry:
    """Where one tensor lies."""

    name: str
    file: Path
    dtype: str
    """As safetensors spells it: F32, F16, BF16."""
    shape: tuple[int, ...]
    offset: int
    """Of the first byte, from the start of the file."""

    @property
    def row_bytes(self) -> int:
        """Bytes of one row, that is of one index of the first axis."""
        return math.prod(self.shape[1:]) * ITEM_SIZES[self.dtype]

    @property
    def nbytes(self) -> int:
        """Bytes of the whole tensor."""
        return math.prod(self.shape) * ITEM_SIZES[self.dtype]


def read_header(file: Path) -> dict[str, TensorEntry]:
    """The tensors of a safetensors file, by the safetensors package's own rules: every byte belongs to one tensor.

    Raises:
        CheckpointError: not safetensors, an element type that weights do not have, or a size that is wrong
            (a truncated download, most often).
    """
    size, text = _header_text(file)
    start = 8 + len(text)
    entries, problems = _entries(_parsed(file, text), file, start)
    problems = problems or _gaps(entries, start)
    end = max((entry.offset + entry.nbytes for entry in entries.values()), default=start)
    if size != end and not problems:
        how = Message("size-truncated" if size < end else "size-too-long")
        problems.append(at(file, "safetensors-size", size=size, end=end, how=how))
    if problems:
        rest = len(problems) - MOST_PROBLEMS
        more = [at(file, "and-more-of-these", count=rest)] if rest > 0 else []
        raise CheckpointError.of(problems[:MOST_PROBLEMS] + more)
    return entries


def _header_text(file: Path) -> tuple[int, bytes]:
    """Bytes of a file, and its header."""
    try:
        with file.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            length = struct.unpack("<Q", stream.read(8))[0] if size >= 8 else size
            if not 2 <= length <= min(size - 8, MAX_HEADER_BYTES):
                raise CheckpointError.at(file, "safetensors-cut", size=size, header=length)
            return size, stream.read(length)
    except OSError as error:
        raise CheckpointError.at(file, "cannot-be-read", error=error.strerror) from error


def _parsed(file: Path, text: bytes) -> dict[str, Any]:
    """The header's JSON: an object, and no name twice."""
    try:
        if not text.startswith(b"{"):
            raise JsonError("json-not-object")
        header: dict[str, Any] = parse_json(text, unique=True)
    except JsonError as error:
        raise CheckpointError.at(file, "safetensors-header", what=error) from None
    about = header.pop("__metadata__", {})
    if not isinstance(about, dict) or not all(isinstance(value, str) for value in about.values()):
        raise CheckpointError.at(file, "safetensors-header", what=Message("safetensors-metadata"))
    return header


def _entries(header: dict[str, Any], file: Path, start: int) -> tuple[dict[str, TensorEntry], list[Message]]:
    """Each tensor for itself: what it says of its type, its shape and its place, and whether these agree."""
    entries: dict[str, TensorEntry] = {}
    problems: list[Message] = []
    for name, said in header.items():
        wrong = _malformed(said)
        if wrong:
            problems.append(at(file, "tensor-wrong", tensor=name, what=wrong))
            continue
        first, last = said["data_offsets"]
        entry = TensorEntry(name=name, file=file, dtype=said["dtype"], shape=tuple(said["shape"]), offset=start + first)
        if last - first != entry.nbytes:
            facts = {"tensor": name, "shape": sizes(entry.shape), "dtype": entry.dtype}
            problems.append(at(file, "tensor-bytes", **facts, wanted=entry.nbytes, found=last - first))
            continue
        entries[name] = entry
    return entries, problems


def _malformed(said: Any) -> Message | None:
    """What is wrong with a tensor's part of the header, without arithmetic."""
    if not isinstance(said, dict) or said.keys() != {"dtype", "shape", "data_offsets"}:
        return Message("tensor-keys")
    if not isinstance(said["dtype"], str) or said["dtype"] not in ITEM_SIZES:
        return Message("tensor-dtype", dtype=str(said["dtype"])[:40], types=list(ITEM_SIZES))
    shape, offsets = said["shape"], said["data_offsets"]
    for key, numbers in (("shape", shape), ("data_offsets", offsets)):
        if not isinstance(numbers, list) or not all(is_whole(number, 0, MOST_BYTES) for number in numbers):
            return Message("tensor-numbers", key=key, numbers=str(numbers)[:100])
    if len(shape) > MOST_AXES:
        return Message("tensor-axes", axes=len(shape), most=MOST_AXES)
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        return Message("tensor-offsets", numbers=str(offsets)[:100])
    return None


def _gaps(entries: dict[str, TensorEntry], start: int) -> list[Message]:
    """Where a tensor does not begin at the end of the one before it, in the order of their places."""
    problems, end = [], start
    for entry in sorted(entries.values(), key=lambda entry: (entry.offset, entry.nbytes)):
        if entry.offset != end:
            code = "tensor-overlaps" if entry.offset < end else "tensor-gap"
            facts = {"begins": entry.offset - start, "wanted": end - start}
            problems.append(at(entry.file, code, tensor=entry.name, **facts))
        end = entry.offset + entry.nbytes
    return problems


def header_bytes(tensors: dict[str, tuple[str, tuple[int, ...]]]) -> bytes:
    """The head of a safetensors file that will hold these tensors, given as (dtype, shape), in this order."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    cursor = 0
    for name, (dtype, shape) in tensors.items():
        nbytes = math.prod(shape) * ITEM_SIZES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [cursor, cursor + nbytes]}
        cursor += nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data begins aligned, as the safetensors package writes it
    return struct.pack("<Q", len(text)) + text


class FileCache:
    """Open files, read by place or mapped into memory, shared by threads; closed when nobody holds the cache."""

    on_open: Callable[[Path], object] | None = None
    """Told of each file that is opened, before it is read."""

    def __init__(self) -> None:
        self._open: dict[Path, int] = {}
        weakref.finalize(self, _close, self._open)
        self._maps: dict[Path, tuple[mmap.mmap, int]] = {}
        self._lock = threading.Lock()

    def _descriptor(self, file: Path) -> int:
        fd = self._open.get(file)
        if fd is None:
            if self.on_open is not None:
                self.on_open(file)
            fd = self._open[file] = os.open(file, os.O_RDONLY)
        return fd

    def _map(self, file: Path) -> tuple[mmap.mmap, int]:
        import numpy as np  # the launch reads headers alone, and is quick without it

        with self._lock:
            if file not in self._maps:
                mapped = mmap.mmap(self._descriptor(file), 0, access=mmap.ACCESS_READ)
                self._maps[file] = mapped, np.frombuffer(mapped, dtype=np.uint8).ctypes.data
            return self._maps[file]

    def prefetch(self, file: Path, offset: int, nbytes: int) -> None:
        """Have the disk read these bytes, as far as the file has them, without waiting."""
        with self._lock:
            fd = self._descriptor(file)
        os.posix_fadvise(fd, offset, nbytes, os.POSIX_FADV_WILLNEED)

    def view(self, file: Path, offset: int, nbytes: int) -> memoryview:
        """The file's bytes from `offset`, mapped and already read: no copy is made, and none is anonymous memory.

        Raises:
            CheckpointError: the file ends too soon.
        """
        mapped, address = self._map(file)
        if offset + nbytes > len(mapped):
            raise CheckpointError.at(file, "file-ends", byte=offset + nbytes)
        first = offset - offset % mmap.PAGESIZE
        # one call instead of a fault for every few pages; kernels before 5.14 refuse it, and fault
        _libc.madvise(ctypes.c_void_p(address + first), ctypes.c_size_t(offset + nbytes - first), MADV_POPULATE_READ)
        return memoryview(mapped)[offset : offset + nbytes]

    def read_into(self, file: Path, offset: int, view: memoryview) -> None:
        """Fill `view` with the file's bytes from `offset`.

        Raises:
            CheckpointError: the file ends too soon.
        """
        with self._lock:
            fd = self._descriptor(file)
        while len(view):
            got = os.preadv(fd, [view], offset)
            if got == 0:
                raise CheckpointError.at(file, "file-ends", byte=offset + len(view))
            view, offset = view[got:], offset + got


def _close(descriptors: dict[Path, int]) -> None:
    for descriptor in descriptors.values():
        os.close(descriptor)
