"""The text of `--help` and of a plan."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from megatron_patch.common import tools
from megatron_patch.common.messages import Message, Wording
from megatron_patch.common.terminal import padded, width_of
from megatron_patch.common.values import meaning_of, shown
from megatron_patch.launch.cluster.place import CLUSTER_VARIABLES
from megatron_patch.launch.command import Command
from megatron_patch.launch.config import POSITIONS, kind_of
from megatron_patch.launch.memory import gigabytes, save_bytes
from megatron_patch.launch.plan import Plan, describe_blend
from megatron_patch.launch.schedule import Schedule, count_iterations
from megatron_patch.launch.step_time import time_of_plan
from megatron_patch.launch.variables import VARIABLES
from megatron_patch.models import default_family, families, sizes
from megatron_patch.runs.folder import (
    CACHE,
    CHECKPOINTS,
    COMMAND,
    EXPORTS,
    LOGS,
    METRICS,
    PLAN,
    STARTUP,
    TENSORBOARD,
    WANDB,
    rank_log,
)


def _command(family: str | None) -> str:
    """What a person types before the 25 values.

    Args:
        family: whose script is running.
    """
    script = (families()[family] if family is not None else default_family()).driver.rpartition("/")[2]
    return tools.started_as or f"sh {script}"


def usage(wording: Wording, family: str | None = None) -> str:
    """One line."""
    return wording.text(Message("driver-usage", command=_command(family)))


def help_text(wording: Wording, family: str | None = None) -> str:
    """The table of positions, the MP_ variables, an example."""
    lines = [usage(wording, family), "", *table(wording, family), "", wording.text(Message("driver-environment"))]
    lines += [wording.text(Message("driver-dry-run"))]
    for variable in VARIABLES:
        default = "" if variable.default is None else f" [{shown(variable.default)}]"
        values = {"meaning": meaning_of(variable, wording.language), "valid": variable.kind.expects}
        lines += [wording.text(Message("driver-variable", name=f"{variable.name:<31}", default=default, **values))]
    lines += [wording.text(Message("driver-dlc", names=CLUSTER_VARIABLES)), ""]
    return "\n".join([*lines, wording.text(Message("driver-example")), f"  {example(family)}"])


def table(wording: Wording, family: str | None = None) -> Iterator[str]:
    """The 25 positions: number, name, meaning, valid values, example."""
    for row in POSITIONS:
        valid = Message("driver-valid", valid=kind_of(row, family).expects, example=examples(family)[row.name])
        yield f"  {row.number:>2}  {row.name:<25} {meaning_of(row, wording.language)}"
        yield f"      {'':<25} {wording.text(valid)}"


def examples(family: str | None) -> dict[str, str]:
    """A value for each position, with a size of the family."""
    found = {row.name: row.example for row in POSITIONS}
    if family is not None:
        known = [*sizes(family)]
        found["MODEL_SIZE"] = found["MODEL_SIZE"] if found["MODEL_SIZE"] in known else known[-1]
    return found


def example(family: str | None = None) -> str:
    """A command line of the examples of all positions, with a size of the family."""
    typed = examples(family)
    folder = "Llama-3.1-8B" if family is None else sizes(family)[typed["MODEL_SIZE"]].name
    return f"MP_TOKENIZER_PATH=/models/{folder} {_command(family)} {' '.join(typed.values())}"


PlanRow = tuple[str, Message]
"""What stands at the left, by its code, empty under another row; and what is said."""


def short_plan(plan: Plan, wording: Wording) -> str:
    """What a real start prints at once; the ranks tell model, device and layout a few seconds later."""
    rows = [("row-start", _start(plan))]
    if not plan.finished:
        rows += [*_schedule_rows(plan), *_remarks(plan), ("row-output", as_it_is(plan.output))]
    return _table(rows, wording)


def full_plan(plan: Plan, command: Command, wording: Wording) -> str:
    """What a dry run prints."""
    rows = [
        *_title(plan),
        *_layout_rows(plan),
        *_schedule_rows(plan),
        *_data_rows(plan),
        *_memory_rows(plan),
        *_time_rows(plan),
    ]
    rows += [*_file_rows(plan), *_remarks(plan)]
    return "\n".join([_table(rows, wording), "", wording.text(Message("row-command")), command.shell()])


def as_it_is(text: str) -> Message:
    """Names of files and the like, which every language shares."""
    return Message("uncoded", text=text)


def remark(note: Message, wording: Wording) -> str:
    """A note as the plan shows it."""
    return _table([("row-note", note)], wording)


def _table(rows: Iterable[PlanRow], wording: Wording) -> str:
    """Two columns; notes and warnings are wrapped, paths and commands are left whole."""
    lines = []
    for code, message in rows:
        head = wording.text(Message(code)) if code else ""
        line = padded(head, 12) + wording.text(message)
        lines.append(wrap(line, 118, " " * 12) if code in ("row-note", "row-warning") else line)
    return "\n".join(lines)


def wrap(text: str, width: int, indent: str) -> str:
    """Lines of at most `width` columns, broken at spaces and between Chinese characters; a long word stays whole."""
    lines = [""]
    for part in re.findall(r"[\u2e80-\uffef]|[^\s\u2e80-\uffef]+|\s+", text):
        if width_of(lines[-1] + part) > width and lines[-1].strip() and not part.isspace() and part not in NEVER_FIRST:
            lines[-1] = lines[-1].rstrip()
            lines.append(indent)
        lines[-1] += part
    return "\n".join(lines)


NEVER_FIRST = "，。；：、）？！"
"""Marks that do not begin a line."""


def _title(plan: Plan) -> Iterator[PlanRow]:
    model, config = plan.model, plan.config
    parameters = model.num_parameters(plan.vocab_size)
    values = {
        "name": model.name,
        "size": f"{parameters / 1e9:.2f} B" if parameters >= 1e9 else f"{parameters / 1e6:.1f} M",
        "layers": model.num_layers,
        "hidden": model.hidden_size,
        "ffn": model.ffn_hidden_size,
        "heads": model.num_attention_heads,
        "groups": model.num_query_groups,
        "vocabulary": plan.vocab_size,
    }
    if plan.vocab_rows == plan.vocab_size:
        yield "row-model", Message("model", **values)
    else:
        yield "row-model", Message("model-padded", **values, rows=plan.vocab_rows)
    device = "CPU" if plan.device == "cpu" else plan.gpu.name if plan.gpu else "GPU"
    yield "row-mode", Message("mode-finetuning" if config.sft else "mode-pretraining", pr=config.pr, device=device)
    yield "row-start", _start(plan)


def _start(plan: Plan) -> Message:
    step, last, weights = plan.resume_iteration, plan.schedule.train_iters, plan.weights
    if plan.ended_early:
        return Message("start-ended-early", step=step, last=last)
    if plan.finished:
        return Message("start-finished", step=step, last=last)
    if step is not None:
        return Message("start-resumed", step=step, last=last, folder=plan.checkpoints)
    if weights.kind == "hf":
        return Message("start-hf", path=weights.path)
    if weights.kind == "mcore" and weights.step:
        return Message("start-mcore", step=weights.step, path=weights.path)
    if weights.kind == "mcore":
        return Message("start-release", path=weights.path)
    return Message("start-random", seed=plan.variables.seed)


def _layout_rows(plan: Plan) -> Iterator[PlanRow]:
    layout = plan.layout
    more = [Message("ranks-chunks", chunks=layout.chunks)] if layout.chunks > 1 else []
    more += [Message("ranks-sp")] if layout.sequence_parallel else []
    more += [Message("ranks-do")] if plan.config.do else []
    values = {"processes": layout.processes, "tp": layout.tp, "pp": layout.pp, "cp": layout.cp, "dp": layout.dp}
    if layout.nodes > 1:
        yield "row-ranks", Message("ranks-nodes", nodes=layout.nodes, **values, more=joined(more))
    else:
        yield "row-ranks", Message("ranks", **values, more=joined(more))
    for line in layout.describe_groups():
        yield "", line


def joined(messages: list[Message]) -> Message:
    """One after the other, without a comma between them."""
    found = as_it_is("")
    for message in messages:
        found = Message("joined", first=found, second=message)
    return found


def _schedule_rows(plan: Plan) -> Iterator[PlanRow]:
    schedule, config = plan.schedule, plan.config
    train, warmup = schedule.arithmetic
    yield "row-training", train
    yield "row-warmup", warmup
    rate = "rate-warmup" if schedule.warmup_iters else "rate"
    yield "row-rate", Message(rate, lr=config.lr, curve=_curve(plan))
    yield "", Message("rate-values", values=[Message("rate-value", **value) for value in _rates(schedule)])
    yield from _decay_rows(plan)
    yield from _batch_rows(plan)
    if schedule.eval_iters:
        values = {"iterations": schedule.eval_iters, "interval": schedule.eval_interval}
        yield "row-validation", Message("validation", **values)
        yield from _epoch_rows(plan, "MP_EVAL_INTERVAL", schedule.eval_interval)
    grows = any(at < schedule.train_iters for at in schedule.batches.changes())
    yield "row-saving", Message("saving-grown" if grows else "saving", interval=schedule.save_interval)
    yield from _epoch_rows(plan, "SAVE_INTERVAL", schedule.save_interval)


def _decay_rows(plan: Plan) -> Iterator[PlanRow]:
    """How the end and the length of the decay came about, in epochs."""
    epochs, schedule, config, name = plan.epochs, plan.schedule, plan.config, "MP_LR_DECAY_ITERS"
    if epochs is not None and name in epochs.asked and schedule.rate.style != "constant":
        _, words = count_iterations(epochs.tokens_of(name), config.sft, schedule.batches, config.seq_len)
        yield "", epochs.words(name, schedule.decay_iters, words, sft=config.sft, batches=schedule.batches)
    if schedule.rate.style == "WSD":
        yield from _epoch_rows(plan, "MP_LR_WSD_DECAY_ITERS", schedule.wsd_iters)


def _epoch_rows(plan: Plan, name: str, iterations: int) -> Iterator[PlanRow]:
    """How an interval in epochs came about."""
    if plan.epochs is None:
        return
    batch, seq_len = plan.config.global_batch_size, None if plan.config.sft else plan.config.seq_len
    for words in plan.epochs.interval_words(name, iterations, batch=batch, seq_len=seq_len):
        yield "", words


def _curve(plan: Plan) -> Message:
    """What the learning rate does after the warm-up."""
    schedule, rate = plan.schedule, plan.schedule.rate
    end = schedule.decay_iters
    return {
        "cosine": Message("curve-cosine", min_lr=rate.floor, end=end),
        "linear": Message("curve-linear", min_lr=rate.floor, end=end),
        "constant": Message("curve-constant"),
        "inverse-square-root": Message("curve-inverse-root", min_lr=rate.floor),
        "WSD": Message("curve-wsd", start=end - schedule.wsd_iters, style=rate.wsd_style, min_lr=rate.floor, end=end),
    }[rate.style]


def _rates(schedule: Schedule) -> Iterator[dict[str, object]]:
    """The learning rate of a few iterations: the first, where the curve bends, in the middle, the last."""
    last = schedule.train_iters
    bends = {1, schedule.warmup_iters + 1, schedule.decay_iters - schedule.wsd_iters + 1, schedule.decay_iters + 1}
    for iteration in sorted({at for at in {*bends, (last + 1) // 2, last} if 1 <= at <= last}):
        yield {"iteration": iteration, "rate": schedule.rate_of(iteration)}


def _batch_rows(plan: Plan) -> Iterator[PlanRow]:
    """The batch; where it grows a line for each of its stages."""
    config, schedule = plan.config, plan.schedule
    first = [0, *(at for at in schedule.batches.changes() if at < schedule.train_iters)]
    several = len(first) > 1
    for number, start in enumerate(first):
        size = schedule.batches.batch_after(schedule.batches.samples(start))
        values = {"sequences": size, "length": config.seq_len, "tokens": size * config.seq_len}
        micro = {"micro_batches": size // (config.batch_size * plan.layout.dp), "micro": config.batch_size}
        said = Message("batch", **values, **micro, dp=plan.layout.dp)
        yield "" if number else "row-batch", Message("batch-from", iteration=start + 1, batch=said) if several else said


def _data_rows(plan: Plan) -> Iterator[PlanRow]:
    for number, line in enumerate(_training_data(plan)):
        yield "" if number else "row-data", line
    if plan.valid_data is not None:
        yield "", Message("data-validation", data=describe_blend(plan.valid_data))
    elif plan.variables.split:
        yield "", Message("data-shares", split=plan.variables.split)
    path = plan.tokenizer.model or plan.tokenizer.path
    yield "row-tokenizer", Message("tokenizer", path=path, ids=plan.tokenizer.ids)


MOST_SOURCES = 20
"""Data sets of a blend that have a line each."""


def _training_data(plan: Plan) -> Iterator[Message]:
    """What is read, and how often: for each data set of a blend with weights."""
    sources = plan.train_data
    counts = [round(_training_share(plan) * one.tokens) for one in sources if one.tokens is not None]
    if plan.config.sft or len(counts) < len(sources) or not all(counts):
        yield as_it_is(describe_blend(sources))
        return
    wanted = plan.schedule.samples * plan.config.seq_len
    if sources[0].weight is None:
        yield Message("data-read", data=describe_blend(sources), tokens=sum(counts), times=wanted / sum(counts))
        return
    shares = [(one.weight or 0) / sum(other.weight or 0 for other in sources) for one in sources]
    times = [wanted * share / tokens for share, tokens in zip(shares, counts, strict=True)]
    for one, share, tokens, often in list(zip(sources, shares, counts, times, strict=True))[:MOST_SOURCES]:
        yield Message("data-part", share=100 * share, data=one.path, tokens=tokens, times=often)
    if rest := times[MOST_SOURCES:]:
        yield Message("data-parts-more", count=len(rest), least=min(rest), most=max(rest))


def _training_share(plan: Plan) -> float:
    """The part of DATASET_PATH that MP_SPLIT leaves for training."""
    shares = [float(share) for share in (plan.variables.split or "1").split(",")]
    return shares[0] / sum(shares)


MEMORY = {
    "weights": Message("memory-weights"),
    "gradients": Message("memory-gradients"),
    "optimizer": Message("memory-optimizer"),
    "activations": Message("memory-activations"),
    "logits": Message("memory-logits"),
    "workspace": Message("memory-workspace"),
    "step": Message("memory-step"),
}
"""The parts of a rank's memory."""


