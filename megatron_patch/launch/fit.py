"""How a run is made to fit: the precision of its sums, the form of its optimizer, how much of that moves to RAM."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_patch.launch.config import RunConfig
from megatron_patch.launch.knobs import Knobs
from megatron_patch.launch.layout import Layout
from megatron_patch.launch.memory import PLAIN_ADAM, Adam, Load, Memory, Precision, estimate
from megatron_patch.models import ModelConfig

MOST_BF16_SUMS = 16
"""Micro batches of one iteration up to which gradients are summed in bf16 (MP_GRAD_REDUCE=auto)."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What was chosen, and what it takes."""

    precision: Precision
    offload_fraction: float
    """Part of the optimizer's state that lives in RAM."""
    memory: Memory


def fit_memory(
    config: RunConfig, knobs: Knobs, model: ModelConfig, rows: int, layout: Layout, device: str, limit: int | None
) -> Fit:
    """The best way to keep the optimizer that fits; the smallest if none does.

    Args:
        rows: of the embedding, padded.
        limit: bytes that one rank may take; None takes the best form, and under OPTIMIZER_OFFLOAD=auto moves all.
    """
    micro_batches = config.global_batch_size // (config.batch_size * layout.dp)
    gradient_bf16 = _sums_in_bf16(config, knobs, device, micro_batches)
    adams, fractions = _adams(config, knobs, device), _fractions(config, knobs)
    ways = [(adam, fraction) for adam in adams for fraction in fractions]
    if limit is None:
        ways = [(adams[0], fractions[-1])]
    for adam, fraction in ways:
        load = Load(
            model=model,
            vocab_rows=rows,
            layout=layout,
            precision=_precision(config, gradient_bf16, adam, device),
            micro_batch=config.batch_size,
            seq_len=config.seq_len,
            micro_batches=micro_batches,
            distributed_optimizer=config.do,
            offload_fraction=fraction,
            recompute=_recompute(config, knobs, layout),
            recompute_layers=knobs.ac_layers,
        )
        memory = estimate(load)
        if limit is not None and memory.total <= limit:
            break
    return Fit(precision=load.precision, offload_fraction=fraction, memory=memory)


def _sums_in_bf16(config: RunConfig, knobs: Knobs, device: str, micro_batches: int) -> bool:
    """bf16 sums are 1 % faster and save 2 bytes a parameter; each addition rounds by up to 1 / 256, so not too many."""
    if knobs.grad_reduce != "auto":
        return knobs.grad_reduce == "bf16"
    return device == "cuda" and config.pr in ("bf16", "fp8") and micro_batches <= MOST_BF16_SUMS


def _precision(config: RunConfig, gradient_bf16: bool, adam: Adam, device: str) -> Precision:
    size = 4 if config.pr == "fp32" else 2
    return Precision(
        weight=size,
        gradient=2 if gradient_bf16 else 4,
        activation=size,
        fp8=config.pr == "fp8",
        adam=adam,
        gpu=device == "cuda",
    )


def _adams(config: RunConfig, knobs: Knobs, device: str) -> list[Adam]:
    """Ways to keep the optimizer's state, best first: the plan takes the first that fits.

    The compact ways need Transformer Engine's Adam and the distributed optimizer. Under fp8 Megatron keeps whole
    fp32 copies, and only the moments can shrink; with delayed scaling Transformer Engine would keep the copies, in a
    form that no checkpoint can hold.
    """
    if config.pr == "fp32":
        return [Adam(bytes=8)]
    delayed = config.pr == "fp8" and knobs.fp8_recipe == "delayed"
    if device != "cuda" or not config.do or config.pr == "fp16" or delayed or config.optimizer_offload != "false":
        return [PLAIN_ADAM]
    remainders = [Adam(bytes=10, compact=True)] if config.pr == "bf16" else []
    small = Adam(bytes=6 if config.pr == "bf16" else 8, compact=True, moments_bf16=True)
    return {"auto": [PLAIN_ADAM, *remainders, small], "fp32": [PLAIN_ADAM, *remainders], "bf16": [small]}[knobs.moments]


def _fractions(config: RunConfig, knobs: Knobs) -> list[float]:
    """Parts of the optimizer to move to RAM, least first: under OPTIMIZER_OFFLOAD=auto in tenths."""
    if config.optimizer_offload == "auto":
        return [tenth / 10 for tenth in range(11)]
    return [knobs.optimizer_offload_fraction if config.optimizer_offload == "static" else 0.0]


def _recompute(config: RunConfig, knobs: Knobs, layout: Layout) -> str:
    """AC, as `Load.recompute` has it."""
    if config.ac == "full":
        return "block" if knobs.ac_method == "block" else "full"
    if config.ac == "offload":
        return "modules" if layout.pp > 1 else "offload"
    return "none" if config.ac == "false" else config.ac
