"""What a GPU and a network can do: rows of rates, each with its source.

Rates of H100 and H200 are our own measurements (docs/performance.md): what is sustained under the 700 W limit, not what
one large matmul reaches for a second. Those of A100 and B200 are the data sheet's peak times the part of it that the
H200 reaches, and are marked `measured=False`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class GpuKind:
    """One kind of GPU; FLOP/s are dense."""

    name: str
    memory_bytes: int
    matmul_bf16: float
    """FLOP/s of the matmuls of a layer, sustained alone; what their results cost in memory traffic is counted apart."""
    matmul_fp8: float | None
    """None: it has no FP8 units."""
    attention_forward: float
    """FLOP/s of cuDNN's fused causal kernel at 8192 tokens; only the lower triangle counts."""
    attention_backward: float
    flash: float
    """How much faster FlashAttention 4 is; 1 where it is not taken."""
    bandwidth: float
    """Bytes/s that kernels which only stream reach (SwiGLU): 0.79 of the data sheet's on an H200, 0.91 on an H100."""
    nvlink: float
    """Bytes/s that a rank gets through a collective within one machine (NCCL's bus bandwidth)."""
    measured: bool
    source: str


@dataclass(frozen=True, kw_only=True)
class Network:
    """Between machines."""

    name: str
    bytes_per_s: float
    """Of one GPU's network card, as collectives reach it: nine tenths of the line rate."""


GPUS_PER_MACHINE = 8
ATTENTION = (494e12, 431e12)
"""cuDNN 9.19, 8192 tokens, causal, in a training step; the same on both."""
FLASH = 1.12
"""FlashAttention 4 by itself on an H200, 2026-11-27: 526 TFLOP/s for 467, forward and backward, sustained; steps
with it are predicted within 1 %, 4 layers alone within 2.4 %. Taken for the H100 too, where it has not run."""
_PEAK_BF16, _PEAK_FP8, _PEAK_BANDWIDTH = 989.4e12, 1979e12, 4.8e12

H100 = GpuKind(
    name="h100",
    memory_bytes=85_000_000_000,
    matmul_bf16=706e12,  # 678 with the traffic of results: gpu_ceilings.py --sustained, 2026-11-26
    matmul_fp8=1299e12,  # 1,210
    attention_forward=ATTENTION[0],
    attention_backward=ATTENTION[1],
    flash=FLASH,
    bandwidth=3.06e12,
    nvlink=360e9,
    measured=True,
    source="gpu_ceilings.py --sustained and the profile of a step of 4 layers, 2026-11-26; NCCL all-reduce, 8 GPUs",
)
H200 = GpuKind(
    name="h200",
    memory_bytes=150_000_000_000,
    matmul_bf16=688e12,  # 667 with the traffic of results
    matmul_fp8=1322e12,  # 8B's layers in a step: 343 TFLOP in 258.6 ms, less traffic, less what others' power gave
    attention_forward=ATTENTION[0],
    attention_backward=ATTENTION[1],
    flash=FLASH,
    bandwidth=3.8e12,
    nvlink=360e9,
    measured=True,
    source="docs/performance.md, profile of a step of 8B, 2026-11-21",
)


def _by_data_sheet(
    name: str, memory: float, bf16: float, fp8: float | None, bandwidth: float, nvlink: float
) -> GpuKind:
    """Peaks in TFLOP/s and TB/s, scaled by what the H200 reaches of its own."""
    share = bf16 * 1e12 / _PEAK_BF16
    return GpuKind(
        name=name,
        memory_bytes=round(memory * 1e9),
        matmul_bf16=H200.matmul_bf16 * share,
        matmul_fp8=None if fp8 is None or H200.matmul_fp8 is None else H200.matmul_fp8 * fp8 * 1e12 / _PEAK_FP8,
        attention_forward=ATTENTION[0] * share,
        attention_backward=ATTENTION[1] * share,
        flash=1.0,
        bandwidth=H200.bandwidth * bandwidth * 1e12 / _PEAK_BANDWIDTH,
        nvlink=nvlink,
        measured=False,
        source="NVIDIA's data sheet, times the part of its peak that an H200 reaches; not measured",
    )


A100 = _by_data_sheet("a100", 85.0, 312.0, None, 2.04, 230e9)
B200 = _by_data_sheet("b200", 191.0, 2250.0, 4500.0, 8.0, 720e9)

KINDS = {kind.name: kind for kind in (H100, H200, A100, B200)}
NETWORKS = {
    "400Gb": Network(name="400Gb", bytes_per_s=45e9),
    "800Gb": Network(name="800Gb", bytes_per_s=90e9),
    "200Gb": Network(name="200Gb", bytes_per_s=22.5e9),
    "100Gb": Network(name="100Gb", bytes_per_s=11.25e9),
}
"""Line rate of each GPU's own card."""


def kind_of(gpu_name: str) -> GpuKind | None:
    """The row of a GPU by the name that its driver gives, such as `NVIDIA H100 80GB HBM3`; None if there is none.

    Variants with other clocks or memory (`H100 PCIe`, `H100 NVL`) are not these rows.
    """
    words = gpu_name.replace("-", " ").lower().split()
    if {"pcie", "nvl", "mig"} & set(words):
        return None
    return next((kind for name, kind in KINDS.items() if name in words), None)
