"""From the facts of a command line to its plan: layout, schedule, memory, saving."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megatron_patch.common.machine import Gpu
from megatron_patch.launch import tp_overlap
from megatron_patch.launch.config import RunConfig
from megatron_patch.launch.environment import Environment
from megatron_patch.launch.fit import fit_memory
from megatron_patch.launch.knobs import Knobs
from megatron_patch.launch.layout import Layout, cut_layers
from megatron_patch.launch.memory import (
    GPU_RESERVE_BYTES,
    PROCESS_BYTES,
    Memory,
    Precision,
    checkpoint_bytes,
    save_bytes,
)
from megatron_patch.launch.plan import Plan
from megatron_patch.launch.resume import Earlier
from megatron_patch.launch.schedule import Schedule, count_iterations
from megatron_patch.models import ModelConfig, padded_vocab_size


def build_plan(facts: Mapping[str, Any], earlier: Earlier) -> Plan:
    """Put the facts of a command line without problems together.

    Args:
        facts: what `resolve.py` and `checks.py` found.
    """
    config = RunConfig(**{row.name: facts[row.name] for row in dataclasses.fields(RunConfig)})
    environment: Environment = facts["environment"]
    model, device = facts["model"], facts["device"]
    knobs = Knobs(**{row.name: facts[f"mp_{row.name}"] for row in dataclasses.fields(Knobs)})
    layout = _layout(config, knobs, facts)
    gpu = min(environment.gpus, key=lambda gpu: gpu.memory_bytes) if device == "cuda" and environment.gpus else None
    overlap, buffers = overlap_of(config, knobs, model, layout, device)
    limit = _memory_limit(environment, gpu, device, layout, buffers)
    rows = padded_vocab_size(facts["vocab_size"])
    fit = fit_memory(config, knobs, model, rows, layout, device, limit)
    return Plan(
        config=config,
        knobs=knobs,
        cluster=facts["cluster"],
        model=model,
        vocab_size=facts["vocab_size"],
        vocab_rows=rows,
        tokenizer=facts["tokenizer"],
        weights=facts["weights"],
        earlier=earlier,
        device=device,
        gpu=gpu,
        layout=layout,
        schedule=_schedule(config, knobs, facts),
        train_data=facts["train_data"],
        valid_data=facts["valid_data"],
        precision=fit.precision,
        gradient_bf16=fit.precision.gradient == 2,
        offload_fraction=fit.offload_fraction,
        tp_overlap=overlap,
        memory=fit.memory,
        memory_limit=limit,
        checkpoint_bytes=checkpoint_bytes(model.num_parameters(rows), fit.precision),
        background_save=_saves_in_background(knobs, environment, fit.memory, fit.precision, layout),
        output=str(Path(config.output_basepath).resolve()),
        wandb=environment.wandb_key and (environment.wandb_installed or environment.only_plans),
        notes=(),
        warnings=(),
    )


def _layout(config: RunConfig, knobs: Knobs, facts: Mapping[str, Any]) -> Layout:
    rows, balance = padded_vocab_size(facts["vocab_size"]), balances(knobs, facts["device"])
    cut = cut_layers(facts["model"], rows, config.seq_len, pp=config.pp, vp=knobs.vp, balance=balance)
    assert cut is not None, "check_pipeline_parallel has let an impossible pipeline through"
    stage_layers, ends_count = cut
    return Layout(
        nodes=facts["nodes"],
        processes=facts["processes"],
        tp=config.tp,
        pp=config.pp,
        vp=knobs.vp,
        cp=config.cp,
        dp=facts["dp"],
        sequence_parallel=config.sp and config.tp > 1,
        stage_layers=stage_layers,
        ends_count=ends_count,
    )


def balances(knobs: Knobs, device: str) -> bool:
    """Whether stages of a pipeline get layers by the time that they take (MP_PP_BALANCE)."""
    return knobs.pp_balance and device == "cuda"


def _schedule(config: RunConfig, knobs: Knobs, facts: Mapping[str, Any]) -> Schedule:
    batch = (config.sft, config.global_batch_size, config.seq_len)
    train, train_words = count_iterations(config.train_tokens_or_iters, *batch)
    warmup, warmup_words = count_iterations(config.warmup_tokens_or_iters, *batch)
    validates = facts["valid_data"] is not None or knobs.split is not None
    return Schedule(
        train_iters=train,
        warmup_iters=warmup,
        decay_iters=knobs.lr_decay_iters or train,
        tokens_per_iteration=config.global_batch_size * config.seq_len,
        micro_batches=facts["micro_batches"],
        eval_interval=knobs.eval_interval or min(1000, -(-train // 10)),
        eval_iters=knobs.eval_iters if validates else 0,
        save_interval=config.save_interval,
        arithmetic=(train_words, warmup_words),
    )


def overlap_of(
    config: RunConfig, knobs: Knobs, model: ModelConfig, layout: Layout, device: str
) -> tuple[str | None, int]:
    """How transfers of tensor parallelism run beside products, None if they do not; and bytes of their buffers."""
    tokens = config.batch_size * config.seq_len // layout.cp
    name = tp_overlap.method(
        knobs.tp_overlap,
        tokens=tokens,
        ac=config.ac,
        device=device,
        tp=layout.tp,
        sp=layout.sequence_parallel,
        pr=config.pr,
        processes=layout.processes,
    )
    return name, tp_overlap.buffer_bytes(name, tokens, model.hidden_size)


def _memory_limit(environment: Environment, gpu: Gpu | None, device: str, layout: Layout, buffers: int) -> int | None:
    if device == "cpu":
        return environment.memory_bytes // layout.processes - PROCESS_BYTES
    return gpu.memory_bytes - GPU_RESERVE_BYTES - buffers if gpu and gpu.memory_bytes else None


MOST_RAM_FOR_COPIES = 2 / 3
"""Part of a machine's RAM that copies of a checkpoint may take."""


def _saves_in_background(
    knobs: Knobs, environment: Environment, memory: Memory, precision: Precision, layout: Layout
) -> bool:
    """All machines of a run must find the same: asked for is all their RAM, not what is free of it."""
    if knobs.background_save != "auto" or environment.only_plans:
        return knobs.background_save != "false"
    needed = layout.processes * save_bytes(memory, precision, layout)
    return needed <= MOST_RAM_FOR_COPIES * environment.memory_total_bytes
