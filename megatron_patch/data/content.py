"""What data are, by content: the same on every machine, whatever the time of the copies. Standard library only."""

from __future__ import annotations

import hashlib
from pathlib import Path

WHOLE = 1 << 23
"""Files up to so many bytes are read to their end; of others BLOCKS evenly spaced blocks are."""
BLOCKS, BLOCK = 128, 1 << 15


def file_identity(path: Path) -> bytes:
    """A hash of a file's size and content: all of it, or 4 MB spread over it (data may be terabytes).

    Data made again from other text or by another tokenizer differ almost everywhere; one changed token in a large file
    is for the checksums that `verify` compares.
    """
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        if size <= WHOLE:
            digest.update(file.read())
        else:
            for number in range(BLOCKS):
                file.seek((size - BLOCK) * number // (BLOCKS - 1))
                digest.update(file.read(BLOCK))
    return digest.digest()


def idxmap_identity(prefix: str) -> str:
    """Of both files: 64 hex digits."""
    return hashlib.sha256(file_identity(Path(f"{prefix}.idx")) + file_identity(Path(f"{prefix}.bin"))).hexdigest()
