"""The parts of the page about checkpoints: the layer check's error over depth, and scores."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from megatron_patch.evaluation import compare, results
from megatron_patch.evaluation.benchmarks import BENCHMARKS
from megatron_patch.evaluation.data import INVENTED
from megatron_patch.report.bars import Bar, bar_chart
from megatron_patch.report.collect import Finding
from megatron_patch.report.lines import Point, Series, legend, line_chart
from megatron_patch.report.svg import COLORS
from megatron_patch.report.text import Text, Words, spans

SAME, ACCUMULATED = "same input", "accumulated"
"""Modes of the check: each part on Hugging Face's input, or on what our own layers before it gave."""
_GROUPS: tuple[tuple[Text, tuple[str, ...]], ...] = (
    (Text("attention", "注意力"), ("query", "key", "value", "attention")),
    (Text("MLP", "MLP"), ("mlp",)),
    (Text("norms", "归一化"), ("input_norm", "pre_mlp_norm", "final_norm")),
    (Text("residual stream", "残差流"), ("residual", "embedding")),
    (Text("logits", "logits"), ("logits",)),
)


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


def facts(checks: Sequence[Finding], found: Sequence[Finding]) -> list[tuple[Words, Words, Words]]:
    """Name, value and remark of the headlines: checks that passed, scores of the newest evaluation."""
    tiles: list[tuple[Words, Words, Words]] = []
    if checks:
        passed = sum(bool(one.content["passed"]) for one in checks)
        remark = Text("layer by layer against HF", "与 HF 逐层比较")
        tiles.append((Text("checks passed", "检查通过"), f"{passed} / {len(checks)}", remark))
    for group in comparable(found)[-1:]:
        first, last = group[0].content, group[-1].content
        for row, before in zip(last["groups"], first["groups"], strict=True):
            error = f" ± {100 * row['stderr']:.1f}" if row["stderr"] is not None else ""
            was = f"; {first['label']}: {100 * before['acc']:.1f}%" if len(group) > 1 else ""
            tiles.append((row["title"].split()[0], f"{100 * row['acc']:.1f}%", f"{error}{was}".strip(" ;")))
    return tiles


def check(finding: Finding) -> str:
    """Verdict and chart of one layer check."""
    content = finding.content
    said = Text("passed", "通过") if content["passed"] else Text("FAILED", "未通过")
    badge = f'<span class="badge {"good" if content["passed"] else "bad"}">{spans(said)}</span>'
    lines = [
        f"{content.get('precision') or ''}, TP {content.get('tp')}, PP {content.get('pp')}, {content.get('tokens')}"
    ]
    lines += [f"configuration: {line}" for line in content.get("configuration") or []]
    if first := content.get("first_failure"):
        layer = "model" if first["layer"] is None else f"layer {first['layer']}"
        lines.append(f"first out of tolerance: {layer} {first['part']}: {first['relative_l2']} > {first['tolerance']}")
    about = "".join(f"<p>{escape(line)}</p>" for line in lines)
    charts = "".join(
        _error_over_depth(content["rows"], p) for p in dict.fromkeys(r["precision"] for r in content["rows"])
    )
    return f"<h3>{escape(finding.name)} {badge}</h3>{about}{charts}"


def _error_over_depth(rows: Sequence[dict[str, Any]], precision: str) -> str:
    rows = [row for row in rows if row["precision"] == precision]
    layers = [row["layer"] for row in rows if row["layer"] is not None]
    last = max(layers, default=0)
    floor = 1e-9

    def place(row: dict[str, Any]) -> float:
        if row["layer"] is not None:
            return float(row["layer"])
        return -1.0 if row["part"] == "embedding" else last + 1.0

    series: list[Series] = []
    for color, (name, parts) in enumerate(_GROUPS):
        for mode, kind in ((SAME, "line"), (ACCUMULATED, "dash")):
            worst: dict[float, float] = {}
            for row in rows:
                if row["part"] in parts and row["mode"] == mode:
                    worst[place(row)] = max(worst.get(place(row), floor), _finite(row["relative_l2"]))
            points: list[Point] = sorted(worst.items())
            series.append(Series(label=name, points=points, color=color, kind=kind, legend=kind == "line"))
    tolerance = [(place(row), _finite(row["tolerance"])) for row in rows if row["mode"] == SAME]
    highest: dict[float, float] = {}
    for where, value in tolerance:
        highest[where] = max(highest.get(where, 0.0), value)
    label = Text("tolerance", "容差")
    series.append(Series(label=label, points=sorted(highest.items()), color=5, kind="limit"))
    names: dict[float, Words] = {float(layer): str(layer) for layer in sorted(set(layers))[:: max(1, last // 16)]}
    names |= {-1.0: Text("embedding", "嵌入"), last + 1.0: Text("head", "输出层")}
    title = Text(
        f"relative L2 error against Hugging Face, {precision} (dashed: accumulated)",
        f"相对 Hugging Face 的 L2 误差，{precision}（虚线：逐层累积）",
    )
    highest_error = max((_finite(row["relative_l2"]) for row in rows), default=0.0)
    top = max((y for one in series for _, y in one.points), default=1.0)
    return legend(series) + line_chart(
        series,
        title=title,
        x_label=Text("layer", "层"),
        log_y=True,
        y_range=(floor, max(1e-4, top * 3)),
        x_names=names,
        lowest=Text("0, bitwise", "0，逐位相同"),
        width=960,
        height=250 if highest_error else 150,
    )


def _finite(value: object) -> float:
    """JSON has no NaN: the check writes it as text."""
    return float(value) if isinstance(value, int | float) else 1e3


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
