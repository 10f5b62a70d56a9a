"""What Megatron itself must do differently when its device is the CPU."""

from __future__ import annotations

import functools
import importlib.util
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch

from megatron_patch.backend.patching import replace, wrap


def run_eagerly() -> None:
    """Make `torch.compile` the identity. Call it before Megatron is imported: its fusions are decorated then.

    Megatron 0.19.2 compiles its fused kernels (`megatron.core.jit.jit_fuser`); on a CPU the compiler costs minutes
    and changes no result.
    """

    def identity(function: Callable[..., Any] | None = None, **options: Any) -> Any:
        return function if callable(function) else lambda f: f

    replace(torch, "compile", identity, why="Megatron 0.19.2 compiles its fusions; on a CPU that costs minutes")


def hide_gpu_libraries() -> None:
    """Let Megatron find neither Transformer Engine nor apex, which a GPU machine has. Call it before Megatron is
    imported: 0.19.2 takes their optimizers and norms wherever it can import them."""
    for name in ("transformer_engine", "transformer_engine_torch", "apex", "amp_C"):
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # an import of it fails as if it were not there


def stub_triton_kernels() -> None:
    """Let `schedules.py` be imported where torch comes without triton, as its CPU wheels do.

    Megatron 0.19.2 imports one mixture-of-experts kernel file from `pipeline_parallel/schedules.py`.
    """
    name = "megatron.core.transformer.moe.ops.paged_stash"
    if importlib.util.find_spec("triton") is not None:
        return
    stub = types.ModuleType(name)
    vars(stub).update(GLOBAL_BLOCK_SIZE=1024, paged_stash_copy_kernel=None, paged_stash_pop_kernel=None)
    sys.modules[name] = stub


def patch_megatron_for_cpu() -> None:
    """Apply the CPU patches to Megatron's own modules. Needs `run_eagerly` before and imports Megatron."""
    import megatron.core.tensor_parallel.random as tp_random
    import megatron.training.training as training
    from torch.utils.data import DataLoader

    initialize = functools.partial(training.initialize_megatron, allow_no_cuda=True)
    replace(training, "initialize_megatron", initialize, why="0.19.2 asserts torch.cuda.is_available()")
    replace(
        training,
        "set_jit_fusion_options",
        lambda *args, **kwargs: None,
        why="0.19.2 warms its fusions up with random tensors whose size depends on TP, from the model's generator",
    )
    # `from torch.cuda import _lazy_call` binds the name before torch.cuda is patched.
    replace(tp_random, "_lazy_call", lambda callback, **kwargs: callback(), why="0.19.2 queues CUDA calls")
    replace(tp_random, "_lazy_init", lambda: None, why="0.19.2 initializes CUDA to read its generator")

    @wrap(DataLoader, "__iter__", why="torch 2.11 draws a worker seed from the CPU generator, here the model's too")
    def iterate(original: Callable[..., Iterator[Any]], self: Any) -> Iterator[Any]:
        state = torch.get_rng_state()
        iterator = original(self)
        torch.set_rng_state(state)
        return iterator
