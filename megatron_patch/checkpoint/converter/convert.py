"""Streamed conversion, both ways. Memory does not grow with the model: a chunk per worker, never a tensor.

A Megatron checkpoint folder of ours:

    latest_checkpointed_iteration.txt   "release": Megatron loads it as weights without optimizer
    release/                            torch_dist, any TP, PP, VPP, CP and DP
    config.json, tokenizer.json, ...    what a Hugging Face folder needs, for the way back and for the trainer
    manifest.json                       SHA-256 of every file, or of each piece of a large one
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_patch.checkpoint.chat_files import add_chat_files
from megatron_patch.checkpoint.configuration import Configuration
from megatron_patch.checkpoint.contents import RELEASE, TRACKER
from megatron_patch.checkpoint.converter.conversion import Conversion
from megatron_patch.checkpoint.errors import CheckpointError, sizes
from megatron_patch.checkpoint.formats.hf_folder import HFFolder, copy_companions
from megatron_patch.checkpoint.formats.hf_writer import OnBytes, write_safetensors
from megatron_patch.checkpoint.formats.per_rank_writer import write_per_rank
from megatron_patch.checkpoint.formats.safetensors_io import FileCache
from megatron_patch.checkpoint.formats.sources import (
    BLOCK_BYTES,
    BlockMaker,
    MegatronReader,
    open_source,
    rows_per_block,
)
from megatron_patch.checkpoint.formats.torch_dist import Block, write_torch_dist
from megatron_patch.checkpoint.store import INTEGRITY, StagedFolder, staged
from megatron_patch.common.messages import Message, at
from megatron_patch.models.weight_map import (
    Tensor,
    extra_state_names,
    from_megatron,
    hf_shapes,
    invert,
    stacked_shape,
)


@dataclass(frozen=True, kw_only=True)
class Side:
    """What a Megatron checkpoint is made of: Hugging Face's tensors, or another Megatron checkpoint's."""

    maker: BlockMaker
    tensors: list[Tensor]
    """The Megatron side, made of what `maker` reads."""
    companions: Path
    """The folder of tokenizer, chat template and generation config."""
    config: Mapping[str, Any]


def hf_side(folder: HFFolder, conversion: Conversion) -> Side:
    """A Hugging Face folder as a source.

    Raises:
        CheckpointError: its ties are none, or its pickles are not what they should be.
    """
    source = open_source(folder)
    same_when_tied(folder)
    maker = BlockMaker(source, conversion.dtype, folder.path)
    return Side(maker=maker, tensors=conversion.tensors(), companions=folder.path, config=folder.config)


def megatron_side(reader: MegatronReader, configuration: Configuration, conversion: Conversion) -> Side:
    """A Megatron checkpoint as a source."""
    maker = BlockMaker(reader, conversion.dtype, reader.folder)
    tensors = from_megatron(conversion.tensors(), reader.shapes["embedding.word_embeddings.weight"][0])
    return Side(maker=maker, tensors=tensors, companions=configuration.companions, config=configuration.config)


def to_megatron(side: Side, target: Path, conversion: Conversion, progress: OnBytes) -> None:
    """Write `target` as a Megatron checkpoint folder.

    Raises:
        CheckpointError: a value is NaN or infinite, or a file ends too soon.
    """
    facts = {"format": "torch_dist", "precision": conversion.precision, "layers": conversion.model.num_layers}
    with staged(target, facts, conversion.before_publishing) as stage:
        release = stage.path / RELEASE
        release.mkdir()
        blocks = _megatron_blocks(conversion, side, progress)
        write_torch_dist(release, stage, blocks, _objects(conversion), conversion.dtype, conversion.workers)
        stage.write_text(f"{RELEASE}/metadata.json", json.dumps({"sharded_backend": "torch_dist"}))
        stage.write_text(f"{RELEASE}/{INTEGRITY}", _integrity(stage))
        _finish(stage, side, conversion)


def to_per_rank(side: Side, target: Path, conversion: Conversion, tp: int, pp: int, progress: OnBytes) -> None:
    """Write `target` as a checkpoint folder of Megatron's old format, for one TP and PP.

    Raises:
        CheckpointError: a value is NaN or infinite, or a file ends too soon.
    """
    facts = {"format": "torch", "precision": conversion.precision, "tensor_parallel": tp, "pipeline_parallel": pp}
    with staged(target, facts, conversion.before_publishing) as stage:
        write_per_rank(stage, stage.path / RELEASE, conversion, side.tensors, side.maker, tp, pp, progress)
        _finish(stage, side, conversion)


def _finish(stage: StagedFolder, side: Side, conversion: Conversion) -> None:
    copy_companions(side.companions, stage.path, side.config, conversion.precision)
    stage.write_text(TRACKER, RELEASE)


def _objects(conversion: Conversion) -> dict[str, object]:
    """The entries of a torch_dist folder that are not tensors."""
    # checkpoint_version below 3 makes Megatron reorder qkv; content_metadata is what its own save writes
    content = {"singleton_local_shards": False, "chained_optim_avoid_prefix": True}
    common = {"checkpoint_version": 3.0, "iteration": 0, "content_metadata": content}
    empty = {name: [None] for name in extra_state_names(conversion.model)}
    return {"common_state/shard_0_1": [common], **empty}


def _integrity(stage: StagedFolder) -> str:
    """The sums of the torch_dist folder in the form that Megatron's --verify-integrity reads."""
    prefix = f"{RELEASE}/"
    files = {n.removeprefix(prefix): facts["sha256"] for n, facts in sorted(stage.sums.items()) if n.startswith(prefix)}
    return json.dumps({"algorithm": "sha256", "files": files}, indent=2)


