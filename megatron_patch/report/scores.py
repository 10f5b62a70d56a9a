"""The part of the page about evaluations: scores, and what differs between two checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from megatron_patch.charts.bars import Bar, bar_chart
from megatron_patch.charts.text import Text, Words, both
from megatron_patch.common.messages import Message
from megatron_patch.evaluation import compare, results
from megatron_patch.evaluation.benchmarks import BENCHMARKS
from megatron_patch.evaluation.data import INVENTED
from megatron_patch.evaluation.records import Results
from megatron_patch.report.collect import ResultFile
from megatron_patch.report.training import Tile

CATEGORIES: dict[str, Words] = {name: both(message) for name, message in results.CATEGORIES.items()}
_MEANINGLESS = Text(
    "The questions are invented: these scores show that the way works, and nothing about a model, which can only "
    "guess (25%).",
    "题目是虚构的：这些分数只说明流程可用，与模型能力无关；任何模型都只能猜（25%）。",
)


@dataclass(kw_only=True)
class Difference:
    """One row of a paired comparison, its numbers as they are shown."""

    name: Words
    questions: int
    scores: list[str]
    difference: str
    kind: str
    """up, down, or empty where the difference is within two standard errors."""
    error: str
    gained: int
    lost: int


@dataclass(kw_only=True)
class Pair:
    """Two evaluations compared; or `refused` says why they are not."""

    labels: list[str]
    verdict: Words = ""
    rows: Sequence[Difference] = ()
    refused: Words = ""


@dataclass(kw_only=True)
class SubjectRow:
    """A subject, and its score in each evaluation."""

    name: Words
    benchmark: str
    questions: int
    scores: list[str]


@dataclass(kw_only=True)
class EvaluationPart:
    """Evaluations of the same questions."""

    about: Words
    notes: list[Words]
    labels: list[str]
    bars: str
    pairs: list[Pair]
    subjects: list[SubjectRow]


def tiles(found: Sequence[ResultFile[Results]]) -> list[Tile]:
    """Of the headline: scores of the newest evaluation, beside the first comparable one."""
    made: list[Tile] = []
    for group in comparable(found)[-1:]:
        first, last = group[0].content, group[-1].content
        for row, before in zip(last.groups, first.groups, strict=True):
            error = f" ± {100 * row.stderr:.1f}" if row.stderr is not None else ""
            was = f"; {first.label}: {100 * before.acc:.1f}%" if len(group) > 1 else ""
            made.append(
                Tile(BENCHMARKS[row.group].title.split()[0], f"{100 * row.acc:.1f}%", f"{error}{was}".strip(" ;"))
            )
    return made


def evaluations(found: Sequence[ResultFile[Results]]) -> list[EvaluationPart]:
    """Scores side by side, the differences to the first, every subject on demand."""
    return [_part(group) for group in comparable(found)]


def _part(group: Sequence[ResultFile[Results]]) -> EvaluationPart:
    first, *others = group
    return EvaluationPart(
        about=_about(first.content),
        notes=_notes(first.content),
        labels=[one.content.label for one in group],
        bars=_bars(group),
        pairs=[_pair(first, other) for other in others],
        subjects=_all_subjects(group),
    )


def comparable(found: Sequence[ResultFile[Results]]) -> list[list[ResultFile[Results]]]:
    """Evaluations of the same questions under the same settings, put together, the newest of each checkpoint."""
    groups: dict[str, dict[str, ResultFile[Results]]] = {}
    for one in sorted(found, key=lambda one: one.content.date):
        groups.setdefault(_what_was_asked(one.content), {})[one.content.identity] = one
    return [list(group.values()) for group in groups.values()]


def _what_was_asked(content: Results) -> str:
    """Equal where scores can stand side by side."""
    data = {name: about.fingerprint for name, about in content.data.items()}
    rows = [[row.group for row in content.groups], [(row.task, row.category) for row in content.subjects]]
    return repr([data, content.settings, rows])


def _about(content: Results) -> Words:
    tool = f"lm_eval {content.versions.get('lm-eval', '?')}, {content.settings.num_fewshot}-shot, {content.dtype}"
    device, rate = f"{content.devices} × {content.device}", f"{content.choices_per_second:g}"
    return Text(
        f"{tool}, scoring {content.scoring_used}: {rate} choices/s on {device}",
        f"{tool}，计分方式 {content.scoring_used}：{device} 上每秒 {rate} 个选项",
    )


def _notes(content: Results) -> list[Words]:
    if any(str(INVENTED) in data.notes for data in content.data.values()):
        notes: list[Words] = [_MEANINGLESS]
    else:
        notes = [f"{data.title}: {'; '.join(data.notes)}" for data in content.data.values() if data.notes]
    if limit := content.settings.limit:
        notes.append(Text(f"only the first {limit} questions of each subject", f"每个科目只取前 {limit} 题"))
    return notes


def _bars(group: Sequence[ResultFile[Results]]) -> str:
    rows = [results.bars(one.content.model_dump()) for one in group]
    merged = [
        Bar(
            label=CATEGORIES.get(str(row.label), row.label),
            values=[bars[i].values[0] for bars in rows],
            strong=row.strong,
        )
        for i, row in enumerate(rows[0])
    ]
    return bar_chart(merged)


def _pair(first: ResultFile[Results], second: ResultFile[Results]) -> Pair:
    """The paired comparison of two evaluations, or why that cannot be made."""
    labels = [first.content.label, second.content.label]
    try:
        content = compare.compare(results.read(first.file.parent), results.read(second.file.parent))
    except (OSError, ValueError) as reason:
        refused = Message("scores-not-compared", second=second.name, first=first.name, reason=reason)
        return Pair(labels=labels, refused=both(refused))
    rows = [_difference(row) for row in (*content["groups"], *content["categories"])]
    return Pair(labels=content["labels"], verdict=both(compare.verdict(content)), rows=rows)


def _difference(row: dict[str, Any]) -> Difference:
    clear = row["stderr"] is not None and abs(row["difference"]) > 2 * row["stderr"]
    return Difference(
        name=_row_name(row["name"]),
        questions=row["questions"],
        scores=[f"{100 * share:.1f}" for share in row["acc"]],
        difference=f"{100 * row['difference']:+.1f}",
        kind=("up" if row["difference"] > 0 else "down") if clear else "",
        error="–" if row["stderr"] is None else f"{100 * row['stderr']:.1f}",
        gained=row["gained"],
        lost=row["lost"],
    )


def _row_name(name: str) -> Words:
    """Of a group, or of a category as `CMMLU: STEM`."""
    benchmark, _, category = name.partition(": ")
    known = CATEGORIES.get(category)
    return Text(name, f"{benchmark}：{known.zh}") if isinstance(known, Text) else name


def _all_subjects(group: Sequence[ResultFile[Results]]) -> list[SubjectRow]:
    return [
        SubjectRow(
            name=Text(row.title, row.title_zh),
            benchmark=benchmark.title,
            questions=row.questions,
            scores=[_score(one.content, row.task) for one in group],
        )
        for benchmark in BENCHMARKS.values()
        for row in group[0].content.subjects
        if row.benchmark == benchmark.name
    ]


def _score(content: Results, task: str) -> str:
    row = next((row for row in content.subjects if row.task == task), None)
    if row is None:
        return "–"
    return f"{100 * row.acc:.1f}" + ("" if row.stderr is None else f" ± {100 * row.stderr:.1f}")
