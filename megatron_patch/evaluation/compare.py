"""Two evaluations side by side: the differences, each with the standard error of a paired comparison.

    python -m megatron_patch.evaluation.compare RESULTS RESULTS [--output FOLDER]

Both answered the same questions, so the error of a difference comes from the questions on which they differ, not
from the spread of either score: it is the standard deviation of (second right - first right), over the root of
their number.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from megatron_patch.charts.bars import Bar, bar_chart
from megatron_patch.common.command_line import ArgumentParser
from megatron_patch.common.errors import UserError, print_error
from megatron_patch.common.messages import Message, Wording, at, localized, read_message, wording_of
from megatron_patch.common.terminal import guard
from megatron_patch.evaluation import results
from megatron_patch.evaluation.benchmarks import BENCHMARKS, task_owner
from megatron_patch.evaluation.run import Evaluation, share_stderr

SUMMARY, TABLE, CHART = "comparison.json", "comparison.md", "comparison.svg"
Pair = tuple[dict[str, Any], dict[str, Any]]


class NotComparable(UserError, ValueError):
    """Evaluations of different questions or under different settings, with every reason."""


def compare(first: Evaluation, second: Evaluation) -> dict[str, Any]:
    """What `comparison.json` holds: rows by group, category and subject, and whether every answer is the same.

    Raises:
        NotComparable: with every reason.
    """
    if problems := _differences(first.summary, second.summary):
        raise NotComparable.of(problems)
    pairs = _paired(first.answers, second.answers)
    gaps = [abs(x - y) for a, b in pairs for x, y in zip(a["logprobs"], b["logprobs"], strict=True)]
    return {
        "labels": _labels(first.summary, second.summary),
        "checkpoints": [first.summary["checkpoint"], second.summary["checkpoint"]],
        "identities": [first.summary["identity"], second.summary["identity"]],
        "questions": len(pairs),
        "identical": all(a["logprobs"] == b["logprobs"] for a, b in pairs),
        "answers_changed": sum(a["choice"] != b["choice"] for a, b in pairs),
        "largest_logprob_difference": max(gaps),
        "data_notes": {data["title"]: data["notes"] for data in first.summary["data"].values()},
        "data_messages": {data["title"]: data.get("messages", []) for data in first.summary["data"].values()},
        "groups": _rows(pairs, lambda a: task_owner(a["task"])[0].title),  # type: ignore[index]
        "categories": sorted(_rows(pairs, _category), key=_place),
        "subjects": _rows(pairs, lambda a: a["task"]),
    }


def _paired(first: Sequence[dict[str, Any]], second: Sequence[dict[str, Any]]) -> list[Pair]:
    """The two answers to each question."""
    others = {(answer["task"], answer["doc_id"]): answer for answer in second}
    asked = {(answer["task"], answer["doc_id"]) for answer in first}
    if not first or asked != others.keys() or not len(asked) == len(first) == len(second):
        alone = len(asked ^ others.keys())
        raise NotComparable("compare-answers", first=len(first), second=len(second), alone=alone)
    pairs = [(answer, others[answer["task"], answer["doc_id"]]) for answer in first]
    if wrong := [a["task"] for a, b in pairs if a["prompt_hash"] != b["prompt_hash"]]:
        raise NotComparable("compare-prompts", wrong=len(wrong), task=wrong[0])
    if wrong := [a["task"] for a, b in pairs if len(a["logprobs"]) != len(b["logprobs"])]:
        raise NotComparable("compare-choices", wrong=len(wrong), task=wrong[0])
    return pairs


def _labels(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    """Short names that tell the two apart."""
    if first["label"] != second["label"]:
        return [first["label"], second["label"]]
    return [f"{summary['label']} {summary['identity'][:6]}" for summary in (first, second)]


def _differences(first: dict[str, Any], second: dict[str, Any]) -> list[Message]:
    sides = (first, second)
    settings = [(name, *(s["settings"][name] for s in sides)) for name in ("tasks", "num_fewshot", "limit")]
    settings.append(("data", *({n: data["fingerprint"] for n, data in s["data"].items()} for s in sides)))
    return [at(name, "compare-settings", first=str(a), second=str(b)) for name, a, b in settings if a != b]


def _category(answer: dict[str, Any]) -> str:
    benchmark, subject = task_owner(answer["task"])  # type: ignore[misc]
    return f"{benchmark.title}: {subject.category}"


def _place(row: dict[str, Any]) -> tuple[int, int]:
    """Of a category among all."""
    benchmark, category = row["name"].split(": ")
    return [one.title for one in BENCHMARKS.values()].index(benchmark), results.ORDER.index(category)


def _rows(pairs: Sequence[Pair], key: Callable[[dict[str, Any]], str]) -> list[dict[str, Any]]:
    """Pairs put together by a key of theirs; a row each."""
    parts: dict[str, list[Pair]] = {}
    for pair in pairs:
        parts.setdefault(key(pair[0]), []).append(pair)
    return [{"name": name, **_row(part)} for name, part in parts.items()]


def _row(pairs: Sequence[Pair]) -> dict[str, Any]:
    count = len(pairs)
    shares = [sum(pair[side]["acc"] for pair in pairs) / count for side in (0, 1)]
    gained = sum(a["acc"] < b["acc"] for a, b in pairs)
    lost = sum(a["acc"] > b["acc"] for a, b in pairs)
    difference = (gained - lost) / count
    squares = gained * (1 - difference) ** 2 + lost * (1 + difference) ** 2 + (count - gained - lost) * difference**2
    return {
        "questions": count,
        "acc": shares,
        "acc_stderr": [share_stderr(share, count) for share in shares],
        "difference": difference,
        "stderr": math.sqrt(squares / (count - 1) / count) if count > 1 else None,
        "gained": gained,
        "lost": lost,
    }


def write(comparison: dict[str, Any], folder: Path) -> list[Path]:
    """Write the comparison as JSON, Markdown and chart.

    Raises:
        results.Unwritten: they could not be written there; says where they are instead.
    """
    return results.put(
        folder,
        {
            SUMMARY: json.dumps(comparison, indent=1, ensure_ascii=False) + "\n",
            TABLE: markdown(comparison),
            CHART: bar_chart(bars(comparison), names=comparison["labels"], standalone=True),
        },
    )


def bars(comparison: dict[str, Any]) -> list[Bar]:
    """Groups and their categories, two bars each."""
    found: list[Bar] = []
    for benchmark in BENCHMARKS.values():
        for row in [row for row in comparison["groups"] if row["name"] == benchmark.title]:
            found.append(Bar(label=benchmark.title, values=_values(row), strong=True))
        own = [row for row in comparison["categories"] if row["name"].startswith(f"{benchmark.title}: ")]
        found += [Bar(label=row["name"].split(": ")[1], values=_values(row)) for row in own]
    return found


def _values(row: dict[str, Any]) -> list[tuple[float, float | None]]:
    return list(zip(row["acc"], row["acc_stderr"], strict=True))


def verdict(comparison: dict[str, Any]) -> Message:
    """One sentence."""
    first, second = comparison["labels"]
    both = {"first": first, "second": second, "questions": comparison["questions"]}
    if comparison["identical"]:
        return Message("compare-identical", **both)
    changed, largest = comparison["answers_changed"], comparison["largest_logprob_difference"]
    return Message("compare-changed", **both, changed=changed, largest=largest)


def markdown(comparison: dict[str, Any], wording: Wording = results.IN_ENGLISH) -> str:
    """The three tables."""
    first, second = comparison["labels"]
    notes = [f"- **{title}**: {wording.text(note)}" for title, note in _notes(comparison)]
    head = wording.text(Message("eval-against", first=first, second=second))
    parts = [f"# {head}", wording.text(verdict(comparison)), *(["\n".join(notes)] if notes else [])]
    for code, rows in (("eval-group", "groups"), ("eval-category", "categories"), ("eval-subject", "subjects")):
        if not comparison[rows]:
            continue
        lines = [
            wording.text(Message("compare-head", head=Message(code), first=first, second=second)),
            "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        ]
        for row in comparison[rows]:
            error = "-" if row["stderr"] is None else f"{100 * row['stderr']:.2f}"
            name = _name(row["name"], wording)
            lines.append(
                f"| {name} | {row['questions']} | {100 * row['acc'][0]:.2f} | {100 * row['acc'][1]:.2f} | "
                f"{100 * row['difference']:+.2f} | {error} | {row['gained']} / {row['lost']} |"
            )
        parts.append("\n".join(lines))
    parts.append(wording.text(Message("compare-difference")))
    return "\n\n".join(parts) + "\n"


def _name(name: str, wording: Wording) -> str:
    """Of a group or subject, or of a category as `CMMLU: STEM`."""
    title, _, category = name.partition(": ")
    known = results.CATEGORIES.get(category)
    return wording.text(Message("at", path=title, what=known)) if known else name


def _notes(comparison: dict[str, Any]) -> Iterator[tuple[str, Message]]:
    """What is said of the data of each benchmark; results of older versions have no codes."""
    for title, notes in comparison["data_notes"].items():
        told = comparison.get("data_messages", {}).get(title) or [None] * len(notes)
        for note, message in zip(notes, told, strict=False):
            yield title, read_message(message) or Message("uncoded", text=note)


def main() -> None:
    """Command line."""
    parser = ArgumentParser(prog="compare.sh", description=localized("compare-about"))
    parser.add_argument("results", nargs=2, type=Path, metavar="RESULTS", help=localized("compare-help-results"))
    parser.add_argument("--output", type=Path, help=localized("compare-help-output"))
    args = parser.parse_args()
    try:
        first, second = (results.read(folder) for folder in args.results)
        comparison = compare(first, second)
    except NotComparable as error:
        print_error(error, os.environ)
        sys.exit(2)
    except (OSError, ValueError) as error:
        print_error(results.BadResults.at("RESULTS", "results-foreign", error=error), os.environ)
        sys.exit(2)
    print(markdown({**comparison, "subjects": []}, wording_of(os.environ)))
    try:
        results.say_written(write(comparison, args.output or args.results[1]))
    except results.Unwritten as error:
        print_error(error, os.environ)
        sys.exit(error.status)


if __name__ == "__main__":
    guard(bars=True)
    main()
