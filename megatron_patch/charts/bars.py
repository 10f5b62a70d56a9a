"""Bars: shares with their standard error, and parts of a whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from megatron_patch.charts import svg
from megatron_patch.charts.text import Text, Words

WIDTH = 720.0
MEMORY = Text("memory", "显存")
GUESSING = (0.25, Text("guessing", "随机猜测"))
"""Share of right answers, and its name: four choices."""


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One row: a share between 0 and 1 and its standard error, for each thing that is compared."""

    label: Words
    values: list[tuple[float, float | None]]
    strong: bool = False
    """A total: set apart from the rows before."""


@dataclass(frozen=True, kw_only=True)
class _Scale:
    """Of a bar chart."""

    left: float
    """Where bars begin, in user units."""
    unit: float
    """User units per share of 1."""
    thick: float
    """Of one bar."""


def bar_chart(bars: Sequence[Bar], *, names: Sequence[Words] = (), standalone: bool = False) -> str:
    """Horizontal bars in percent, with whiskers of one standard error, and a mark where guessing is.

    Args:
        names: of the things compared; drawn into a standalone picture, as a page has a legend of its own.
    """
    highest = max((value + (error or 0.0) for bar in bars for value, error in bar.values), default=0.0)
    full = min(1.0, 1.02 * max(highest, GUESSING[0]))
    count = max((len(bar.values) for bar in bars), default=1)
    scale = _Scale(left=190, unit=(WIDTH - 290) / full, thick=15 if count < 3 else 13)
    parts: list[str] = []
    y = 10.0
    if standalone and names:
        for number, name in enumerate(names):
            parts += [svg.rectangle(number, 8, y, 9, 9, 2), svg.text(22, y + 9, name)]
            y += 18
    top = y = y + 20
    for bar in bars:
        y += 14 if bar.strong and y > top else 0
        middle = y + scale.thick * len(bar.values) / 2 + 4
        parts.append(svg.text(scale.left - 10, middle, bar.label, "strong" if bar.strong else "", "end"))
        for number, (value, error) in enumerate(bar.values):
            parts += _bar(scale, y + number * scale.thick, number, value, error)
        y += scale.thick * len(bar.values) + 8
    share, name = GUESSING
    x = scale.left + share * scale.unit
    parts += [svg.line("reference", x, top - 6, x, y - 4), svg.text(x, top - 10, name, "muted", "middle")]
    return svg.picture(parts, WIDTH, y + 4, Text("accuracy", "准确率"), 'class="bars"', standalone=standalone)


def _bar(scale: _Scale, y: float, color: int, value: float, error: float | None) -> list[str]:
    middle = y + scale.thick / 2
    said = f"{100 * value:.1f}" + ("" if error is None else f" ± {100 * error:.1f}")
    parts = [svg.rectangle(color, scale.left, y + 1, max(value * scale.unit, 1.0), scale.thick - 2, 2)]
    if error is not None:
        begin, end = (scale.left + max(0.0, value + sign * error) * scale.unit for sign in (-1, 1))
        parts.append(svg.line("whisker", begin, middle, end, middle))
    return [*parts, svg.text(WIDTH, middle + 4, said, "muted", "end")]


def stacked_bar(
    segments: Sequence[tuple[Words, float]],
    marks: Sequence[tuple[Words, float]],
    title: Words = MEMORY,
) -> str:
    """Parts of a whole side by side, and marks across them.

    Args:
        marks: named sizes, in the unit of the segments; the first is named above the bar, the second below, ...
    """
    full = max([sum(size for _, size in segments), *(size for _, size in marks), 1e-9]) * 1.02
    x, parts = 0.0, []
    for number, (_, size) in enumerate(segments):
        parts.append(svg.rectangle(number, x, 26, size / full * WIDTH, 34))
        x += size / full * WIDTH
    for number, (name, size) in enumerate(marks):
        x, above = size / full * WIDTH, number % 2 == 0
        parts.append(svg.line("mark", x, 18 if above else 26, x, 60 if above else 70))
        anchor = "end" if x > 0.5 * WIDTH else "start"
        parts.append(svg.text(x, 13 if above else 83, name, "strong", anchor))
    return svg.picture(parts, WIDTH, 90, title, 'class="stack"')
