"""Writing Megatron's old format, `mp_rank_XX_YYY/model_optim_rng.pt`: a file for each tensor and pipeline rank.

For one TP and PP, with Transformer Engine's names, in blocks of rows: no rank's tensors are ever in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from megatron_patch.backend.saving.torch_archive import ArchiveWriter, Promised
from megatron_patch.checkpoint.contents import PER_RANK_FILE
from megatron_patch.checkpoint.converter.conversion import Conversion
from megatron_patch.checkpoint.formats.hf_writer import OnBytes
from megatron_patch.checkpoint.formats.sources import BlockMaker, bytes_of, rows_per_block
from megatron_patch.checkpoint.layout import stage_layers
from megatron_patch.checkpoint.store import HashingFile, StagedFolder
from megatron_patch.models.weight_map import COLUMNS, HALVES, MEGATRON_LAYER, WHOLE, Tensor, split_of


def write_per_rank(
    stage: StagedFolder, release: Path, conversion: Conversion, tensors: list[Tensor], maker: BlockMaker,
    tp: int, pp: int, progress: OnBytes,
) -> None:  # fmt: skip
    """Write one file for each rank below `release`, the files of one pipeline stage side by side.

    Args:
        tensors: the Megatron side, made of whatever `maker` reads, the vocabulary padded to what TP divides.
        progress: told the bytes of each block.
    Raises:
        CheckpointError: a value is NaN or infinite, or a file ends too soon.
    """
    pool = ThreadPoolExecutor(min(pp, conversion.workers))
    try:
        jobs = []
        for number in range(pp):
            folders = [release / (f"mp_rank_{rank:02d}" + (f"_{number:03d}" if pp > 1 else "")) for rank in range(tp)]
            held = _of_stage(conversion, tensors, pp, number)
            jobs.append(pool.submit(_write_stage, stage, folders, held, maker, progress))
        for job in jobs:
            job.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _of_stage(conversion: Conversion, tensors: list[Tensor], pp: int, stage: int) -> dict[str, Tensor]:
    """What a pipeline stage holds, by the names that it has there."""
    layers, last = stage_layers(conversion.model.num_layers, pp, stage), stage == pp - 1
    found = {}
    for tensor in tensors:
        if tensor.layer is not None:
            if tensor.layer in layers:
                found[tensor.name.replace(MEGATRON_LAYER, f"{MEGATRON_LAYER}{tensor.layer - layers[0]}.")] = tensor
        elif not tensor.name.startswith("embedding."):
            found |= {tensor.name: tensor} if last else {}
        elif stage == 0:
            found[tensor.name] = tensor
        elif last and conversion.model.tie_embeddings:  # the last stage has its own copy
            found["output_layer.weight"] = tensor
    return found


def _write_stage(
    stage: StagedFolder, folders: list[Path], tensors: dict[str, Tensor], maker: BlockMaker, progress: OnBytes
) -> None:
    tp = len(folders)
    promised = {
        name: Promised(key=str(i), dtype=maker.dtype, shape=_rank_shape(tensor, tp))
        for i, (name, tensor) in enumerate(tensors.items())
    }
    content = {"model": promised, "checkpoint_version": 3.0, "iteration": 0}
    with ExitStack() as files:
        archives = []
        for folder in folders:
            folder.mkdir(parents=True)
            file = files.enter_context(HashingFile(folder / PER_RANK_FILE, stage))
            archives.append(files.enter_context(ArchiveWriter(file, content)))
        for name, tensor in tensors.items():
            with ExitStack() as records:
                streams = [records.enter_context(archive.storage(promised[name])) for archive in archives]
                _write_tensor(streams, tensor, maker, progress)


def _write_tensor(streams: list[Any], tensor: Tensor, maker: BlockMaker, progress: OnBytes) -> None:
    """Each rank's part of a tensor into that rank's stream."""
    for ranks, block in _blocks(tensor, maker, len(streams)):
        for rank, part in zip(ranks, block, strict=True):
            streams[rank].write(bytes_of(part))
            progress(part.nbytes)


def _rank_shape(tensor: Tensor, tp: int) -> tuple[int, ...]:
    split = split_of(tensor.name, len(tensor.shape))
    if split == WHOLE:
        return tensor.shape
    if split == COLUMNS:
        return (tensor.rows, tensor.row_shape[0] // tp)
    return (tensor.rows // tp, *tensor.row_shape)


def _blocks(tensor: Tensor, maker: BlockMaker, tp: int) -> Iterator[tuple[range, list[torch.Tensor]]]:
    """Blocks in the order in which each rank's file takes them: which ranks get a part, and the parts."""

    def made(first: int, count: int) -> Iterator[torch.Tensor]:
        step = rows_per_block(tensor, maker.dtype.itemsize)
        for start in range(first, first + count, step):
            rows = min(step, first + count - start)
            yield maker.make([(tensor, start)], rows, (rows, *tensor.row_shape))

    split = split_of(tensor.name, len(tensor.shape))
    if split == WHOLE:
        for block in made(0, tensor.rows):
            yield range(tp), [block] * tp
    elif split == COLUMNS:
        for block in made(0, tensor.rows):
            yield range(tp), [part.contiguous() for part in block.chunk(tp, dim=1)]
    else:
        halves = 2 if split == HALVES else 1
        rows = tensor.rows // halves // tp
        for half in range(halves):
            for rank in range(tp):
                for block in made(half * tensor.rows // halves + rank * rows, rows):
                    yield range(rank, rank + 1), [block]
