"""Saving the distributed optimizer where one rank has all of it: as it lies there, parameter by parameter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .patching import wrap


class Pieces(dict[tuple[int, int], torch.Tensor]):
    """Stands for one long tensor that is only ever asked for whole parameters of it."""

    def __getitem__(self, wanted: Any) -> torch.Tensor:
        """`pieces[start:end]`, or `pieces[start, end]`."""
        return super().__getitem__((wanted.start, wanted.stop) if isinstance(wanted, slice) else wanted)


def save_without_gathering() -> None:
    """Leave out the gathering of a group of one.

    Megatron 0.19.2 copies all state into one tensor in RAM, sends that to the GPU, gathers it there from the single
    rank and takes it back: for 8B on one GPU 96 GB on the GPU and 190 GB in RAM, which a machine of one H200 has not.
    """
    from megatron.core.optimizer import distrib_optimizer

    why = "0.19.2 takes 12 bytes a parameter on the GPU and 24 in RAM to gather from a single rank"

    @wrap(distrib_optimizer.DistributedOptimizer, "get_parameter_state_dp_zero", why=why)
    def get_state(
        original: Callable[..., Any],
        self: Any,
        use_gloo_comm: bool = True,
        empty_data: bool = False,
        return_on_all_ranks: bool = False,
    ) -> Any:
        if empty_data or self.data_parallel_group.size() > 1:
            return original(self, use_gloo_comm, empty_data, return_on_all_ranks)
        state: dict[Any, Any] = {"buckets_coalesced": True}
        for index, ranges in enumerate(self.gbuf_ranges):
            buffer = self.buffers[index]
            world: dict[str, Any] = {key: Pieces() for key in ("param", *self.optimizer_state_keys)}
            for parameter, (start, end, _) in buffer.param_index_map.items():
                tensors = self._get_main_param_and_optimizer_states(parameter)
                for key, pieces in world.items():
                    pieces[start, end] = _in_fp32(tensors[key], made_for_us=_is_made(self))
            (dtype,) = ranges
            state[index] = {dtype: world | {"numel_unpadded": buffer.numel_unpadded}}
        return state


def _is_made(optimizer: Any) -> bool:
    """Whether the optimizer computes fp32 values from compact ones when asked, which then nobody else needs."""
    return bool(optimizer.config.use_precision_aware_optimizer_no_fp8_or_ds_fp8)


def _in_fp32(tensor: torch.Tensor, *, made_for_us: bool) -> torch.Tensor:
    """The state itself where it is fp32; else in RAM, one parameter after the other."""
    if tensor.dtype == torch.float32 and not made_for_us:
        return tensor.detach()
    return tensor.detach().cpu().float()
