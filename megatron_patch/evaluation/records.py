"""What an evaluation leaves behind, as the comparison and the report read it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from megatron_patch.common.records import Count, Positive, Real, Record, Share, Word
from megatron_patch.evaluation.benchmarks import BENCHMARKS, task_owner


def _known_benchmark(name: str) -> str:
    if name not in BENCHMARKS:
        raise ValueError(f"{name!r} is not one of {', '.join(BENCHMARKS)}")
    return name


def _known_task(name: str) -> str:
    if task_owner(name) is None:
        raise ValueError(f"{name!r} is not a task of {', '.join(BENCHMARKS)}")
    return name


BenchmarkName = Annotated[str, AfterValidator(_known_benchmark)]
TaskName = Annotated[str, AfterValidator(_known_task)]


class DataNotes(Record):
    """Of results.json: the questions of one benchmark."""

    title: Word
    fingerprint: Word
    notes: list[Word]


class EvaluationSettings(Record):
    """Of results.json."""

    tasks: list[Word]
    num_fewshot: Count
    limit: Count | None


class Score(Record):
    """Of results.json: a group or a subject."""

    title: Word
    acc: Share
    stderr: Share | None
    questions: Annotated[int, Field(ge=1, le=10**9)]


class GroupScore(Score):
    """Of results.json."""

    group: BenchmarkName


class SubjectScore(Score):
    """Of results.json."""

    task: TaskName
    benchmark: BenchmarkName
    title_zh: Word
    category: Literal["STEM", "Social Science", "Humanities", "Other"]


class Origin(Record):
    """Of results.json and tasks.json: what was evaluated, when and on what."""

    label: Word
    identity: Word
    date: Word
    dtype: Word
    device: Word
    devices: Count
    command: Word = ""
    versions: dict[str, Word]


class Results(Origin):
    """results.json."""

    checkpoint: Word
    scoring_used: Word
    choices_per_second: Positive
    settings: EvaluationSettings
    data: dict[str, DataNotes]
    groups: list[GroupScore]
    subjects: list[SubjectScore]


class TaskSettings(Record):
    """Of tasks.json."""

    num_fewshot: Count | None = None
    """None: each task's own."""
    limit: Count | None = None
    chat_template: bool = False


class TaskScore(Record):
    """Of tasks.json: one metric of a task or group, as lm_eval computes it; any number, NaN and inf too."""

    task: Word
    metric: Word
    filter: Word
    value: float
    stderr: float | None = None
    questions: Count | None = None
    shots: Count | None = None


class TaskResults(Origin):
    """tasks.json: of lm_eval's tasks other than CMMLU and C-Eval."""

    settings: TaskSettings
    scores: list[TaskScore]


class AnsweredQuestion(Record):
    """A line of per_question.jsonl."""

    task: TaskName
    doc_id: Count
    prompt_hash: Word
    choice: Count
    acc: Share
    logprobs: Annotated[list[Real], Field(min_length=1)]
    """Of each choice."""
