"""Files that may be compressed, as streams of their bytes."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Buffer
from pathlib import Path
from typing import BinaryIO, cast

import zstandard

from megatron_patch.common.errors import UserError

BLOCK = 1 << 20
"""Bytes read at once."""

LONGEST_WINDOW = 1 << 31
"""Of `zstd --long=31`; the library refuses more than 128 MiB unless told. The memory is taken where a file needs it."""

ReadErrors = (EOFError, OSError, zlib.error, zstandard.ZstdError)
"""What reading a damaged file raises."""


class CutOff(UserError, EOFError):
    """A file that ends before its content does."""


def open_binary(path: Path) -> BinaryIO:
    """The decompressed bytes, buffered. Reading raises one of `ReadErrors` on a damaged or cut off file."""
    if path.suffix == ".gz":
        return cast(BinaryIO, gzip.open(path, "rb"))
    if path.suffix == ".zst":
        return cast(BinaryIO, io.BufferedReader(_ZstdReader(path), BLOCK))
    return path.open("rb", buffering=BLOCK)


class _ZstdReader(io.RawIOBase):
    """zstandard's own `stream_reader` takes a file that is cut off for one that ends there (0.25.0): this does not."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("rb", buffering=0)
        self._frame = zstandard.ZstdDecompressor(max_window_size=LONGEST_WINDOW).decompressobj()
        self._inside = False
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer, /) -> int:
        while not self._ready:
            block = self._frame.unused_data if self._frame.eof else b""
            block = block or self._file.read(BLOCK)
            if not block:
                if self._inside:
                    raise CutOff("data-frame-cut", file=self._path)
                return 0
            if self._frame.eof:
                self._frame = zstandard.ZstdDecompressor(max_window_size=LONGEST_WINDOW).decompressobj()
            self._ready = memoryview(self._frame.decompress(block))
            self._inside = not self._frame.eof
        view = memoryview(buffer).cast("B")
        size = min(len(view), len(self._ready))
        view[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        return size

    def close(self) -> None:
        self._file.close()
        super().close()
