"""The step of an optimizer whose state lives in RAM, in all or in part: 12 bytes of RAM a parameter, and no more.

Megatron 0.19.2 (`HybridDeviceOptimizer`) keeps the fp32 gradients of all that is offloaded in pinned memory, those of
the rest on the GPU, fp32 copies of the whole model before it has this rank's share, and new ones when a checkpoint is
loaded: by arithmetic 140 GB of RAM for 8B on one GPU, where 12 bytes a parameter are 96. Here gradients come from the
GPU a window at a time, in the type in which they are summed there; Adam goes over the window; the new weights go back
while it is at the next one.

What lies in RAM is not passed on to processes that are forked from this one, such as those that load data: each page
that Adam changed would stay there once more.
"""

from __future__ import annotations

import contextlib
import mmap
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import torch

from megatron_patch.backend.patching import wrap
from megatron_patch.backend.saving.optimizer_fixes import drop_offloaders_own

WINDOW = 1 << 23
"""Elements: 32 MB of fp32 gradients, which stay in the processor's cache until Adam has read them."""
RING = 3
"""Windows that are on their way at once."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """Part of a parameter, flat: [elements] each."""

    gradient: torch.Tensor
    """On the GPU, bf16 or fp32."""
    weight: torch.Tensor | None
    """On the GPU; the model's own. None: it has 8 bits, and is quantized when all of it is there."""
    copy: torch.Tensor
    """fp32, in RAM; so are the next two."""
    exp_avg: torch.Tensor
    exp_avg_sq: torch.Tensor
    step: torch.Tensor
    """Of Adam, this one counted: 1 at the first."""
    group: dict[str, Any]
    """Rates, as torch's AdamW has them."""

    def adam(self, gradient: torch.Tensor) -> None:
        """AdamW's formula in torch's own kernel.

        Args:
            gradient: fp32, in RAM.
        """
        beta1, beta2 = self.group["betas"]
        torch._fused_adamw_(
            [self.copy],
            [gradient],
            [self.exp_avg],
            [self.exp_avg_sq],
            [],
            [self.step],
            lr=self.group["lr"],
            beta1=beta1,
            beta2=beta2,
            weight_decay=self.group["weight_decay"],
            eps=self.group["eps"],
            amsgrad=False,
            maximize=False,
        )


class Buffers:
    """Pinned memory through which gradients come and weights go, and the streams on which they do."""

    def __init__(self) -> None:
        self.arriving = [_pinned() for _ in range(RING)]
        self.leaving = [_pinned() for _ in range(RING)]
        self.gradient = torch.empty(WINDOW)
        self.fetching, self.sending = torch.cuda.Stream(), torch.cuda.Stream()
        self.arrived = [torch.cuda.Event() for _ in range(RING)]
        self.left = [torch.cuda.Event() for _ in range(RING)]

    def fetch(self, window: Window, place: int) -> None:
        """Begin to copy the window's gradient from the GPU."""
        with torch.cuda.stream(self.fetching):
            _part(self.arriving[place], window.gradient).copy_(window.gradient, non_blocking=True)
            self.arrived[place].record()

    def fetched(self, window: Window, place: int) -> torch.Tensor:
        """The window's gradient in fp32; its place is free again."""
        self.arrived[place].synchronize()
        gradient = self.gradient[: len(window.gradient)]
        return gradient.copy_(_part(self.arriving[place], window.gradient))

    def send(self, window: Window, place: int) -> None:
        """Begin to copy the window's new weights to the GPU."""
        if window.weight is None:
            return
        self.left[place].synchronize()
        leaving = _part(self.leaving[place], window.weight)
        leaving.copy_(window.copy)
        with torch.cuda.stream(self.sending):
            window.weight.copy_(leaving, non_blocking=True)
            self.left[place].record()


def _pinned() -> torch.Tensor:
    return torch.empty(4 * WINDOW, dtype=torch.uint8, pin_memory=True)


