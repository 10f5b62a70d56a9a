"""The part of the page about lm_eval's tasks beside CMMLU and C-Eval: the figures that lm_eval itself gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from megatron_patch.charts.text import Text, Words, compact
from megatron_patch.evaluation.records import TaskResults, TaskScore
from megatron_patch.report.collect import ResultFile


@dataclass(kw_only=True)
class TaskRow:
    """One metric of one task, and its score in each evaluation."""

    task: str
    metric: str
    shots: str
    questions: str
    scores: list[str]


@dataclass(kw_only=True)
class TaskPart:
    """Evaluations under the same settings."""

    about: Words
    notes: list[Words]
    labels: list[str]
    rows: list[TaskRow]


def parts(found: Sequence[ResultFile[TaskResults]]) -> list[TaskPart]:
    """Evaluations that asked the same stand side by side, the newest of each checkpoint."""
    groups: dict[str, dict[str, TaskResults]] = {}
    for content in sorted((one.content for one in found), key=lambda content: content.date):
        asked = [content.settings, [(_key(row), row.questions, row.shots) for row in content.scores]]
        groups.setdefault(repr(asked), {})[content.identity] = content
    return [_part(list(group.values())) for group in groups.values()]


def _part(group: Sequence[TaskResults]) -> TaskPart:
    first = group[0]
    scores = [{_key(row): row for row in content.scores} for content in group]
    return TaskPart(
        about=_about(first),
        notes=_notes(first),
        labels=[content.label for content in group],
        rows=[
            TaskRow(
                task=row.task,
                metric=row.metric if row.filter == "none" else f"{row.metric} ({row.filter})",
                shots=_count(row.shots),
                questions=_count(row.questions),
                scores=[_score(one[_key(row)]) for one in scores],
            )
            for row in first.scores
        ],
    )


def _key(row: TaskScore) -> tuple[str, str, str]:
    return row.task, row.metric, row.filter


def _about(content: TaskResults) -> Text:
    tool = f"lm_eval {content.versions.get('lm-eval', '?')}, {content.dtype}"
    device = f"{content.devices} × {content.device}"
    return Text(f"Tasks of {tool}, on {device}", f"{tool} 的任务，设备 {device}")


def _notes(content: TaskResults) -> list[Words]:
    notes: list[Words] = []
    if limit := content.settings.limit:
        notes.append(Text(f"only the first {limit} questions of each task", f"每个任务只取前 {limit} 题"))
    if content.settings.chat_template:
        notes.append(Text("questions are asked in the model's chat template", "题目按模型的聊天模板提问"))
    return notes


def _count(number: int | None) -> str:
    return "–" if number is None else str(number)


def _score(row: TaskScore) -> str:
    error = "" if row.stderr is None or row.stderr != row.stderr else f" ± {compact(row.stderr)}"
    return f"{compact(row.value)}{error}"
