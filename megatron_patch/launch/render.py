"""The text of `--help` and of a plan."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from megatron_patch.common.messages import Message, Wording
from megatron_patch.common.run_folder import (
    CACHE,
    CHECKPOINTS,
    COMMAND,
    HF,
    LOGS,
    METRICS,
    PLAN,
    STARTUP,
    TENSORBOARD,
    WANDB,
    rank_log,
)
from megatron_patch.common.values import shown
from megatron_patch.launch.cluster.place import CLUSTER_VARIABLES
from megatron_patch.launch.command import Command
from megatron_patch.launch.config import POSITIONS
from megatron_patch.launch.memory import gigabytes, save_bytes
from megatron_patch.launch.plan import Plan, describe_blend
from megatron_patch.launch.variables import VARIABLES

USAGE = "sh run_mcore_llama3_1.sh ENV MODEL_SIZE ... OUTPUT_BASEPATH [--dry-run]      (25 values, in this order)"


def help_text() -> str:
    """The table of positions, the MP_ variables, an example."""
    lines = [USAGE, "", *table(), "", "Environment:"]
    lines += ["  DRY_RUN=1 (or --dry-run after the 25 values) shows the plan and the command, and starts nothing."]
    for variable in VARIABLES:
        default = "" if variable.default is None else f" [{shown(variable.default)}]"
        lines += [f"  {variable.name:<31} {variable.meaning}{default}: {variable.kind.valid}"]
    lines += [f"  Under ENV=dlc also {', '.join(CLUSTER_VARIABLES)}.", "", "Example:", f"  {example()}"]
    return "\n".join(lines)


def table() -> Iterator[str]:
    """The 25 positions: number, name, meaning, valid values, example."""
    for row in POSITIONS:
        yield f"  {row.number:>2}  {row.name:<25} {row.meaning}"
        yield f"      {'':<25} valid: {row.kind.valid}; e.g. {row.example}"


def example() -> str:
    """A command line of the examples of all positions."""
    return "MP_TOKENIZER_PATH=/models/Llama-3.1-8B sh run_mcore_llama3_1.sh " + " ".join(
        row.example for row in POSITIONS
    )


def short_plan(plan: Plan) -> str:
    """What a real start prints at once; the ranks tell model, device and layout a few seconds later."""
    lines = [_row("start", _start(plan))]
    if not plan.finished:
        lines += [*_schedule_lines(plan), *_remarks(plan), _row("output", plan.output)]
    return "\n".join(lines)


def full_plan(plan: Plan, command: Command) -> str:
    """What a dry run prints."""
    lines = [*_title(plan), *_layout_lines(plan), *_schedule_lines(plan), *_data_lines(plan), *_memory_lines(plan)]
    lines += [*_file_lines(plan), *_remarks(plan), "", "command", command.shell()]
    return "\n".join(lines)


def _row(name: str, text: str) -> str:
    return f"{name:<12}{text}"


def _title(plan: Plan) -> Iterator[str]:
    model, config = plan.model, plan.config
    parameters = model.num_parameters(plan.vocab_size)
    size = f"{parameters / 1e9:.2f} B" if parameters >= 1e9 else f"{parameters / 1e6:.1f} M"
    padded = f" padded to {plan.vocab_rows}" if plan.vocab_rows != plan.vocab_size else ""
    yield _row(
        "model",
        f"{model.name}: {size} parameters, {model.num_layers} layers, hidden {model.hidden_size}, "
        f"FFN {model.ffn_hidden_size}, {model.num_attention_heads} heads ({model.num_query_groups} KV), "
        f"vocabulary {plan.vocab_size}{padded}",
    )
    device = "CPU" if plan.device == "cpu" else plan.gpu.name if plan.gpu else "GPU"
    yield _row("mode", f"{'finetuning' if config.sft else 'pretraining'} in {config.pr} on {device}")
    yield _row("start", _start(plan))


def _start(plan: Plan) -> str:
    if plan.finished:
        return f"finished: iteration {plan.resume_iteration} of {plan.schedule.train_iters} is done and saved"
    if plan.resume_iteration is not None:
        return f"resuming from iteration {plan.resume_iteration} of {plan.schedule.train_iters} in {plan.checkpoints}"
    if plan.weights.kind == "hf":
        return f"weights from the Hugging Face folder {plan.weights.path}"
    if plan.weights.kind == "mcore":
        step = f"iteration {plan.weights.step}" if plan.weights.step else "the release"
        return f"weights from {step} of {plan.weights.path}"
    return f"random weights, seed {plan.variables.seed}"


def _layout_lines(plan: Plan) -> Iterator[str]:
    layout = plan.layout
    machines = f"{layout.nodes} machines x {layout.processes}" if layout.nodes > 1 else f"{layout.processes}"
    yield _row(
        "ranks",
        f"{machines} processes = TP {layout.tp} x PP {layout.pp} x CP {layout.cp} x DP {layout.dp}"
        + (f", {layout.chunks} chunks a stage" if layout.chunks > 1 else "")
        + (", sequence parallel" if layout.sequence_parallel else "")
        + (", distributed optimizer" if plan.config.do else ""),
    )
    for line in layout.describe_groups():
        yield _row("", line)


def _schedule_lines(plan: Plan) -> Iterator[str]:
    schedule, config = plan.schedule, plan.config
    train, warmup = schedule.arithmetic
    yield _row("training", train)
    yield _row("warm-up", warmup)
    rises = f"0 to {config.lr:g} over the warm-up" if schedule.warmup_iters else f"{config.lr:g} at first"
    yield _row("rate", f"{rises}, then a cosine to {config.min_lr:g} at iteration {schedule.decay_iters}")
    micro = f"{schedule.micro_batches} micro batches of {config.batch_size}"
    tokens = f"{config.global_batch_size} sequences x {config.seq_len} tokens = {schedule.tokens_per_iteration} tokens"
    yield _row("batch", f"{tokens}; {micro} on each of {plan.layout.dp} data-parallel ranks")
    if schedule.eval_iters:
        yield _row("validation", f"{schedule.eval_iters} iterations every {schedule.eval_interval}, and at the end")
    yield _row("saving", f"every {schedule.save_interval} iterations, and at the end")


def _data_lines(plan: Plan) -> Iterator[str]:
    yield _row("data", describe_blend(plan.train_data) + _epochs(plan))
    if plan.valid_data is not None:
        yield _row("", f"validation: {describe_blend(plan.valid_data)}")
    elif plan.variables.split:
        yield _row("", f"shares for training and validation: {plan.variables.split}")
    yield _row("tokenizer", f"{plan.tokenizer.model or plan.tokenizer.path} ({plan.tokenizer.ids} ids)")


def _epochs(plan: Plan) -> str:
    """How often the data are read, where one set without weights says it."""
    if plan.config.sft or any(one.tokens is None or one.weight is not None for one in plan.train_data):
        return ""
    tokens = sum(one.tokens or 0 for one in plan.train_data)
    wanted = plan.schedule.train_iters * plan.schedule.tokens_per_iteration
    return f" ({tokens} tokens, read {wanted / tokens:.3g} times)"


def _memory_lines(plan: Plan) -> Iterator[str]:
    memory = plan.memory
    parts = ", ".join(f"{name} {gigabytes(size)}" for name, size in memory.components().items() if size)
    stage = f" of stage {memory.stage}" if plan.layout.pp > 1 else ""
    yield _row("memory", f"about {gigabytes(memory.total)} per rank{stage}: {parts}")
    if memory.host_optimizer:
        yield _row("", f"and {gigabytes(memory.host_optimizer)} of RAM per rank for the offloaded optimizer")
    if plan.memory_limit is not None:
        where = plan.gpu.name if plan.gpu else "RAM that is free now, shared by the processes"
        yield _row("", f"to give: {gigabytes(plan.memory_limit)} ({where})")
    else:
        yield _row("", "the GPU is not here: nothing to compare with")


def _file_lines(plan: Plan) -> Iterator[str]:
    yield _row("files", f"{plan.output}/")
    files = (PLAN, COMMAND, STARTUP, METRICS, f"{LOGS}/{rank_log('N')}", f"{TENSORBOARD}/", f"{CACHE}/")
    yield _row("", ", ".join([*files, *([f"{WANDB}/"] if plan.wandb else [])]))
    if plan.variables.export_hf:
        yield _row("", f"{HF}/: the Hugging Face folder, when training is done")
    saves, keep = plan.schedule.saves(), plan.variables.keep_checkpoints
    kept = f", {f'the newest {keep} are' if keep > 1 else 'the newest is'} kept" if keep and keep < saves else ""
    each = f"{saves} of about {gigabytes(plan.checkpoint_bytes)} each{kept}"
    yield _row("", f"{CHECKPOINTS}/: {each}, {_when_written(plan)}")


def _when_written(plan: Plan) -> str:
    if not plan.background_save:
        return "written between steps"
    copies = plan.layout.processes * save_bytes(plan.memory, plan.precision, plan.layout)
    return f"written while training goes on, from a copy in RAM ({gigabytes(copies)} a machine)"


def remark(note: Message, wording: Wording) -> str:
    """A note as the plan shows it."""
    return _row(wording.text(Message("row-note")), wording.text(note))


def _remarks(plan: Plan) -> Iterator[str]:
    wrap = textwrap.TextWrapper(width=118, subsequent_indent=" " * 12, break_long_words=False, break_on_hyphens=False)
    for note in plan.notes:
        yield wrap.fill(_row("note", note))
    for warning in plan.warnings:
        yield wrap.fill(_row("WARNING", warning))
