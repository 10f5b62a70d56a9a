"""Find and verify the questions of CMMLU and C-Eval; nothing is downloaded.

A place is a folder that holds a data set somewhere below it, or an archive (.tgz, .tar.gz, .tar, .zip).
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from megatron_patch.common.errors import Refusal
from megatron_patch.evaluation.archives import ENDINGS, ArchiveError, unpack
from megatron_patch.evaluation.benchmarks import Benchmark
from megatron_patch.evaluation.synthetic import MARKER

HARNESS = Path(__file__).resolve().parents[2] / "LM-Evaluation-Harness"
_DEPTH = 4
"""Levels of folders searched below a place."""
_SHOWN = 5
"""Problems of one kind that are spelled out."""

INVENTED = "invented questions"
"""Note of data that `synthetic` made."""

Rows = list[dict[str, str]]


class DataError(Refusal):
    """Questions that cannot be used."""


@dataclass(kw_only=True)
class LocalData:
    """One benchmark's questions on this machine, verified."""

    benchmark: Benchmark
    folder: Path
    questions: dict[str, dict[str, Rows]]
    """By subject and split: rows with the benchmark's columns, all text."""
    fingerprint: str
    """SHA-256 over `questions`: scores are comparable only where it is equal."""
    notes: list[str] = field(default_factory=list)
    """Why these are not the published questions; empty if every file has the published number of rows."""

    def describe(self) -> str:
        """One line: what was found where."""
        total = sum(len(splits[self.benchmark.scored_split]) for splits in self.questions.values())
        kind = "; ".join(self.notes) or "published row counts"
        return f"{self.benchmark.title}: {len(self.questions)} subjects, {total} questions, {kind} ({self.folder})"


def find_all(benchmarks: list[Benchmark], places: list[Path], cache: Path = HARNESS) -> dict[str, LocalData]:
    """The verified questions of each benchmark, by name.

    Args:
        places: where to look, first hit wins; if empty, below LM-Evaluation-Harness, the working folder and the
            folder that holds the checkout, under their usual names.
        cache: archives are unpacked below its `unpacked/`.
    Raises:
        DataError: all that is missing or wrong, in every benchmark.
    """
    problems = [f"{place}: does not exist" for place in places if not place.exists()]
    found: dict[str, LocalData] = {}
    for benchmark in benchmarks:
        try:
            found[benchmark.name] = verify(benchmark, find(benchmark, places, cache))
        except ArchiveError as error:
            problems.append(str(error))
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(list(dict.fromkeys(problems)))
    return found


def find(benchmark: Benchmark, places: list[Path], cache: Path = HARNESS) -> Path:
    """The first folder that holds files of the benchmark's scored split, unpacking archives on the way."""
    for root in _roots(benchmark, places):
        below = unpack(root, cache / "unpacked") if root.is_file() else root
        for folder in _folders(below, _DEPTH):
            if any((folder / benchmark.file(s.name, benchmark.scored_split)).is_file() for s in benchmark.subjects):
                return folder
    where = ", ".join(map(str, places)) or f"{HARNESS}, the working folder and {HARNESS.parent.parent}"
    wanted = benchmark.file("SUBJECT", benchmark.scored_split)
    raise DataError(
        [f"{benchmark.title}: no {wanted} in {where}; LM-Evaluation-Harness/README.md says where to get the data"]
    )


def _roots(benchmark: Benchmark, places: list[Path]) -> Iterator[Path]:
    """Folders and archives that may hold the benchmark."""
    for place in places:
        yield place
        if place.is_dir():
            yield from (p for p in sorted(place.iterdir()) if p.name.endswith(ENDINGS) and _named(p, benchmark))
    for base in () if places else (HARNESS, Path.cwd(), HARNESS.parent.parent):
        for name in (benchmark.hub_path, *benchmark.usual_names):
            yield from (p for p in (base / name, *(base / (name + ending) for ending in ENDINGS)) if p.exists())


def _named(archive: Path, benchmark: Benchmark) -> bool:
    return any(name.lower() in archive.name.lower() for name in benchmark.usual_names)


def _folders(root: Path, depth: int) -> Iterator[Path]:
    """A folder and those below it, nearest first."""
    level = [root] if root.is_dir() else []
    for _ in range(depth):
        yield from level
        level = [inner for folder in level for inner in _below(folder)]


def _below(folder: Path) -> list[Path]:
    """Folders in a folder; none where it may not be read."""
    try:
        return [inner for inner in sorted(folder.iterdir()) if inner.is_dir() and inner.name[0] != "."]
    except OSError:
        return []


def verify(benchmark: Benchmark, folder: Path) -> LocalData:
    """Read every file of a benchmark and check subjects, columns, answers and row counts.

    Raises:
        DataError: a missing file or column, a row that is cut or has no valid answer.
    """
    questions: dict[str, dict[str, Rows]] = {}
    problems: list[str] = []
    unusual: list[str] = []
    for subject in benchmark.subjects:
        questions[subject.name] = {}
        for split in benchmark.splits:
            file = folder / benchmark.file(subject.name, split)
            rows, wrong = _read(benchmark, file)
            problems += wrong
            questions[subject.name][split] = rows
            if len(rows) != subject.rows[split]:
                name = benchmark.file(subject.name, split)
                unusual.append(f"{name} has {len(rows)} rows, published are {subject.rows[split]}")
    if problems:
        raise DataError([f"{benchmark.title} in {folder}: {line}" for line in shortened(problems)])
    notes = [INVENTED] if (folder / MARKER).exists() else []
    if unusual:
        files = len(benchmark.subjects) * len(benchmark.splits)
        notes.append(f"{len(unusual)} of {files} files differ from the published row counts: {unusual[0]}")
    text = json.dumps(questions, ensure_ascii=False, sort_keys=True)
    fingerprint = hashlib.sha256(text.encode()).hexdigest()
    return LocalData(
        benchmark=benchmark, folder=folder.resolve(), questions=questions, fingerprint=fingerprint, notes=notes
    )


def _read(benchmark: Benchmark, file: Path) -> tuple[Rows, list[str]]:
    """The rows of one CSV file, every value as it is written there, and what is wrong with them."""
    name = f"{file.parent.name}/{file.name}"
    if not file.is_file():
        return [], [f"{name} is missing"]
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines, strict=True)
            if missing := [c for c in benchmark.columns if c not in (reader.fieldnames or [])]:
                return [], [f"{name} has no column {', '.join(missing)}"]
            rows, problems = [], []
            for row in reader:
                answer = row[benchmark.columns[-1]]
                if None in row or None in row.values():
                    problems.append(f"{name}, line {reader.line_num}: wanted {len(reader.fieldnames or [])} fields")
                elif answer not in ("A", "B", "C", "D"):
                    problems.append(f"{name}, line {reader.line_num}: answer is {answer!r}, wanted A, B, C or D")
                rows.append({column: row[column] for column in benchmark.columns})
    except (UnicodeDecodeError, csv.Error) as error:
        return [], [f"{name} is not CSV in UTF-8: {error}"]
    except OSError as error:
        return [], [f"{name} cannot be read: {error.strerror}"]
    return rows, problems if rows else [f"{name} has no rows"]


def shortened(problems: list[str]) -> list[str]:
    """The first few, and how many more there are."""
    rest = len(problems) - _SHOWN
    return problems[:_SHOWN] + ([f"and {rest} more like these"] if rest > 0 else [])
