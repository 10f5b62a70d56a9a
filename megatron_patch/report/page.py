"""The whole page: one HTML file with everything in it, in English and Chinese, light and dark."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from html import escape
from pathlib import Path

from megatron_patch.charts.text import Text, Words, spans
from megatron_patch.report import layer_check, scores, training
from megatron_patch.report.collect import Material, Run
from megatron_patch.report.remarks import Remark, counted, log_remarks, remarks

HERE = Path(__file__).parent
_SWITCH = """
<div class="switch">
<div><input type="radio" name="language" id="en" checked><label for="en">English</label>
<input type="radio" name="language" id="zh"><label for="zh">中文</label></div>
<div><input type="radio" name="theme" id="auto" checked><label for="auto">◐</label>
<input type="radio" name="theme" id="light"><label for="light">☀</label>
<input type="radio" name="theme" id="dark"><label for="dark">☾</label></div>
</div>
"""


def render(material: Material) -> str:
    """The page as text."""
    runs = material.runs
    title = " · ".join(folder.name for folder in material.folders)
    sections: list[tuple[Words, str, str]] = [
        (Text("What ran", "运行内容"), _what_ran(material), "plan.json"),
        (
            Text("Loss, learning rate, gradient", "损失、学习率与梯度"),
            training.curves(runs) if _steps(runs) else "",
            "metrics.jsonl",
        ),
        (Text("Speed", "速度"), training.speed(runs) if _steps(runs) else "", "metrics.jsonl"),
        (Text("Memory against the plan", "内存：计划与实测"), _memory(runs), "plan.json"),
        (
            Text("Layer check: Megatron against Hugging Face", "逐层检查：Megatron 与 Hugging Face"),
            "".join(map(layer_check.check, material.checks)),
            "check.json",
        ),
        (Text("Evaluation", "评测"), scores.evaluations(material.evaluations), "results.json"),
        (Text("Warnings on the way", "过程中的警告"), _warnings(material), ""),
    ]
    body = "".join(
        f"<section><h2>{spans(name)}</h2>{content or _missing(wanted)}</section>" for name, content, wanted in sections
    )
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_asset('page.css')}</style></head><body>"
        f"<header><div><h1>{escape(title)}</h1>{_state(runs)}</div>{_SWITCH}</header>"
        f"<main>{_facts(material)}{body}</main>{_footer(material)}<script>{_asset('page.js')}</script></body></html>\n"
    )


def _asset(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _steps(runs: Sequence[Run]) -> bool:
    return any(run.steps or run.validation for run in runs)


def _missing(what: str = "") -> str:
    words = Text(f"Not found{what and ': '}{what}.", f"未找到{what and '：'}{what}。")
    return f'<p class="muted">{spans(words)}</p>'


def _state(runs: Sequence[Run]) -> str:
    """One line and a bar for each run: how far it is."""
    lines = []
    for run in runs:
        if run.finished:
            words = Text("finished", "已完成")
        elif run.alive:
            words = Text("running", "运行中")
        else:
            words = Text("stopped, or of unknown length", "已停止，或长度未知")
        name = f"{escape(run.name)}: " if len(runs) > 1 else ""
        of = f" / {run.total}" if run.total else ""
        when = datetime.fromtimestamp(run.written).strftime("%Y-%m-%d %H:%M:%S") if run.written else "–"
        iteration = spans(Text("iteration", "迭代"))
        lines.append(f'<p class="muted">{name}{spans(words)} · {iteration} {run.done}{of} · {when}</p>')
        if run.total and not run.finished:
            lines.append(f'<div class="progress"><i style="width:{100 * run.done / run.total:.1f}%"></i></div>')
    return "".join(lines)


def _facts(material: Material) -> str:
    """Tiles; where there are several runs, they have a table."""
    facts = training.facts(material.runs[0]) if len(material.runs) == 1 else []
    facts += [*layer_check.facts(material.checks), *scores.facts(material.evaluations)]
    tiles = "".join(
        f'<div class="tile"><small>{spans(name)}</small><b>{spans(value)}</b><small>{spans(remark)}</small></div>'
        for name, value, remark in facts
    )
    table = training.overview(material.runs) if len(material.runs) > 1 else ""
    return (f'<div class="tiles">{tiles}</div>' if tiles else "") + table


def _what_ran(material: Material) -> str:
    parts = []
    if material.commands:
        words = Text(
            f"all {len(material.commands)} commands, in order", f"全部 {len(material.commands)} 条命令，按顺序"
        )
        parts.append(f"<h3>{spans(words)}</h3>{_command(chr(10).join(material.commands))}")
    for run in material.runs:
        rows = "".join(f"<dt>{spans(name)}</dt><dd>{spans(value)}</dd>" for name, value in training.describe(run))
        parts.append(f"<h3>{escape(run.name)}</h3>" + (f"<dl>{rows}</dl>" if rows else _missing("plan.json")))
        if not material.commands and (typed := training.driver_command(run)):
            parts.append(_command(typed))
        if run.command:
            summary = spans(Text("what it started", "实际启动的命令"))
            parts.append(f"<details><summary>{summary}</summary>{_command(run.command)}</details>")
    commands = dict.fromkeys(one.content.get("command") for one in material.evaluations)
    if any(commands) and not material.commands:
        parts.append(f"<h3>{spans(Text('evaluation', '评测'))}</h3>")
        parts += [_command(command) for command in commands if command]
    return "".join(parts)


def _command(text: str) -> str:
    lines = "".join(f"<span>{escape(line)}\n</span>" for line in text.splitlines())
    return f'<div class="command"><pre>{lines}</pre><button type="button">{spans(Text("copy", "复制"))}</button></div>'


def _memory(runs: Sequence[Run]) -> str:
    bars = [(run, training.memory(run)) for run in runs]
    named = len([bar for _, bar in bars if bar]) > 1
    return "".join((f"<h3>{escape(run.name)}</h3>" if named else "") + bar for run, bar in bars if bar)


def _warnings(material: Material) -> str:
    parts = []
    said = [Remark(kind="warning", words=problem, where="") for problem in material.problems]
    for finding in material.checks:
        if not finding.content["passed"]:
            words = Text("the layer check failed", "逐层检查未通过")
            said.append(Remark(kind="bad", words=words, where=finding.name))
    for run in material.runs:
        said += remarks(run)
    parts.append(_list(sorted(counted(said), key=lambda one: ("bad", "warning", "note").index(one.kind))))
    for run in material.runs:
        if logged := log_remarks(run):
            total = sum(one.count for one in logged)
            words = Text(
                f"{run.name}: {total} lines of {len(logged)} kinds in the logs",
                f"{run.name}：日志中 {len(logged)} 类共 {total} 行",
            )
            parts.append(f"<details><summary>{spans(words)}</summary>{_list(logged)}</details>")
    return "".join(parts) or f"<p>{spans(Text('None.', '没有。'))}</p>"


def _list(said: Iterable[Remark]) -> str:
    rows = [
        f'<li class="{one.kind}"><span>{spans(one.words)}{f" <b>× {one.count}</b>" if one.count > 1 else ""}</span>'
        f"<small>{escape(one.where)}</small></li>"
        for one in said
    ]
    return f'<ul class="remarks">{"".join(rows)}</ul>' if rows else ""


def _footer(material: Material) -> str:
    made = datetime.now().strftime("%Y-%m-%d %H:%M:%S")
    folders = ", ".join(map(str, material.folders))
    words: Words = Text(
        f"Made {made} from {folders} by python -m megatron_patch.report; run it again for newer numbers.",
        f"由 python -m megatron_patch.report 于 {made} 根据 {folders} 生成；再次运行可更新数据。",
    )
    return f"<footer>{spans(words)}</footer>"
