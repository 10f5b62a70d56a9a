"""The parts of the page about training runs: facts, curves, speed, memory, commands."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from megatron_patch.charts.bars import stacked_bar
from megatron_patch.charts.lines import Point, Series, legend, line_chart, smooth, value_range
from megatron_patch.charts.svg import COLORS
from megatron_patch.charts.text import Text, Words, compact, gigabytes, spans
from megatron_patch.common.hardware import peak_tflops
from megatron_patch.launch.memory import PROCESS_BYTES
from megatron_patch.launch.variables import VARIABLES
from megatron_patch.models import model_of_facts
from megatron_patch.report.collect import Run

ITERATION = Text("iteration", "迭代")
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


def color_of(number: int) -> int:
    """Of a run."""
    return number % len(COLORS)


def device_of(run: Run) -> str:
    """Name of one device."""
    return (run.plan.get("gpu") or {}).get("name") or str(run.plan.get("device", "")).upper()


def peak_of(run: Run) -> float | None:
    """Dense bf16 TFLOP/s of one device, where the data sheet is known."""
    gpu = run.plan.get("gpu") or {}
    return peak_tflops(gpu["name"]) if gpu.get("name") else None


def median(values: Sequence[float]) -> float | None:
    """Of the second half, where start-up is over; None of nothing."""
    later = sorted(values[len(values) // 2 :])
    return later[len(later) // 2] if later else None


def facts(run: Run) -> list[tuple[Words, Words, Words]]:
    """Name, value and remark of what a reader wants first."""
    losses, memory = run.points("loss"), run.points("peak_memory_bytes")
    rate = median([v for _, v in run.points("tokens_per_s_per_gpu")])
    speed = median([v for _, v in run.points("tflops_per_gpu")])
    found: list[tuple[Words, Words, Words]] = []
    if losses:
        found.append(
            (Text("loss", "损失"), f"{losses[-1][1]:.3f}", Text(f"from {losses[0][1]:.3f}", f"起始 {losses[0][1]:.3f}"))
        )
    if run.validation:
        at, loss = run.validation[-1]
        found.append((Text("validation loss", "验证损失"), f"{loss:.3f}", Text(f"iteration {at}", f"第 {at} 次迭代")))
    if run.steps:
        tokens = run.steps[-1].get("tokens") or 0
        of = f"{run.done} / {run.total}" if run.total else str(run.done)
        found.append((Text("tokens", "词元"), compact(tokens), Text(f"iteration {of}", f"迭代 {of}")))
    if rate:
        unit = Text("per device, median", "每设备，中位数")
        found.append((Text("tokens/s", "词元/秒"), compact(rate), unit))
    if speed:
        peak = peak_of(run)
        if peak:
            found.append(("MFU", f"{100 * speed / peak:.1f}%", f"{compact(speed)} / {compact(peak)} TFLOP/s"))
        else:
            why = Text("peak unknown: no MFU", "峰值未知，无法计算 MFU")
            found.append((Text("TFLOP/s per device", "每设备 TFLOP/s"), compact(speed), why))
    if memory:
        found.append(
            (Text("peak memory", "内存峰值"), gigabytes(max(v for _, v in memory)), Text("highest rank", "最高的进程"))
        )
    return found


def describe(run: Run) -> list[tuple[Words, Words]]:
    """What ran, in one line each, from the plan."""
    if not run.plan:
        return []
    shape, layout, schedule, values = (run.plan[key] for key in ("shape", "layout", "schedule", "values"))
    sizes = [f"{name.upper()} {layout[name]}" for name in ("tp", "pp", "cp", "dp")]
    sizes += [f"VP {layout['vp']}"] if layout["vp"] > 1 else []
    sizes += ["SP"] if layout["sequence_parallel"] else []
    sizes += ["distributed optimizer"] if values["DO"] else []
    task = Text("finetuning", "指令微调") if values["SFT"] else Text("pretraining", "预训练")
    rates, warmup = f"{values['LR']:g} → {values['MIN_LR']:g}", schedule["warmup_iters"]
    arithmetic = schedule["arithmetic"][0]
    parts = ", ".join(f"{part} {took:.1f}" for part, took in run.startup.get("parts", {}).items() if took >= 0.05)
    return [
        (Text("model", "模型"), _model(shape, run.plan["vocab_size"])),
        (Text("task", "任务"), Text(f"{task.en} in {values['PR']}", f"{task.zh}，{values['PR']}")),
        (
            Text("devices", "设备"),
            f"{layout['nodes']} × {layout['processes']} {device_of(run)}: {', '.join(sizes)}",
        ),
        (
            Text("schedule", "计划"),
            Text(
                f"{arithmetic}; learning rate {rates}, {warmup} iterations of warm-up",
                f"{arithmetic}；学习率 {rates}，预热 {warmup} 次迭代",
            ),
        ),
        (Text("data", "数据"), str(values["DATASET_PATH"])),
        (Text("start", "起点"), str(values["PRETRAIN_CHECKPOINT_PATH"])),
        *([(Text("first step", "首次迭代"), f"{run.startup['seconds']:.1f} s: {parts}")] if parts else []),
    ]


def _model(facts: dict[str, Any], vocab_size: int) -> Words:
    shape = model_of_facts(facts)
    size, heads = compact(shape.num_parameters(vocab_size)), shape.num_attention_heads
    return Text(
        f"{shape.name}: {size} parameters, {shape.num_layers} layers, hidden {shape.hidden_size}, "
        f"{heads} heads ({shape.num_query_groups} KV), vocabulary {vocab_size}",
        f"{shape.name}：{size} 参数，{shape.num_layers} 层，隐藏维度 {shape.hidden_size}，"
        f"{heads} 个注意力头（{shape.num_query_groups} 个 KV），词表 {vocab_size}",
    )


def driver_command(run: Run) -> str:
    """The 25 values that were typed, and the MP_ variables that are not as they would be anyway."""
    values = run.plan.get("values") or {}

    def typed(value: object) -> str:
        return shlex.quote(str(value).lower() if isinstance(value, bool) else str(value))

    usual = {variable.name: variable.default for variable in VARIABLES}
    variables = [f"{n}={typed(v)}" for n, v in values.items() if n.startswith("MP_") and v != usual.get(n)]
    positions = [typed(value) for name, value in values.items() if not name.startswith("MP_")]
    return " ".join([*variables, "sh examples/llama3_1/run_mcore_llama3_1.sh", *positions]) if positions else ""


def curves(runs: Sequence[Run]) -> str:
    """Loss, learning rate and gradient norm of all runs."""
    loss: list[Series] = []
    for number, run in enumerate(runs):
        loss += _smoothed(run, run.points("loss"), number)
        words = Text(f"{run.name}: validation", f"{run.name}：验证")
        loss.append(Series(label=words, points=run.validation, color=color_of(number), kind="dots", legend=False))
    shown = [y for one in loss if one.kind != "faint" for _, y in one.points]
    shown += [min(y for _, y in one.points) for one in loss if one.kind == "faint"]  # spikes may leave at the top
    title = Text("loss (bold: smoothed; dots: validation)", "损失（粗线：平滑；圆点：验证）")
    limits = value_range(shown, False) if shown else None
    chart = line_chart(loss, title=title, x_label=ITERATION, y_range=limits, width=WIDE, height=320)
    rate = _half(_plain(runs, "lr"), Text("learning rate", "学习率"))
    norm = _half(_plain(runs, "grad_norm"), Text("gradient norm, before clipping", "梯度范数（裁剪前）"), log_y=True)
    return f'{legend(loss)}{chart}<div class="pair">{rate}{norm}</div>'


def speed(runs: Sequence[Run]) -> str:
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
    return f'{legend(rates)}<div class="pair">{first}{second}</div>'


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


def memory(run: Run) -> str:
    """What the plan foresaw for one rank, and what was measured."""
    planned = run.plan.get("memory")
    measured = max((value for _, value in run.points("peak_memory_bytes")), default=None)
    if not planned:
        return ""
    segments: list[tuple[Words, float]] = [(name, planned[key]) for key, name in PARTS.items() if planned.get(key)]
    if run.plan.get("device") == "cpu":
        segments.append((Text("Python and libraries", "Python 与各库"), PROCESS_BYTES))
    total = sum(size for _, size in segments)
    marks: list[tuple[Words, float]] = [(_sized(Text("plan", "计划"), total), total)]
    if measured is not None:
        marks.append((_sized(Text("measured", "实测"), measured), measured))
    keys = "".join(
        f'<span><i class="swatch f{number}"></i>{spans(_sized(name, size))}</span>'
        for number, (name, size) in enumerate(segments)
    )
    limit = run.plan.get("memory_limit")
    free = Text(f"There were {gigabytes(limit)} to give.", f"可用 {gigabytes(limit)}。") if limit else ""
    return f'<div class="legend">{keys}</div>{stacked_bar(segments, marks)}<p class="muted">{spans(free)}</p>'


def _sized(name: Words, size: float) -> Words:
    said = gigabytes(size)
    return f"{name} {said}" if isinstance(name, str) else Text(f"{name.en} {said}", f"{name.zh} {said}")


def overview(runs: Sequence[Run], cell: Callable[[Words], str] = spans) -> str:
    """One row per run."""
    heads = dict.fromkeys(name for run in runs for name, _, _ in facts(run))
    lines = [f"<tr><th></th>{''.join(f'<th>{cell(name)}</th>' for name in heads)}</tr>"]
    for number, run in enumerate(runs):
        known = {name: value for name, value, _ in facts(run)}
        cells = "".join(f"<td>{cell(known[name]) if name in known else '–'}</td>" for name in heads)
        lines.append(f'<tr><th><i class="swatch f{color_of(number)}"></i>{escape(run.name)}</th>{cells}</tr>')
    return f'<div class="scroll"><table>{"".join(lines)}</table></div>'
