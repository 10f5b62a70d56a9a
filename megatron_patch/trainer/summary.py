"""The first lines that a person reads: what trains, on what, how it is spread, and where it starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from megatron_patch.common.messages import Message, named
from megatron_patch.launch.schedule import Batches, constant, read_stages
from megatron_patch.models.megatron import model_of_arguments


def summary(args: Any, device: str) -> list[Message]:
    """Model, device, layout, data and start of a run, one line each.

    Args:
        args: Megatron's, after `parse_and_validate_args`.
        device: name of one device.
    """
    return [
        _model(args),
        Message("run-device", count=args.world_size, device=named(device)),
        Message("run-layout", parts=_layout(args)),
        _data(args),
        Message("run-start", start=start_of(args)),
    ]


def _model(args: Any) -> Message:
    model = model_of_arguments(args)
    millions = model.num_parameters() / 1e6
    return Message(
        "run-model",
        size=f"{millions / 1e3:.2f} B" if millions >= 1e3 else f"{millions:.1f} M",
        layers=model.num_layers,
        hidden=model.hidden_size,
        ffn=model.ffn_hidden_size,
        heads=model.num_attention_heads,
        groups=model.num_query_groups,
        vocabulary=model.vocab_size,
        precision=_precision(args),
    )


def _precision(args: Any) -> Message | str:
    """fp32, fp16, bf16, or fp8 with its recipe."""
    if args.fp8:
        return Message("run-fp8", format=args.fp8, recipe=args.fp8_recipe, other="bf16" if args.bf16 else "fp16")
    return "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32"


def _layout(args: Any) -> list[Message | str]:
    tp, pp, dp = args.tensor_model_parallel_size, args.pipeline_model_parallel_size, args.data_parallel_size
    chunks, recompute = args.virtual_pipeline_model_parallel_size, args.recompute_granularity
    return [
        Message("run-sp", tp=tp) if args.sequence_parallel else f"TP {tp}",
        Message("run-chunks", pp=pp, chunks=chunks) if chunks else f"PP {pp}",
        f"CP {args.context_parallel_size}",
        Message("run-do", dp=dp) if args.use_distributed_optimizer else f"DP {dp}",
        *([Message("run-recompute", what=recompute)] if recompute else []),
    ]


def _data(args: Any) -> Message:
    """Batch, sequence and number of iterations."""
    values = {"iterations": total_iterations(args), "length": args.seq_length, "micro": args.micro_batch_size}
    if args.step_batch_size_schedule:
        sizes: object = ""
        for stage in batches_of(args).stages:
            sizes = Message("run-then", first=sizes, second=stage.batch) if sizes else stage.batch
        return Message("run-data-grown", sizes=sizes, tokens=args.train_samples * args.seq_length, **values)
    batch = args.global_batch_size
    return Message("run-data", batch=batch, tokens=batch * args.seq_length, **values)


def batches_of(args: Any) -> Batches:
    """The batch of each iteration."""
    if args.step_batch_size_schedule:
        return read_stages(args.step_batch_size_schedule, sft=False, seq_len=args.seq_length)
    return constant(args.global_batch_size)


def total_iterations(args: Any) -> int:
    """Of the whole run; where the batch grows Megatron counts them only when it makes its scheduler."""
    return int(args.train_iters or batches_of(args).iterations(args.train_samples))


def start_of(args: Any) -> Message:
    """Where a run goes on, or else where its weights come from: adapters read their base at every start."""
    step = Message("run-iteration", step=args.ckpt_step) if args.ckpt_step else Message("run-newest")
    if args.load and not args.finetune:
        return Message("run-resuming", step=step, path=Path(args.load))
    if args.hf_checkpoint:
        return Message("run-from-hf", path=args.hf_checkpoint)
    if args.base_checkpoint:
        return Message("run-from-base", path=args.base_checkpoint)
    if args.load:
        return Message("run-from-checkpoint", path=args.load, step=step)
    return Message("run-from-scratch", seed=args.seed)
