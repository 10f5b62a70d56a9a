"""Copies of a checkpoint's tensors in GPU memory that is free: the optimizer need not wait until they are in RAM.

From GPU to GPU 16 GB take 0.01 s, to RAM over a second, longer where RAM is touched for the first time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from megatron_patch.backend.gpu_memory import GPU_MEMORY
from megatron_patch.backend.saving.optimizer_shards import Remainders

Content = Any
"""What a WriteItem stands for: a tensor, Remainders of one, or a BytesIO."""
Files = list[list[tuple[Any, Content]]]
"""WriteItem and content of each item, file by file."""

ALIGNED = 512
"""Bytes: where copies begin in the memory that they share."""
HELD_ON = "cuda"
"""Kind of device whose tensors are held."""


@dataclass(frozen=True)
class Held:
    """Stands for a content that may change now."""

    content: Content


def hold(files: Files) -> Files:
    """The same items, as many as there is room for as Held; from the end, since the first are in RAM soonest.

    To be called where the current stream has made the contents. Call `GPU_MEMORY.give_back` when the result is gone.
    """
    places, size = _places(files, GPU_MEMORY.free())
    memory = GPU_MEMORY.borrow(size) if places else None
    if memory is None:
        return files

    def held(item: Any, content: Content) -> Content:
        return _copied(content, memory[places[item.index]]) if item.index in places else content

    return [[(item, held(item, content)) for item, content in items] for items in files]


def _places(files: Files, room: int) -> tuple[dict[Any, slice], int]:
    """By index of an item, where its copy lies in shared memory; and the size of that."""
    places, size = {}, 0
    for item, content in reversed([pair for items in files for pair in items]):
        taken = _size(content)
        if 0 < taken <= room - size:
            places[item.index] = slice(size, size + taken)
            size += taken
    return places, size


def held_bytes(files: Files) -> int:
    """Of all that is held."""
    return sum(_size(content.content) for items in files for _, content in items if isinstance(content, Held))


def _size(content: Content) -> int:
    """Bytes that a copy takes of the shared memory; 0 of what does not lie on a GPU."""
    if isinstance(content, Remainders):
        tensors = [content.weights, content.low]
    else:
        tensors = [content] if isinstance(content, torch.Tensor) else []
    if any(tensor.device.type != HELD_ON for tensor in tensors):
        return 0
    nbytes = sum(tensor.numel() * tensor.dtype.itemsize for tensor in tensors)
    return -(-nbytes // ALIGNED) * ALIGNED


def values_of(content: Content) -> torch.Tensor:
    """The values of a tensor or Remainders, in a precision that torch.load knows."""
    if isinstance(content, Remainders):
        return content.in_fp32()
    return content.dequantize() if "dequantize" in type(content).__dict__ else content.detach()


@torch.no_grad()
def _copied(content: Content, memory: torch.Tensor) -> Held:
    if isinstance(content, Remainders):
        half = content.weights.numel() * content.weights.dtype.itemsize
        return Held(Remainders(weights=_filled(memory, content.weights), low=_filled(memory[half:], content.low)))
    return Held(_filled(memory, values_of(content)))


def _filled(memory: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """A copy at the beginning of some memory."""
    copy = memory[: values.numel() * values.dtype.itemsize].view(values.dtype).view(values.shape)
    return copy.copy_(values)
