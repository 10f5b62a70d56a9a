"""The part of the page about layer checks: how far Megatron's model is from Hugging Face's, over depth."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from megatron_patch.charts.lines import Point, Series, line_chart
from megatron_patch.charts.text import Text, Words, both
from megatron_patch.common.messages import Message, named
from megatron_patch.report.collect import ResultFile
from megatron_patch.report.records import CheckFile, CheckRow
from megatron_patch.report.training import Figure, Tile

SAME, ACCUMULATED = "same input", "accumulated"
"""Modes of the check: each part on Hugging Face's input, or on what our own layers before it gave."""
_GROUPS: tuple[tuple[Text, tuple[str, ...]], ...] = (
    (Text("attention", "注意力"), ("query", "key", "value", "attention")),
    (Text("MLP", "MLP"), ("mlp",)),
    (Text("norms", "归一化"), ("input_norm", "pre_mlp_norm", "final_norm")),
    (Text("residual stream", "残差流"), ("residual", "embedding")),
    (Text("logits", "logits"), ("logits",)),
)
"""Parts of a layer that share a line of the chart."""
FLOOR = 1e-9
"""The chart's lower edge, for errors of 0 too."""


@dataclass(kw_only=True)
class CheckPart:
    """One layer check."""

    name: str
    passed: bool
    lines: list[Words]
    """What was compared, and what is wrong."""
    figures: list[Figure]
    """For each precision."""


def tiles(checks: Sequence[ResultFile[CheckFile]]) -> list[Tile]:
    """Of the headline: checks that passed."""
    if not checks:
        return []
    passed = sum(one.content.passed for one in checks)
    remark = Text("layer by layer against HF", "与 HF 逐层比较")
    return [Tile(Text("checks passed", "检查通过"), f"{passed} / {len(checks)}", remark)]


def check(finding: ResultFile[CheckFile]) -> CheckPart:
    """Verdict and charts of one layer check."""
    content = finding.content
    compared = {"precision": content.precision, "tp": content.tp, "pp": content.pp, "tokens": content.tokens}
    lines = [Message("check-compared", **compared)]
    lines += [Message("check-configuration", line=line) for line in content.configuration]
    if first := content.first_failure:
        layer = named("model") if first.layer is None else Message("report-layer", layer=first.layer)
        failed = {"layer": layer, "part": first.part, "error": first.relative_l2, "tolerance": first.tolerance}
        lines.append(Message("check-first", **failed))
    precisions = dict.fromkeys(row.precision for row in content.rows)
    figures = [_error_over_depth(content.rows, precision) for precision in precisions]
    return CheckPart(name=finding.name, passed=content.passed, lines=[*map(both, lines)], figures=figures)


def _error_over_depth(every: Sequence[CheckRow], precision: str) -> Figure:
    rows = [row for row in every if row.precision == precision]
    layers = sorted({row.layer for row in rows if row.layer is not None})
    last = max(layers, default=0)
    series = [*_errors(rows, last), _tolerance(rows, last)]
    names: dict[float, Words] = {float(layer): str(layer) for layer in layers[:: max(1, last // 16)]}
    names |= {-1.0: Text("embedding", "嵌入"), last + 1.0: Text("head", "输出层")}
    title = Text(
        f"relative L2 error against Hugging Face, {precision} (dashed: accumulated)",
        f"相对 Hugging Face 的 L2 误差，{precision}（虚线：逐层累积）",
    )
    bitwise = not any(_finite(row.relative_l2) for row in rows)
    top = max((y for one in series for _, y in one.points), default=1.0)
    chart = line_chart(
        series,
        title=title,
        x_label=Text("layer", "层"),
        log_y=True,
        y_range=(FLOOR, max(1e-4, top * 3)),
        x_names=names,
        lowest=Text("0, bitwise", "0，逐位相同"),
        width=960,
        height=150 if bitwise else 250,
    )
    return Figure(legend=series, wide=chart)


def _errors(rows: Sequence[CheckRow], last: int) -> Iterator[Series]:
    """Two lines for each group of parts: each part on Hugging Face's input, and on our own."""
    for color, (name, parts) in enumerate(_GROUPS):
        for mode, kind in ((SAME, "line"), (ACCUMULATED, "dash")):
            chosen = [row for row in rows if row.part in parts and row.mode == mode]
            points = _highest(chosen, "relative_l2", last, FLOOR)
            yield Series(label=name, points=points, color=color, kind=kind, legend=kind == "line")


def _tolerance(rows: Sequence[CheckRow], last: int) -> Series:
    points = _highest([row for row in rows if row.mode == SAME], "tolerance", last, 0.0)
    return Series(label=Text("tolerance", "容差"), points=points, color=5, kind="limit")


def _highest(rows: Iterable[CheckRow], key: str, last: int, least: float) -> list[Point]:
    """At each place of the model the highest value, and `least` at least; the head is behind the `last` layer."""
    found: dict[float, float] = {}
    for row in rows:
        place = float(row.layer) if row.layer is not None else -1.0 if row.part == "embedding" else last + 1.0
        found[place] = max(found.get(place, least), _finite(getattr(row, key)))
    return sorted(found.items())


def _finite(value: object) -> float:
    """JSON has no NaN: the check writes it as text."""
    return float(value) if isinstance(value, int | float) else 1e3
