"""Inputs of the tools around training that are not what they should be: each file of each tool, each kind of damage."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path

from megatron_patch.evaluation import synthetic

from .campaign import Case, Outcome, Part
from .corruptions import DAMAGES, content, make_folder, remove, undisturbed
from .runs import shared_world
from .tools import run_tool

Damage = Callable[[Path, random.Random], object]
CHECKPOINT = "run/checkpoints/iter_0000008"
KINDS: dict[str, Damage] = {
    "empty": DAMAGES["empty"],
    "cut in half": lambda file, _: os.truncate(file, file.stat().st_size // 2),
    "binary": partial(content, bytes(range(256)) * 4),
    "NUL bytes": partial(content, bytes(5000)),
    "not UTF-8": partial(content, b'{"text": "\xff\xfe", "a": 1}\n'),
    "nested 100,000 deep": partial(content, '{"a":' * 100_000),
    "a number of 5,000 digits": partial(content, '{"iteration": ' + "9" * 5000 + "}"),
    "another type": partial(content, "[3]\n"),
    "removed": remove,
    "a folder in its place": make_folder,
    "a link to itself": lambda file, _: (remove(file, _), file.symlink_to(file.name)),
}
NO_STEP_YET = ("empty", "removed")
"""What metrics.jsonl of a sound run may be."""
TARGETS: dict[str, tuple[str, Sequence[str]]] = {
    "text": ("data pretrain", ("text.jsonl", "tokenizer", "out", "--workers", "1")),
    "conversations": ("data sft", ("chat.jsonl", "LLama3Tokenizer", "160", "out", "tokenizer")),
    "conversations, looked at": ("data inspect", ("chat.jsonl", "--tokenizer", "tokenizer", "--sample", "0")),
    "text of a tokenizer": ("data tokenizer", ("text.jsonl", "out", "--vocab-size", "512")),
    "token ids": ("data verify", ("text_document",)),
    "model": ("convert", ("auto", "model", "out", "1", "1", "false", "false", "false", "fp32")),
    "checkpoint, verified": ("verify", ("run",)),
    "checkpoint, exported": ("export", ("run", "out")),
    "model, evaluated": ("evaluate", ("model", "cmmlu", "questions", "--output", "out", "--cache", "cache")),
    "run, reported": ("report", ("run",)),
    "run, watched": ("watch", ("run", "--once")),
}
FILES = {
    "text": ("text.jsonl", "tokenizer/tokenizer.json"),
    "conversations": ("chat.jsonl", "tokenizer/tokenizer_config.json"),
    "conversations, looked at": ("chat.jsonl", "tokenizer/tokenizer.json"),
    "text of a tokenizer": ("text.jsonl",),
    "token ids": ("text_document.bin", "text_document.idx"),
    "model": ("model/config.json", "model/model.safetensors"),
    "checkpoint, verified": tuple(f"{CHECKPOINT}/{name}" for name in (".metadata", "__1_1.distcp", "checksums.json")),
    "checkpoint, exported": tuple(f"{CHECKPOINT}/{name}" for name in (".metadata", "metadata.json")),
    "model, evaluated": ("model/config.json", "model/model.safetensors"),
    "run, reported": ("run/metrics.jsonl", "run/plan.json"),
    "run, watched": ("run/metrics.jsonl",),
}


def cases() -> list[Case]:
    """Every file of every tool with every kind."""
    found = []
    for target, files in FILES.items():
        tool, words = TARGETS[target]
        for file in files:
            for kind, damage in KINDS.items():
                if file.endswith("metrics.jsonl") and kind in NO_STEP_YET:
                    continue
                run = partial(bad_input, tool, words, file, damage)
                found.append(Case(name=f"{tool}: {file} {kind}", kind=tool, run=run))
    return found


@cache
def template() -> Path:
    """A folder with all that the tools read, all of it right."""
    folder = undisturbed().output.parent / "inputs"
    shutil.copytree(shared_world(), folder)
    shutil.copytree(undisturbed().output, folder / "run")
    synthetic.make(folder / "questions", 1)
    return folder


def bad_input(tool: str, words: Sequence[str], file: str, damage: Damage, folder: Path) -> Outcome:
    """Damage one file, and run the tool."""
    place = folder / "place"
    shutil.copytree(template(), place)
    damage(place / file, random.Random(file))
    said = run_tool(tool, words, place)
    noticed = bool(said.status) or Path(file).name in said.text
    problem = said.problem()
    if not problem and not noticed:
        problem = f"silent: status {said.status}; {said.text[-600:]}"
    if not problem and (left := _leftovers(place)):
        problem = f"it failed and left {left}"
    return Outcome(noticed=int(noticed), survived=int(not problem), problem=problem)


def _leftovers(place: Path) -> list[str]:
    """Unfinished files that a failure left behind."""
    names = [path.relative_to(place).as_posix() for path in place.rglob(".*") if path.parent.name != "iter_0000008"]
    return [name for name in names if not name.startswith(("tmp/", "run/"))]


PART = Part(
    name="bad_inputs",
    title="Bad inputs of the other tools",
    goal=150,
    must="the file is named or the tool ends with a status other than 0; no traceback, nothing silent, nothing "
    "unfinished is left behind",
    how="Each file that a tool reads, in eleven ways not what it should be.",
    cases=cases,
    short=12,
)