def _memory_rows(plan: Plan) -> Iterator[PlanRow]:
    memory, limit = plan.memory, plan.memory_limit
    sizes = {name: gigabytes(size) for name, size in memory.components().items() if size}
    parts = [Message("memory-part", name=MEMORY[name], size=size) for name, size in sizes.items()]
    if plan.layout.pp > 1:
        yield "row-memory", Message("memory-stage", total=gigabytes(memory.total), stage=memory.stage, parts=parts)
    else:
        yield "row-memory", Message("memory", total=gigabytes(memory.total), parts=parts)
    if memory.host_optimizer:
        yield "", Message("memory-host", size=gigabytes(memory.host_optimizer))
    if limit is None:
        yield "", Message("memory-unknown")
    elif plan.gpu:
        yield "", Message("memory-there", size=gigabytes(limit), where=plan.gpu.name)
    else:
        yield "", Message("memory-there-ram", size=gigabytes(limit))


def _time_rows(plan: Plan) -> Iterator[PlanRow]:
    """What a step will take, where the GPU's rates are known."""
    predicted = time_of_plan(plan)
    if predicted is None:
        return
    step, schedule = predicted.total, plan.schedule
    left = schedule.samples - schedule.batches.samples(plan.resume_iteration or 0)
    hours = step * left / schedule.samples_per_iteration / 3600
    rate = schedule.tokens_per_iteration / step / plan.layout.world_size
    yield "row-time", Message("time", step=f"{step:.3g}", rate=f"{rate:,.0f}", hours=f"{hours:.1f}")


