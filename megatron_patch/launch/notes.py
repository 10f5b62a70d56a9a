"""What a person should hear before a run: choices made for him, consequences, and what will probably go wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from megatron_patch.common.machine import free_disk
from megatron_patch.common.values import shown
from megatron_patch.launch.argv import gathers_fp8, offloads_modules
from megatron_patch.launch.build_plan import balances, fit_memory, overlap_of
from megatron_patch.launch.config import RunConfig
from megatron_patch.launch.environment import Environment
from megatron_patch.launch.layout import Layout, cut_layers
from megatron_patch.launch.memory import PROCESS_BYTES, gigabytes, save_bytes
from megatron_patch.launch.plan import Plan
from megatron_patch.launch.resume import handover
from megatron_patch.launch.variables import VARIABLES, Variable
from megatron_patch.models.megatron import tensor_parallel_problem


def annotate(plan: Plan, environment: Environment, changes: list[str]) -> Plan:
    """The plan with its notes and warnings.

    Args:
        changes: what is different from the last start in this output folder.
    """
    notes = [
        *_start_notes(plan),
        *changes,
        *_layout_notes(plan, environment),
        *_data_notes(plan),
        *_idle_notes(plan, environment),
        *_optimizer_notes(plan),
        *_surroundings_notes(plan, environment),
    ]
    warnings = [*_memory_warnings(plan), *_disk_warnings(plan)]
    return dataclasses.replace(plan, notes=tuple(notes), warnings=tuple(warnings))


def _start_notes(plan: Plan) -> Iterator[str]:
    if plan.earlier.broken:
        broken = ", ".join(plan.earlier.broken)
        yield f"{broken} in {plan.checkpoints}: not written to the end by an earlier run; not used, written anew"
    yield from (f"damaged: {line}" for line in plan.earlier.damage[:5])
    if plan.resume_iteration is not None and plan.weights.kind != "none":
        yield "PRETRAIN_CHECKPOINT_PATH is not read: the run goes on from its own checkpoint"
    yield from handover(plan)
    if plan.layout.nodes > 1:
        yield "OUTPUT_BASEPATH has to be one folder shared by all machines: every machine looks there for a checkpoint"


def _layout_notes(plan: Plan, environment: Environment) -> Iterator[str]:
    config, layout = plan.config, plan.layout
    if plan.device == "cpu" and plan.variables.device == "auto":
        yield "no GPU here: the ranks compute on the CPU"
    if plan.device == "cpu" and plan.variables.nproc is None and plan.cluster is None:
        yield f"{layout.processes} processes = TP x PP x CP; MP_NPROC sets another number"
    if plan.device == "cpu" and layout.processes > environment.cores:
        yield f"{layout.processes} processes share {environment.cores} cores"
    if plan.device == "cuda" and plan.gpu is None:
        yield f"planned for {layout.processes} GPUs a machine that are not here (MP_NPROC sets another number)"
    if plan.gpu is not None and layout.processes < len(environment.gpus):
        yield f"{layout.processes} of {len(environment.gpus)} visible GPUs are used (MP_NPROC)"
    if config.sp and config.tp == 1:
        yield "SP=true does nothing at TP 1: there is no second rank to split the sequence with"
    if layout.ends_count:
        yield "the layers alone do not divide by PP: embedding and loss count as one layer each, at the two ends"
    elif len(set(layout.stage_layers)) > 1:
        yield (
            f"pipeline stages of {', '.join(map(str, layout.stage_layers))} layers: the last has the LM head to do too "
            "(MP_PP_BALANCE=false cuts evenly)"
        )
    if plan.tp_overlap is not None:
        yield f"transfers of tensor parallelism run beside the products: {plan.tp_overlap} (MP_TP_OVERLAP=none)"
    if layout.tp > plan.model.num_query_groups:
        yield f"TP is larger than the {plan.model.num_query_groups} KV heads: ranks share one, at one more all-gather"
    if config.pr == "fp16" and plan.device == "cpu":
        yield "fp16 has no fast kernels on a CPU: expect a tenth of the speed of fp32"


def _data_notes(plan: Plan) -> Iterator[str]:
    """Schedule, tokenizer, validation."""
    if plan.schedule.warmup_iters == 0 and plan.config.warmup_tokens_or_iters > 0:
        yield "no warm-up: fewer warm-up tokens than one iteration has"
    if plan.tokenizer.ids < plan.vocab_size:
        yield f"the tokenizer has {plan.tokenizer.ids} ids, the model {plan.vocab_size} rows: the rest stays unused"
    if plan.valid_data is not None and plan.valid_data == plan.train_data:
        yield "the validation data are the training data: their loss says nothing about other text"
    if plan.valid_data is None and plan.variables.split is None:
        yield "no validation (VALID_DATASET_PATH is none)"


def _idle_notes(plan: Plan, environment: Environment) -> Iterator[str]:
    """Values that do nothing beside the others."""
    config, variables = plan.config, plan.variables
    if offloads_modules(plan):
        yield "AC=offload in a pipeline moves what attention reads, of every layer; MP_AC_LAYERS does nothing"
    for variable, value, under in idle_variables(plan, environment):
        yield f"{variable.name}={shown(value)} does nothing {under}"
    if variables.attention_backend is not None:
        yield f"attention: MP_ATTENTION_BACKEND={variables.attention_backend} goes before FL={str(config.fl).lower()}"


def idle_variables(plan: Plan, environment: Environment) -> Iterator[tuple[Variable, Any, str]]:
    """Variables that somebody has set and that do nothing, with the value that makes them idle."""
    for variable in VARIABLES:
        value = getattr(plan.variables, variable.field)
        if not variable.matters or variable.name not in environment.inherited or value == variable.default:
            continue
        name, *active = variable.matters
        now = plan.device if name == "DEVICE" else shown(getattr(plan.config, name.lower()))
        if now not in active:
            yield variable, value, "on the CPU" if name == "DEVICE" else f"under {name}={now}"


def _optimizer_notes(plan: Plan) -> Iterator[str]:
    """How gradients are summed, the optimizer's state is kept, and weights travel."""
    config, variables = plan.config, plan.variables
    if plan.gradient_bf16 and variables.grad_reduce == "auto":
        yield f"gradients are summed in bf16, over {plan.schedule.micro_batches} micro batches (MP_GRAD_REDUCE=fp32)"
    if plan.precision.adam.compact and not plan.precision.fp8:
        why = "MP_MOMENTS=bf16 brings it along" if variables.moments == "bf16" else "otherwise it does not fit"
        yield f"the optimizer keeps only the bits of its fp32 weights that the bf16 ones lack: {why}"
    if plan.precision.adam.moments_bf16 and variables.moments == "auto":
        yield "Adam's moments are kept in bf16, as in fp32 they do not fit (MP_MOMENTS=fp32; OPTIMIZER_OFFLOAD=auto)"
    if config.pr == "fp8" and not gathers_fp8(plan):
        why = "DO is false" if not config.do else "the optimizer is offloaded"
        yield f"weights travel in bf16, not fp8: {why}"
    if config.optimizer_offload == "auto":
        yield _offload_note(plan)


