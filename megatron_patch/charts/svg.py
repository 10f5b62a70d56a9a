"""The pieces that charts are drawn with, as SVG text: no library, no script.

Colours are CSS classes (`f0` fills, `s0` strokes) that the page defines; a picture outside the page carries its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from megatron_patch.charts.text import Words, english, tspans

COLORS = ("#2f6db5", "#d9772b", "#3f9b6c", "#a05195", "#c8443f", "#8a7340", "#3a9aa3", "#7f7f7f")
"""Told apart with every common colour blindness, on white and on black."""
_STANDALONE = (
    "svg{background:#fff;font:12px system-ui,sans-serif}text{fill:#333}.muted{fill:#777}.strong{font-weight:600}"
    ".title{font-weight:600}.grid{stroke:#ddd}.reference{stroke:#999;stroke-dasharray:3 3}.whisker{stroke:#333}"
    "polyline{fill:none;stroke-width:1.9;stroke-linejoin:round;stroke-linecap:round}"
    "polyline.faint{opacity:.28;stroke-width:1}polyline.dash{stroke-dasharray:2 4;stroke-width:1.5}"
    + "".join(f".f{number}{{fill:{color}}}.s{number}{{stroke:{color}}}" for number, color in enumerate(COLORS))
)


def text(x: float, y: float, words: Words, kind: str = "", anchor: str = "start") -> str:
    """Words at a place."""
    where = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text class="{kind}" {where}>{tspans(words)}</text>'


def line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    """A straight line."""
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def rectangle(color: int, x: float, y: float, width: float, height: float, round_: float = 0) -> str:
    """A filled rectangle."""
    size = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="{round_:g}"'
    return f'<rect class="f{color}" {size}/>'


def picture(
    parts: Sequence[str], width: float, height: float, title: Words, attributes: str = "", *, standalone: bool = False
) -> str:
    """The whole picture, as wide as its place allows.

    Args:
        title: for people who do not see it.
        standalone: a file of its own, with its own colours and a fixed size.
    """
    size = f'width="{width:.0f}" height="{height:.0f}" ' if standalone else ""
    style = f"<style>{_STANDALONE}</style>" if standalone else ""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}viewBox="0 0 {width:.0f} {height:.0f}" {attributes} role="img" '
        f'aria-label="{escape(english(title))}">{style}{"".join(parts)}</svg>'
    )
