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

from megatron_patch.common.errors import UserError
from megatron_patch.common.messages import Message, at
from megatron_patch.evaluation.archives import ENDINGS, ArchiveError, unpack
from megatron_patch.evaluation.benchmarks import Benchmark
from megatron_patch.evaluation.synthetic import MARKER

HARNESS = Path(__file__).resolve().parents[2] / "LM-Evaluation-Harness"
_DEPTH = 4
"""Levels of folders searched below a place."""
_SHOWN = 5
"""Problems of one kind that are spelled out."""

INVENTED = Message("eval-invented")
"""Note of data that `synthetic` made."""

Rows = list[dict[str, str]]


class QuestionsError(UserError, ValueError):
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
    notes: list[Message] = field(default_factory=list)
    """Why these are not the published questions; empty if every file has the published number of rows."""

    def describe(self) -> Message:
        """One line: what was found where."""
        total = sum(len(splits[self.benchmark.scored_split]) for splits in self.questions.values())
        counts = {"subjects": len(self.questions), "questions": total}
        kind = self.notes or Message("eval-published")
        return Message("eval-found", title=self.benchmark.title, **counts, kind=kind, folder=self.folder)


def find_all(benchmarks: list[Benchmark], places: list[Path], cache: Path = HARNESS) -> dict[str, LocalData]:
    """The verified questions of each benchmark, by name.

    Args:
        places: where to look, first hit wins; if empty, below LM-Evaluation-Harness, the working folder and the
            folder that holds the checkout, under their usual names.
        cache: archives are unpacked below its `unpacked/`.
    Raises:
        QuestionsError: all that is missing or wrong, in every benchmark.
    """
    problems = [at(place, "eval-absent") for place in places if not place.exists()]
    found: dict[str, LocalData] = {}
    for benchmark in benchmarks:
        try:
            found[benchmark.name] = verify(benchmark, find(benchmark, places, cache))
        except (ArchiveError, QuestionsError) as error:
            problems += error.messages
    if problems:
        raise QuestionsError.of(list(dict.fromkeys(problems)))
    return found


def find(benchmark: Benchmark, places: list[Path], cache: Path = HARNESS) -> Path:
    """The first folder that holds files of the benchmark's scored split, unpacking archives on the way."""
    for root in _roots(benchmark, places):
        below = unpack(root, cache / "unpacked") if root.is_file() else root
        for folder in _folders(below, _DEPTH):
            if any((folder / benchmark.file(s.name, benchmark.scored_split)).is_file() for s in benchmark.subjects):
                return folder
    where = places or Message("eval-usual-places", harness=HARNESS, above=HARNESS.parent.parent)
    wanted = benchmark.file("SUBJECT", benchmark.scored_split)
    raise QuestionsError.at(benchmark.title, "eval-no-data", wanted=wanted, places=where)


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
        QuestionsError: a missing file or column, a row that is cut or has no valid answer.
    """
    questions: dict[str, dict[str, Rows]] = {}
    problems: list[Message] = []
    unusual: list[Message] = []
    for subject in benchmark.subjects:
        questions[subject.name] = {}
        for split in benchmark.splits:
            file = folder / benchmark.file(subject.name, split)
            rows, wrong = _read(benchmark, file)
            problems += wrong
            questions[subject.name][split] = rows
            if len(rows) != subject.rows[split]:
                counts = {"rows": len(rows), "published": subject.rows[split]}
                unusual.append(Message("eval-rows", file=benchmark.file(subject.name, split), **counts))
    if problems:
        raise QuestionsError.of(shortened(problems)).about(f"{benchmark.title}, {folder}")
    notes = [INVENTED] if (folder / MARKER).exists() else []
    if unusual:
        files = len(benchmark.subjects) * len(benchmark.splits)
        notes.append(Message("eval-unusual", different=len(unusual), files=files, first=unusual[0]))
    text = json.dumps(questions, ensure_ascii=False, sort_keys=True)
    fingerprint = hashlib.sha256(text.encode()).hexdigest()
    return LocalData(
        benchmark=benchmark, folder=folder.resolve(), questions=questions, fingerprint=fingerprint, notes=notes
    )


def _read(benchmark: Benchmark, file: Path) -> tuple[Rows, list[Message]]:
    """The rows of one CSV file, every value as it is written there, and what is wrong with them."""
    name = f"{file.parent.name}/{file.name}"
    if not file.is_file():
        return [], [Message("file-missing", file=name)]
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines, strict=True)
            if missing := [c for c in benchmark.columns if c not in (reader.fieldnames or [])]:
                return [], [Message("eval-no-column", file=name, columns=missing)]
            rows: Rows = []
            problems: list[Message] = []
            for row in reader:
                answer = row[benchmark.columns[-1]]
                if None in row or None in row.values():
                    fields = len(reader.fieldnames or [])
                    problems.append(Message("eval-fields", file=name, line=reader.line_num, fields=fields))
                elif answer not in ("A", "B", "C", "D"):
                    problems.append(Message("eval-answer", file=name, line=reader.line_num, answer=answer))
                rows.append({column: row[column] for column in benchmark.columns})
    except (UnicodeDecodeError, csv.Error) as error:
        return [], [Message("eval-not-csv", file=name, error=error)]
    except OSError as error:
        return [], [Message("eval-unreadable", file=name, error=error.strerror)]
    return rows, problems if rows else [Message("eval-no-rows", file=name)]


def shortened(problems: list[Message]) -> list[Message]:
    """The first few, and how many more there are."""
    rest = len(problems) - _SHOWN
    return problems[:_SHOWN] + ([Message("eval-more", more=rest)] if rest > 0 else [])
