"""The only importers of Megatron's and torch's private names, and the only place that patches anything.

`enable(device)` makes stock megatron-core 0.19.2 from PyPI run on a CPU or a GPU. It must be called before anything
of Megatron is imported.
"""

from __future__ import annotations

import importlib.util
import os
import sys

from megatron_patch.backend.patching import APPLIED, BackendError, check_versions

__all__ = ["APPLIED", "BackendError", "enable"]

DEVICES = ("cpu", "cuda")

_enabled: str | None = None


def enable(device: str) -> None:
    """Make stock Megatron run on `device`. A second call with the same device does nothing.

    Args:
        device: `cpu` (gloo, one fake cuda:0 per process) or `cuda`.
    Raises:
        BackendError: an unknown device, no GPU, wrong versions, or Megatron was imported too early.
    """
    global _enabled
    if device not in DEVICES:
        raise BackendError(f"device is {device!r}; valid: {', '.join(DEVICES)}")
    if _enabled is not None:
        if _enabled != device:
            raise BackendError(f"this process already runs on {_enabled}, it cannot change to {device}")
        return
    check_versions()
    if device == "cpu":
        _enable_cpu()
    else:
        _enable_cuda()
    _enabled = device


def _enable_cpu() -> None:
    from megatron_patch.backend.cpu import device as cpu_device
    from megatron_patch.backend.cpu import megatron as cpu_megatron

    if "megatron.core" in sys.modules:
        raise BackendError("enable('cpu') must be called before megatron is imported")
    cpu_megatron.hide_gpu_libraries()
    cpu_megatron.stand_in_for_triton()
    cpu_megatron.run_eagerly()
    cpu_megatron.patch_megatron_for_cpu()
    _mend_everywhere()
    cpu_device.pretend_cuda_is_cpu()


def _enable_cuda() -> None:
    import torch

    from megatron_patch.backend import wheel_fixes
    from megatron_patch.backend.gpu import gradient_guard, offload_fixes
    from megatron_patch.backend.gpu import libraries as te_libraries

    if not torch.cuda.is_available():
        raise BackendError("--device cuda, but torch sees no GPU; take --device cpu or check the driver")
    torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))  # before anything makes a context on the first one
    APPLIED.extend(te_libraries.use_torchs_libraries())
    wheel_fixes.stand_in_for_fused_wgrad()
    gradient_guard.refuse_non_finite_gradients()
    offload_fixes.mend_fine_grained_offloading()
    _mend_everywhere()
    if importlib.util.find_spec("transformer_engine") is not None:
        from megatron_patch.backend.gpu import adam as te_adam
        from megatron_patch.backend.gpu import cross_entropy as te_cross_entropy
        from megatron_patch.backend.gpu import kernels as te_kernels

        te_adam.leave_state_in_place()
        te_cross_entropy.use_in_place_cross_entropy()
        te_kernels.use_ready_made_kernels()


def _mend_everywhere() -> None:
    from megatron_patch.backend import wheel_fixes
    from megatron_patch.backend.saving import asynchronous as background_save
    from megatron_patch.backend.saving import checkpoint_fixes, dcp_reader, optimizer_fixes, optimizer_shards

    wheel_fixes.use_compiled_helpers()
    optimizer_fixes.mend_native_adam_resume()
    optimizer_fixes.mend_offloaded_adam_resume()
    optimizer_shards.save_where_it_lies()
    optimizer_shards.read_where_it_lies()
    background_save.use_own_writer()
    dcp_reader.read_in_threads()
    checkpoint_fixes.mend_checkpoints()
