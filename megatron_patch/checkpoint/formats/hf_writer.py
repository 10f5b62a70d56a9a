"""Writing sharded safetensors with an index, block by block."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from pathlib import Path

from megatron_patch.checkpoint.contents import INDEX, SINGLE_FILE
from megatron_patch.checkpoint.formats.safetensors_io import header_bytes
from megatron_patch.checkpoint.formats.sources import BlockMaker, bytes_of, rows_per_block
from megatron_patch.checkpoint.store import HashingFile, StagedFolder
from megatron_patch.models.weight_map import Tensor

LARGEST_SHARD = 5_000_000_000
"""Bytes of a safetensors file, as Hugging Face cuts them."""
SMALLEST_SHARD = 256_000_000
"""Below this a model is not cut into more files for the sake of more workers."""

OnBytes = Callable[[int], None]
"""Told the bytes of each block that was made."""


def write_safetensors(
    stage: StagedFolder,
    tensors: list[Tensor],
    maker: BlockMaker,
    workers: int,
    progress: OnBytes,
    shard_bytes: int | None = None,
) -> None:
    """Write the tensors into the stage, one file per worker at a time, and an index if there are several files.

    Args:
        tensors: in the order in which they are to lie.
        shard_bytes: most bytes of one file (a larger tensor gets a file of its own); None lets the workers and the
            size decide.
    """
    shards = _cut(tensors, maker.dtype.itemsize, workers, shard_bytes)
    count = len(shards)
    names = [f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)] if count > 1 else [SINGLE_FILE]
    pool = ThreadPoolExecutor(workers)
    try:
        jobs = [
            pool.submit(_write_shard, stage.path / name, stage, shard, maker, progress)
            for name, shard in zip(names, shards, strict=True)
        ]
        for job in jobs:
            job.result()
    finally:
        pool.shutdown(cancel_futures=True)
    if count > 1:
        total = sum(_nbytes(tensor, maker.dtype.itemsize) for tensor in tensors)
        weight_map = {t.name: name for name, shard in zip(names, shards, strict=True) for t in shard}
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        stage.write_text(INDEX, json.dumps(index, indent=2) + "\n")


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


def _write_shard(file: Path, stage: StagedFolder, tensors: list[Tensor], maker: BlockMaker, progress: OnBytes) -> None:
    with HashingFile(file, stage) as out:
        out.write(header_bytes({tensor.name: (maker.element_type, tensor.shape) for tensor in tensors}))
        blocks = [
            (tensor, start, min(step, tensor.rows - start))
            for tensor in tensors
            for step in [rows_per_block(tensor, maker.dtype.itemsize)]
            for start in range(0, tensor.rows, step)
        ]
        for (tensor, start, rows), following in zip_longest(blocks, blocks[1:]):
            made = maker.make([(tensor, start)], rows, (rows, *tensor.row_shape))
            if following is not None:
                maker.prefetch(*following)
            out.write(bytes_of(made))
            progress(made.nbytes)
