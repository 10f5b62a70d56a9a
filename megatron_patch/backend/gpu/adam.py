"""Transformer Engine's Adam, whose state stays where it is when its groups are saved and loaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from megatron_patch.backend.patching import wrap


def leave_state_in_place() -> None:
    """Save and load a distributed optimizer over `FusedAdam` without copies of its state.

    Megatron 0.19.2 asks for the whole state where it needs the groups, and gives it back. Transformer Engine 2.20 makes
    fp32 copies of bf16 moments to answer, and new tensors of all that it is given: by arithmetic, for 8B on one GPU
    64 GB on saving and 112 GB on loading.
    """
    from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
    from transformer_engine.pytorch.optimizers import FusedAdam

    why = "2.20 makes copies of the whole state"

    @wrap(FusedAdam, "state_dict", why=why)
    def state_dict(original: Callable[..., Any], self: Any) -> dict[str, Any]:
        return torch.optim.Optimizer.state_dict(self)

    @wrap(FusedAdam, "load_state_dict", why=why)
    def load_state_dict(original: Callable[..., Any], self: Any, loaded: dict[str, Any]) -> None:
        own = {id(tensor) for state in self.state.values() for tensor in state.values()}
        if not all(id(tensor) in own for state in loaded["state"].values() for tensor in state.values()):
            original(self, loaded)
            return
        state = self.state
        torch.optim.Optimizer.load_state_dict(self, {**loaded, "state": {}})
        self.state = state

    @wrap(DistributedOptimizer, "load_state_dict", why="0.19.2 gives an Adam without state one that is not its own")
    def load(original: Callable[..., Any], self: Any, loaded: dict[str, Any]) -> None:
        if isinstance(self.optimizer, FusedAdam) and not self.optimizer.state:
            for group in self.optimizer.param_groups:
                for parameter in group["params"]:
                    halves = self.optimizer.store_param_remainders and parameter.dtype == torch.bfloat16
                    self.optimizer.initialize_state(parameter, halves)
        original(self, loaded)
