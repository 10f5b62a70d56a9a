"""Megatron's `.idx`: the one reader. Only the whole index needs numpy, so the launcher may look at the head.

Source: `megatron/core/datasets/indexed_dataset.py` of megatron-core 0.19.2; the layout is written down in writer.py.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from megatron_patch.common.errors import UserError
from megatron_patch.common.messages import Message, at

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
HEAD = struct.Struct("<9sQBQQ")
"""Magic, version, code of the token type, sequences, document boundaries (documents + 1)."""
TOKEN_TYPES = {1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 8: "uint16"}
"""Megatron's codes (`DType`) of types that can hold token ids; 6 and 7 are floats."""
BLOCK = 1 << 22
"""Sequences looked at at once."""


class BrokenIndex(UserError, ValueError):
    """Not a whole index, or not one that belongs to its .bin; the message names the file and what is wrong."""


class Head(NamedTuple):
    """What an index says about itself."""

    token_type: str
    """Of TOKEN_TYPES."""
    sequences: int
    boundaries: int
    """Documents + 1."""

    @property
    def token_bytes(self) -> int:
        """Of one token."""
        return int(self.token_type.strip("uint")) // 8


def read_head(path: Path) -> Head:
    """The head of an index that is as long as it says.

    Raises:
        BrokenIndex: missing, of another form, or cut.
    """
    if not path.is_file():
        raise BrokenIndex("file-missing", file=path)
    with path.open("rb") as file:
        raw, size = file.read(HEAD.size), os.fstat(file.fileno()).st_size
    if not raw:
        raise BrokenIndex("file-empty", file=path)
    if not raw.startswith(MAGIC):
        raise BrokenIndex("index-foreign", file=path, magic=repr(MAGIC))
    if len(raw) < HEAD.size:
        raise BrokenIndex("index-cut", file=path, size=size, header=HEAD.size)
    _, version, code, sequences, boundaries = HEAD.unpack(raw)
    if version != VERSION or code not in TOKEN_TYPES:
        raise BrokenIndex("index-version", file=path, version=version, type=code, known=tuple(TOKEN_TYPES))
    body = 12 * sequences + 8 * boundaries  # int32 lengths, int64 offsets, int64 document boundaries
    if not boundaries or size - HEAD.size not in (
        body,
        body + sequences,
    ):  # with an int8 mode a sequence in multimodal data
        counts = {"sequences": sequences, "boundaries": boundaries}
        raise BrokenIndex("index-damaged", file=path, **counts, size=size)
    return Head(TOKEN_TYPES[code], sequences, boundaries)


def count(prefix: str) -> tuple[int, int]:
    """Tokens and sequences of a dataset, from the sizes of its files and the last entries of its index.

    Raises:
        BrokenIndex: the files do not belong together, or hold nothing.
    """
    path, data = Path(f"{prefix}.idx"), Path(f"{prefix}.bin")
    head = read_head(path)
    if not data.is_file():
        raise BrokenIndex("file-missing", file=data)
    if not head.sequences or not data.stat().st_size:
        empty = head.sequences > 0
        raise BrokenIndex("file-empty", file=data) if empty else BrokenIndex("index-empty", file=path)
    with path.open("rb") as file:
        file.seek(HEAD.size + (head.sequences - 1) * 4)
        (length,) = struct.unpack("<i", file.read(4))
        file.seek(HEAD.size + head.sequences * 4 + (head.sequences - 1) * 8)
        (offset,) = struct.unpack("<q", file.read(8))
    expected, found = offset + length * head.token_bytes, data.stat().st_size
    if found != expected:
        raise BrokenIndex("data-cut", file=data, size=found, expected_size=expected)
    return found // head.token_bytes, head.sequences


def first_length(path: Path) -> int:
    """Tokens of the first sequence; 0 if there is none.

    Raises:
        BrokenIndex: see `read_head`.
    """
    if not read_head(path).sequences:
        return 0
    with path.open("rb") as file:
        file.seek(HEAD.size)
        (length,) = struct.unpack("<i", file.read(4))
    return int(length)


