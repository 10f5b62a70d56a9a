"""CUDA graphs of transformer layers: one call starts all kernels of a layer's forward pass, one those of the backward.

Without them Python starts some 100 kernels and 15 collectives a layer one by one. Under tensor parallelism a GPU has
half of a layer's work or less and the host all of it, so in fp8 the GPU waits: 8B at TP2 has 7.7 to 8.4 ms of work a
layer and micro batch, and the host needs 9.3 to 9.8 (docs/performance.md). Megatron 0.19.2 records the first step, and
replays it from the second on (`cuda_graphs.py`, impl `local`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from megatron_patch.launch.gpu_kinds import kind_of
from megatron_patch.launch.problems import Obstacle

VALUES = ("auto", "none", "layers")
"""MP_CUDA_GRAPHS."""
OWN_FLAGS = ("--enable-cuda-graph", "--external-cuda-graph", "--cuda-graph-scope", "--cuda-graph-modules")
"""Megatron's other flags for the same, of MP_MEGATRON_ARGS: nothing is added to them."""
EVAL_BATCH = "--eval-micro-batch-size"
"""0.19.2 ends at the first validation whose micro batches are not those of the recorded step."""
NOT_REPLAYED = (
    "--log-max-attention-logit",
    "--qk-clip",
    "--save-activations-interval",
    "--save-dgrads-interval",
    "--use-megatron-fsdp",
    "--use-torch-fsdp2",
)
"""Of MP_MEGATRON_ARGS: Python does it in each layer, and would not be called. Of the first two 0.19.2 misses in the
second step what attention has noted, the next two would save nothing, and sharded weights are gathered by hooks."""
REACH_NO_LAYER = re.compile(
    "--(no-)?(async-|ckpt-|dist-ckpt-|dataloader-|disable-log-|distributed-timeout-|eod-mask-loss|exit-|flight-recorder-"
    "|iterations-to-skip|log-(?!max-attention)|logging-level|lr-warmup-init|mid-level-|mmap-bin|multiple-validation-sets"
    "|full-validation|num-dataset-builder|one-logger|profile|start-eval-at-iter|tensorboard-|timing-log-|tokenizer-"
    "|trust-remote-code|validation-set-names|verify-integrity|weight-decay-incr|start-weight-decay|end-weight-decay"
    "|decoupled-|embedding-init|init-method-xavier|te-rng-tracker).*"
)
"""Flags of MP_MEGATRON_ARGS beside which `auto` takes graphs: data, logs, checkpoints, rates, first values. Beside any
other one they were not tried."""
FLAGS = ["--cuda-graph-impl", "local"]
ROOM = 1.12
"""Memory that must be there for one byte of the plan: what a graph has taken nobody else can use between two replays
(8B at TP2 in fp8 reserves 90.6 GB of 82.1 planned, 8 layers of it 30.9 of 28.4)."""


def obstacle(
    *, device: str, pp: int, pr: str, fp8_recipe: str, ac: str, sft: bool, adapters: bool, frozen: bool
) -> Obstacle | None:
    """The first one; None if nothing is in the way.

    Args:
        ac: position 17. Megatron asserts `full` and `offload` away; `sel` was not tried.
        sft: finetuning, whose rows differ from one micro batch to the next.
        adapters: LoRA's hooks, which a replay would not call.
        frozen: MP_FREEZE; not tried.
    """
    if device == "cpu":
        return Obstacle(code="graphs-on-cpu")
    if pp > 1:
        return Obstacle(code="graphs-pipeline", names=("PP",))
    if sft:
        return Obstacle(code="graphs-sft", names=("SFT",))
    if ac not in ("false", "none"):
        return Obstacle(code="graphs-ac", names=("AC",))
    if pr not in ("bf16", "fp8"):
        return Obstacle(code="graphs-precision", names=("PR",))
    if pr == "fp8" and fp8_recipe != "tensorwise":
        return Obstacle(code="graphs-recipe", names=("MP_FP8_RECIPE",))
    if adapters:
        return Obstacle(code="graphs-adapters", names=("MP_LORA_RANK",))
    if frozen:
        return Obstacle(code="graphs-frozen", names=("MP_FREEZE",))
    return None


def were_tried_on(gpu: str | None) -> bool:
    """Whether steps with them were measured on a GPU of this kind; true where none is known.

    They were on H200s, and are taken for the H100, which has the same multiprocessors: there they have not run. A
    slower GPU waits less for the host, or not at all, and a graph's memory is the same.
    """
    kind = kind_of(gpu) if gpu is not None else None
    return gpu is None or (kind is not None and kind.measured)


def pay(
    found: Obstacle | None,
    *,
    gpu: str | None,
    tp: int,
    sp: bool,
    cp: int,
    attention: str | None,
    offloaded: bool,
    flags: Iterable[str],
    planned: int,
    limit: int | None,
) -> bool:
    """Whether they were measured to take less time, and fit: under tensor parallelism, alone or with data parallelism.

    One GPU and context parallelism gain nothing (0.1 %). Not tried: beside an optimizer in RAM, without sequence
    parallelism, with attention that keeps its scores, on other GPUs than Hopper's.

    Args:
        found: by `obstacle`.
        gpu: its name; None where none is known.
        attention: MP_ATTENTION_BACKEND.
        offloaded: the optimizer, to RAM.
        flags: names of MP_MEGATRON_ARGS.
        planned: bytes of a rank by the plan.
        limit: bytes that it may take; None where nothing is known.
    """
    fits = limit is None or ROOM * planned <= limit
    tried = were_tried_on(gpu) and sp and cp == 1 and attention != "unfused" and not offloaded
    return found is None and tp > 1 and tried and fits and all(REACH_NO_LAYER.fullmatch(flag) for flag in flags)
