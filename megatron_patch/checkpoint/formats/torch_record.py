"""One tensor that torch.save wrote somewhere into a file: where its numbers lie."""

from __future__ import annotations

import io
import os
import struct
import zipfile
from pathlib import Path
from typing import Any

import torch

from megatron_patch.checkpoint.errors import CheckpointError, sizes

EDGE_BYTES = 8192
"""More than what torch.save writes before and after the numbers of one tensor."""


def find_numbers(file: Path, start: int, length: int, shape: tuple[int, ...], dtype: torch.dtype) -> int:
    """Where in a file the numbers of one tensor begin, without reading them.

    Args:
        start, length: of the archive that torch.save wrote into the file.
        shape, dtype: what the tensor should be.
    Raises:
        CheckpointError: it is another tensor, or not in one piece; torch and zipfile raise others where it is damaged.
    """
    with _Window(file, start, length) as window:
        found = torch.load(window, map_location="meta", weights_only=True)  # type: ignore[arg-type]  # reads no numbers
        if tuple(found.shape) != shape or found.dtype != dtype:
            facts = {"found": sizes(found.shape), "dtype": found.dtype, "wanted": sizes(shape), "wanted_dtype": dtype}
            raise CheckpointError("record-other", **facts)
        if not found.is_contiguous() or found.storage_offset():
            raise CheckpointError("record-scattered")
        window.seek(0)
        (record,) = [r for r in zipfile.ZipFile(window).infolist() if r.filename.endswith("/data/0")]
        if record.compress_type != zipfile.ZIP_STORED or record.file_size != found.numel() * found.element_size():
            raise CheckpointError("record-bytes", bytes=record.file_size)
        window.seek(record.header_offset)
        name_length, extra_length = struct.unpack("<26xHH", window.read(30))
    at = record.header_offset + 30 + name_length + extra_length
    if at + record.file_size > length:
        raise CheckpointError("record-cut")
    return start + int(at)


class _Window(io.RawIOBase):
    """A part of a file, as a file. Its ends, all but the numbers, are read at once: each read leaves the GIL."""

    def __init__(self, file: Path, start: int, length: int) -> None:
        self._fd, self._start, self._length, self._at = os.open(file, os.O_RDONLY | os.O_CLOEXEC), start, length, 0
        self._head = os.pread(self._fd, min(EDGE_BYTES, length), start)
        self._tail_at = max(0, length - EDGE_BYTES)
        self._tail = os.pread(self._fd, length - self._tail_at, start + self._tail_at)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + (0, self._at, self._length)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")[: max(0, self._length - self._at)]
        got = self._read(len(view))
        view[: len(got)] = got
        self._at += len(got)
        return len(got)

    def _read(self, count: int) -> bytes:
        for first, kept in ((0, self._head), (self._tail_at, self._tail)):
            if first <= self._at and self._at + count <= first + len(kept):
                return kept[self._at - first : self._at - first + count]
        return os.pread(self._fd, count, self._start + self._at)

    def close(self) -> None:
        if not self.closed:
            os.close(self._fd)
            super().close()
