"""SHA-256 of a file, or of a part of one. Standard library only."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

BLOCK_BYTES = 16 << 20
"""Read at a time; a thread holds one. Each read and each update leaves the GIL and wants it back: few of them."""
_of_thread = threading.local()


def file_sha256(path: Path) -> str:
    """64 hex digits.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def range_sha256(path: Path, offset: int, length: int, block_bytes: int = BLOCK_BYTES) -> tuple[str, int]:
    """SHA-256 of some bytes of a file, and how many there are: fewer than `length` where it ends too soon.

    Args:
        block_bytes: read at a time.
    Raises:
        OSError: it cannot be read.
    """
    block: memoryview | None = getattr(_of_thread, "block", None)
    if block is None or len(block) < min(length, block_bytes):
        block = _of_thread.block = memoryview(bytearray(max(1, min(length, block_bytes))))
    digest, done, end = hashlib.sha256(), offset, offset + length
    descriptor = os.open(path, os.O_RDONLY)
    try:
        while done < end and (got := os.preadv(descriptor, [block[: end - done]], done)):
            digest.update(block[:got])
            done += got
    finally:
        os.close(descriptor)
    return digest.hexdigest(), done - offset
