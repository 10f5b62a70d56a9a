"""The parts of the page about training runs: tiles, description, curves, speed, memory, commands."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from megatron_patch.charts.bars import stacked_bar
from megatron_patch.charts.lines import Point, Series, line_chart, smooth, value_range
from megatron_patch.charts.svg import COLORS
from megatron_patch.charts.text import Text, Words, both, compact, gigabytes
from megatron_patch.common.hardware import peak_tflops
from megatron_patch.common.messages import Message, named
from megatron_patch.launch.command import words_before_values
from megatron_patch.launch.memory import PROCESS_BYTES
from megatron_patch.launch.variables import VARIABLES
from megatron_patch.models import by_model_type, default_family, family_of
from megatron_patch.report.collect import Run
from megatron_patch.report.records import PlanFile, PlanModel
from megatron_patch.runs.validations import read_best

ITERATION = Text("iteration", "迭代")
MARKS = 4
"""Color of events: red."""
WIDE, HALF = 960.0, 470.0
"""Widths of charts, as they are in the page."""
PARTS: dict[str, Words] = {
    "weights": Text("weights", "权重"),
    "gradients": Text("gradients", "梯度"),
    "optimizer": Text("optimizer", "优化器"),
    "activations": Text("activations", "激活值"),
    "logits": Text("logits", "logits"),
    "workspace": Text("workspace", "工作区"),
    "step": Text("optimizer's step", "优化器更新"),
}
"""Of the plan's memory, all that lies on the device."""


class Tile(NamedTuple):
    """What a reader wants first."""

    name: Words
    value: Words
    remark: Words


@dataclass(kw_only=True)
class Figure:
    """Charts with a common legend, as SVG text."""

    legend: list[Series]
    wide: str = ""
    """Empty: there is none."""
    pair: list[str] = field(default_factory=list)


@dataclass(kw_only=True)
class MemoryBar:
    """What the plan foresaw for one rank, and what was measured."""

    name: str
    """Of the run."""
    keys: list[Words]
    """Names and sizes of the segments, in their order."""
    bar: str
    limit: Words
    """What there was to give; empty where that is not known."""


def color_of(number: int) -> int:
    """Of a run."""
    return number % len(COLORS)


def device_of(run: Run) -> str:
    """Name of one device."""
    if run.plan is None:
        return ""
    return (run.plan.gpu.name if run.plan.gpu else "") or run.plan.device.upper()


def peak_of(run: Run) -> float | None:
    """Dense bf16 TFLOP/s of one device, where the data sheet is known."""
    gpu = run.plan.gpu if run.plan else None
    return peak_tflops(gpu.name) if gpu and gpu.name else None


