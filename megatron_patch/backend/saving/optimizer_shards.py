"""The distributed optimizer's state in a checkpoint: every rank writes and reads what it holds, and nothing else.

A rank holds a range of each flattened parameter. In the checkpoint a parameter's state has the parameter's shape, so
that any layout can load it; a range of a matrix is at most three rectangles of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from megatron_patch.backend.patching import BackendError, wrap

GATHERS = "0.19.2 gathers 12 bytes a parameter in every rank's RAM"
Place = tuple[str, tuple[int, ...]]
"""Key of a tensor in a checkpoint, and where in it a block begins."""


@dataclass(frozen=True, kw_only=True)
class Remainders:
    """An fp32 copy of weights of which only the 16 bits are kept that the bf16 weights lack."""

    weights: torch.Tensor
    """bf16"""
    low: torch.Tensor
    """int16, of the same shape"""

    def block(self, start: int, size: Sequence[int]) -> Remainders:
        """A rectangle of a flattened one."""
        part = slice(start, start + math.prod(size))
        return Remainders(weights=self.weights[part].view(size), low=self.low[part].view(size))

    def narrowed(self, offsets: Sequence[int], lengths: Sequence[int]) -> Remainders:
        """A rectangle within a rectangle."""
        part = tuple(slice(first, first + length) for first, length in zip(offsets, lengths, strict=True))
        return Remainders(weights=self.weights[part], low=self.low[part])

    def flat_parts(self, elements: int) -> Iterator[Remainders]:
        """Flattened, in parts of at most so many elements."""
        for weights, low in zip(
            self.weights.reshape(-1).split(elements), self.low.reshape(-1).split(elements), strict=True
        ):
            yield Remainders(weights=weights, low=low)

    def in_fp32(self) -> torch.Tensor:
        """The copy. The weight is its upper half, one more where the lower half, read as int16, is negative.

        Source: `AdamFunctorMasterParamRemainder` of Transformer Engine 2.20, multi_tensor_apply/adam.cu.
        """
        low = self.low.to(torch.int32)
        high = self.weights.view(torch.int16).to(torch.int32) - (low < 0).to(torch.int32)
        return ((high << 16) | (low & 0xFFFF)).view(torch.float32)

    def keep(self, copies: torch.Tensor) -> Callable[[], None]:
        """Keep the lower halves of a copy.

        Returns:
            What is left to do when the weights are there: one that was rounded down from the middle cannot be said in
            this form, and its copy loses one ulp.
        """
        bits = copies.contiguous().view(torch.int32)
        self.low.copy_(bits.to(torch.int16))  # bit by bit
        middle = (self.low == -0x8000).nonzero(as_tuple=True)
        upper = (bits[middle] >> 16).to(torch.int16)

        def finish() -> None:
            down = self.weights.view(torch.int16)[middle] == upper
            self.low[middle] = self.low[middle].masked_fill(down, 0x7FFF)

        return finish


REMAINDERS: dict[Place, Remainders] = {}
"""Blocks of fp32 copies that are put together when they are written, and taken apart when they are read: in what
Megatron saves and loads, their tensors are on `meta`."""
UNFINISHED: list[Callable[[], None]] = []
"""What is left to do of copies that have been read, when the weights are there."""


def save_where_it_lies() -> None:
    """Describe the distributed optimizer to Megatron's checkpoints without gathering it.

    Megatron 0.19.2 gathers a whole stage in the RAM of every data-parallel rank, on saving and on loading: for 8B 96 GB
    each. It writes the 16 bits that Transformer Engine's compact optimizer keeps of a weight's fp32 copy as if they
    were that copy, and another form of the optimizer would go on from them.
    """
    from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer

    @wrap(DistributedOptimizer, "sharded_param_state_fully_reshardable", why=GATHERS)
    def describe(
        original: Callable[..., Any], self: Any, model: Any, is_loading: bool = False, metadata: Any = None
    ) -> dict[int, dict[str, list[Any]]]:
        shards = _shards_of(model)
        return {
            number: {
                key: list(_blocks(shards[parameter], f"optimizer.state.{key}", start, state, parameter.shape))
                for key, state in _states(self, parameter, start, end).items()
            }
            for number, parameter, start, end in _own_ranges(self)
        }


def read_where_it_lies() -> None:
    """Read what was described so into the place where it is kept: no copy of it is made."""
    from megatron.core.dist_checkpointing.strategies.torch import MCoreLoadPlanner
    from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer

    @wrap(MCoreLoadPlanner, "resolve_tensor", why=GATHERS)
    def resolve(original: Callable[..., Any], self: Any, item: Any) -> torch.Tensor:
        kept = REMAINDERS.get(place_of(item.dest_index))
        return original(self, item) if kept is None else torch.empty(item.lengths, device=kept.low.device)

    @wrap(MCoreLoadPlanner, "commit_tensor", why=GATHERS)
    def commit(original: Callable[..., Any], self: Any, item: Any, tensor: torch.Tensor) -> None:
        kept = REMAINDERS.get(place_of(item.dest_index))
        if kept is None:
            original(self, item, tensor)
        else:
            UNFINISHED.append(kept.narrowed(item.dest_offsets, item.lengths).keep(tensor))

    @wrap(DistributedOptimizer, "load_parameter_state_from_fully_reshardable", why=GATHERS)
    def load(original: Callable[..., Any], self: Any, loaded: dict[int, dict[str, list[torch.Tensor]]]) -> None:
        for number, parameter, start, end in _own_ranges(self):
            for key, state in _states(self, parameter, start, end).items():
                _was_read_in_place(key, state, loaded[number][key])
        while UNFINISHED:
            UNFINISHED.pop()()
        REMAINDERS.clear()


def forget_unfinished_load() -> None:
    """Before another checkpoint is loaded in the place of one that could not be read to its end."""
    UNFINISHED.clear()
    REMAINDERS.clear()


def place_of(index: Any) -> Place:
    """Of a block that torch writes or reads, from its MetadataIndex."""
    return index.fqn, tuple(index.offset or ())


def _was_read_in_place(key: str, state: torch.Tensor | Remainders, blocks: list[torch.Tensor]) -> None:
    home = "meta" if isinstance(state, Remainders) else state.untyped_storage().data_ptr()
    for block in blocks:
        if home != ("meta" if block.device.type == "meta" else block.untyped_storage().data_ptr()):
            raise BackendError("optimizer-read-elsewhere", key=key)


def _own_ranges(optimizer: Any) -> Iterator[tuple[int, torch.nn.Parameter, int, int]]:
    """Number, parameter, first and last + 1 element of its flattened form that this rank keeps the state of."""
    number = 0
    for buffer, ranges in zip(optimizer.buffers, optimizer.gbuf_ranges, strict=True):
        (buckets,) = ranges.values()  # one data type in each buffer
        own = {parameter: where["param"] for bucket in buckets for parameter, where in bucket["param_map"].items()}
        for parameter in buffer.param_index_map:
            if parameter in own:
                yield number, parameter, own[parameter].start, own[parameter].end
            number += 1


def _shards_of(model: Any) -> dict[torch.nn.Parameter, Any]:
    """Where each parameter lies in the checkpoint: Megatron's ShardedTensor or ShardedTensorFactory of it."""
    from megatron.core.dist_checkpointing.dict_utils import nested_values
    from megatron.core.dist_checkpointing.utils import extract_sharded_tensors_and_factories

    described, _ = extract_sharded_tensors_and_factories(model)
    return {shard.data: shard for shard in nested_values(described)}


