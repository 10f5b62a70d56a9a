"""Start straight from a Hugging Face folder: each rank reads the rows of its own slices, nothing is converted.

Which slice a rank holds is asked of Megatron itself: `sharded_state_dict` gives for every local tensor its name
in a checkpoint and its place in the whole. So this knows nothing of TP, PP or VPP, and works for both specs.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from megatron_patch.checkpoint.errors import CheckpointError
from megatron_patch.checkpoint.hf_folder import open_hf_folder
from megatron_patch.checkpoint.sources import BlockMaker, Source, open_source, rows_per_block
from megatron_patch.checkpoint.torch_dist import SAFETENSORS_NAMES
from megatron_patch.checkpoint.weights import Tensor, megatron_tensors, stacked_shape
from megatron_patch.families import LLAMA_3_1, Family


def load_hf_into(model_chunks: list[torch.nn.Module], hf_dir: str | Path, family: Family = LLAMA_3_1) -> int:
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
    folder = open_hf_folder(Path(hf_dir), family, "auto")
    table = {(t.name, t.layer): t for t in megatron_tensors(folder.shape, folder.vocab_size)}
    wholes = {t.name: stacked_shape(t, folder.shape.num_layers) for t in table.values()}
    source, filled = open_source(folder), 0
    wanted = [piece for chunk in model_chunks for piece in local_tensors(chunk)]
    problems = [line for piece in wanted for line in _mismatches(piece, wholes, folder.vocab_size)]
    if problems:
        raise CheckpointError([f"{hf_dir}: {line}" for line in dict.fromkeys(problems)])
    for piece in wanted:
        layer = piece.global_offset[0] if piece.prepend_axis_num else None
        _fill(piece, table[piece.key, layer], source, folder.path)
        filled += piece.data.nbytes
    return filled


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


def _mismatches(piece: Any, wholes: dict[str, tuple[int, ...]], vocab_size: int) -> Iterator[str]:
    whole, found = wholes.get(piece.key), tuple(piece.global_shape)
    if whole is None:
        yield f"has nothing for {piece.key} {list(found)}, which the model that is being trained has"
        return
    padded = piece.key in ("embedding.word_embeddings.weight", "output_layer.weight")
    fits = found[1:] == whole[1:] and found[0] >= vocab_size if padded else found == whole
    if not fits:
        yield f"{piece.key} would be {list(whole)}, the model that is being trained has {list(found)}"


@torch.no_grad()
def _fill(piece: Any, tensor: Tensor, source: Source, where: Path) -> None:
    """Copy this rank's rows and columns. Rows beyond the vocabulary become zero."""
    lead = piece.prepend_axis_num
    row0, *column0 = piece.global_offset[lead:]
    data = piece.data.view(piece.data.shape[-len(tensor.shape) :])
    dtype = data.dtype if data.dtype in SAFETENSORS_NAMES else torch.float32
    maker = BlockMaker(source, dtype, where)
    step = rows_per_block(tensor, dtype.itemsize)
    for start in range(0, data.shape[0], step):
        part = data[start : start + step]
        made = maker.make([(tensor, row0 + start)], part.shape[0], (part.shape[0], *tensor.row_shape))
        if column0:
            made = made[:, column0[0] : column0[0] + part.shape[1]]
        part.copy_(made)
