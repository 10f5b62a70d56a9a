"""Parts of a whole as one bar with its legend: a picture of its own."""

from __future__ import annotations

from collections.abc import Sequence

from megatron_patch.charts import svg
from megatron_patch.charts.text import Words
from megatron_patch.common.messages import localized

WIDTH, BAR, ROW, COLUMNS = 720.0, 34.0, 18.0, 3


def parts_of_a_step(parts: Sequence[tuple[Words, float]]) -> str:
    """Seconds side by side, the longest first.

    Args:
        parts: name and seconds.
    """
    ordered = sorted(parts, key=lambda part: -part[1])
    total = sum(seconds for _, seconds in ordered) or 1.0
    x, drawn = 0.0, []
    for number, (name, seconds) in enumerate(ordered):
        color, width = number % len(svg.COLORS), seconds / total * WIDTH
        drawn.append(svg.rectangle(color, x, 4, width, BAR))
        column, row = number % COLUMNS, number // COLUMNS
        left, top = column * WIDTH / COLUMNS, BAR + 16 + row * ROW
        drawn += [svg.rectangle(color, left, top, 9, 9, 2), svg.text(left + 14, top + 9, name)]
        said = f"{seconds * 1e3:.0f} ms, {seconds / total:.1%}"
        drawn.append(svg.text(left + WIDTH / COLUMNS - 12, top + 9, said, "muted", "end"))
        x += width
    height = BAR + 20 + -(-len(ordered) // COLUMNS) * ROW
    title = localized("planner-picture", seconds=total)
    return svg.picture(drawn, WIDTH, height, title, 'class="stack"', standalone=True)
