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


def read_bf16_gradients() -> None:
    """Let `FusedAdam` read gradients that are summed in bf16 where they lie, also beside fp32 main weights.

    Megatron 0.19.2 copies them to fp32 first, of all parameters at once, wherever the main weights are fp32 tensors of
    its own (under fp8 always): 33 GB for 8B on one GPU. Adam's kernel reads either and computes in fp32. Clipping
    scales them in bf16 then, as it does under bf16.
    """
    from megatron.core.optimizer import optimizer as optimizers
    from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
    from transformer_engine.pytorch.optimizers import FusedAdam

    @wrap(DistributedOptimizer, "_copy_model_grads_to_main_grads", why="0.19.2 copies bf16 gradients to fp32")
    def copy(original: Callable[..., Any], self: Any) -> None:
        decoupled = self.config.use_precision_aware_optimizer_no_fp8_or_ds_fp8
        if self.is_stub_optimizer or decoupled or not isinstance(self.optimizer, FusedAdam):
            original(self)
            return
        groups = zip(self.model_float16_groups, self.shard_fp32_from_float16_groups, strict=True)
        pairs = [pair for group in groups for pair in zip(*group, strict=True)]
        if any(self.model_fp32_groups) or any(weight.main_grad.dtype != torch.bfloat16 for weight, _ in pairs):
            original(self)
            return
        for weight, main in pairs:
            where = self._get_model_param_range_map(weight)["param"]
            main.grad_dtype = torch.bfloat16
            main.grad = main.decoupled_grad = weight.main_grad.view(-1)[where.start : where.end]

    @wrap(optimizers, "clip_grad_by_total_norm_fp32", why="0.19.2 takes fp32 gradients only, or decoupled ones")
    def clip(
        original: Callable[..., Any],
        parameters: Any,
        max_norm: float,
        total_norm: Any,
        use_decoupled_grad: bool = False,
    ) -> None:
        as_they_are = any(p.grad is not None and p.grad.dtype == torch.bfloat16 for p in parameters)
        original(parameters, max_norm, total_norm, use_decoupled_grad or as_they_are)
