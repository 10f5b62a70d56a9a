"""What a kernel or an operator is for, by its name: matmuls, attention, communication, ... Standard library only."""

from __future__ import annotations

from collections.abc import Iterable

GPU_KINDS = (
    ("communication", ("nccl", "userbuffers")),
    ("memory copies", ("Memcpy", "Memset")),
    ("matmuls", ("nvjet", "gemm", "cutlass")),
    ("attention", ("cudnn", "fmha", "flash")),
    ("casts to fp8", ("cast_transpose", "amax", "dispatch::fp8", "scale_kernel")),
    ("SwiGLU", ("gated_act",)),
    ("norms", ("normalization",)),
    ("RoPE, and copies around it", ("rope", "_split_kernel", "CatArray", "elementwise_kernel<128, 4")),
    ("residuals", ("CUDAFunctor_add",)),
    ("optimizer", ("multi_tensor", "unrolled_elementwise", "bfloat16_copy", "FillFunctor")),
    ("cross-entropy", ("cross_entropy",)),
)
"""Name, and parts of the names of CUDA kernels; what is first wins, the rest is OTHER."""
CPU_KINDS = (
    ("communication", ("gloo:", "c10d::", "nccl:")),
    ("attention", ("scaled_dot_product", "flash_attention", "aten::_softmax", "aten::softmax")),
    ("matmuls", ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::matmul", "aten::linear")),
    ("SwiGLU", ("silu",)),
    ("norms", ("layer_norm", "rms_norm")),
    ("optimizer", ("Optimizer.", "_foreach", "_fused_adam")),
    ("cross-entropy", ("cross_entropy", "log_softmax", "nll_loss")),
    ("memory copies", ("copy_", "clone", "aten::cat", "aten::empty", "aten::zero", "aten::fill", "aten::index")),
    ("elementwise", ("aten::add", "aten::sub", "aten::mul", "aten::div", "aten::sum", "aten::exp", "aten::pow")),
)
"""The same of torch's CPU operators."""
OTHER, IDLE = "other", "idle"
NOT_KERNELS = ("Optimizer.step", "ProfilerStep", "Iteration")
"""Beginnings of what a profile lists among the kernels, and what only marks a stretch of them."""


def kind_of(name: str, kinds: tuple[tuple[str, tuple[str, ...]], ...] = GPU_KINDS) -> str:
    """The first kind one of whose words is in the name."""
    return next((kind for kind, words in kinds if any(word in name for word in words)), OTHER)


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Length of the union of intervals (start, end)."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        if end > reached:
            total += end - max(start, reached)
            reached = end
    return total