def _surroundings_notes(plan: Plan, environment: Environment) -> Iterator[str]:
    if plan.variables.background_save == "auto" and not plan.background_save:
        yield _save_note(plan, environment)
    if environment.wandb_key and not environment.wandb_installed:
        yield "a Weights & Biases key is set, but the package wandb is not installed: nothing is sent there"
    for name, value in environment.mine.items():
        yield f"{name}={value} is taken from your environment"


def _save_note(plan: Plan, environment: Environment) -> str:
    copies = plan.layout.processes * save_bytes(plan.memory, plan.precision, plan.layout)
    return (
        f"checkpoints are written between steps: copies of {gigabytes(copies)} would take too much of the "
        f"{gigabytes(environment.memory_total_bytes)} of RAM here (MP_BACKGROUND_SAVE=true takes them)"
    )


def _offload_note(plan: Plan) -> str:
    if plan.memory_limit is None:
        return "OPTIMIZER_OFFLOAD=auto: the GPU's memory is not known here, so everything is planned to move"
    if plan.offload_fraction == 0:
        return "OPTIMIZER_OFFLOAD=auto: the optimizer fits on the GPU, nothing moves"
    return f"OPTIMIZER_OFFLOAD=auto: {plan.offload_fraction:.0%} of the optimizer moves to the CPU"


def _memory_warnings(plan: Plan) -> Iterator[str]:
    limit, memory = plan.memory_limit, plan.memory
    if limit is not None and memory.total > limit:
        where = "the GPU" if plan.device == "cuda" else "RAM per process"
        yield (
            f"a rank needs about {gigabytes(memory.total)}, {where} has {gigabytes(limit)} to give; "
            f"cheapest change: {cheapest_change(plan)}"
        )


def _disk_warnings(plan: Plan) -> Iterator[str]:
    free, each, done = free_disk(plan.output), plan.checkpoint_bytes, plan.resume_iteration or 0
    written, keep = plan.schedule.saves(done), plan.variables.keep_checkpoints
    beside = 0 if done else 1  # an older one goes when a newer one is complete; of a run that goes on one is there
    most = min(written, keep + beside) if keep else written
    if each > free:
        yield f"one checkpoint takes about {gigabytes(each)}, the disk has {gigabytes(free)} free"
    elif most * each > free:
        fits = free // each - beside
        change = f"MP_KEEP_CHECKPOINTS={fits}" if fits else "a larger SAVE_INTERVAL (position 19), or another disk"
        yield f"{most} checkpoints take about {gigabytes(most * each)}, the disk has {gigabytes(free)} free: {change}"


