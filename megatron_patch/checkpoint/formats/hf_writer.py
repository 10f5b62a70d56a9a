"""Writing sharded safetensors with an index, block by block."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from megatron_patch.checkpoint.contents import INDEX, SINGLE_FILE
from megatron_patch.checkpoint.formats.safetensors_io import header_bytes
from megatron_patch.checkpoint.formats.sources import BlockMaker, rows_per_block
from megatron_patch.checkpoint.manifest import PIECE_BYTES
from megatron_patch.checkpoint.store import HashingFile, HashingPiece, StagedFolder
from megatron_patch.common.spread import spread
from megatron_patch.models.weight_map import Tensor

LARGEST_SHARD = 5_000_000_000
"""Bytes of a safetensors file, as Hugging Face cuts them."""
SMALLEST_SHARD = 256_000_000
"""Below this a model is not cut into more files for the sake of more workers."""

OnBytes = Callable[[int], None]
"""Told the bytes of each block that was made."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Shard:
    """A file of tensors."""

    file: Path
    tensors: list[Tensor]
    header: bytes
    nbytes: int
    """Header included."""

    @property
    def pieces(self) -> int:
        """Parts of the file that are written side by side."""
        return -(-self.nbytes // PIECE_BYTES)


def write_safetensors(
    stage: StagedFolder,
    tensors: list[Tensor],
    maker: BlockMaker,
    workers: int,
    progress: OnBytes,
    shard_bytes: int | None = None,
) -> None:
    """Write the tensors into the stage, one piece of a file per worker at a time, and an index of several files.

    Args:
        tensors: in the order in which they are to lie.
        shard_bytes: most bytes of one file (a larger tensor gets a file of its own); None lets the workers and the
            size decide.
    """
    shards = _shards(stage.path, _cut(tensors, maker.dtype.itemsize, workers, shard_bytes), maker)
    _write_pieces(shards, stage, maker, workers, progress)
    if len(shards) > 1:
        total = sum(_nbytes(tensor, maker.dtype.itemsize) for tensor in tensors)
        weight_map = {tensor.name: shard.file.name for shard in shards for tensor in shard.tensors}
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        stage.write_text(INDEX, json.dumps(index, indent=2) + "\n")


def _shards(folder: Path, parts: list[list[Tensor]], maker: BlockMaker) -> list[_Shard]:
    count = len(parts)
    names = [f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)] if count > 1 else [SINGLE_FILE]
    shards = []
    for name, tensors in zip(names, parts, strict=True):
        header = header_bytes({tensor.name: (maker.element_type, tensor.shape) for tensor in tensors})
        nbytes = len(header) + sum(_nbytes(tensor, maker.dtype.itemsize) for tensor in tensors)
        shards.append(_Shard(file=folder / name, tensors=tensors, header=header, nbytes=nbytes))
    return shards


def _nbytes(tensor: Tensor, itemsize: int) -> int:
    return tensor.rows * tensor.row_numel * itemsize


def _cut(tensors: list[Tensor], itemsize: int, workers: int, shard_bytes: int | None) -> list[list[Tensor]]:
    sizes = [_nbytes(tensor, itemsize) for tensor in tensors]
    if shard_bytes is None:
        shard_bytes = min(LARGEST_SHARD, max(SMALLEST_SHARD, sum(sizes) // (2 * workers)))
    shards: list[list[Tensor]] = [[]]
    filled = 0
    for tensor, size in zip(tensors, sizes, strict=True):
        if shards[-1] and filled + size > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(tensor)
        filled += size
    return shards


def _write_pieces(
    shards: list[_Shard], stage: StagedFolder, maker: BlockMaker, workers: int, progress: OnBytes
) -> None:
    for shard in shards:
        if shard.pieces > 1:
            shard.file.touch(exist_ok=False)
    pieces = [(shard, number) for shard in shards for number in range(shard.pieces)]
    in_time = sorted(pieces, key=_moment)
    following = dict(zip(in_time, in_time[workers:], strict=False))
    spread(lambda piece: _write_piece(*piece, following.get(piece), stage, maker, progress), pieces, workers, _moment)


def _moment(piece: tuple[_Shard, int]) -> float:
    """When to write a piece, from 0 to 1: those of a file not at once, since it takes one write at a time."""
    shard, number = piece
    return (number + 0.5) / shard.pieces


def _write_piece(
    shard: _Shard, number: int, following: tuple[_Shard, int] | None, stage: StagedFolder, maker: BlockMaker,
    progress: OnBytes,
) -> None:  # fmt: skip
    """Write one piece, and have the disk read what `following` will be made of."""
    whole = shard.pieces == 1
    head = shard.header[number * PIECE_BYTES : (number + 1) * PIECE_BYTES]
    with HashingFile(shard.file, stage) if whole else HashingPiece(shard.file, stage, number) as out:
        out.write(head)
        for chunk in _chunks(shard, number, maker):
            if following is not None:
                for part in _parts(*following, maker.dtype.itemsize):
                    maker.prefetch(part.tensor, part.start, part.rows)
                following = None
            out.write(chunk)
        progress(out.tell() - len(head))


def _chunks(shard: _Shard, number: int, maker: BlockMaker) -> Iterator[memoryview]:
    """The bytes of a piece of a file besides the header."""
    for part in _parts(shard, number, maker.dtype.itemsize):
        first, last = part.first, part.last
        for chunk in maker.chunks(part.tensor, part.start, part.rows):
            yield chunk[max(0, first) : max(0, last)]
            first, last = first - len(chunk), last - len(chunk)


class _Part(NamedTuple):
    """Rows of a tensor, and which of their bytes belong to a piece: a piece may begin and end within a row."""

    tensor: Tensor
    start: int
    rows: int
    first: int
    last: int


def _parts(shard: _Shard, number: int, itemsize: int) -> Iterator[_Part]:
    """What a piece of a file is made of besides the header, in order. No part is of two blocks of a tensor."""
    begin, end = number * PIECE_BYTES, (number + 1) * PIECE_BYTES
    place = len(shard.header)
    for tensor in shard.tensors:
        nbytes = _nbytes(tensor, itemsize)
        at, last = max(begin - place, 0), min(end - place, nbytes)
        place += nbytes
        if at >= last:
            continue
        row, step = tensor.row_numel * itemsize, rows_per_block(tensor, itemsize)
        while at < last:
            start = at // row
            stop = min((start // step + 1) * step, -(-last // row))
            yield _Part(tensor, start, stop - start, at - start * row, min(last, stop * row) - start * row)
            at = stop * row
