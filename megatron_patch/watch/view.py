"""One frame of the view: a few lines about a run, as rich renders them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from datetime import timedelta
from itertools import pairwise
from statistics import median
from typing import Any

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from megatron_patch.charts.text import compact, english, gigabytes
from megatron_patch.report.collect import Run
from megatron_patch.report.remarks import log_remarks, remarks
from megatron_patch.report.training import device_of, peak_of

BLOCKS = "▁▂▃▄▅▆▇█"
RECENT = 20
"""Steps that speed and time left are taken from."""
LABEL = 12
"""Columns of the names on the left."""
SILENT_SECONDS = 30.0
"""No step for so long, or for ten usual steps if that is longer, is worth a warning: a save may take some seconds."""
CENTURY = 3.2e9
"""Seconds."""
SLOWER = 1.5
"""Recent steps that take so much longer than the run's median are worth one too."""
SPIKE = 0.5
"""And a loss (mean of recent steps) so far above its lowest, in nats."""


def frame(run: Run, ended: str | None = None, *, now: float, width: int) -> RenderableType:
    """All of it.

    Args:
        ended: how and why no process of the run is left; None while one may be.
        now: seconds since 1970.
        width: columns of the screen.
    """
    rows = Table.grid(padding=(0, 1))
    rows.add_column(width=LABEL, style="bold")
    rows.add_column()
    for name, value in _rows(run, ended, now, max(20, min(width, 140) - LABEL - 2)):
        rows.add_row(name, value)
    return Group(rows)


def _rows(run: Run, ended: str | None, now: float, width: int) -> Iterator[tuple[str, RenderableType]]:
    yield run.name, Text(_what(run))
    yield "", _state(run, ended, now)
    if run.steps:
        yield "", ProgressBar(total=run.total or run.done, completed=run.done, width=width)
        yield from _loss(run, width)
        yield from _speed(run, width)
        yield "memory", Text(_memory(run))
    for style, line in warnings(run, now, over=ended is not None):
        yield "", Text(line, style=style)


def _what(run: Run) -> str:
    if not run.plan:
        return "no plan.json: model and length are not known"
    layout, values = run.plan.layout, run.plan.values
    degrees = {"TP": layout.tp, "PP": layout.pp, "CP": layout.cp, "DP": layout.dp}
    sizes = [f"{name} {degree}" for name, degree in degrees.items() if degree > 1]
    devices = f"{layout.nodes} x {layout.processes} {device_of(run)}"
    task = "finetuning" if values.get("SFT") else "pretraining"
    return ", ".join([f"{task} {run.plan.model.name} in {values.get('PR')}", devices, *sizes])


def _state(run: Run, ended: str | None, now: float) -> Text:
    style = "red" if ended is not None and ended.startswith(("failed", "killed")) else "yellow"
    if not run.steps:
        if ended is not None and ended != "finished":
            return Text(f"{ended}; before the first step", style=style)
        return Text("waiting for the first step")
    of = f"{run.done} of {run.total}" if run.total else f"{run.done}"
    percent = f", {run.done / run.total:.0%}" if run.total else ""
    tokens = f", {compact(run.steps[-1].tokens or 0)} tokens"
    if run.finished:
        return Text(f"finished: iteration {of}{tokens}", style="green")
    if ended is not None:
        return Text(f"iteration {of}{percent}{tokens}; {ended}", style=style)
    left = f", {_duration(_seconds(run) * (run.total - run.done))} left" if run.total else ""
    silent = now - run.written
    if silent > _patience(run):
        words = f"no step for {_duration(silent)} (usually {_seconds(run):.2g} s): stopped, or stuck"
        return Text(f"iteration {of}{percent}; {words}", style="yellow")
    return Text(f"iteration {of}{percent}{tokens}{left}")


def _loss(run: Run, width: int) -> Iterator[tuple[str, RenderableType]]:
    points = [value for _, value in run.points("loss")]
    last = run.steps[-1]
    so_far = f" (first {points[0]:.4f}, lowest {min(points):.4f})" if points else ""
    words = [f"{_shown(last.loss)}{so_far}", f"lr {_shown(last.lr, '.2e')}"]
    words += [f"norm {_shown(last.grad_norm, '.2f')}"]
    words += [f"z {last.z_loss:.2f}"] if last.z_loss is not None else []
    words += [f"batch {last.batch}"] if len({size for _, size in run.points("batch")}) > 1 else []
    if run.validation:
        words.append(f"validation {run.validation[-1][1]:.4f} at {run.validation[-1][0]}")
    yield "loss", Text(" | ".join(words))
    if points:
        yield "", Text(sparkline(points, width), style="cyan")