MORE_RANKS = (2, 4, 8, 16, 32, 64, 128)
"""How many times the GPUs are tried."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """Other values, and how a person is told."""

    words: str
    config: Mapping[str, Any] = field(default_factory=dict)
    tp: int = 0
    """0 leaves it."""
    pp: int = 0
    ranks: int = 1
    """How many times as many."""


def cheapest_change(plan: Plan) -> str:
    """What makes the run fit at the least cost in speed, with what it takes then.

    Args:
        plan: one whose `memory_limit` is known.
    """
    for change in _changes(plan):
        figures = _figures(plan, change)
        if figures is not None and figures[0] <= figures[1]:
            return f"{change.words}: {gigabytes(figures[0])}"
    if plan.device == "cpu":
        return "a smaller MODEL_SIZE (position 2), or a machine with more memory"
    return "a smaller MODEL_SIZE (position 2) or SEQ_LEN (position 7), or GPUs with more memory"


def _changes(plan: Plan) -> Iterator[Change]:
    """In the order of what they cost."""
    config, layout = plan.config, plan.layout
    gpu, several = plan.device == "cuda", layout.dp * layout.cp > 1
    splits = several and not config.do
    if splits:
        yield Change(words="DO true (position 14)", config={"do": True})
    if config.batch_size > 1:
        yield Change(words="BATCH_SIZE 1 (position 3)", config={"batch_size": 1})
    wider = [size for size in (2, 4, 8) if size > layout.tp and layout.dp % (size // layout.tp or 1) == 0]
    for size in wider:
        sp = {"sp": True} if gpu else {}
        yield Change(words=f"TP {size} and SP true (positions 10, 13), on the same ranks", config=sp, tp=size)
    recomputes = config.ac not in ("full", "offload")
    if recomputes:
        yield Change(words="AC full (position 17)", config={"ac": "full"})
    if gpu and config.optimizer_offload == "false" and config.pr in ("bf16", "fp16", "fp8"):
        offload = {"do": True, "optimizer_offload": "auto"}
        yield Change(words="OPTIMIZER_OFFLOAD auto (position 18)", config=offload)
        if recomputes:
            both = "AC full and OPTIMIZER_OFFLOAD auto (positions 17, 18)"
            yield Change(words=both, config={**offload, "ac": "full"})
    if recomputes:
        for size in wider:
            words = f"TP {size}, SP true and AC full (positions 10, 13, 17)"
            yield Change(words=words, config={"ac": "full", "sp": gpu or config.sp}, tp=size)
    for times in MORE_RANKS:
        for tp in (layout.tp, 2, 4, 8):
            if tp >= layout.tp and layout.tp * times % tp == 0:
                yield from _larger(plan, times, tp)


def _larger(plan: Plan, times: int, tp: int) -> Iterator[Change]:
    layout, unit = plan.layout, "GPUs" if plan.device == "cuda" else "processes"
    pp = layout.pp * (layout.tp * times // tp)
    ranks = layout.world_size * times
    words = f"TP {tp} x PP {pp} (positions 10, 11) on {ranks} {unit}"
    yield Change(words=words, config={"do": True, "sp": tp > 1}, tp=tp, pp=pp, ranks=times)
    full = {"do": True, "sp": tp > 1, "ac": "full"}
    yield Change(words=f"{words}, AC full (position 17)", config=full, tp=tp, pp=pp, ranks=times)


def _figures(plan: Plan, change: Change) -> tuple[int, int] | None:
    """Bytes that a rank takes after a change, and that it may take then; None if the change cannot be made."""
    config = replace(plan.config, **change.config)
    layout = _layout(plan, change, sp=config.sp)
    if layout is None or config.global_batch_size % (config.batch_size * layout.dp):
        return None
    if config.seq_len // layout.cp % (layout.tp if layout.sequence_parallel else 1):
        return None
    limit = _limit(plan, config, layout)
    fit = fit_memory(config, plan.variables, plan.model, plan.vocab_rows, layout, plan.device, limit)
    return fit.memory.total, limit


def _limit(plan: Plan, config: RunConfig, layout: Layout) -> int:
    """More processes on the CPU share the same RAM; on GPUs the buffers of overlapping transfers come and go."""
    assert plan.memory_limit is not None
    if plan.device == "cpu":
        ram = (plan.memory_limit + PROCESS_BYTES) * plan.layout.world_size
        return ram // layout.world_size - PROCESS_BYTES
    _, before = overlap_of(plan.config, plan.variables, plan.model, plan.layout, plan.device)
    _, after = overlap_of(config, plan.variables, plan.model, layout, plan.device)
    return plan.memory_limit + before - after


def _layout(plan: Plan, change: Change, *, sp: bool) -> Layout | None:
    old = plan.layout
    tp, pp = change.tp or old.tp, change.pp or old.pp
    world = old.world_size * change.ranks
    balance = balances(plan.variables, plan.device)
    cut = cut_layers(plan.model, plan.vocab_rows, plan.config.seq_len, pp=pp, chunks=old.chunks, balance=balance)
    if cut is None or world % (tp * pp * old.cp) or tensor_parallel_problem(plan.model, tp):
        return None
    return replace(
        old,
        nodes=1,
        processes=world,
        tp=tp,
        pp=pp,
        dp=world // (tp * pp * old.cp),
        sequence_parallel=sp and tp > 1,
        stage_layers=cut[0],
        ends_count=cut[1],
    )
