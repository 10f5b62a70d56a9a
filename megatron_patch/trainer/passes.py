"""Passes over memory that training on a GPU leaves out, and what fp8 computes in fewer bits still."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

FEWER = ("residual", "projection", "swiglu")
"""8B at 8192 tokens, 4 layers, one H200: together 1.1 % of a step in fp8; the first 0.2 % in bf16."""


def leave_out(args: Any) -> None:
    """Replace kernels of Transformer Engine and functions of Megatron, before the model is built."""
    names = (*fewer_passes(args), *args.fp8_extra)
    if not names:
        return
    from megatron_patch.backend.gpu import fp8_layers, residual

    apply: dict[str, Callable[[], None]] = {
        "residual": residual.add_inside_the_norm,
        "swiglu": fp8_layers.quantize_in_swiglu,
        "projection": fp8_layers.cast_attention_output_once,
        "sums": fp8_layers.sum_without_splitting,
        "head": fp8_layers.head_in_fp8,
    }
    for name in names:
        apply[name]()


def fewer_passes(args: Any) -> tuple[str, ...]:
    """What --fewer-passes names, or else all that applies.

    Nothing where it was not tried: with adapters, which read the same tensors in bf16, or other frozen parts, where
    layers are moved to the CPU, where more of a layer than attention is computed again, under Transformer Engine's op
    fuser.
    """
    if args.fewer_passes is not None:
        return tuple(args.fewer_passes)
    if args.transformer_impl != "transformer_engine" or not args.bf16 or _is_untried(args):
        return ()
    fits = {
        "residual": args.normalization == "RMSNorm",
        "projection": scales_tensorwise(args),
        "swiglu": scales_tensorwise(args) and args.swiglu,
    }
    return tuple(name for name in FEWER if fits[name])


def scales_tensorwise(args: Any) -> bool:
    """Each tensor of fp8 has one scale, from its present largest value."""
    return bool(args.fp8) and args.fp8_recipe == "tensorwise"


def _is_untried(args: Any) -> bool:
    offloads = args.cpu_offloading_num_layers or args.fine_grained_activation_offloading
    parts = args.recompute_granularity == "selective" and set(args.recompute_modules or ()) - {"core_attn"}
    again = args.recompute_granularity == "full" or parts
    frozen = args.lora_rank is not None or args.freeze is not None
    return bool(frozen or offloads or again or args.use_transformer_engine_op_fuser)
