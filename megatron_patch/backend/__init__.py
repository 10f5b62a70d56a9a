"""The only importers of Megatron's and torch's private names, and the only place that patches anything.

`enable(device)` makes stock megatron-core 0.19.2 from PyPI run on a CPU or a GPU. It must be called before anything
of Megatron is imported.

    patching.py        the one tool for it: each patch says what upstream does, and fails if upstream has moved
    hooks.py           how the trainer hears of steps, evaluations and saves; step_gate.py may refuse a step
    flops.py           what a step computes; trained_positions.py, z_loss.py: logits and losses
    saving/            how a run's checkpoint is written, read and resumed
    cpu/, gpu/         layers, device and kernels
    wheel_fixes.py     what the PyPI wheel lacks on every device
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
        raise BackendError("device-unknown", device=repr(device), devices=DEVICES)
    if _enabled is not None:
        if _enabled != device:
            raise BackendError("device-changed", before=_enabled, device=device)
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
        raise RuntimeError("enable('cpu') must be called before megatron is imported")
    cpu_megatron.hide_gpu_libraries()
    cpu_megatron.stub_triton_kernels()
    cpu_megatron.run_eagerly()
    cpu_megatron.patch_megatron_for_cpu()
    _fix_everywhere()
    cpu_device.alias_cuda_to_cpu()


def _enable_cuda() -> None:
    import torch

    from megatron_patch.backend import wheel_fixes
    from megatron_patch.backend.gpu import libraries, offload_fixes

    if not torch.cuda.is_available():
        raise BackendError("torch-no-gpu")
    torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))  # before anything makes a context on the first one
    APPLIED.extend(libraries.use_torchs_libraries())
    wheel_fixes.provide_fused_wgrad()
    offload_fixes.fix_fine_grained_offloading()
    _fix_everywhere()
    if importlib.util.find_spec("transformer_engine") is not None:
        from megatron_patch.backend.gpu import adam, cross_entropy, kernels, offloaded_adam, quantized_state

        adam.leave_state_in_place()
        adam.read_bf16_gradients()
        offloaded_adam.step_in_windows()
        cross_entropy.use_in_place_cross_entropy()
        kernels.use_ready_made_kernels()
        quantized_state.restrict_unpickling()


def _fix_everywhere() -> None:
    from megatron_patch.backend import wheel_fixes
    from megatron_patch.backend.saving import (
        asynchronous,
        checkpoint_fixes,
        dcp_reader,
        optimizer_fixes,
        optimizer_shards,
        restricted,
    )

    wheel_fixes.use_compiled_helpers()
    restricted.restrict_unpickling()
    optimizer_fixes.fix_native_adam_resume()
    optimizer_fixes.fix_offloaded_adam_resume()
    optimizer_shards.save_where_it_lies()
    optimizer_shards.read_where_it_lies()
    asynchronous.use_own_writer()
    dcp_reader.read_in_threads()
    checkpoint_fixes.fix_checkpoints()
