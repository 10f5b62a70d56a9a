"""From the values of a command line to its plan: layout, schedule, memory and how it is made to fit, saving."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_patch.common.files import real_path
from megatron_patch.common.machine import Gpu
from megatron_patch.launch import cuda_graphs, megatron_flags, tp_overlap
from megatron_patch.launch.config import RunConfig
from megatron_patch.launch.environment import Environment
from megatron_patch.launch.layout import Layout, cut_layers
from megatron_patch.launch.memory import (
    GPU_RESERVE_BYTES,
    PLAIN_ADAM,
    PROCESS_BYTES,
    Adam,
    Load,
    Memory,
    Precision,
    checkpoint_bytes,
    estimate,
    export_bytes,
    has_fp8_weights,
)
from megatron_patch.launch.plan import Earlier, Plan
from megatron_patch.launch.ram import machine_ram, saves_in_background
from megatron_patch.launch.schedule import EpochCount, Schedule, count_iterations, make_rate, wsd_iterations
from megatron_patch.launch.variables import Variables
from megatron_patch.models import ModelConfig, padded_vocab_size
from megatron_patch.peft.patterns import parse_pattern
from megatron_patch.peft.settings import LoraSettings, adapter_parameters, default_alpha, parse_targets


def build_plan(facts: Mapping[str, Any], earlier: Earlier) -> Plan:
    """Put the facts of a command line without problems together.

    Args:
        facts: what `resolve.py` and `checks/` found.
    """
    config = RunConfig(**{row.name: facts[row.name] for row in dataclasses.fields(RunConfig)})
    environment: Environment = facts["environment"]
    model, device = facts["model"], facts["device"]
    variables = Variables(**{row.name: facts[f"mp_{row.name}"] for row in dataclasses.fields(Variables)})
    layout = _layout(config, variables, facts)
    gpu = min(environment.gpus, key=lambda gpu: gpu.memory_bytes) if device == "cuda" and environment.gpus else None
    overlap, buffers = overlap_of(config, variables, model, layout, device)
    limit = _memory_limit(environment, gpu, device, layout, buffers)
    rows = padded_vocab_size(facts["vocab_size"])
    one_order = adds_in_one_order(environment.others, variables.megatron_args)
    fit = fit_memory(config, variables, model, rows, layout, device, limit, deterministic=one_order)
    ram = machine_ram(environment, gpu, device)
    return Plan(
        config=config,
        variables=variables,
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
        schedule=_schedule(config, variables, facts),
        epochs=facts["epochs"],
        train_data=facts["train_data"],
        valid_data=facts["valid_data"],
        precision=fit.precision,
        gradient_bf16=fit.precision.gradient == 2,
        offload_fraction=fit.offload_fraction,
        tp_overlap=overlap,
        cuda_graphs=takes_graphs(
            config, variables, layout, device, gpu=gpu.name if gpu else None, planned=fit.memory.total, limit=limit
        ),
        memory=fit.memory,
        deterministic=one_order,
        memory_limit=limit,
        machine_ram=ram,
        checkpoint_bytes=checkpoint_bytes(
            _saved_parameters(variables, model, rows), fit.precision, optimizer=variables.save_optimizer
        ),
        export_bytes=_export_bytes(variables, model, rows, fit.precision),
        background_save=saves_in_background(variables, fit.memory, fit.precision, layout, ram),
        output=str(real_path(Path(config.output_basepath))),
        given=_given(environment, vp_counts_chunks=facts["vp_counts_chunks"]),
        wandb=_logs_to_wandb(variables, environment),
        vp_counts_chunks=facts["vp_counts_chunks"],
        notes=(),
        warnings=(),
    )


def adapters_of(variables: Variables) -> LoraSettings | None:
    """The adapters of a run; None trains the weights."""
    if variables.lora_rank is None:
        return None
    return LoraSettings(
        rank=variables.lora_rank,
        alpha=default_alpha(variables.lora_rank, variables.lora_alpha),
        dropout=variables.lora_dropout,
        targets=parse_targets(variables.lora_targets),
        rslora=variables.lora_rslora,
        rank_pattern=parse_pattern(variables.lora_rank_pattern),
        alpha_pattern=parse_pattern(variables.lora_alpha_pattern),
    )


def _saved_parameters(variables: Variables, model: ModelConfig, rows: int) -> int:
    """What a checkpoint holds: all weights, or the adapters."""
    adapters = adapters_of(variables)
    return adapter_parameters(adapters, model, 1, range(model.num_layers)) if adapters else model.num_parameters(rows)


def _export_bytes(variables: Variables, model: ModelConfig, rows: int, precision: Precision) -> int:
    if not variables.export_hf:
        return 0
    return export_bytes(_saved_parameters(variables, model, rows), precision, adapters=variables.lora_rank is not None)


def _given(environment: Environment, *, vp_counts_chunks: bool) -> dict[str, str]:
    """As typed, but that they mean the same in every folder."""
    given = {**environment.mine, **environment.given}
    for name in ("MP_LORA_ADAPTER", "MP_TOKENIZER_PATH"):
        if name in given:
            given[name] = str(Path(given[name]).absolute())
    if vp_counts_chunks:
        given["MP_VP_CHUNKS"] = given.pop("MP_VP")
    return given


def _logs_to_wandb(variables: Variables, environment: Environment) -> bool:
    if variables.loggers is not None and "wandb" not in variables.loggers.split(","):
        return False
    return environment.wandb_key and (environment.wandb_installed or environment.only_plans)


def _layout(config: RunConfig, variables: Variables, facts: Mapping[str, Any]) -> Layout:
    rows, balance = padded_vocab_size(facts["vocab_size"]), balances(variables, facts["device"])
    cut = cut_layers(facts["model"], rows, config.seq_len, pp=config.pp, chunks=facts["chunks"], balance=balance)
    assert cut is not None, "check_pipeline_parallel has let an impossible pipeline through"
    stage_layers, ends_count = cut
    return Layout(
        nodes=facts["nodes"],
        processes=facts["processes"],
        tp=config.tp,
        pp=config.pp,
        chunks=facts["chunks"],
        cp=config.cp,
        dp=facts["dp"],
        sequence_parallel=config.sp and config.tp > 1,
        stage_layers=stage_layers,
        ends_count=ends_count,
    )


def balances(variables: Variables, device: str) -> bool:
    """Whether stages of a pipeline get layers by the time that they take (MP_PP_BALANCE)."""
    return variables.pp_balance and device == "cuda"


def _schedule(config: RunConfig, variables: Variables, facts: Mapping[str, Any]) -> Schedule:
    batch = (config.sft, facts["batches"], config.seq_len)
    train, train_words = count_iterations(config.train_tokens_or_iters, *batch)
    warmup, warmup_words = count_iterations(config.warmup_tokens_or_iters, *batch)
    epochs: EpochCount | None = facts["epochs"]
    if epochs is not None:
        told = {"sft": config.sft, "batches": facts["batches"]}
        train_words = epochs.words("TRAIN_TOKENS_OR_ITERS", train, train_words, **told)
        warmup_words = epochs.words("WARMUP_TOKENS_OR_ITERS", warmup, warmup_words, **told)
    decay = variables.lr_decay_iters or train
    validates = facts["valid_data"] is not None or variables.split is not None
    interval, evaluations = validation(train, variables.eval_interval, variables.eval_iters)
    if variables.keep_best and config.save_interval < train:  # every checkpoint is validated
        interval = max(each for each in range(1, interval + 1) if config.save_interval % each == 0)
        evaluations = validation(train, interval, variables.eval_iters)[1]
    return Schedule(
        train_iters=train,
        warmup_iters=warmup,
        decay_iters=decay,
        wsd_iters=wsd_iterations(variables.lr_decay_style, variables.lr_wsd_decay_iters, decay),
        tokens_per_iteration=config.global_batch_size * config.seq_len,
        micro_batches=facts["micro_batches"],
        eval_interval=interval,
        eval_iters=evaluations if validates else 0,
        save_interval=config.save_interval,
        arithmetic=(train_words, warmup_words),
        batches=facts["batches"],
        rate=make_rate(
            facts["batches"],
            peak=config.lr,
            floor=config.min_lr,
            warmup=warmup,
            decay=decay,
            style=variables.lr_decay_style,
            wsd=variables.lr_wsd_decay_iters,
            wsd_style=variables.lr_wsd_decay_style,
        ),
    )


def validation(train: int, interval: int | None, iterations: int | None) -> tuple[int, int]:
    """Iterations between two validations, and of one; what was not asked for so that they take a tenth of the time.

    A validation iteration computes forward only: a third of a training iteration.

    Args:
        train: iterations of the run.
        interval: MP_EVAL_INTERVAL.
        iterations: MP_EVAL_ITERS.
    """
    if interval is None:
        wanted = 4 if iterations is None else -(-10 * iterations // 3)
        interval = max(min(1000, -(-train // 10)), wanted)
    if iterations is None:
        iterations = max(1, min(10, 3 * interval // 10))
    return interval, iterations


def overlap_of(
    config: RunConfig, variables: Variables, model: ModelConfig, layout: Layout, device: str
) -> tuple[str | None, int]:
    """How tensor-parallel communication overlaps the matmuls, None if it does not; and bytes of its buffers."""
    tokens = config.batch_size * config.seq_len // layout.cp
    name = tp_overlap.method(
        variables.tp_overlap,
        tokens=tokens,
        ac=config.ac,
        device=device,
        tp=layout.tp,
        sp=layout.sequence_parallel,
        pr=config.pr,
        fp8_recipe=variables.fp8_recipe,
        processes=layout.processes,
    )
    return name, tp_overlap.buffer_bytes(name, tokens, model.hidden_size)


def takes_graphs(
    config: RunConfig,
    variables: Variables,
    layout: Layout,
    device: str,
    *,
    gpu: str | None,
    planned: int,
    limit: int | None,
) -> bool:
    """Whether layers are replayed as CUDA graphs.

    Args:
        gpu: its name; None where none is known.
        planned: bytes of a rank.
        limit: bytes that it may take; None where nothing is known.
    """
    found = cuda_graphs.obstacle(
        device=device,
        pp=layout.pp,
        pr=config.pr,
        fp8_recipe=variables.fp8_recipe,
        ac=config.ac,
        sft=config.sft,
        adapters=variables.lora_rank is not None,
        frozen=variables.freeze is not None,
    )
    words = shlex.split(variables.megatron_args or "")
    offloaded, flags = config.optimizer_offload != "false", [name for name, _ in megatron_flags.grouped(words)]
    pays = cuda_graphs.pay(
        found,
        gpu=gpu,
        tp=layout.tp,
        sp=layout.sequence_parallel,
        cp=layout.cp,
        attention=variables.attention_backend,
        offloaded=offloaded,
        flags=flags,
        planned=planned,
        limit=limit,
    )
    return variables.cuda_graphs == "layers" or (variables.cuda_graphs == "auto" and pays)


def _memory_limit(environment: Environment, gpu: Gpu | None, device: str, layout: Layout, buffers: int) -> int | None:
    if device == "cpu":
        return environment.memory_bytes // layout.processes - PROCESS_BYTES
    return gpu.memory_bytes - GPU_RESERVE_BYTES - buffers if gpu and gpu.memory_bytes else None


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
    config: RunConfig,
    variables: Variables,
    model: ModelConfig,
    rows: int,
    layout: Layout,
    device: str,
    limit: int | None,
    *,
    deterministic: bool = False,
) -> Fit:
    """The best way to keep the optimizer that fits; the smallest if none does.

    Args:
        rows: of the embedding, padded.
        limit: bytes that one rank may take; None takes the best form, and under OPTIMIZER_OFFLOAD=auto moves all.
        deterministic: attention adds in one order.
    """
    micro_batches = config.global_batch_size // (config.batch_size * layout.dp)
    gradient_bf16 = _sums_in_bf16(config, variables, device, micro_batches)
    adams, fractions = _adams(config, variables, device), _fractions(config, variables)
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
            recompute=_recompute(config, variables, layout),
            recompute_layers=variables.ac_layers,
            adapters=adapters_of(variables),
            frozen=variables.freeze or "",
            fp8_weights=has_fp8_weights(
                distributed_optimizer=config.do, offload_fraction=fraction, recipe=variables.fp8_recipe
            ),
            head_fp8=config.pr == "fp8" and "head" in variables.fp8_extra,
            deterministic=deterministic,
        )
        memory = estimate(load)
        if limit is not None and memory.total <= limit:
            break
    return Fit(precision=load.precision, offload_fraction=fraction, memory=memory)


def adds_in_one_order(others: Mapping[str, str], megatron_args: str | None) -> bool:
    """Whether attention on a GPU is deterministic, by Transformer Engine's variable or Megatron's flag.

    Args:
        others: the user's variables that the ranks' libraries read.
        megatron_args: MP_MEGATRON_ARGS.
    """
    asked = others.get("NVTE_ALLOW_NONDETERMINISTIC_ALGO") == "0"
    return asked or "--deterministic-mode" in (megatron_args or "")


def _sums_in_bf16(config: RunConfig, variables: Variables, device: str, micro_batches: int) -> bool:
    """bf16 sums are 1 % faster and save 2 bytes a parameter; each addition rounds by up to 1 / 256, so not too many."""
    if variables.grad_reduce != "auto":
        return variables.grad_reduce == "bf16"
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


def _adams(config: RunConfig, variables: Variables, device: str) -> list[Adam]:
    """Ways to keep the optimizer's state, best first: the plan takes the first that fits.

    The compact ways need Transformer Engine's Adam and the distributed optimizer. Under fp8 Megatron keeps whole
    fp32 copies, and only the moments can shrink; with delayed scaling Transformer Engine would keep the copies, in a
    form that no checkpoint can hold.
    """
    if variables.optimizer == "muon":
        return [Adam(bytes=8 if config.pr == "fp32" else 12, muon=True)]
    if config.pr == "fp32":
        return [Adam(bytes=8)]
    delayed = config.pr == "fp8" and variables.fp8_recipe == "delayed"
    if device != "cuda" or not config.do or config.pr == "fp16" or delayed or config.optimizer_offload != "false":
        return [PLAIN_ADAM]
    remainders = [Adam(bytes=10, compact=True)] if config.pr == "bf16" else []
    small = Adam(bytes=6 if config.pr == "bf16" else 8, compact=True, moments_bf16=True)
    return {"auto": [PLAIN_ADAM, *remainders, small], "fp32": [PLAIN_ADAM, *remainders], "bf16": [small]}[
        variables.moments
    ]


def _fractions(config: RunConfig, variables: Variables) -> list[float]:
    """Parts of the optimizer to move to RAM, least first: under OPTIMIZER_OFFLOAD=auto in tenths."""
    if config.optimizer_offload == "auto":
        return [tenth / 10 for tenth in range(11)]
    return [variables.optimizer_offload_fraction if config.optimizer_offload == "static" else 0.0]


def _recompute(config: RunConfig, variables: Variables, layout: Layout) -> str:
    """AC, as `Load.recompute` has it."""
    if config.ac == "full":
        return "block" if variables.ac_method == "block" else "full"
    if config.ac == "offload":
        return "modules" if layout.pp > 1 else "offload"
    return "none" if config.ac == "false" else config.ac
