"""The part of the page about evaluations: scores, and what differs between two checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from megatron_patch.charts.bars import Bar, bar_chart
from megatron_patch.charts.svg import COLORS
from megatron_patch.charts.text import Text, Words, spans
from megatron_patch.evaluation import compare, results
from megatron_patch.evaluation.benchmarks import BENCHMARKS
from megatron_patch.evaluation.data import INVENTED
from megatron_patch.report.collect import Finding

CATEGORIES: dict[str, Words] = {
    "STEM": Text("STEM", "理工"),
    "Humanities": Text("Humanities", "人文"),
    "Social Science": Text("Social Science", "社科"),
    "Other": Text("Other", "其他"),
}
_MEANINGLESS = Text(
    "The questions are invented: these scores show that the way works, and nothing about a model, which can only "
    "guess (25%).",
    "题目是虚构的：这些分数只说明流程可用，与模型能力无关；任何模型都只能猜（25%）。",
)


def facts(found: Sequence[Finding]) -> list[tuple[Words, Words, Words]]:
    """Name, value and remark of the headlines: scores of the newest evaluation, beside the first comparable one."""
    tiles: list[tuple[Words, Words, Words]] = []
    for group in comparable(found)[-1:]:
        first, last = group[0].content, group[-1].content
        for row, before in zip(last["groups"], first["groups"], strict=True):
            error = f" ± {100 * row['stderr']:.1f}" if row["stderr"] is not None else ""
            was = f"; {first['label']}: {100 * before['acc']:.1f}%" if len(group) > 1 else ""
            tiles.append((row["title"].split()[0], f"{100 * row['acc']:.1f}%", f"{error}{was}".strip(" ;")))
    return tiles


def evaluations(found: Sequence[Finding]) -> str:
    """Scores side by side, the differences to the first, every subject on demand."""
    parts = []
    for group in comparable(found):
        labels: list[Words] = [one.content["label"] for one in group]
        keys = "".join(
            f'<span><i class="swatch f{n % len(COLORS)}"></i>{spans(label)}</span>' for n, label in enumerate(labels)
        )
        parts += [_about(group[0].content), f'<div class="legend">{keys}</div>', _bars(group)]
        first = group[0]
        for other in group[1:]:
            parts.append(_differences(first, other))
        parts.append(_all_subjects(group))
    return "".join(parts)


def comparable(found: Sequence[Finding]) -> list[list[Finding]]:
    """Evaluations of the same questions under the same settings, put together, the newest of each checkpoint."""
    groups: dict[str, dict[str, Finding]] = {}
    for one in sorted(found, key=lambda one: one.content["date"]):
        content = one.content
        data = {name: about["fingerprint"] for name, about in content["data"].items()}
        key = repr([data, [content["settings"][name] for name in ("tasks", "num_fewshot", "limit")]])
        groups.setdefault(key, {})[content["identity"]] = one
    return [list(group.values()) for group in groups.values()]


def _about(content: dict[str, Any]) -> str:
    settings = content["settings"]
    tool = f"lm_eval {content['versions']['lm-eval']}, {settings['num_fewshot']}-shot, {content['dtype']}"
    device, rate = f"{content['devices']} × {content['device']}", f"{content['choices_per_second']:g}"
    said = Text(
        f"{tool}, scoring {content['scoring_used']}: {rate} choices/s on {device}",
        f"{tool}，计分方式 {content['scoring_used']}：{device} 上每秒 {rate} 个选项",
    )
    invented = any(INVENTED in data["notes"] for data in content["data"].values())
    notes: list[Words] = [_MEANINGLESS] if invented else []
    for data in [] if invented else content["data"].values():
        notes += [f"{data['title']}: {'; '.join(data['notes'])}"] if data["notes"] else []
    if limit := settings["limit"]:
        notes.append(Text(f"only the first {limit} questions of each subject", f"每个科目只取前 {limit} 题"))
    warned = "".join(f'<p class="note">{spans(note)}</p>' for note in notes)
    return f"<p>{spans(said)}</p>{warned}"


def _bars(group: Sequence[Finding]) -> str:
    rows = [results.bars(one.content) for one in group]
    merged = [
        Bar(
            label=CATEGORIES.get(str(row.label), row.label),
            values=[bars[i].values[0] for bars in rows],
            strong=row.strong,
        )
        for i, row in enumerate(rows[0])
    ]
    return bar_chart(merged)


def _differences(first: Finding, second: Finding) -> str:
    """The paired comparison of two evaluations; a line that says why, where that cannot be made."""
    try:
        content = compare.compare(results.read(first.file.parent), results.read(second.file.parent))
    except (OSError, ValueError, KeyError) as reason:
        return f'<p class="note">{escape(f"{second.name} is not compared with {first.name}: {reason}")}</p>'
    heads = (
        Text("questions", "题数"),
        content["labels"][0],
        content["labels"][1],
        Text("difference", "差值"),
        Text("standard error (paired)", "标准误（配对）"),
        Text("gained / lost", "答对增加 / 减少"),
    )
    lines = [f"<tr><th></th>{''.join(f'<th>{spans(head)}</th>' for head in heads)}</tr>"]
    for row in [*content["groups"], *content["categories"]]:
        error = "–" if row["stderr"] is None else f"{100 * row['stderr']:.1f}"
        clear = row["stderr"] is not None and abs(row["difference"]) > 2 * row["stderr"]
        kind = ("up" if row["difference"] > 0 else "down") if clear else ""
        cells = f"<td>{row['questions']}</td><td>{100 * row['acc'][0]:.1f}</td><td>{100 * row['acc'][1]:.1f}</td>"
        cells += f'<td class="{kind}">{100 * row["difference"]:+.1f}</td><td>{error}</td>'
        lines.append(
            f"<tr><th>{spans(_row_name(row['name']))}</th>{cells}<td>{row['gained']} / {row['lost']}</td></tr>"
        )
    return f'<p>{spans(_verdict(content))}</p><div class="scroll"><table>{"".join(lines)}</table></div>'


def _verdict(content: dict[str, Any]) -> Words:
    first, second = content["labels"]
    count, changed = content["questions"], content["answers_changed"]
    if content["identical"]:
        chinese = f"{first} 与 {second} 在全部 {count} 题上的对数似然完全相同。"
    else:
        largest = f"{content['largest_logprob_difference']:.3g}"
        chinese = f"{first} 与 {second} 有 {changed} / {count} 题的答案不同；对数似然的最大差值为 {largest}。"
    return Text(compare.verdict(content), chinese)


def _row_name(name: str) -> Words:
    """Of a group, or of a category as `CMMLU: STEM`."""
    benchmark, _, category = name.partition(": ")
    known = CATEGORIES.get(category)
    return Text(name, f"{benchmark}：{known.zh}") if isinstance(known, Text) else name


def _all_subjects(group: Sequence[Finding]) -> str:
    lines = []
    for benchmark in BENCHMARKS.values():
        for row in [row for row in group[0].content["subjects"] if row["benchmark"] == benchmark.name]:
            scores = [_subject(one.content, row["task"]) for one in group]
            name = spans(Text(row["title"], row["title_zh"]))
            cells = "".join(f"<td>{score}</td>" for score in scores)
            lines.append(
                f"<tr><th>{name}</th><td>{escape(benchmark.title)}</td><td>{row['questions']}</td>{cells}</tr>"
            )
    heads = "".join(f"<th>{escape(one.content['label'])}</th>" for one in group)
    title = spans(Text(f"All {len(lines)} subjects", f"全部 {len(lines)} 个科目"))
    table = f"<tr><th></th><th></th><th>{spans(Text('questions', '题数'))}</th>{heads}</tr>{''.join(lines)}"
    return f'<details><summary>{title}</summary><div class="scroll"><table>{table}</table></div></details>'


def _subject(content: dict[str, Any], task: str) -> str:
    row = next((row for row in content["subjects"] if row["task"] == task), None)
    if row is None:
        return "–"
    return f"{100 * row['acc']:.1f}" + ("" if row["stderr"] is None else f" ± {100 * row['stderr']:.1f}")
