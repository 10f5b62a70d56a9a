"""What Adam's step count goes through when the distributed optimizer is loaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from megatron_patch.backend.patching import wrap


def fix_native_adam_resume() -> None:
    """Make `DistributedOptimizer` save and load torch's Adam state, where neither Transformer Engine nor apex gives it.

    Not about the CPU: whoever trains with torch's Adam meets this. Without this fix a resume asserts, and once past
    that silently restores step 0 (6e-2 of loss drift after ten iterations).
    """
    from megatron.core.optimizer import distrib_optimizer

    if distrib_optimizer.HAVE_APEX_OR_TE:
        return
    optimizer_class = distrib_optimizer.DistributedOptimizer

    @wrap(optimizer_class, "sharded_state_dict", why="0.19.2 reads the step from a state that is empty before loading")
    def sharded_state_dict(
        original: Callable[..., Any], self: Any, model_state: Any, is_loading: bool = False, *args: Any, **kwargs: Any
    ) -> Any:
        if not self.optimizer.state:  # before loading; and in fp16, until a first step does not overflow
            _allocate_state(self.optimizer)
        return original(self, model_state, is_loading, *args, **kwargs)

    @wrap(optimizer_class, "load_state_dict", why="0.19.2 gives all parameters one shared step tensor")
    def load_state_dict(original: Callable[..., Any], self: Any, state_dict: Any) -> None:
        original(self, state_dict)
        for state in self.optimizer.state.values():
            state["step"] = state["step"].clone()

    @wrap(
        optimizer_class,
        "_set_main_param_and_optimizer_states",
        why="0.19.2 copies a step that is not in the checkpoint's tensors (it comes from param_groups)",
    )
    @torch.no_grad()  # fp32 main parameters are views of leaves that require gradients
    def set_states(original: Callable[..., Any], self: Any, model_param: Any, tensors: dict[str, Any]) -> Any:
        return original(self, model_param, {**tensors, "step": None})  # None is skipped


OFFLOADERS_OWN = (
    *("offload_fraction", "cpu_optimizer_cls", "gpu_optimizer_cls", "param_update_in_fp32", "pin_cpu_grads"),
    *("pin_cpu_params", "overlap_cpu_optimizer_d2h_h2d", "fused"),
)
"""What Megatron's offloading optimizer adds to its groups for itself: no rates, and not for a checkpoint."""


def drop_offloaders_own(content: Any) -> None:
    """Take out of what a checkpoint holds what such an optimizer had added to groups.

    Checkpoints had that until 2026-11-27; of classes that it names nothing can be made, and none may be written again.
    """
    if isinstance(content, dict):
        for key in OFFLOADERS_OWN if "cpu_optimizer_cls" in content else ():
            content.pop(key, None)
        content = list(content.values())
    if isinstance(content, list | tuple):
        for each in content:
            drop_offloaders_own(each)


def fix_offloaded_adam_resume() -> None:
    """Let the step of an optimizer that is partly on the processor go on after a resume.

    Before every step 0.19.2 copies all attributes of the whole optimizer's groups to its parts, and after a load these
    have a `step`: the part on the GPU would count to the same number again and again.
    """
    from megatron.core.optimizer.cpu_offloading import HybridDeviceOptimizer
    from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer

    @wrap(DistributedOptimizer, "load_state_dict", why="0.19.2 sets back the step of the part on the GPU at each step")
    def load_state_dict(original: Callable[..., Any], self: Any, state_dict: Any) -> None:
        original(self, state_dict)  # its parts have the step now
        if isinstance(self.optimizer, HybridDeviceOptimizer):
            for group in self.optimizer.param_groups:
                group.pop("step", None)


def _allocate_state(optimizer: torch.optim.Optimizer) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            optimizer.state[parameter] = {
                "step": torch.tensor(0.0),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
