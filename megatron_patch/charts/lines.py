"""Line charts: one or several lines over a common axis, linear or logarithmic."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from megatron_patch.charts import svg
from megatron_patch.charts.text import Words, compact, english

Point = tuple[float, float]
MOST_POINTS = 700
"""Of a line; more are thinned."""
SMALLEST = 1e-300
"""Of a step between ticks, and on a logarithmic axis: below it floats lose their digits."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line of a chart."""

    label: Words
    points: Sequence[Point]
    color: int = 0
    kind: str = "line"
    """line, faint (thin and pale), dash, dots."""
    legend: bool = True


@dataclass(frozen=True, kw_only=True)
class Axes:
    """Where values lie in the picture, in user units."""

    x: Point
    """Range of the horizontal axis."""
    y: Point
    log_y: bool
    width: float
    height: float
    left: float
    """Margins: for the numbers, for the title, ..."""
    right: float = 14
    top: float = 28
    bottom: float = 30

    def px(self, value: float) -> float:
        """Horizontal place of a value."""
        low, high = self.x
        return self.left + (value - low) / ((high - low) or 1.0) * (self.width - self.left - self.right)

    def py(self, value: float) -> float:
        """Vertical place of a value; what lies outside is put on the edge."""
        low, high = self.y
        if self.log_y:
            low, high, value = math.log10(low), math.log10(high), math.log10(max(value, low))
        share = min(1.0, max(0.0, (value - low) / ((high - low) or 1.0)))
        return self.height - self.bottom - share * (self.height - self.top - self.bottom)

    def attributes(self) -> str:
        """What the page's pointer reads values back with."""
        frame = f"{self.left:g} {self.right:g} {self.top:g} {self.bottom:g}"
        ranges = f'data-x="{self.x[0]!r} {self.x[1]!r}" data-y="{self.y[0]!r} {self.y[1]!r}"'
        return f'class="chart" {ranges} data-log="{int(self.log_y)}" data-frame="{frame}"'


def line_chart(
    series: Sequence[Series],
    *,
    title: Words,
    x_label: Words,
    log_y: bool = False,
    y_range: Point | None = None,
    x_names: Mapping[float, Words] | None = None,
    lowest: Words | None = None,
    width: float = 720,
    height: float = 250,
    standalone: bool = False,
) -> str:
    """The chart as SVG; empty if there is no point. Values are finite, and below 1e300.

    Args:
        title: what the vertical axis shows, unit included.
        y_range: None takes the points'.
        x_names: ticks with names instead of numbers.
        lowest: name of the lower edge, instead of its number.
        width, height: in user units; text is 12 of them high.
        standalone: a file of its own, with its own colours and names of the lines.
    """
    points = [point for one in series for point in one.points]
    if not points:
        return ""
    room = 0.5 if x_names else 0.0
    x_range = (min(x for x, _ in points) - room, max(x for x, _ in points) + room)
    y_range = y_range or value_range([y for _, y in points], log_y)
    left = 84 if lowest else 58  # words are longer than numbers
    axes = Axes(x=x_range, y=y_range, log_y=log_y, width=width, height=height, left=left)
    parts = [*_grid(axes, lowest), svg.text(0, 12, title, "title")]
    for place in x_names or round_ticks(*x_range, max(3, int(width / 110))):
        name = x_names[place] if x_names else compact(place)
        parts.append(svg.text(axes.px(place), axes.height - 10, name, "muted", "middle"))
    parts.append(svg.text(axes.left - 7, axes.height - 10, x_label, "muted", "end"))
    parts += [_drawn(axes, one) for one in series if one.points]
    parts += _legend(axes, series) if standalone else []
    return svg.picture(parts, axes.width, axes.height, title, axes.attributes(), standalone=standalone)


def _legend(axes: Axes, series: Sequence[Series]) -> list[str]:
    """Beside the title, names with their colours."""
    parts: list[str] = []
    x = axes.left
    for one in (one for one in series if one.legend and one.points):
        parts += [svg.rectangle(one.color, x, 3, 9, 9, 2), svg.text(x + 14, 12, one.label)]
        x += 14 + 8 * len(english(one.label)) + 16
    return parts


def _grid(axes: Axes, lowest: Words | None) -> list[str]:
    parts = []
    for value in log_ticks(*axes.y) if axes.log_y else round_ticks(*axes.y, 5):
        y = axes.py(value)
        name = lowest if lowest is not None and value <= axes.y[0] * 1.001 else compact(value)
        parts.append(svg.line("grid", axes.left, y, axes.width - axes.right, y))
        parts.append(svg.text(axes.left - 7, y + 4, name, "muted", "end"))
    return parts


def _drawn(axes: Axes, one: Series) -> str:
    places = [(axes.px(x), axes.py(y)) for x, y in thin(one.points)]
    where = " ".join(f"{x:.2f},{y:.2f}" for x, y in places)
    label = f'data-label="{escape(english(one.label))}" data-color="{one.color}"'
    if one.kind == "dots" or len(places) == 1:
        dots = "".join(f'<circle class="f{one.color}" cx="{x:.1f}" cy="{y:.1f}" r="3.2"/>' for x, y in places)
        return f'<g class="series dots" {label} data-points="{where}">{dots}</g>'
    return f'<polyline class="series {one.kind} s{one.color}" {label} points="{where}"/>'


def thin(points: Sequence[Point]) -> list[Point]:
    """At most about MOST_POINTS; the lowest and the highest of each stretch stay, so that no spike is lost."""
    if len(points) <= MOST_POINTS:
        return list(points)
    size = math.ceil(2 * len(points) / MOST_POINTS)
    stretches = [points[begin : begin + size] for begin in range(0, len(points), size)]
    return [p for part in stretches for p in sorted({min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])})]


def smooth(points: Sequence[Point], half: int) -> list[Point]:
    """Mean over `half` points on each side: fewer, but as many on each side, at the start, and to the end."""
    sums = [0.0, *itertools.accumulate(y for _, y in points)]
    result = []
    for i, (x, _) in enumerate(points):
        low, high = i - min(i, half), min(len(points), i + min(max(i, 1), half) + 1)
        result.append((x, (sums[high] - sums[low]) / (high - low)))
    return result


def value_range(values: Sequence[float], log: bool) -> Point:
    """A range that shows all values, with a little room; from zero where that costs less than half the height."""
    low, high = min(values), max(values)
    if log:
        low = max(SMALLEST, min((v for v in values if v > 0), default=1e-12))
        return 10.0 ** math.floor(math.log10(low)), 10.0 ** math.ceil(math.log10(max(high, low * 1.01)))
    flat = high - low < 1e-9 * abs(high)  # sums of equal numbers differ in their last bits
    room = (0.0 if flat else (high - low) * 0.06) or abs(high) * 0.1 or 1.0
    return (0.0 if 0 <= low < 0.5 * high else low - room), high + room


def round_ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers between two values."""
    rough = max((high - low) / most, SMALLEST) if high > low else 1.0
    exponent = math.floor(math.log10(rough))
    step = next(
        (10.0**exponent * m for m in (1, 2, 2.5, 5) if 10.0**exponent * m >= rough * 0.999), 10.0 ** (exponent + 1)
    )
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(n * step, 2 - exponent) for n in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten, at most seven."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    return [10.0**power for power in range(first, last + 1, max(1, math.ceil((last - first) / 6)))]
