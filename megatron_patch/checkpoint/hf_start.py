"""Start straight from a Hugging Face folder: each rank reads the rows of its own slices, nothing is converted.

Which slice a rank holds is asked of Megatron itself: `sharded_state_dict` gives for every local tensor its name
in a checkpoint and its place in the whole. So this knows nothing of TP, PP or VPP, and works for both specs.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from megatron_patch.backend.gpu_threads import pool_on_this_gpu
from megatron_patch.checkpoint.converter.convert import same_when_tied
from megatron_patch.checkpoint.errors import CheckpointError, sizes
from megatron_patch.checkpoint.formats.hf_folder import open_hf_folder
from megatron_patch.checkpoint.formats.sources import BlockMaker, open_source, rows_per_block
from megatron_patch.checkpoint.formats.torch_dist import SAFETENSORS_NAMES
from megatron_patch.common.messages import Message, at
from megatron_patch.models import AUTO
from megatron_patch.models.weight_map import Tensor, megatron_tensors, stacked_shape

THREADS = 8
"""Most threads of a rank; each holds 64 MiB where it fuses, and as much again where it casts."""


def load_hf_into(model_chunks: list[torch.nn.Module], hf_dir: str | Path) -> int:
    """Fill the parameters of this rank's model chunks from safetensors.

    Args:
        model_chunks: as Megatron builds them, one for each virtual pipeline stage; wrapped or not. Call it before the
            optimizer is built, which copies the parameters.
        hf_dir: a Hugging Face model folder.
    Returns:
        bytes of parameters filled on this rank.
    Raises:
        CheckpointError: the folder is damaged, or is not of this model; each line names both values.
    """
    folder = open_hf_folder(Path(hf_dir), AUTO)
    same_when_tied(folder)
    table = {(t.name, t.layer): t for t in megatron_tensors(folder.model, folder.vocab_size)}
    wholes = {t.name: stacked_shape(t, folder.model.num_layers) for t in table.values()}
    wanted = [piece for chunk in model_chunks for piece in local_tensors(chunk)]
    problems = [what for piece in wanted for what in _mismatches(piece, wholes, folder.vocab_size)]
    if problems:
        raise CheckpointError.of([at(hf_dir, what) for what in dict.fromkeys(problems)])
    source = open_source(folder)
    makers = {dtype: BlockMaker(source, dtype, folder.path, mapped=True) for dtype in SAFETENSORS_NAMES}
    _fill_all([block for piece in wanted for block in _blocks(piece, table)], makers)
    return sum(piece.data.nbytes for piece in wanted)


def local_tensors(chunk: Any) -> Iterator[Any]:
    """Megatron's `ShardedTensor` of every parameter of a model chunk; `data` is the parameter or a view of it."""
    from megatron.core.dist_checkpointing.dict_utils import nested_values
    from megatron.core.dist_checkpointing.mapping import ShardedTensor, apply_factories

    while not hasattr(chunk, "sharded_state_dict"):
        chunk = chunk.module
    state = chunk.sharded_state_dict()
    apply_factories(state)  # fc1 becomes its gate half and its up half
    for entry in nested_values(state):
        if isinstance(entry, ShardedTensor):
            yield entry


def _mismatches(piece: Any, wholes: dict[str, tuple[int, ...]], vocab_size: int) -> Iterator[Message]:
    whole, found = wholes.get(piece.key), tuple(piece.global_shape)
    if whole is None:
        yield Message("start-nothing-for", tensor=piece.key, wanted=sizes(found))
        return
    padded = piece.key in ("embedding.word_embeddings.weight", "output_layer.weight")
    fits = found[1:] == whole[1:] and found[0] >= vocab_size if padded else found == whole
    if not fits:
        yield Message("start-other-shape", tensor=piece.key, found=sizes(whole), wanted=sizes(found))


class _Block(NamedTuple):
    """Some rows of a local tensor, and where they come from."""

    part: torch.Tensor
    tensor: Tensor
    row: int
    """The first of the whole tensor's."""
    column: int | None
    """The first of the whole tensor's columns; None where the local tensor has all."""


def _blocks(piece: Any, table: dict[tuple[str, int | None], Tensor]) -> Iterator[_Block]:
    lead = piece.prepend_axis_num
    tensor = table[piece.key, piece.global_offset[0] if lead else None]
    row, *columns = piece.global_offset[lead:]
    data = piece.data.view(piece.data.shape[-len(tensor.shape) :])
    step = rows_per_block(tensor, _stored(data).itemsize)
    for start in range(0, data.shape[0], step):
        yield _Block(data[start : start + step], tensor, row + start, columns[0] if columns else None)


def _stored(data: torch.Tensor) -> torch.dtype:
    """In which type the rows of a local tensor are made."""
    return data.dtype if data.dtype in SAFETENSORS_NAMES else torch.float32


def _fill_all(blocks: list[_Block], makers: dict[torch.dtype, BlockMaker]) -> None:
    """Several blocks at a time; each of their operations takes one core. Threads have this GPU, not the first one."""
    cores = torch.get_num_threads()
    torch.set_num_threads(1)  # threads that begin from here on take it over
    pool = pool_on_this_gpu(max(2, min(cores, THREADS)))
    try:
        for _ in pool.map(partial(_fill, makers), blocks):
            pass
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(cores)


@torch.no_grad()
def _fill(makers: dict[torch.dtype, BlockMaker], block: _Block) -> None:
    """Copy this rank's rows and columns. Rows beyond the vocabulary become zero."""
    part, tensor, row, column = block
    made = makers[_stored(part)].make([(tensor, row)], part.shape[0], (part.shape[0], *tensor.row_shape))
    part.copy_(made if column is None else made[:, column : column + part.shape[1]])
