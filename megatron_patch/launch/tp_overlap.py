"""Tensor-parallel communication that overlaps the matmuls that need it: Transformer Engine's userbuffers.

Its buffers lie outside torch's allocator, one for each matmul of a layer, and every rank of a TP group opens the
others' by CUDA IPC. NVLink multicast is left alone (UB_SKIPMC=1): on shared hosts it can take GPUs out of service.
Source: `initialize_ub` in transformer_engine/pytorch/module/base.py, 2.20; `_initialize_tp_communicators` in
megatron/training/initialize.py, 0.19.2, which asks for FP8 buffers under --fp8-format.
"""

from __future__ import annotations

from pathlib import Path

from megatron_patch.launch.problems import Obstacle

METHODS = ("pipeline", "ring", "ring-all")
"""MP_TP_OVERLAP: Transformer Engine's own choice; copies also after the forward matmuls; and after all."""
AUTO = "ring-all"
"""What MP_TP_OVERLAP=auto takes where overlap is possible: the fastest of them at TP 2 with 8 layers, 3.7 % in bf16,
3.3 % in fp8 (docs/performance.md)."""
FEWEST_TOKENS = 4096
"""Tokens of a micro batch from which it takes that: fewer were not tried, and have little to hide."""
BUFFERS = 14
"""Buffers of a rank, in units of one micro batch's residual stream: 12 matmuls, two of them with room for partial
sums from both sides."""
MOST_RANKS = 8
"""CUDA IPC reaches that many GPUs of one machine."""


def obstacle(*, device: str, tp: int, sp: bool, pr: str, fp8_recipe: str, processes: int) -> Obstacle | None:
    """The first one; None if nothing is in the way."""
    if device == "cpu":
        return Obstacle(code="overlap-on-cpu")
    if tp == 1 or not sp:
        return Obstacle(code="overlap-needs-sp", names=("TP", "SP"))
    if tp > MOST_RANKS or processes % tp:
        return Obstacle(code="overlap-one-machine", names=("TP",), values={"most": MOST_RANKS})
    if pr not in ("bf16", "fp8"):
        return Obstacle(code="overlap-precision", names=("PR",))
    if pr == "fp8" and fp8_recipe != "tensorwise":  # the others were not tried
        return Obstacle(code="overlap-recipe", names=("MP_FP8_RECIPE",))
    return None


def method(
    asked: str, *, tokens: int, ac: str, device: str, tp: int, sp: bool, pr: str, fp8_recipe: str, processes: int
) -> str | None:
    """What MP_TP_OVERLAP comes to; None: nothing overlaps.

    Args:
        asked: MP_TP_OVERLAP.
        tokens: of a micro batch on one context-parallel rank.
        ac: position 17; beside offloaded activations it was not tried.
    """
    if asked == "auto":
        free = obstacle(device=device, tp=tp, sp=sp, pr=pr, fp8_recipe=fp8_recipe, processes=processes) is None
        pays = tokens >= FEWEST_TOKENS and ac != "offload"
        asked = AUTO if free and pays else "none"
    return None if asked == "none" else asked


def buffer_bytes(name: str | None, tokens: int, hidden_size: int) -> int:
    """What the buffers of a rank take beside torch's allocator.

    Args:
        tokens: as in method.
    """
    return 0 if name is None else BUFFERS * tokens * hidden_size * 2


def flags(name: str) -> list[str]:
    """Megatron's flags of a method."""
    if name == "pipeline":
        return ["--tp-comm-overlap"]
    config = Path(__file__).resolve().with_name("userbuffers") / f"{name}.yaml"
    return [
        *("--tp-comm-overlap", "--tp-comm-overlap-cfg", str(config)),
        *(["--tp-comm-overlap-rs-dgrad"] if name == "ring-all" else []),
    ]