def _megatron_blocks(
    conversion: Conversion, side: Side, progress: OnBytes
) -> dict[Block, Callable[[], Iterator[memoryview]]]:
    """Every block of the checkpoint. The norms of all layers are one block, large tensors are several."""
    layers = conversion.model.num_layers
    norms: dict[str, list[Tensor]] = {}
    blocks: dict[Block, Callable[[], Iterator[memoryview]]] = {}

    def add(slices: list[tuple[Tensor, int]], rows: int, offsets: tuple[int, ...], sizes: tuple[int, ...]) -> None:
        shape = stacked_shape(slices[0][0], layers)
        block = Block(name=slices[0][0].name, shape=shape, offsets=offsets, sizes=sizes)

        def make() -> Iterator[memoryview]:
            for tensor, start in slices:
                yield from side.maker.chunks(tensor, start, rows)
            progress(block.numel * conversion.dtype.itemsize)

        blocks[block] = make

    for tensor in side.tensors:
        if tensor.layer is not None and not tensor.row_shape:
            norms.setdefault(tensor.name, []).append(tensor)
            continue
        step = rows_per_block(tensor, conversion.dtype.itemsize)
        for start in range(0, tensor.rows, step):
            rows = min(step, tensor.rows - start)
            offsets, sizes = (start, *(0 for _ in tensor.row_shape)), (rows, *tensor.row_shape)
            if tensor.layer is not None:
                offsets, sizes = (tensor.layer, *offsets), (1, *sizes)
            add([(tensor, start)], rows, offsets, sizes)
    for stack in norms.values():
        add([(tensor, 0) for tensor in stack], stack[0].rows, (0, 0), (layers, stack[0].rows))
    return blocks


def same_when_tied(folder: HFFolder) -> None:
    """Some tied checkpoints also store `lm_head.weight`. It must be the embedding, since that is what ties mean.

    Raises:
        CheckpointError: it is not.
    """
    twin = folder.tied_twin
    if twin is None:
        return
    embedding = folder.tensors["model.embed_tokens.weight"]
    files = FileCache()  # the folder's would have them verified now, by threads, beside which nothing is forked
    one, two = bytearray(BLOCK_BYTES), bytearray(BLOCK_BYTES)
    if (twin.dtype, twin.shape) != (embedding.dtype, embedding.shape):
        one[0] = 1  # different already
    for start in range(0, min(twin.nbytes, embedding.nbytes), BLOCK_BYTES):
        count = min(BLOCK_BYTES, twin.nbytes - start)
        files.read_into(embedding.file, embedding.offset + start, memoryview(one)[:count])
        files.read_into(twin.file, twin.offset + start, memoryview(two)[:count])
        if one[:count] != two[:count]:
            raise CheckpointError.at(folder.path, "weights-tied-twice")


def check_megatron_shapes(reader: MegatronReader, conversion: Conversion) -> list[Message]:
    """Hold a Megatron checkpoint against the architecture. Any padding of the vocabulary is accepted.

    Returns:
        notes for the user.
    Raises:
        CheckpointError: it is the checkpoint of another model; each line names both values.
    """
    problems: list[Message] = []
    notes: list[Message] = []
    wanted = {t.name: (stacked_shape(t, conversion.model.num_layers), t) for t in conversion.tensors()}
    for name, (shape, tensor) in wanted.items():
        found = reader.shapes.get(name)
        padded = tensor.layer is None and bool(tensor.row_shape)
        if found is None:
            problems.append(at(reader.folder, "tensor-missing", tensor=name))
        elif padded and found[1:] == shape[1:] and found[0] >= conversion.vocab_size:
            if found[0] > conversion.vocab_size:
                notes.append(Message("padding-rows", tensor=name, rows=found[0] - conversion.vocab_size))
        elif found != shape:
            facts = {"tensor": name, "found": sizes(found), "wanted": sizes(shape)}
            problems.append(at(reader.folder, "tensor-shape-configured", **facts))
    for name in sorted(reader.shapes.keys() - wanted.keys()):
        if name.startswith(("embedding.", "decoder.", "output_layer.")):
            facts = {"tensor": name, "shape": sizes(reader.shapes[name])}
            problems.append(at(reader.folder, "tensor-not-configured", **facts))
    if problems:
        raise CheckpointError.of(problems)
    return notes


def to_hf(
    reader: MegatronReader,
    configuration: Configuration,
    target: Path,
    conversion: Conversion,
    progress: OnBytes,
    shard_bytes: int | None = None,
) -> None:
    """Write `target` as a Hugging Face folder.

    Args:
        configuration: what goes along with the weights.
        shard_bytes: most bytes of one safetensors file; None lets the workers and the size decide.
    Raises:
        CheckpointError: a value is NaN or infinite, or the checkpoint is damaged.
    """
    by_name = {tensor.name: tensor for tensor in invert(conversion.tensors())}
    tensors = [by_name[name] for name in hf_shapes(conversion.model, conversion.vocab_size)]
    maker = BlockMaker(reader, conversion.dtype, reader.folder)
    facts = {"format": "huggingface", "precision": conversion.precision, "source": reader.folder.name}
    with staged(target, facts, conversion.before_publishing) as stage:
        write_safetensors(stage, tensors, maker, conversion.workers, progress, shard_bytes)
        copy_companions(configuration.companions, stage.path, configuration.config, conversion.precision)
        add_chat_files(stage.path, reader.folder.parent.parent)