def _states(optimizer: Any, parameter: Any, start: int, end: int) -> dict[str, torch.Tensor | Remainders]:
    """What the optimizer keeps of a parameter, where it keeps it: the fp32 copy and the moments, each [elements]."""
    if not optimizer.config.use_precision_aware_optimizer_no_fp8_or_ds_fp8:
        kept = optimizer._get_main_param_and_optimizer_states(parameter)
        return {key: kept[key] for key in ("param", *optimizer.optimizer_state_keys)}
    group, order = optimizer.model_param_group_index_map[parameter]
    state = optimizer.optimizer.state[optimizer.optimizer.param_groups[group]["params"][order]]
    states = {key: state[key] for key in optimizer.optimizer_state_keys}
    if scaled := [key for key, tensor in states.items() if tensor.dtype not in (torch.float32, torch.bfloat16)]:
        raise BackendError("optimizer-scaled", names=scaled)
    copy = state["master_param"]
    if copy.dtype == torch.int16:
        copy = Remainders(weights=parameter.detach().view(-1)[start:end], low=copy)
    return {"param": copy, **states}


def _blocks(shard: Any, key: str, start: int, state: torch.Tensor | Remainders, shape: torch.Size) -> Iterator[Any]:
    """What this rank has of one state of one parameter, as ShardedTensors.

    Args:
        shard: of the whole local parameter, which has this `shape`.
        key: beginning of the name in the checkpoint.
        start: first element of the flattened parameter that `state`, [elements], belongs to.
    """
    elements = len(state.low if isinstance(state, Remainders) else state)
    for part, first in _parts(shard, shape):
        low, high = (min(max(bound - first, 0), math.prod(part.local_shape)) for bound in (start, start + elements))
        for position, size in rectangles(low, high, part.local_shape):
            stride = math.prod(part.local_shape[1:])
            here = first + position[0] * stride + sum(position[1:]) - start
            size = (1,) * part.prepend_axis_num + size
            place = (f"{key}.{part.key}", _moved(part.global_offset, position))
            if isinstance(state, Remainders):
                data = torch.empty(size, device="meta")
                REMAINDERS[place] = state.block(here, size)
            else:
                data = state.detach()[here : here + math.prod(size)].view(size)
            yield replace(
                part,
                key=place[0],
                data=data,
                dtype=data.dtype,
                local_shape=size,
                global_offset=place[1],
                axis_fragmentations=None,  # not a regular grid
                prepend_axis_num=0,
                replica_id=(*part.replica_id[:-1], 0),  # no other data-parallel rank has it
            )


def _parts(shard: Any, shape: torch.Size) -> Iterator[tuple[Any, int]]:
    """Tensors of the checkpoint that a local parameter consists of, and where in it they begin.

    Gate and up are one parameter here, and two distant parts of one tensor there.
    """
    from megatron.core.dist_checkpointing.mapping import ShardedTensorFactory

    if not isinstance(shard, ShardedTensorFactory):
        yield shard, 0
        return
    for part in replace(shard, data=torch.empty(shape, device="meta")).build():
        yield part, part.data.storage_offset()


def _moved(offset: Sequence[int], position: Sequence[int]) -> tuple[int, ...]:
    axes = len(offset) - len(position)
    return (*offset[:axes], *(a + b for a, b in zip(offset[axes:], position, strict=True)))


def rectangles(start: int, end: int, shape: Sequence[int]) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Position and size of the rectangles that hold elements `start` to `end` - 1 of a vector or row-major matrix."""
    if start >= end:
        return
    if len(shape) == 1:
        yield (start,), (end - start,)
        return
    _, width = shape
    row, column = divmod(start, width)
    if column or end - start < width:
        stop = min(end, (row + 1) * width)
        yield (row, column), (1, stop - start)
        yield from rectangles(stop, end, shape)
    elif rows := (end - start) // width:
        yield (row, 0), (rows, width)
        yield from rectangles(start + rows * width, end, shape)
