"""The whole page: one HTML file with everything in it, in English and Chinese, light and dark.

The HTML lies in templates/: page.html holds the whole, the other files its parts. Everything that is put into them is
escaped, except charts, which are SVG made by charts/.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import jinja2

from megatron_patch.charts.svg import COLORS
from megatron_patch.charts.text import Text, Words, both
from megatron_patch.common.messages import Message, language_of
from megatron_patch.report import layer_check, profile, scores, task_scores, training
from megatron_patch.report.collect import Material, Run
from megatron_patch.report.remarks import Remark, counted, happened, log_remarks, remarks
from megatron_patch.runs.status import Ended, read_end

TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates", encoding="utf-8"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


@dataclass(kw_only=True)
class RunPart:
    """One run: how far it is, what it is, how it was started."""

    name: str
    state: Words
    done: int
    total: int | None
    percent: float | None
    """Done, where that is known and less than all."""
    written: str
    """When it last recorded something."""
    description: list[tuple[Words, Words]]
    typed: str
    """The command line; empty where it is not known."""
    command: str
    """What that started; empty where it is not known."""
    log_title: Words
    log: list[Remark]


def render(material: Material) -> str:
    """The page as text."""
    runs = material.runs
    recorded = any(run.steps or run.validation for run in runs)
    commands = [one.content.command for one in material.evaluations] + [one.content.command for one in material.tasks]
    evaluated = dict.fromkeys(filter(None, commands))
    return TEMPLATES.get_template("page.html").render(
        language=language_of(os.environ),
        title=" · ".join(folder.name for folder in material.folders),
        folders=", ".join(map(str, material.folders)),
        made=datetime.now().strftime("%Y-%m-%d %H:%M:%S"),
        colors=len(COLORS),
        commands=material.commands,
        runs=[_run_part(run) for run in runs],
        tiles=_tiles(material),
        overview=training.overview(runs) if len(runs) > 1 else None,
        curves=training.curves(runs) if recorded else None,
        events=[event for run in runs for event in happened(run)],
        speed=training.speed(runs) if recorded else None,
        profiles=[part for run in runs for part in profile.parts(run)],
        memory=[bar for run in runs if (bar := training.memory(run))],
        checks=[layer_check.check(one) for one in material.checks],
        evaluations=scores.evaluations(material.evaluations),
        tasks=task_scores.parts(material.tasks),
        evaluation_commands=list(evaluated),
        remarks=_remarks(material),
    )


def _run_part(run: Run) -> RunPart:
    logged = log_remarks(run)
    lines = sum(one.count for one in logged)
    return RunPart(
        name=run.name,
        state=_state(run),
        done=run.done,
        total=run.total,
        percent=100 * run.done / run.total if run.total and not run.finished else None,
        written=_time(run.written),
        description=training.describe(run),
        typed=training.driver_command(run),
        command=run.command,
        log_title=Text(
            f"{run.name}: {lines} lines of {len(logged)} kinds in the logs",
            f"{run.name}：日志中 {len(logged)} 类共 {lines} 行",
        ),
        log=logged,
    )


def _state(run: Run) -> Words:
    if run.finished:
        return Text("finished", "已完成")
    ended = read_end(run.folder)
    if ended is not None and ended.how != "finished":
        return _ended(ended)
    if run.alive:
        return Text("running", "运行中")
    return Text("stopped, or of unknown length", "已停止，或长度未知")


def _ended(ended: Ended) -> Text:
    how = Text("stopped", "已停止") if ended.how == "stopped" else Text("failed", "失败")
    cause = both(ended.said)
    return Text(f"{how.en}: {cause.en}", f"{how.zh}：{cause.zh}") if ended.cause else how


def _time(seconds: float) -> str:
    """Local time of seconds since 1970; a dash for 0 and for times that no calendar has."""
    try:
        return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M:%S") if seconds else "–"
    except (ValueError, OverflowError, OSError):
        return "–"


def _tiles(material: Material) -> list[training.Tile]:
    """The headline; several runs have a table instead of tiles."""
    own = training.tiles(material.runs[0]) if len(material.runs) == 1 else []
    return [*own, *layer_check.tiles(material.checks), *scores.tiles(material.evaluations)]


def _remarks(material: Material) -> Sequence[Remark]:
    """Worst first; what is in the logs comes run by run."""
    said = [Remark(kind="warning", words=both(problem), where="") for problem in material.problems]
    for finding in material.checks:
        if not finding.content.passed:
            words = both(Message("remark-check"))
            said.append(Remark(kind="bad", words=words, where=finding.name))
    for run in material.runs:
        said += remarks(run)
    return sorted(counted(said), key=lambda one: ("bad", "warning", "note").index(one.kind))
