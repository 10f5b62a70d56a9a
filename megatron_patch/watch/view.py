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

from megatron_patch.charts.text import compact, gigabytes, spoken
from megatron_patch.common.messages import Message, localized, named
from megatron_patch.common.values import printable
from megatron_patch.report.collect import Run
from megatron_patch.report.remarks import Remark, log_remarks, remarks
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


def frame(run: Run, ended: Message | None = None, *, now: float, width: int) -> RenderableType:
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


def _rows(run: Run, ended: Message | None, now: float, width: int) -> Iterator[tuple[str, RenderableType]]:
    yield run.name, Text(_what(run))
    yield "", _state(run, ended, now)
    if run.steps:
        yield "", ProgressBar(total=run.total or run.done, completed=run.done, width=width)
        yield from _loss(run, width)
        yield from _speed(run, width)
        yield localized("watch-memory"), Text(_memory(run))
    for style, line in warnings(run, now, over=ended is not None):
        yield "", Text(line, style=style)


def _what(run: Run) -> str:
    if not run.plan:
        return localized("watch-no-plan")
    layout, values = run.plan.layout, run.plan.values
    degrees = {"TP": layout.tp, "PP": layout.pp, "CP": layout.cp, "DP": layout.dp}
    sizes = [f"{name} {degree}" for name, degree in degrees.items() if degree > 1]
    devices = f"{layout.nodes} x {layout.processes} {device_of(run)}"
    code = "watch-finetuning" if values.get("SFT") else "watch-pretraining"
    task = localized(code, model=run.plan.model.name, precision=values.get("PR"))
    return localized("comma").join([task, devices, *sizes])


def _state(run: Run, ended: Message | None, now: float) -> Text:
    style = "red" if ended is not None and ended.code in ("watch-failed", "watch-killed") else "yellow"
    if not run.steps:
        if ended is not None and ended.code != "watch-finished":
            return Text(printable(localized("watch-before-first", ended=ended)), style=style)
        return Text(localized("watch-waiting"))
    of = Message("watch-of", done=run.done, total=run.total) if run.total else run.done
    at: Message | int = of
    if run.total:
        at = Message("watch-percent", done=run.done, total=run.total, share=run.done / run.total)
    tokens = compact(run.steps[-1].tokens or 0)
    if run.finished:
        return Text(localized("watch-finished-at", at=Message("watch-tokens", at=of, tokens=tokens)), style="green")
    reached = Message("watch-tokens", at=at, tokens=tokens)
    if ended is not None:
        return Text(printable(localized("watch-ended-at", at=reached, ended=ended)), style=style)
    silent = now - run.written
    if silent > _patience(run):
        words = localized("watch-silent", at=at, silent=_duration(silent), usual=_seconds(run))
        return Text(words, style="yellow")
    if not run.total:
        return Text(localized("watch-at", at=reached))
    left = _duration(_seconds(run) * (run.total - run.done))
    return Text(localized("watch-left", at=reached, left=left))


def _loss(run: Run, width: int) -> Iterator[tuple[str, RenderableType]]:
    points = [value for _, value in run.points("loss")]
    last = run.steps[-1]
    loss = _shown(last.loss)
    words = [localized("watch-loss", loss=loss, first=points[0], lowest=min(points)) if points else loss]
    words += [localized("watch-lr", rate=_shown(last.lr, ".2e"))]
    words += [localized("watch-norm", norm=_shown(last.grad_norm, ".2f"))]
    words += [localized("step-z", loss=last.z_loss)] if last.z_loss is not None else []
    if len({size for _, size in run.points("batch")}) > 1:
        words.append(localized("watch-batch", size=last.batch))
    if run.validation:
        step, validation = run.validation[-1]
        words.append(localized("watch-validation", loss=validation, step=step))
    yield named("loss").localized(), Text(" | ".join(words))
    if points:
        yield "", Text(sparkline(points, width), style="cyan")


def _speed(run: Run, width: int) -> Iterator[tuple[str, RenderableType]]:
    rates = [value for _, value in run.points("tokens_per_s_per_gpu")]
    if not rates:
        return
    unit = named("GPU" if run.plan and run.plan.device == "cuda" else "process")
    words = [localized("step-tokens", rate=median(rates[-RECENT:]), unit=unit)]
    words += [localized("watch-step", seconds=_seconds(run))]
    if flops := [value for _, value in run.points("tflops_per_gpu")][-RECENT:]:
        speed, peak = median(flops), peak_of(run)
        words.append(localized("step-flops", rate=speed, unit=unit) + (f", MFU {speed / peak:.1%}" if peak else ""))
    yield localized("watch-throughput"), Text(" | ".join(words))
    yield "", Text(sparkline(rates, width, lowest=0.0), style="magenta")


def _memory(run: Run) -> str:
    used = max(value for _, value in run.points("peak_memory_bytes") or [(0, 0.0)])
    total = run.plan.gpu.memory_bytes if run.plan and run.plan.gpu else None
    most = localized("watch-most", size=gigabytes(used))
    if total:
        most = localized("watch-most-of", size=gigabytes(used), total=gigabytes(total), share=used / total)
    last = run.steps[-1]
    if last.allocated_bytes is None or last.reserved_bytes is None:
        return most
    sizes = {"allocated": gigabytes(last.allocated_bytes), "reserved": gigabytes(last.reserved_bytes)}
    return f"{most} | {localized('watch-last-step', **sizes)}"


def warnings(run: Run, now: float, *, over: bool = False) -> Iterator[tuple[str, str]]:
    """Style and words of what one should know, worst first."""
    for remark in remarks(run):
        if remark.kind != "note":
            yield (
                ("red" if remark.kind == "bad" else "yellow"),
                _said(remark),
            )
    times = [value for _, value in run.points("step_ms")]
    if len(times) > 2 * RECENT:
        usual, recent = median(times), median(times[-RECENT:])
        if recent > SLOWER * usual > 0:
            yield "yellow", localized("watch-slower", times=recent / usual)
    if len(run.steps) > 2 * RECENT:
        means = _means([value for _, value in run.points("loss")], RECENT)
        if means and means[-1] > min(means) + SPIKE:
            yield "yellow", localized("watch-risen", by=means[-1] - min(means))
    if run.steps and not run.finished and (over or now - run.written > _patience(run)):
        for remark in [one for one in log_remarks(run) if one.kind == "bad"][:3]:
            yield "red", _said(remark)


def _said(remark: Remark) -> str:
    return localized("remark-where", words=spoken(remark.words), where=remark.where)


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
    return str(timedelta(seconds=round(seconds))) if seconds < CENTURY else localized("watch-century")


def _patience(run: Run) -> float:
    return max(SILENT_SECONDS, 10 * _seconds(run))


def _shown(value: Any, how: str = ".4f") -> str:
    return f"{value:{how}}" if isinstance(value, int | float) and math.isfinite(value) else "?"