def _part(buffer: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return buffer.view(like.dtype)[: len(like)]


def step_in_windows() -> None:
    """Put this step in the place of `HybridDeviceOptimizer`'s."""
    from megatron.core.optimizer.cpu_offloading import HybridDeviceOptimizer

    @wrap(HybridDeviceOptimizer, "_init_sub_optimizers", why="0.19.2 copies a whole model to RAM for its shards' sake")
    def begin(original: Callable[..., Any], self: Any) -> None:
        if any(isinstance(weight, torch.nn.Parameter) for group in self.param_groups for weight in group["params"]):
            return  # whole parameters: DistributedOptimizer takes the rates, and makes another one of its shards
        original(self)
        if self.cpu_optimizers and not hasattr(self, "buffers"):
            self.buffers = Buffers()

    @wrap(HybridDeviceOptimizer, "_get_sub_optimizer_param_groups", why="0.19.2 makes new fp32 copies on loading")
    def divide(original: Callable[..., Any], self: Any, offload_fraction: float) -> tuple[Any, ...]:
        return _divide(self, offload_fraction)

    @wrap(HybridDeviceOptimizer, "step", why="0.19.2 keeps fp32 gradients of all weights, pinned and on the GPU")
    def step(original: Callable[..., Any], self: Any, closure: Any = None) -> None:
        self._sync_hdo_param_groups_to_sub_optimizers()
        torch.cuda.current_stream().record_event(ready := torch.cuda.Event())
        if self.gpu_optimizer:
            _lend_gradients(self)
            self.gpu_optimizer.step()  # the GPU is at it while the processor is at the rest
        if self.cpu_optimizers:
            _step_in_ram(self, ready)
        self._sync_sub_optimizers_state_to_hdo()

    @wrap(HybridDeviceOptimizer, "state_dict", why="0.19.2 stores its parts' classes, which a checkpoint must not name")
    def state_dict(original: Callable[..., Any], self: Any) -> dict[str, Any]:
        found: dict[str, Any] = original(self)
        drop_offloaders_own(found["param_groups"])
        return found

    @wrap(HybridDeviceOptimizer, "dummy_step", why="0.19.2 steps with random gradients to have a state to load into")
    def allocate(original: Callable[..., Any], self: Any) -> None:
        for optimizer in self.cpu_optimizers:
            for group in optimizer.param_groups:
                for copy in group["params"]:
                    _state_of(optimizer, copy)
        if self.gpu_optimizer:
            for group in self.gpu_optimizer.param_groups:
                for copy in group["params"]:
                    self.gpu_optimizer.initialize_state(copy, False)
        self._sync_sub_optimizers_state_to_hdo()


def _divide(optimizer: Any, fraction: float) -> tuple[Any, ...]:
    """Which weights are offloaded, and their fp32 copies: Megatron's choice, without copies on the way.

    What had a copy keeps it: after a checkpoint is loaded the parts are made anew around what was read.
    """
    had = {**getattr(optimizer, "gpu_params_map_cpu_copy", {}), **getattr(optimizer, "param_to_fp32_param", {})}
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    threshold, moved = fraction * sum(weight.numel() for weight in weights if weight.is_cuda), 0
    on_processor: list[dict[str, Any]] = []
    on_gpu: list[dict[str, Any]] = []
    copies, offloaded = {}, {}
    for group in optimizer.param_groups:
        parts: tuple[list[Any], list[Any]] = ([], [])
        for weight in group["params"]:
            moves = weight.is_cuda and moved < threshold
            moved += weight.numel() if moves else 0
            inner = weight
            if moves or weight.dtype != torch.float32:
                inner = had.get(weight)
                if inner is None and moves:
                    inner = in_ram(weight).copy_(weight.detach().cpu())
                elif inner is None:
                    inner = weight.detach().clone().float()
            if weight.dtype != torch.float32:
                copies[weight] = inner
            if moves:
                offloaded[weight] = inner
            parts[inner.is_cuda].append(inner)
        for kept, part in zip((on_processor, on_gpu), parts, strict=True):
            if part:
                kept.append({**group, "params": part})
    return on_processor, on_gpu, offloaded, {copy: weight for weight, copy in offloaded.items()}, copies


def _gradient_of(weight: torch.Tensor) -> torch.Tensor | None:
    gradient: torch.Tensor | None = getattr(weight, "decoupled_grad", weight.grad)
    return gradient


def _lend_gradients(optimizer: Any) -> None:
    """Let Transformer Engine's Adam read gradients where they lie: it takes bf16 beside fp32 weights."""
    for weight, copy in optimizer.param_to_fp32_param.items():
        if weight not in optimizer.gpu_params_map_cpu_copy:
            gradient = _gradient_of(weight)
            if gradient is not None:
                copy.grad_dtype = gradient.dtype
            copy.grad = gradient


def _state_of(optimizer: Any, copy: torch.Tensor) -> dict[str, torch.Tensor]:
    """What torch's AdamW keeps of a parameter; zeros before its first step."""
    state: dict[str, torch.Tensor] = optimizer.state[copy]
    if "exp_avg" not in state:
        state["step"] = torch.zeros((), dtype=torch.float32)
        state["exp_avg"], state["exp_avg_sq"] = in_ram(copy), in_ram(copy)
    return state


def in_ram(like: torch.Tensor) -> torch.Tensor:
    """Zeros in fp32, of that shape, in memory that no child process has.

    A process that loads data is forked when the fp32 copies are there, and after a resume Adam's moments too. It would
    keep them as they were then: 4 bytes a parameter in a new run, 12 in one that goes on.
    """
    if like.numel() == 0:
        return torch.zeros(like.shape)
    memory = mmap.mmap(-1, 4 * like.numel(), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_DONTFORK)
    with contextlib.suppress(OSError):  # a kernel without large pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.float32).view(like.shape)


def _windows(optimizer: Any) -> Iterator[Window]:
    for part in optimizer.cpu_optimizers:
        for group in part.param_groups:
            for copy in group["params"]:
                weight = optimizer.cpu_copys_map_gpu_param[copy]
                gradient = _gradient_of(weight)
                if gradient is None:
                    continue
                state = _state_of(part, copy)
                state["step"] += 1
                flat = {"gradient": gradient, "copy": copy} | {key: state[key] for key in ("exp_avg", "exp_avg_sq")}
                if not _quantized(weight):
                    flat["weight"] = weight.detach()
                for pieces in zip(*(tensor.view(-1).split(WINDOW) for tensor in flat.values()), strict=True):
                    named = {"weight": None, **dict(zip(flat, pieces, strict=True))}
                    yield Window(**named, step=state["step"], group=group)


def _quantized(weight: torch.Tensor) -> bool:
    return type(weight.detach()) is not torch.Tensor


@torch.no_grad()
def _step_in_ram(optimizer: Any, ready: torch.cuda.Event) -> None:
    """Adam over all windows; the current stream waits for the last weights.

    Args:
        ready: gradients are there.
    """
    buffers: Buffers = optimizer.buffers
    buffers.fetching.wait_event(ready)
    buffers.sending.wait_event(ready)
    windows, places = _windows(optimizer), cycle(range(RING))
    coming: deque[tuple[Window, int]] = deque()

    def fetch_next() -> None:
        for window in islice(windows, 1):
            coming.append((window, next(places)))
            buffers.fetch(*coming[-1])

    for _ in range(RING):
        fetch_next()
    while coming:
        window, place = coming.popleft()
        gradient = buffers.fetched(window, place)
        fetch_next()
        window.adam(gradient)
        buffers.send(window, place)
    for copy, weight in optimizer.cpu_copys_map_gpu_param.items():
        if _quantized(weight) and _gradient_of(weight) is not None:
            weight.copy_(copy)
    torch.cuda.current_stream().wait_stream(buffers.sending)
