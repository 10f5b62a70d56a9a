"""What an evaluation leaves behind: its scores as JSON, every answer, a Markdown table and a bar chart."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from megatron_patch.charts.bars import Bar, bar_chart
from megatron_patch.common.errors import UserError
from megatron_patch.common.files import write_text
from megatron_patch.common.messages import Message, Wording, at, say
from megatron_patch.common.records import Record
from megatron_patch.common.records import read as read_record
from megatron_patch.common.strict_json import parse_json
from megatron_patch.evaluation.benchmarks import BENCHMARKS, CMMLU
from megatron_patch.evaluation.records import AnsweredQuestion, Results
from megatron_patch.evaluation.run import Evaluation, share_stderr

SUMMARY, ANSWERS, TABLE, CHART = "results.json", "per_question.jsonl", "results.md", "scores.svg"

IN_ENGLISH = Wording()
"""Of files."""

CATEGORIES = {
    "STEM": Message("category-stem"),
    "Social Science": Message("category-social"),
    "Humanities": Message("category-humanities"),
    "Other": Message("category-other"),
}
"""What they are called."""
ORDER = tuple(CATEGORIES)
"""In tables and charts."""


def categories(subjects: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Accuracy over all questions of each category, benchmark by benchmark, from rows of subjects."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for subject in subjects:
        key = (subject["benchmark"], subject["category"])
        row = rows.setdefault(key, {"benchmark": key[0], "category": key[1], "right": 0.0, "questions": 0})
        row["right"] += subject["acc"] * subject["questions"]
        row["questions"] += subject["questions"]
    for row in rows.values():
        row["acc"] = row.pop("right") / row["questions"]
        row["stderr"] = share_stderr(row["acc"], row["questions"])
    return sorted(
        rows.values(), key=lambda row: (list(BENCHMARKS).index(row["benchmark"]), ORDER.index(row["category"]))
    )


class BadResults(UserError, ValueError):
    """Files that are not what an evaluation writes."""


class Unwritten(UserError, OSError):
    """Results that could not be put where they belong."""

    status = 1
    """Exit status."""


def try_folder(folder: Path) -> list[Message]:
    """What stands against writing into a folder, before hours are spent on what belongs there; empty if nothing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / ".try", "\n" * 4096)
        (folder / ".try").unlink()
    except OSError as error:
        return [_unwritable(folder, error)]
    return []


def write(evaluation: Evaluation, folder: Path) -> list[Path]:
    """Write all four files; each appears whole or not at all.

    Raises:
        Unwritten: they could not be written there; says where they are instead.
    """
    summary = evaluation.summary
    lines = "".join(json.dumps(answer, ensure_ascii=False) + "\n" for answer in evaluation.answers)
    return put(
        folder,
        {
            SUMMARY: json.dumps(summary, indent=1, ensure_ascii=False) + "\n",
            ANSWERS: lines,
            TABLE: markdown(summary),
            CHART: bar_chart(bars(summary), standalone=True),
        },
    )


def put(folder: Path, texts: Mapping[str, str]) -> list[Path]:
    """Write files by name; if the folder cannot be written by now, they are kept in a temporary one.

    Raises:
        Unwritten: with that place.
    """
    try:
        return _put(folder, texts)
    except OSError as error:
        problem = _unwritable(folder, error)
    try:
        kept = Path(tempfile.mkdtemp(prefix="evaluation-"))
        _put(kept, texts)
    except OSError as error:
        raise Unwritten.of([problem, _unwritable(Path(tempfile.gettempdir()), error)]) from error
    raise Unwritten.of([problem, Message("results-kept", folder=kept)])


def say_written(files: Iterable[Path]) -> None:
    """On the screen."""
    for file in files:
        say("wrote", file=file)


def _unwritable(folder: Path, error: OSError) -> Message:
    return at("--output", "folder-unwritable", folder=folder, error=error.strerror or error)


