"""The campaign's frame: parts made of cases, results that are kept case by case, and what a result says."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
RESULTS = REPOSITORY / "docs" / "reliability"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a case, or of several that were one."""

    tried: int = 1
    noticed: int = 0
    """How many were said on the screen, with what they concern."""
    survived: int = 0
    """After how many the work was done, the same bits as undisturbed; or, for bad input, the tool ended in words."""
    lost: int = 0
    """Of a run: iterations that had to be computed again."""
    problem: str = ""
    """What must not be; empty where all is as it must be."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One thing that goes wrong, and what must come of it."""

    name: str
    """In its part, for ever: a case that has a result is not run again."""
    kind: str
    """Its row in the table."""
    run: Callable[[Path], Outcome]
    """Called with an empty folder."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """Cases of one sort."""

    name: str
    title: str
    goal: int
    """How many are to be tried."""
    must: str
    how: str
    """Produced how, in a sentence or two."""
    cases: Callable[[], Sequence[Case]]
    short: int
    """Cases of the short form, in `make test`."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """A case that was run."""

    part: str
    case: str
    kind: str
    commit: str
    date: str
    seconds: float
    outcome: Outcome


def spread(cases: Sequence[Case], count: int) -> list[Case]:
    """So many of them, over the whole list."""
    count = min(count, len(cases))
    return [cases[number * len(cases) // count] for number in range(count)]


CODE = ("megatron_patch", "tests", "examples", "toolkits", "requirements.txt")


@cache
def commit() -> str:
    """Short, with a plus sign where code had changed since when this process began."""
    git = ["git", "-C", str(REPOSITORY)]
    head, changed = (
        subprocess.run([*git, *words], capture_output=True, text=True, check=False).stdout.strip()
        for words in (["rev-parse", "--short=8", "HEAD"], ["status", "--porcelain", "--", *CODE])
    )
    return f"{head or 'unknown'}{'+' if changed else ''}"


def read_results(part: str, folder: Path = RESULTS) -> list[Result]:
    """The latest of each case, in the order of their first runs."""
    found: dict[str, Result] = {}
    path = folder / f"{part}.jsonl"
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        fields = json.loads(line)
        result = Result(**{**fields, "part": part, "outcome": Outcome(**fields["outcome"])})
        found[result.case] = result
    return list(found.values())


def run_case(part: Part, case: Case) -> Result:
    """Run one; an exception of the case itself is a problem too."""
    folder = Path(tempfile.mkdtemp(prefix=f"faults-{part.name}-"))
    began = time.monotonic()
    try:
        outcome = case.run(folder)
    except Exception:
        outcome = Outcome(problem=f"the case itself failed: {traceback.format_exc()[-1500:]}")
    seconds = time.monotonic() - began
    if not outcome.problem:
        shutil.rmtree(folder, ignore_errors=True)
    return Result(
        part=part.name,
        case=case.name,
        kind=case.kind,
        commit=commit(),
        date=time.strftime("%Y-%m-%d", time.gmtime()),
        seconds=round(seconds, 2),
        outcome=outcome,
    )


def run_part(
    part: Part, *, most: int | None = None, again: str = "", folder: Path = RESULTS, say: Callable[[str], None] = print
) -> Iterator[Result]:
    """Run the cases that have no result yet, and keep each result as soon as it is there.

    Args:
        most: of so many cases, spread over the part, those without a result; all if None.
        again: `failed` runs those with a problem once more, `all` every case.
    """
    cases = part.cases()
    wanted = cases if most is None else spread(cases, most)
    before = {result.case: result for result in read_results(part.name, folder)}
    redo = {name for name, result in before.items() if again == "all" or (again == "failed" and result.outcome.problem)}
    left = [case for case in wanted if case.name not in before or case.name in redo]
    say(f"{part.name}: {len(left)} of {len(wanted)} cases to run")
    for number, case in enumerate(left, 1):
        result = run_case(part, case)
        keep(result, folder)
        word = f"PROBLEM: {result.outcome.problem}" if result.outcome.problem else "ok"
        say(f"  {number}/{len(left)} {case.name}: {word} ({result.seconds:.1f} s)")
        yield result


OF_THIS_MACHINE = (
    re.compile(r"/[^\s\"':]*/(?=(?:megatron_patch|tests|toolkits|examples|benchmarks)/)"),
    re.compile(r"/[^\s\"':]*/(?=python3\.\d+/)"),
    re.compile(rf"{re.escape(tempfile.gettempdir())}/[^/\s\"']*/"),
)
"""Where a checkout, Python and temporary folders lie; the kept results name the rest of a path."""


def without_this_machine(text: str) -> str:
    """A text whose paths begin within the checkout, Python's library or a temporary folder."""
    for place in OF_THIS_MACHINE:
        text = place.sub("", text)
    return text


def keep(result: Result, folder: Path) -> None:
    """Append a line."""
    folder.mkdir(parents=True, exist_ok=True)
    result = replace(result, outcome=replace(result.outcome, problem=without_this_machine(result.outcome.problem)))
    fields = {name: value for name, value in asdict(result).items() if name != "part"}
    fields["outcome"] = {name: value for name, value in fields["outcome"].items() if value or name == "tried"}
    with (folder / f"{result.part}.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(fields) + "\n")


def total(results: Iterable[Result], name: str) -> int:
    """Sum of a number of their outcomes."""
    return sum(getattr(result.outcome, name) for result in results)
