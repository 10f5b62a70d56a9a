"""One fake `cuda:0` per process that is an alias of the CPU.

Megatron 0.19.2 says "cuda" in about 400 places. Instead of forking it, every device argument that means CUDA is
turned into the CPU, and streams, events and synchronization, which have no meaning here, do nothing.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import types
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._device import _device_constructors

from megatron_patch.backend.patching import replace

CPU = torch.device("cpu")

# fmt: off
FACTORIES = (
    "tensor", "as_tensor", "empty", "zeros", "ones", "full", "rand", "randn", "randint", "arange", "linspace", "eye",
    "triu_indices", "tril_indices", "empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like",
    "empty_strided",
)
NEW_FACTORIES = ("new_empty", "new_zeros", "new_ones", "new_full", "new_tensor")
# fmt: on

COMPUTE_CAPABILITY = (10, 0)
"""What the fake device claims: below 10, Megatron asks for CUDA_DEVICE_MAX_CONNECTIONS=1."""


def alias_cuda_to_cpu() -> None:
    """Turn every CUDA device argument of torch into the CPU. Call it after Megatron's modules are imported.

    The order matters: importing Megatron imports torch._dynamo, which inspects torch's functions and rejects ours.
    """
    _device_constructors()  # remembered from here on: `with torch.device("meta")` must know the functions of before
    why = "Megatron 0.19.2 passes device='cuda'; here it is the CPU"
    for name in FACTORIES:
        replace(torch, name, _on_cpu(getattr(torch, name)), why=why)
    for name in NEW_FACTORIES:
        replace(torch.Tensor, name, _on_cpu(getattr(torch.Tensor, name)), why=why)
    for owner in (torch.Tensor, torch.nn.Module):
        replace(owner, "to", _to_cpu(owner.to), why=why)
        replace(owner, "cuda", lambda self, *args, **kwargs: self, why=why)
    replace(torch.Tensor, "record_stream", lambda self, stream: None, why="there are no streams on a CPU")
    replace(torch.Tensor, "pin_memory", lambda self, *args, **kwargs: self, why="pinning needs a CUDA driver")
    _alias_cuda_types()
    _alias_cuda_module()


def _means_cuda(device: Any) -> bool:
    if isinstance(device, bool):
        return False
    if isinstance(device, torch.device):
        return device.type == "cuda"
    return isinstance(device, int) or (isinstance(device, str) and device.startswith("cuda"))


def _on_cpu(factory: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(factory)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if _means_cuda(kwargs.get("device")):
            kwargs["device"] = CPU
        kwargs.pop("pin_memory", None)
        return factory(*args, **kwargs)

    return wrapped


def _to_cpu(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def to(self: Any, *args: Any, **kwargs: Any) -> Any:
        if args and _means_cuda(args[0]):
            args = (CPU, *args[1:])
        if _means_cuda(kwargs.get("device")):
            kwargs["device"] = CPU
        return method(self, *args, **kwargs)

    return to


def _alias_cuda_types() -> None:
    """Megatron's optimizers switch on `param.type() == "torch.cuda.FloatTensor"`."""
    original = torch.Tensor.type

    def tensor_type(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        if isinstance(result, str) and "cuda" not in result:
            return result.replace("torch.", "torch.cuda.", 1)
        return result

    replace(torch.Tensor, "type", tensor_type, why="Megatron 0.19.2 compares it with torch.cuda.FloatTensor")


class FakeStream:
    """Stands for torch.cuda.Stream and torch.cuda.Event: work on a CPU is done when the call returns."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.device = CPU

    def __enter__(self) -> FakeStream:
        return self

    def __exit__(self, *exc: Any) -> None:
        return

    def record_event(self, event: FakeStream | None = None) -> FakeStream:
        return event or FakeStream()

    def query(self) -> bool:
        return True

    def elapsed_time(self, other: FakeStream) -> float:
        return 0.0

    def _nothing(self, *args: Any, **kwargs: Any) -> None:
        return None

    wait_stream = wait_event = wait = record = synchronize = _nothing

    @staticmethod
    def priority_range() -> tuple[int, int]:
        return (0, 0)


def _always(names: str, result: Any = None) -> dict[str, Callable[..., Any]]:
    """One fresh function for each name: torch._dynamo keeps tables keyed by function and wants distinct ones."""
    return {name: (lambda *args, **kwargs: result) for name in names.split()}


def _alias_cuda_module() -> None:
    cuda, stream, generator = torch.cuda, FakeStream(), torch.default_generator
    properties = types.SimpleNamespace(
        name="cpu", major=COMPUTE_CAPABILITY[0], minor=COMPUTE_CAPABILITY[1], total_memory=0, multi_processor_count=0
    )
    devices = {
        **_always("current_device", 0),
        **_always("device_count", 1),
        **_always("is_available is_current_stream_capturing", False),
        **_always("get_device_properties", properties),
        **_always("get_device_name", "cpu"),
        **_always("get_device_capability", COMPUTE_CAPABILITY),
        **_always("current_stream default_stream", stream),
        **_always("synchronize set_device set_stream empty_cache _lazy_init ipc_collect reset_peak_memory_stats"),
        **_always("memory_allocated max_memory_allocated memory_reserved max_memory_reserved device_memory_used", 0),
        "memory_stats": lambda *args, **kwargs: collections.defaultdict(int),
        "stream": lambda stream=None: contextlib.nullcontext(),
        "Stream": FakeStream,
        "Event": FakeStream,
        "default_generators": (generator,),
    }
    for name, value in devices.items():
        replace(cuda, name, value, why="the fake device has one stream and no memory of its own")
    randomness = {
        "get_rng_state": lambda device=None: torch.get_rng_state(),
        "set_rng_state": lambda state, device=None: torch.set_rng_state(state),
        "manual_seed": lambda seed: generator.manual_seed(seed),
        "manual_seed_all": lambda seed: generator.manual_seed(seed),
    }
    for owner in (cuda, cuda.random):
        for name, value in randomness.items():
            replace(owner, name, value, why="the CUDA generator is the CPU generator")
    for name, value in _always("range_push range_pop mark").items():
        replace(cuda.nvtx, name, value, why="NVTX needs a CUDA build")