def _speed(run: Run, width: int) -> Iterator[tuple[str, RenderableType]]:
    rates = [value for _, value in run.points("tokens_per_s_per_gpu")]
    if not rates:
        return
    unit = "GPU" if run.plan and run.plan.device == "cuda" else "process"
    words = [f"{median(rates[-RECENT:]):,.0f} tokens/s/{unit}", f"{_seconds(run):.3g} s a step"]
    if flops := [value for _, value in run.points("tflops_per_gpu")][-RECENT:]:
        speed, peak = median(flops), peak_of(run)
        words.append(f"{speed:.3g} TFLOP/s/{unit}" + (f", MFU {speed / peak:.1%}" if peak else ""))
    yield "throughput", Text(" | ".join(words))
    yield "", Text(sparkline(rates, width, lowest=0.0), style="magenta")


def _memory(run: Run) -> str:
    used = max(value for _, value in run.points("peak_memory_bytes") or [(0, 0.0)])
    total = run.plan.gpu.memory_bytes if run.plan and run.plan.gpu else None
    said = f"{gigabytes(used)} at most" + (f" of {gigabytes(total)}, {used / total:.0%}" if total else "")
    last = run.steps[-1]
    if last.allocated_bytes is not None and last.reserved_bytes is not None:
        said += f" | last step {gigabytes(last.allocated_bytes)}, {gigabytes(last.reserved_bytes)} reserved"
    return said


def warnings(run: Run, now: float, *, over: bool = False) -> Iterator[tuple[str, str]]:
    """Style and words of what one should know, worst first."""
    for remark in remarks(run):
        if remark.kind != "note":
            yield ("red" if remark.kind == "bad" else "yellow"), f"{english(remark.words)} ({remark.where})"
    times = [value for _, value in run.points("step_ms")]
    if len(times) > 2 * RECENT:
        usual, recent = median(times), median(times[-RECENT:])
        if recent > SLOWER * usual > 0:
            yield "yellow", f"steps take {recent / usual:.1f} times as long as usual"
    if len(run.steps) > 2 * RECENT:
        means = _means([value for _, value in run.points("loss")], RECENT)
        if means and means[-1] > min(means) + SPIKE:
            yield "yellow", f"the loss has risen by {means[-1] - min(means):.2f} from its lowest"
    if run.steps and not run.finished and (over or now - run.written > _patience(run)):
        for remark in [one for one in log_remarks(run) if one.kind == "bad"][:3]:
            yield "red", f"{english(remark.words)} ({remark.where})"


def sparkline(values: Sequence[float], width: int, lowest: float | None = None) -> str:
    """`width` columns at most, each the mean of its share of the values; the top is the highest mean."""
    columns = min(width, len(values))
    edges = [round(index * len(values) / columns) for index in range(columns + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(means) if lowest is None else lowest, max(means)
    return "".join(BLOCKS[round((mean - low) / (high - low) * 7) if high > low else 0] for mean in means)


def _means(values: Sequence[float], size: int) -> list[float]:
    """Of each `size` values after one another, the last ones whole."""
    return [sum(values[end - size : end]) / size for end in range(len(values), size - 1, -size)][::-1]


def _seconds(run: Run) -> float:
    """Of a usual step, recently."""
    recent = [value for _, value in run.points("step_ms")[-RECENT:]]
    return median(recent) / 1e3 if recent else 0.0


def _duration(seconds: float) -> str:
    """Hours, minutes and seconds; a run that would take longer than a century is said to."""
    return str(timedelta(seconds=round(seconds))) if seconds < CENTURY else "more than a century"


def _patience(run: Run) -> float:
    return max(SILENT_SECONDS, 10 * _seconds(run))


def _shown(value: Any, how: str = ".4f") -> str:
    return f"{value:{how}}" if isinstance(value, int | float) and math.isfinite(value) else "?"
