"""One tensor that torch.save wrote somewhere into a file: where its numbers lie."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import torch

from megatron_patch.checkpoint.errors import CheckpointError, sizes


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
    """A part of a file, as a file."""

    def __init__(self, file: Path, start: int, length: int) -> None:
        self._raw, self._start, self._length, self._at = file.open("rb", buffering=0), start, length, 0

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
        self._raw.seek(self._start + self._at)
        got = self._raw.readinto(view) or 0
        self._at += got
        return got

    def close(self) -> None:
        self._raw.close()
        super().close()
