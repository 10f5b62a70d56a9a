"""The first lines that a person reads: what trains, on what, how it is spread, and where it starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from megatron_patch.launch.schedule import Batches, constant, read_stages
from megatron_patch.models.megatron import model_of_arguments


def summary_lines(args: Any, device: str) -> list[str]:
    """Model, device, layout and start of a run, one line each.

    Args:
        args: Megatron's, after `parse_and_validate_args`.
        device: name of one device.
    """
    return [
        f"model    {describe_model(args)}",
        f"device   {args.world_size} x {device}",
        f"layout   {describe_layout(args)}",
        f"data     {describe_schedule(args)}",
        f"start    {describe_start(args)}",
    ]


def describe_model(args: Any) -> str:
    """Architecture, parameters and precision."""
    model = model_of_arguments(args)
    millions = model.num_parameters() / 1e6
    size = f"{millions / 1e3:.2f} B" if millions >= 1e3 else f"{millions:.1f} M"
    return (
        f"{size} parameters: {model.num_layers} layers, hidden {model.hidden_size}, FFN {model.ffn_hidden_size}, "
        f"{model.num_attention_heads} heads ({model.num_query_groups} KV), vocabulary {model.vocab_size}; "
        f"{describe_precision(args)}"
    )


def describe_precision(args: Any) -> str:
    """fp32, fp16, bf16, or fp8 with its recipe."""
    if args.fp8:
        return f"fp8 ({args.fp8}, {args.fp8_recipe}) over {'bf16' if args.bf16 else 'fp16'}"
    return "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32"


def describe_layout(args: Any) -> str:
    """How the ranks share model and data."""
    virtual = args.virtual_pipeline_model_parallel_size
    parts = [
        f"TP {args.tensor_model_parallel_size}" + (" with sequence parallelism" if args.sequence_parallel else ""),
        f"PP {args.pipeline_model_parallel_size}" + (f" x {virtual} virtual stages" if virtual else ""),
        f"CP {args.context_parallel_size}",
        f"DP {args.data_parallel_size}" + (" with distributed optimizer" if args.use_distributed_optimizer else ""),
    ]
    if args.recompute_granularity:
        parts.append(f"recompute {args.recompute_granularity}")
    return ", ".join(parts)


def describe_schedule(args: Any) -> str:
    """Batch, sequence and number of iterations."""
    if args.step_batch_size_schedule:
        sizes = " then ".join(str(stage.batch) for stage in batches_of(args).stages)
        return (
            f"{total_iterations(args)} iterations of {sizes} x {args.seq_length} = "
            f"{args.train_samples * args.seq_length:,} tokens in all, micro batch {args.micro_batch_size}"
        )
    tokens = args.global_batch_size * args.seq_length
    return (
        f"{args.train_iters} iterations of {args.global_batch_size} x {args.seq_length} = {tokens:,} tokens, "
        f"micro batch {args.micro_batch_size}"
    )


def batches_of(args: Any) -> Batches:
    """The batch of each iteration."""
    if args.step_batch_size_schedule:
        return read_stages(args.step_batch_size_schedule, sft=False, seq_len=args.seq_length)
    return constant(args.global_batch_size)


def total_iterations(args: Any) -> int:
    """Of the whole run; where the batch grows Megatron counts them only when it makes its scheduler."""
    return int(args.train_iters or batches_of(args).iterations(args.train_samples))


def describe_start(args: Any) -> str:
    """Where the weights come from."""
    if args.hf_checkpoint:
        return f"from the Hugging Face folder {args.hf_checkpoint}, weights only"
    if not args.load:
        return f"from scratch, seed {args.seed}"
    step = f"iteration {args.ckpt_step}" if args.ckpt_step else "its newest iteration"
    if args.finetune:
        return f"from checkpoint {args.load}, {step}, weights only"
    return f"resuming from {step} of {Path(args.load)}"