def median(values: Sequence[float]) -> float | None:
    """Of the second half, where start-up is over; None of nothing."""
    later = sorted(values[len(values) // 2 :])
    return later[len(later) // 2] if later else None


def tiles(run: Run) -> list[Tile]:
    """Loss, validation, tokens, throughput, memory: what there is of them."""
    return [*_progress_tiles(run), *_speed_tiles(run), *_memory_tiles(run)]


def _progress_tiles(run: Run) -> list[Tile]:
    found: list[Tile] = []
    if losses := run.points("loss"):
        first = f"{losses[0][1]:.3f}"
        found.append(Tile(Text("loss", "损失"), f"{losses[-1][1]:.3f}", Text(f"from {first}", f"起始 {first}")))
    if run.validation:
        at, loss = run.validation[-1]
        where = Text(f"iteration {at}", f"第 {at} 次迭代")
        found.append(Tile(Text("validation loss", "验证损失"), f"{loss:.3f}", where))
    best = read_best(run.folder)
    if isinstance(best.get("iteration"), int) and isinstance(best.get("validation_loss"), float):
        at = best["iteration"]
        where = Text(f"iteration {at}, kept", f"第 {at} 次迭代，已保留")
        found.append(Tile(Text("best checkpoint", "最佳检查点"), f"{best['validation_loss']:.3f}", where))
    if run.steps:
        of = f"{run.done} / {run.total}" if run.total else str(run.done)
        tokens = compact(run.steps[-1].tokens or 0)
        found.append(Tile(Text("tokens", "词元"), tokens, Text(f"iteration {of}", f"迭代 {of}")))
    return found


def _speed_tiles(run: Run) -> list[Tile]:
    rate = median([v for _, v in run.points("tokens_per_s_per_gpu")])
    speed, peak = median([v for _, v in run.points("tflops_per_gpu")]), peak_of(run)
    found: list[Tile] = []
    if rate:
        found.append(Tile(Text("tokens/s", "词元/秒"), compact(rate), Text("per device, median", "每设备，中位数")))
    if speed and peak:
        found.append(Tile("MFU", f"{100 * speed / peak:.1f}%", f"{compact(speed)} / {compact(peak)} TFLOP/s"))
    elif speed:
        why = Text("peak unknown: no MFU", "峰值未知，无法计算 MFU")
        found.append(Tile(Text("TFLOP/s per device", "每设备 TFLOP/s"), compact(speed), why))
    return found


def _memory_tiles(run: Run) -> list[Tile]:
    used = [value for _, value in run.points("peak_memory_bytes")]
    held = max((value for _, value in run.points("reserved_bytes")), default=0.0)
    remark = Text("highest rank", "最高的进程")
    if held:
        size = gigabytes(held)
        remark = Text(f"highest rank; {size} reserved", f"最高的进程；已保留 {size}")
    return [Tile(Text("peak memory", "内存峰值"), gigabytes(max(used)), remark)] if used else []


def describe(run: Run) -> list[tuple[Words, Words]]:
    """What ran, in one line each, from the plan."""
    plan = run.plan
    if plan is None:
        return []
    found: list[tuple[Words, Words]] = [(Text("model", "模型"), _model(plan.model, plan.vocab_size))]
    if "SFT" in plan.values:
        task = Text("finetuning", "指令微调") if plan.values["SFT"] else Text("pretraining", "预训练")
        precision = plan.values.get("PR")
        found.append((Text("task", "任务"), Text(f"{task.en} in {precision}", f"{task.zh}，{precision}")))
    found.append((Text("devices", "设备"), _devices(run, plan)))
    if words := _schedule(plan):
        found.append((Text("schedule", "计划"), words))
    for name, key in ((Text("data", "数据"), "DATASET_PATH"), (Text("start", "起点"), "PRETRAIN_CHECKPOINT_PATH")):
        found += [(name, str(plan.values[key]))] if key in plan.values else []
    if run.startup:
        parts = [
            Message("run-startup-part", name=named(part), seconds=took)
            for part, took in run.startup.parts.items()
            if took >= 0.05
        ]
        took = both(Message("report-first-step", seconds=run.startup.seconds, parts=parts))
        found += [(Text("first step", "首次迭代"), took)] if parts else []
    return found


def _model(shape: PlanModel, vocab_size: int | None) -> Words:
    known, vocab = shape.config(), vocab_size or shape.vocab_size
    if known is None or vocab is None:
        return shape.name
    size, heads = compact(known.num_parameters(vocab)), known.num_attention_heads
    return Text(
        f"{known.name}: {size} parameters, {known.num_layers} layers, hidden {known.hidden_size}, "
        f"{heads} heads ({known.num_query_groups} KV), vocabulary {vocab}",
        f"{known.name}：{size} 参数，{known.num_layers} 层，隐藏维度 {known.hidden_size}，"
        f"{heads} 个注意力头（{known.num_query_groups} 个 KV），词表 {vocab}",
    )


def _devices(run: Run, plan: PlanFile) -> Words:
    layout = plan.layout
    sizes: list[Message | str] = [f"TP {layout.tp}", f"PP {layout.pp}", f"CP {layout.cp}", f"DP {layout.dp}"]
    sizes += [Message("report-chunks", chunks=layout.chunks)] if layout.chunks > 1 else []
    sizes += ["SP"] if layout.sequence_parallel else []
    sizes += [Message("report-do")] if plan.values.get("DO") else []
    machines = {"nodes": layout.nodes, "processes": layout.processes, "device": device_of(run)}
    return both(Message("report-devices", **machines, sizes=sizes))


def _schedule(plan: PlanFile) -> Words:
    schedule, first, last = plan.schedule, plan.values.get("LR"), plan.values.get("MIN_LR")
    told = [one if isinstance(one, Text) else Text(one, one) for one in plan.told("arithmetic")[:1]]
    english, chinese = [one.en for one in told], [one.zh for one in told]
    if isinstance(first, int | float) and isinstance(last, int | float):
        rates, warmup = f"{first:g} → {last:g}", schedule.warmup_iters or 0
        english.append(f"learning rate {rates}, {warmup} iterations of warm-up")
        chinese.append(f"学习率 {rates}，预热 {warmup} 次迭代")
    return Text("; ".join(english), "；".join(chinese)) if english else ""


def driver_command(run: Run) -> str:
    """The 25 values, and the variables that were set; of earlier versions the MP_ variables that are not as they would
    be anyway."""
    values = run.plan.values if run.plan else {}
    given = run.plan.given if run.plan else None

    def typed(value: object) -> str:
        return str(value).lower() if isinstance(value, bool) else str(value)

    usual = {variable.name: variable.default for variable in VARIABLES}
    if given is None:
        given = {n: typed(v) for n, v in values.items() if n.startswith("MP_") and v != usual.get(n)}
    variables = [f"{name}={shlex.quote(value)}" for name, value in given.items()]
    positions = [shlex.quote(typed(value)) for name, value in values.items() if not name.startswith("MP_")]
    model = run.plan.model.config() if run.plan else None
    known = model is not None and isinstance(model.model_type, str) and model.model_type in by_model_type()
    script = (family_of(model) if model is not None and known else default_family()).driver
    return " ".join([*variables, *words_before_values(Path(script)), *positions]) if positions else ""


def curves(runs: Sequence[Run]) -> Figure:
    """Loss, learning rate and gradient norm of all runs."""
    loss: list[Series] = []
    for number, run in enumerate(runs):
        loss += _smoothed(run, run.points("loss"), number)
        words = Text(f"{run.name}: validation", f"{run.name}：验证")
        loss.append(Series(label=words, points=run.validation, color=color_of(number), kind="dots", legend=False))
    if marks := [mark for run in runs for mark in _marks(run)]:
        label = Text("events, listed below", "事件，见下方列表")
        loss.append(Series(label=label, points=sorted(marks), color=MARKS, kind="dots"))
    shown = [y for one in loss if one.kind != "faint" for _, y in one.points]
    shown += [min(y for _, y in one.points) for one in loss if one.kind == "faint"]  # spikes may leave at the top
    title = Text("loss (bold: smoothed; dots: validation)", "损失（粗线：平滑；圆点：验证）")
    limits = value_range(shown, False) if shown else None
    chart = line_chart(loss, title=title, x_label=ITERATION, y_range=limits, width=WIDE, height=320)
    rate = _half(_plain(runs, "lr"), Text("learning rate", "学习率"))
    norm = _half(_plain(runs, "grad_norm"), Text("gradient norm, before clipping", "梯度范数（裁剪前）"), log_y=True)
    pair = [rate, norm]
    if any(len({size for _, size in run.points("batch")}) > 1 for run in runs):
        pair.append(_half(_plain(runs, "batch"), Text("batch, sequences", "批次（序列数）")))
    return Figure(legend=loss, wide=chart, pair=pair)


def _marks(run: Run) -> list[Point]:
    """Where something happened: on the loss of the last step before it."""
    losses = run.points("loss")
    marks = []
    for event in run.events:
        before = [loss for at, loss in losses if event.iteration is not None and at <= event.iteration]
        marks += [(float(event.iteration or 0), before[-1])] if before else []
    return marks


def speed(runs: Sequence[Run]) -> Figure:
    """Tokens per second, and MFU; TFLOP/s where no peak is known."""
    rates: list[Series] = []
    shares: list[Series] = []
    flops: list[Series] = []
    for number, run in enumerate(runs):
        peak = peak_of(run)
        rates += _smoothed(run, run.points("tokens_per_s_per_gpu"), number)
        shares += _smoothed(run, run.points("tflops_per_gpu", 100 / peak), number) if peak else []
        flops += _smoothed(run, run.points("tflops_per_gpu"), number)
    if shares:
        second = _half(shares, Text("MFU, % of dense bf16", "MFU，稠密 bf16 峰值的百分比"))
    else:
        second = _half(flops, Text("TFLOP/s per device", "每设备 TFLOP/s"))
    first = _half(rates, Text("tokens/s per device", "每设备词元/秒"))
    return Figure(legend=rates, pair=[first, second])


def _smoothed(run: Run, points: list[Point], number: int) -> list[Series]:
    """A run's line; a long one in bold over what it smooths."""
    color = color_of(number)
    if len(points) <= 50:
        return [Series(label=run.name, points=points, color=color)]
    pale = Series(label=run.name, points=points, color=color, kind="faint", legend=False)
    return [pale, Series(label=run.name, points=smooth(points, len(points) // 50), color=color)]


def _plain(runs: Sequence[Run], key: str) -> list[Series]:
    return [Series(label=run.name, points=run.points(key), color=color_of(n)) for n, run in enumerate(runs)]


def _half(series: Sequence[Series], title: Words, *, log_y: bool = False) -> str:
    return line_chart(series, title=title, x_label=ITERATION, log_y=log_y, width=HALF)


def memory(run: Run) -> MemoryBar | None:
    """The plan's parts side by side, with a mark for their sum and one for what was measured."""
    plan = run.plan
    if plan is None or not plan.memory:
        return None
    segments: list[tuple[Words, float]] = [
        (name, plan.memory[key]) for key, name in PARTS.items() if plan.memory.get(key)
    ]
    if plan.device == "cpu":
        segments.append((Text("Python and libraries", "Python 与各库"), PROCESS_BYTES))
    total = sum(size for _, size in segments)
    measured = max((value for _, value in run.points("peak_memory_bytes")), default=None)
    marks: list[tuple[Words, float]] = [(_sized(Text("plan", "计划"), total), total)]
    if measured is not None:
        marks.append((_sized(Text("measured", "实测"), measured), measured))
    size = gigabytes(plan.memory_limit) if plan.memory_limit else ""
    limit = Text(f"There were {size} to give.", f"可用 {size}。") if size else ""
    keys = [_sized(name, size) for name, size in segments]
    return MemoryBar(name=run.name, keys=keys, bar=stacked_bar(segments, marks), limit=limit)


def _sized(name: Words, size: float) -> Words:
    said = gigabytes(size)
    return f"{name} {said}" if isinstance(name, str) else Text(f"{name.en} {said}", f"{name.zh} {said}")


def overview(runs: Sequence[Run]) -> tuple[list[Words], list[tuple[str, list[Words]]]]:
    """A table with one row for each run: its heads, and name and values of each."""
    found = [{tile.name: tile.value for tile in tiles(run)} for run in runs]
    heads = list(dict.fromkeys(name for values in found for name in values))
    return heads, [
        (run.name, [values.get(head, "–") for head in heads]) for run, values in zip(runs, found, strict=True)
    ]
