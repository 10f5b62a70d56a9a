"""The distributed optimizer's state in a checkpoint: every rank writes and reads what it holds, and nothing else.

A rank holds a range of each flattened parameter. In the checkpoint a parameter's state has the parameter's shape, so
that any layout can load it; a range of a matrix is at most three rectangles of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from .patching import BackendError, wrap

MADE_WHEN_WRITTEN: dict[tuple[str, tuple[int, ...]], Callable[[], torch.Tensor]] = {}
"""Makers of what a save writes and the optimizer does not keep, by key and offset; its tensors are on `meta`."""


@dataclass(frozen=True, kw_only=True)
class _Remainders:
    """An fp32 copy of which only the 16 bits are kept that the bf16 weight lacks."""

    weights: torch.Tensor
    """bf16 [elements]"""
    low: torch.Tensor
    """int16 [elements]"""

    def in_fp32(self, start: int, size: tuple[int, ...]) -> torch.Tensor:
        """A block of it. The weight is the upper half, one more where the lower half, read as int16, is negative.

        Source: `AdamFunctorMasterParamRemainder` of Transformer Engine 2.20, multi_tensor_apply/adam.cu.
        """
        part = slice(start, start + math.prod(size))
        low = self.low[part].to(torch.int32)
        high = self.weights[part].view(torch.int16).to(torch.int32) - (low < 0).to(torch.int32)
        return ((high << 16) | (low & 0xFFFF)).view(torch.float32).view(size)

    def from_fp32(self, copies: torch.Tensor) -> torch.Tensor:
        """The inverse, int16.

        A weight that was rounded down from the middle cannot be said in this form: its copy loses one ulp.
        """
        bits = copies.contiguous().view(torch.int32)
        low = bits.to(torch.int16)  # the lower half, bit by bit
        weights = self.weights.view(torch.int16)
        down = (low == -0x8000) & (weights == (bits >> 16).to(torch.int16))
        return low.masked_fill(down, 0x7FFF)


def save_where_it_lies() -> None:
    """Save and load the distributed optimizer without gathering it.

    Megatron 0.19.2 gathers a whole stage in the RAM of every data-parallel rank, on saving and on loading: for 8B 96 GB
    each. It writes the 16 bits that Transformer Engine's compact optimizer keeps of a weight's fp32 copy as if they
    were that copy, and another form of the optimizer would go on from them.
    """
    from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer

    why = "0.19.2 gathers 12 bytes a parameter in every rank's RAM"

    @wrap(DistributedOptimizer, "sharded_param_state_fully_reshardable", why=why)
    def describe(
        original: Callable[..., Any], self: Any, model: Any, is_loading: bool = False, metadata: Any = None
    ) -> dict[int, dict[str, list[Any]]]:
        shards = _shards_of(model)
        return {
            number: {
                key: list(_blocks(shards[parameter], f"optimizer.state.{key}", start, state, parameter.shape))
                for key, state in (_places if is_loading else _values)(self, parameter, start, end).items()
            }
            for number, parameter, start, end in _own_ranges(self)
        }

    @wrap(DistributedOptimizer, "load_parameter_state_from_fully_reshardable", why=why)
    def load(original: Callable[..., Any], self: Any, state: dict[int, dict[str, list[torch.Tensor]]]) -> None:
        from megatron.core.optimizer.cpu_offloading import HybridDeviceOptimizer

        for number, parameter, start, end in _own_ranges(self):
            kept = _kept_copy(self, parameter, start, end)
            home = None if kept is None else kept.low.device if isinstance(kept, _Remainders) else kept.device
            loaded = {
                key: torch.cat([block.to(home).flatten() for block in blocks]) for key, blocks in state[number].items()
            }
            if isinstance(kept, _Remainders):
                loaded["param"] = kept.from_fp32(loaded["param"])
            self._set_main_param_and_optimizer_states(parameter, loaded)
        if isinstance(self.optimizer, HybridDeviceOptimizer):
            self.optimizer._sync_hdo_state_to_sub_optimizers()


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


def _values(optimizer: Any, parameter: Any, start: int, end: int) -> dict[str, torch.Tensor | _Remainders]:
    """What a save writes, in the precision in which the optimizer keeps it."""
    if not _is_made(optimizer):
        kept = optimizer._get_main_param_and_optimizer_states(parameter)
        return {key: kept[key] for key in ("param", *optimizer.optimizer_state_keys)}
    state = _inner_state(optimizer, parameter)
    values = {key: state[key] for key in optimizer.optimizer_state_keys}
    if scaled := [key for key, tensor in values.items() if tensor.dtype not in (torch.float32, torch.bfloat16)]:
        raise BackendError(f"the optimizer keeps {', '.join(scaled)} with a scale: take fp32 or bf16")
    return {"param": _kept_copy(optimizer, parameter, start, end), **values}


def _places(optimizer: Any, parameter: Any, start: int, end: int) -> dict[str, torch.Tensor]:
    """Where a load puts it: the optimizer's own tensors if they take what comes, else fp32 in RAM."""
    if not _is_made(optimizer):
        return _values(optimizer, parameter, start, end)  # type: ignore[return-value]
    return {key: torch.empty(end - start, device="cpu") for key in ("param", *optimizer.optimizer_state_keys)}


def _is_made(optimizer: Any) -> bool:
    """Whether Transformer Engine's or the processor's optimizer keeps the fp32 copies, in a form of its own."""
    return bool(optimizer.config.use_precision_aware_optimizer_no_fp8_or_ds_fp8)


def _inner_state(optimizer: Any, parameter: Any) -> Any:
    group, order = optimizer.model_param_group_index_map[parameter]
    return optimizer.optimizer.state[optimizer.optimizer.param_groups[group]["params"][order]]


def _kept_copy(optimizer: Any, parameter: Any, start: int, end: int) -> torch.Tensor | _Remainders | None:
    if not _is_made(optimizer):
        return None
    copy = _inner_state(optimizer, parameter)["master_param"]
    if copy.dtype != torch.int16:
        return copy
    return _Remainders(weights=parameter.detach().view(-1)[start:end], low=copy)


def _blocks(shard: Any, key: str, start: int, state: torch.Tensor | _Remainders, shape: torch.Size) -> Iterator[Any]:
    """What this rank has of one state of one parameter, as ShardedTensors.

    Args:
        shard: of the whole local parameter, which has this `shape`.
        key: beginning of the name in the checkpoint.
        start: first element of the flattened parameter that `state`, [elements], belongs to.
    """
    elements = len(state.low if isinstance(state, _Remainders) else state)
    for part, first in _parts(shard, shape):
        low, high = (min(max(bound - first, 0), math.prod(part.local_shape)) for bound in (start, start + elements))
        for position, size in rectangles(low, high, part.local_shape):
            stride = math.prod(part.local_shape[1:])
            here = first + position[0] * stride + sum(position[1:]) - start
            size = (1,) * part.prepend_axis_num + size
            place = (f"{key}.{part.key}", _moved(part.global_offset, position))
            if isinstance(state, _Remainders):
                data = torch.empty(size, device="meta")
                MADE_WHEN_WRITTEN[place] = partial(state.in_fp32, here, size)
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
