"""docs/reliability.md, made from the results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median

from .campaign import RESULTS, Part, Result, read_results, total
from .parts import PARTS

PAGE = RESULTS.with_suffix(".md")
FOUND = "found.md"
"""By hand, beside the results: what was wrong, and is fixed."""
HEAD = """# Reliability: what was tried, and what came of it

Made by `make faults` from [reliability/](reliability/), a line for each case; do not edit. Everything runs on CPU
processes: the driver with its 25 values, its launcher and its ranks are real processes and get real signals, forked
from a process that has imported torch (`tests/faults/warm_start.py`), so that a start takes two seconds. `make test`
has a short form of the same code. `make faults PART=kills` runs one part, and goes on where it was stopped.

"Noticed": it was said, or ended with a status other than 0. "Survived": the work was done, with the bits of an
undisturbed run; of inputs and command lines: the tool ended in words. "Lost": iterations that were computed again.
"""


def page(folder: Path = RESULTS) -> str:
    """The whole text."""
    results = {part.name: read_results(part.name, folder) for part in PARTS}
    lines = [HEAD, "| | goal | tried | with a problem | commits | dates |", "| --- | --- | --- | --- | --- | --- |"]
    for part in PARTS:
        lines.append(_summary(part, results[part.name]))
    found = folder / FOUND
    if found.exists():
        lines += ["", "## What it found", "", found.read_text(encoding="utf-8").rstrip()]
    for part in PARTS:
        lines += ["", *_section(part, results[part.name])]
    return "\n".join(lines) + "\n"


def _summary(part: Part, results: Sequence[Result]) -> str:
    wrong = sum(bool(result.outcome.problem) for result in results)
    cells = (
        f"{part.goal:,}",
        f"{total(results, 'tried'):,}",
        wrong,
        _range(results, "commit"),
        _range(results, "date"),
    )
    return f"| [{part.title}](#{_anchor(part.title)}) | {' | '.join(map(str, cells))} |"


def _anchor(title: str) -> str:
    return "".join(letter for letter in title.lower().replace(" ", "-") if letter.isalnum() or letter == "-")


def _range(results: Sequence[Result], name: str) -> str:
    """The first and the last, where they differ."""
    found = list(dict.fromkeys(getattr(result, name) for result in results))
    return " to ".join(dict.fromkeys(found[:1] + found[-1:])) or "-"


def _section(part: Part, results: Sequence[Result]) -> list[str]:
    lines = [f"## {part.title}", "", part.how, "", f"Must: {part.must}.", ""]
    if not results:
        return [*lines, "Not run yet."]
    lines += ["| fault | tried | noticed | survived | iterations lost, each | seconds, median and longest |"]
    lines += ["| --- | --- | --- | --- | --- | --- |"]
    by_kind: dict[str, list[Result]] = {}
    for result in results:
        by_kind.setdefault(result.kind, []).append(result)
    lines += [_row(kind, several) for kind, several in sorted(by_kind.items())]
    wrong = [result for result in results if result.outcome.problem]
    if wrong:
        lines += ["", "Problems:", ""]
        lines += [f"- {result.case}: {_one_line(result.outcome.problem)}" for result in wrong]
    return lines


def _row(kind: str, results: Sequence[Result]) -> str:
    tried, lost = total(results, "tried"), total(results, "lost")
    seconds = [result.seconds for result in results]
    each = f"{lost / tried:.1f}" if tried and lost else "0"
    return (
        f"| {kind} | {tried:,} | {total(results, 'noticed'):,} | {total(results, 'survived'):,} | {each} "
        f"| {median(seconds):.1f}, {max(seconds):.1f} |"
    )


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "/").replace("<", "&lt;")[:300]
