"""Launch the trainer on GPUs, on the small model of tests/trainer."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ..trainer.harness import INPUT, MODEL, SCHEDULE, SCRIPT, Run, read_metrics

GPU = """
--device cuda --distributed-backend nccl --transformer-impl transformer_engine --attention-backend auto
--no-create-attention-mask-in-dataloader --num-workers 0
"""
BF16 = "--bf16 --cross-entropy-loss-fusion "
FP8 = BF16 + "--fp8-format hybrid --use-distributed-optimizer --fp8-param-gather "
EXACT = {"NVIDIA_TF32_OVERRIDE": "0", "NVTE_ALLOW_NONDETERMINISTIC_ALGO": "0"}
"""fp32 products in fp32, and sums in one order."""


def flags_of(output: Path, data: Path, extra: str = "") -> list[str]:
    """What a rank is told; later flags win over earlier ones."""
    flags = (MODEL + INPUT + GPU + SCHEDULE).split()
    return [*flags, "--output-dir", str(output), "--train-data-path", str(data), *extra.split()]


def launch(
    output: Path, data: Path, extra: str = "", *, processes: int = 1, timeout: float = 240, exact: bool = True
) -> Run:
    """Train to the end, or to the error."""
    flags = flags_of(output, data, extra)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    rendezvous = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    one_queue = "--tensor-model-parallel-size" in flags or "--context-parallel-size" in flags
    environ = os.environ | (EXACT if exact else {}) | {"OMP_NUM_THREADS": "2", "PYTHONWARNINGS": "ignore"}
    if "--fine-grained-activation-offloading" in flags:
        environ |= {"NVTE_CPU_OFFLOAD_V1": "1"}  # Megatron asserts it
    if "--cuda-graph-impl" in flags:
        environ |= {"NCCL_GRAPH_REGISTER": "0"}  # as launch/command.py
    environ |= {"CUDA_DEVICE_MAX_CONNECTIONS": "1" if one_queue else "32"}
    return Run.of([*torchrun, *rendezvous, str(SCRIPT), *flags], environ, output, timeout)


def train(output: Path, data: Path, extra: str = "", *, processes: int = 1, exact: bool = True) -> Run:
    """Train to the end; fail with what the trainer said."""
    run = launch(output, data, extra, processes=processes, exact=exact)
    assert run.returncode == 0, f"{run.stdout}\n{run.stderr}"
    return run


def recorded(output: Path) -> Run:
    """A run that ended well, from what it recorded."""
    return Run(returncode=0, stdout="", stderr="", output=output, metrics=read_metrics(output))