def _put(folder: Path, texts: Mapping[str, str]) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_text(folder / name, text, errors="backslashreplace")
    return [folder / name for name in texts]


def read(folder: Path) -> Evaluation:
    """An evaluation that `write` wrote.

    Raises:
        OSError, BadResults: there is none, or a value is not what it must be; the file is named.
    """
    summary = _parsed(Results, folder / SUMMARY, (folder / SUMMARY).read_bytes())
    lines = enumerate((folder / ANSWERS).read_bytes().splitlines(), 1)
    answers = [_parsed(AnsweredQuestion, f"{folder / ANSWERS}, line {number}", line) for number, line in lines]
    return Evaluation(summary=summary, answers=answers)


def _parsed(kind: type[Record], where: object, text: bytes) -> dict[str, Any]:
    """A JSON object that is a record of that kind, with the keys that the record does not know."""
    try:
        read_record(kind, text)
    except ValueError as error:
        raise BadResults("at", path=where, what=error) from error
    content: dict[str, Any] = parse_json(text)
    return content


def bars(summary: dict[str, Any]) -> list[Bar]:
    """Groups and their categories, as bars."""
    found: list[Bar] = []
    by_category = categories(summary["subjects"])
    for name, benchmark in BENCHMARKS.items():
        rows = [row for row in by_category if row["benchmark"] == name]
        total = next((group for group in summary["groups"] if group["group"] == name), None)
        if total:
            found.append(Bar(label=benchmark.title, values=[(total["acc"], total["stderr"])], strong=True))
        found += [Bar(label=row["category"], values=[(row["acc"], row["stderr"])]) for row in rows]
    return found


def markdown(summary: dict[str, Any]) -> str:
    """Tables by group, category and subject, with standard errors, in English."""
    settings = summary["settings"]
    shots = Message("eval-shots", shots=settings["num_fewshot"])
    about = [
        f"# {summary['label']}",
        "",
        str(about_scores(summary, shots)),
        "",
        *(f"- **{data['title']}**: {note}" for data in summary["data"].values() for note in data["notes"]),
    ]
    if settings["limit"]:
        about.append(f"- {Message('eval-limit-subjects', limit=settings['limit'])}")
    parts = ["\n".join(about).rstrip()]
    if summary["groups"]:
        parts.append(table(Message("eval-group"), summary["groups"], lambda row: row["title"]))
    for name, benchmark in BENCHMARKS.items():
        subjects = [row for row in summary["subjects"] if row["benchmark"] == name]
        if subjects:
            parts.append(f"## {benchmark.title}")
            parts.append(table(Message("eval-category"), categories(subjects), lambda row: row["category"]))
            parts.append(table(Message("eval-subject"), subjects, lambda row: f"{row['title']} {row['title_zh']}"))
    if any(row["benchmark"] == CMMLU.name for row in summary["subjects"]):
        parts.append(str(Message("eval-acc-norm")))
    return "\n\n".join(parts) + "\n"


def about_scores(summary: dict[str, Any], shots: Message | str = "") -> Message:
    """Of which model they are, and how it was asked."""
    names = ("checkpoint", "parameters", "dtype", "devices", "device", "date")
    told = {name: summary[name] for name in names}
    lm_eval, scoring = summary["versions"]["lm-eval"], summary["scoring_used"]
    return Message("eval-about", **told, shots=shots, scoring=scoring, lm_eval=lm_eval)


def table(
    head: Message,
    rows: Iterable[dict[str, Any]],
    name: Callable[[dict[str, Any]], str],
    wording: Wording = IN_ENGLISH,
) -> str:
    """One Markdown table of accuracies in percent."""
    lines = [wording.text(Message("eval-table-head", head=head)), "| --- | ---: | ---: | ---: |"]
    for row in rows:
        error = "-" if row["stderr"] is None else f"{100 * row['stderr']:.2f}"
        lines.append(f"| {name(row)} | {row['questions']} | {100 * row['acc']:.2f} | {error} |")
    return "\n".join(lines)
