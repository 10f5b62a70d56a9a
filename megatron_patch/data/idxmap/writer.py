"""Megatron's memory-mapped dataset, `PREFIX.bin` and `PREFIX.idx`, written without torch or Megatron.

Layout of the index, little-endian, byte-identical to `IndexedDatasetBuilder` of megatron-core 0.19.2
(`megatron/core/datasets/indexed_dataset.py`):

    9 bytes   MMIDIDX\\0\\0        magic
    uint64    1                  version
    uint8     4 | 8              token type: int32 | uint16
    uint64    S                  sequences
    uint64    D + 1              document boundaries
    int32[S]                     tokens of each sequence
    int64[S]                     byte offset of each sequence in the .bin
    int64[D + 1]                 first sequence of each document, and S

Here a document is one sequence, as in pretraining data, so D equals S.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from array import array
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np
import numpy.typing as npt

from megatron_patch.data.idxmap.reader import (
    HEAD,
    MAGIC,
    VERSION,
    BrokenIndex,
    Index,
    problems_of,
    read_index,
    size_problem,
)

TOKEN_TYPES: dict[int, type[np.int32] | type[np.uint16]] = {4: np.int32, 8: np.uint16}
"""Megatron's codes of the two types that hold token ids."""
SMALL_VOCABULARY = 65500
"""Below this many tokens Megatron stores uint16 (`DType.optimal_dtype`)."""
INDEX_BLOCK = 1 << 20
"""Documents handled at once when an index is written."""


def token_type(vocab_size: int) -> type[np.int32] | type[np.uint16]:
    """The type Megatron stores the ids of such a vocabulary in."""
    return np.uint16 if vocab_size < SMALL_VOCABULARY else np.int32


def index_blocks(lengths: npt.NDArray[np.int32], dtype: type[np.int32] | type[np.uint16]) -> Iterator[bytes]:
    """The `.idx` of documents with these numbers of tokens, in blocks: memory does not grow with their number.

    Args:
        lengths: [documents], may be memory-mapped.
    """
    code = next(code for code, kind in TOKEN_TYPES.items() if kind is dtype)
    starts = range(0, len(lengths), INDEX_BLOCK)
    yield HEAD.pack(MAGIC, VERSION, code, len(lengths), len(lengths) + 1)
    for start in starts:
        yield lengths[start : start + INDEX_BLOCK].tobytes()
    offset = 0
    for start in starts:
        ends = offset + np.cumsum(lengths[start : start + INDEX_BLOCK], dtype=np.int64) * np.dtype(dtype).itemsize
        yield np.concatenate([[offset], ends[:-1]]).astype(np.int64).tobytes()
        offset = int(ends[-1])
    for start in range(0, len(lengths) + 1, INDEX_BLOCK):
        yield np.arange(start, min(start + INDEX_BLOCK, len(lengths) + 1), dtype=np.int64).tobytes()


def write_index(path: Path, lengths: npt.NDArray[np.int32], dtype: type[np.int32] | type[np.uint16]) -> str:
    """Write an `.idx` and put it on the disk; see `index_blocks`. Returns its SHA-256."""
    digest = hashlib.sha256()
    with path.open("wb") as index:
        for block in index_blocks(lengths, dtype):
            index.write(block)
            digest.update(block)
        flush_and_close(index)
    return digest.hexdigest()


def flush_and_close(file: BinaryIO) -> None:
    """Put a file on the disk."""
    file.flush()
    os.fsync(file.fileno())
    file.close()


def partial(prefix: Path, suffix: str) -> Path:
    """Where PREFIX.SUFFIX grows."""
    return Path(f"{prefix}.{suffix}.partial")


def publish(prefix: Path, *beside: str) -> None:
    """Move a dataset's partial files to their names: the data first and the index last, for who finds an index.

    An old index must never lie beside new data, not even for the moment between two renames.

    Args:
        beside: suffixes of what lies there besides `bin` and `idx`.
    """
    for suffix in ("idx", *beside):
        Path(f"{prefix}.{suffix}").unlink(missing_ok=True)
    for suffix in ("bin", *beside, "idx"):
        partial(prefix, suffix).replace(f"{prefix}.{suffix}")


class IdxmapWriter:
    """Writes `PREFIX.bin` and `PREFIX.idx` beside their place and moves both there on success.

    A context manager: left by an exception (or killed), the files at PREFIX are the old ones or none; the
    `.partial` files of a killed run are overwritten by the next one. The `.bin` moves first and the `.idx` last:
    a reader that finds an index finds its data. Two writers of one PREFIX: the second gets BlockingIOError.
    """

    def __init__(self, prefix: Path, vocab_size: int) -> None:
        """Args:
        prefix: path without suffix; its folder must exist.
        vocab_size: unpadded; decides the token type.
        """
        self.prefix = prefix
        self.dtype = token_type(vocab_size)
        self.lengths = array("i")
        self.tokens = 0
        self._bin: BinaryIO

    def __enter__(self) -> Self:
        self._bin = partial(self.prefix, "bin").open("ab", buffering=1 << 20)
        fcntl.flock(self._bin, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._bin.truncate(0)
        return self

    def add_document(self, ids: list[int] | npt.NDArray[np.int32]) -> None:
        """Append one document of at least one token."""
        np.array(ids, dtype=self.dtype).tofile(self._bin)
        self.lengths.append(len(ids))
        self.tokens += len(ids)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._bin.close()
            partial(self.prefix, "bin").unlink()
            return
        flush_and_close(self._bin)
        write_index(partial(self.prefix, "idx"), np.frombuffer(self.lengths, dtype=np.int32), self.dtype)
        publish(self.prefix)


def read_lengths(prefix: Path) -> npt.NDArray[np.int32]:
    """Tokens of each sequence of a dataset that is whole.

    Raises:
        BrokenIndex: not an idxmap, a torn one, or a `.bin` of another size.
    """
    return whole_index(prefix).lengths


def whole_index(prefix: Path) -> Index:
    """See `read_lengths`."""
    index = read_index(Path(f"{prefix}.idx"))
    wrong = [*problems_of(index), *filter(None, [size_problem(index, Path(f"{prefix}.bin"))])]
    if wrong:
        raise BrokenIndex.of(wrong)
    return index