def _file_rows(plan: Plan) -> Iterator[PlanRow]:
    yield "row-files", as_it_is(f"{plan.output}/")
    names = (PLAN, COMMAND, STARTUP, METRICS, f"{LOGS}/{rank_log('N')}", f"{TENSORBOARD}/", f"{CACHE}/")
    yield "", as_it_is(", ".join([*names, *([f"{WANDB}/"] if plan.wandb else [])]))
    if plan.variables.export_hf:
        told = {"folder": f"{Path(plan.export).name}/", "each": gigabytes(plan.export_bytes)}
        every = Message("files-hf-every", exports=f"{EXPORTS}/", **told)
        yield "", every if plan.exports_every else Message("files-hf", **told)
    saves, keep = plan.schedule.saves(), plan.variables.keep_checkpoints
    values = {
        "folder": f"{CHECKPOINTS}/",
        "saves": saves,
        "each": gigabytes(plan.checkpoint_bytes),
        "when": _when_written(plan),
    }
    if keep and keep < saves:
        yield "", Message("files-checkpoints-keep", **values, keep=keep)
    else:
        yield "", Message("files-checkpoints", **values)


def _when_written(plan: Plan) -> Message:
    if not plan.background_save:
        return Message("files-between")
    copies = plan.layout.processes * save_bytes(
        plan.memory, plan.precision, plan.layout, optimizer=plan.variables.save_optimizer
    )
    return Message("files-background", copies=gigabytes(copies))


def _remarks(plan: Plan) -> Iterator[PlanRow]:
    yield from (("row-note", note) for note in plan.notes)
    yield from (("row-warning", warning) for warning in plan.warnings)
