"""What a person should hear before a run: choices made for him, consequences, and what will probably go wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from megatron_patch.common.machine import free_disk
from megatron_patch.launch.advice import cheapest_change
from megatron_patch.launch.argv import gathers_fp8, offloads_modules
from megatron_patch.launch.environment import Environment
from megatron_patch.launch.memory import gigabytes, save_bytes
from megatron_patch.launch.plan import Plan
from megatron_patch.launch.warm_start import handover


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
        *_idle_notes(plan),
        *_optimizer_notes(plan),
        *_surroundings_notes(plan, environment),
    ]
    warnings = [*_memory_warnings(plan), *_disk_warnings(plan)]
    return dataclasses.replace(plan, notes=tuple(notes), warnings=tuple(warnings))


def _start_notes(plan: Plan) -> Iterator[str]:
    if plan.earlier.broken:
        broken = ", ".join(plan.earlier.broken)
        yield f"{broken} in {plan.checkpoints}: not written to the end by an earlier run; not used, written anew"
    if plan.resume_iteration is not None and plan.weights.kind != "none":
        yield "PRETRAIN_CHECKPOINT_PATH is not read: the run goes on from its own checkpoint"
    yield from handover(plan)
    if plan.layout.nodes > 1:
        yield "OUTPUT_BASEPATH has to be one folder shared by all machines: every machine looks there for a checkpoint"


def _layout_notes(plan: Plan, environment: Environment) -> Iterator[str]:
    config, layout = plan.config, plan.layout
    if plan.device == "cpu" and plan.knobs.device == "auto":
        yield "no GPU here: the ranks compute on the CPU"
    if plan.device == "cpu" and plan.knobs.nproc is None and plan.cluster is None:
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
    if plan.valid_data is None and plan.knobs.split is None:
        yield "no validation (VALID_DATASET_PATH is none)"


def _idle_notes(plan: Plan) -> Iterator[str]:
    """Values that do nothing beside the others."""
    config, knobs = plan.config, plan.knobs
    if offloads_modules(plan):
        yield "AC=offload in a pipeline moves what attention reads, of every layer; MP_AC_LAYERS does nothing"
    if knobs.ac_layers != 1 and config.ac not in ("full", "offload"):
        yield f"MP_AC_LAYERS={knobs.ac_layers} does nothing under AC={config.ac}"
    if knobs.ac_method != "uniform" and config.ac != "full":
        yield f"MP_AC_METHOD={knobs.ac_method} does nothing under AC={config.ac}"
    if knobs.optimizer_offload_fraction != 1 and config.optimizer_offload != "static":
        yield f"MP_OPTIMIZER_OFFLOAD_FRACTION does nothing under OPTIMIZER_OFFLOAD={config.optimizer_offload}"
    if knobs.fp8_recipe != "tensorwise" and config.pr != "fp8":
        yield f"MP_FP8_RECIPE={knobs.fp8_recipe} does nothing under PR={config.pr}"
    if knobs.attention_backend is not None:
        yield f"attention: MP_ATTENTION_BACKEND={knobs.attention_backend} goes before FL={str(config.fl).lower()}"
    if knobs.allow_unfused_attention and plan.device == "cpu":
        yield "MP_ALLOW_UNFUSED_ATTENTION does nothing on the CPU"


def _optimizer_notes(plan: Plan) -> Iterator[str]:
    """How gradients are summed, the optimizer's state is kept, and weights travel."""
    config, knobs = plan.config, plan.knobs
    if plan.gradient_bf16 and knobs.grad_reduce == "auto":
        yield f"gradients are summed in bf16, over {plan.schedule.micro_batches} micro batches (MP_GRAD_REDUCE=fp32)"
    if plan.precision.adam.compact and not plan.precision.fp8:
        why = "MP_MOMENTS=bf16 brings it along" if knobs.moments == "bf16" else "otherwise it does not fit"
        yield f"the optimizer keeps only the bits of its fp32 weights that the bf16 ones lack: {why}"
    if plan.precision.adam.moments_bf16 and knobs.moments == "auto":
        yield "Adam's moments are kept in bf16, as in fp32 they do not fit (MP_MOMENTS=fp32; OPTIMIZER_OFFLOAD=auto)"
    if config.pr == "fp8" and not gathers_fp8(plan):
        why = "DO is false" if not config.do else "the optimizer is offloaded"
        yield f"weights travel in bf16, not fp8: {why}"
    if config.optimizer_offload == "auto":
        yield _offload_note(plan)


def _surroundings_notes(plan: Plan, environment: Environment) -> Iterator[str]:
    if plan.knobs.background_save == "auto" and not plan.background_save:
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
    written, keep = plan.schedule.saves(done), plan.knobs.keep_checkpoints
    beside = 0 if done else 1  # an older one goes when a newer one is complete; of a run that goes on one is there
    most = min(written, keep + beside) if keep else written
    if each > free:
        yield f"one checkpoint takes about {gigabytes(each)}, the disk has {gigabytes(free)} free"
    elif most * each > free:
        fits = free // each - beside
        change = f"MP_KEEP_CHECKPOINTS={fits}" if fits else "a larger SAVE_INTERVAL (position 19), or another disk"
        yield f"{most} checkpoints take about {gigabytes(most * each)}, the disk has {gigabytes(free)} free: {change}"