@dataclass(frozen=True, kw_only=True)
class Index:
    """An index, memory-mapped."""

    path: Path
    dtype: np.dtype[Any]
    lengths: npt.NDArray[np.int32]
    """[sequences], tokens."""
    offsets: npt.NDArray[np.int64]
    """[sequences], bytes in the .bin."""
    documents: npt.NDArray[np.int64]
    """[documents + 1], first sequence of each, and the end."""
    modes: npt.NDArray[np.int8]
    """[sequences], 0 where a sequence is text; [0] where the index has none: all are."""

    @property
    def bytes(self) -> int:
        """That the .bin has to have."""
        import numpy as np

        return int(self.lengths.sum(dtype=np.int64)) * self.dtype.itemsize

    def sequence_at(self, token: int) -> int:
        """Number of the sequence that holds the `token`-th token of the .bin."""
        import numpy as np

        return int(np.searchsorted(self.offsets, token * self.dtype.itemsize, side="right")) - 1


def read_index(path: Path) -> Index:
    """Map an index.

    Raises:
        BrokenIndex: see `read_head`.
    """
    import numpy as np

    head = read_head(path)
    raw = np.memmap(path, np.uint8, mode="r", offset=HEAD.size)
    lengths, offsets = 4 * head.sequences, 12 * head.sequences
    documents = offsets + 8 * head.boundaries
    return Index(
        path=path,
        dtype=np.dtype(head.token_type),
        lengths=raw[:lengths].view(np.int32),
        offsets=raw[lengths:offsets].view(np.int64),
        documents=raw[offsets:documents].view(np.int64),
        modes=raw[documents:].view(np.int8),
    )


def problems_of(index: Index) -> list[Message]:
    """What is wrong with its structure; empty if each sequence begins where the one before it ends."""

    if not len(index.lengths):
        return [Message("index-empty", file=index.path)]
    found = [*_wrong_sequences(index)]
    ends, sequences = index.documents, len(index.lengths)
    if len(ends) < 2 or ends[0] != 0 or ends[-1] != sequences or bool((ends[1:] < ends[:-1]).any()):
        found.append(at(index.path, "index-boundaries", sequences=sequences))
    if index.modes.any():
        found.append(at(index.path, "index-modes", sequence=int(index.modes.argmax()), mode=int(index.modes.max())))
    return found


def _wrong_sequences(index: Index) -> Iterator[Message]:
    """The first sequence whose length is negative, or which begins elsewhere than the lengths before it say."""
    import numpy as np

    expected = 0
    for start in range(0, len(index.lengths), BLOCK):
        lengths, offsets = index.lengths[start : start + BLOCK], index.offsets[start : start + BLOCK]
        ends = expected + np.cumsum(lengths, dtype=np.int64) * index.dtype.itemsize
        begins = np.concatenate([[expected], ends[:-1]])
        if (bad := np.flatnonzero(lengths < 0)).size:
            first = {"sequence": int(start + bad[0]), "tokens": int(lengths[bad[0]])}
            yield at(index.path, "index-negative", **first)
            return
        if (bad := np.flatnonzero(offsets != begins)).size:
            first = {
                "sequence": int(start + bad[0]),
                "byte": int(offsets[bad[0]]),
                "expected_byte": int(begins[bad[0]]),
            }
            yield at(index.path, "index-offset", **first)
            return
        expected = int(ends[-1])


def size_problem(index: Index, data: Path) -> Message | None:
    """Whether the .bin has another size than the index says. Megatron maps it unseen, and trains on what it finds."""
    if not data.is_file():
        return Message("file-missing", file=data)
    if (found := data.stat().st_size) != index.bytes:
        return Message("data-cut", file=data, size=found, expected_size=index.bytes)
    return None
