"""Command lines of every tool, made by hypothesis: right ones with a few words changed, and any words at all.

No tool may show a traceback, loop, die by a signal or end with a status and no word, and none may write outside of its
working folder. Seeds are fixed: batch N of a tool is always the same hundred lines.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from megatron_patch.launch.variables import VARIABLES

from .bad_inputs import template
from .campaign import Case, Outcome, Part
from .runs import shared_world
from .tools import run_tool, tools
from .world import Job

GOAL, BATCH = 10_000, 100
OFTEN = {"train": 20, "pretrain_llm": 8, "finetune_llm": 8, "convert": 6, "doctor": 1}
"""Batches of a tool; of others four."""
SLOW = ("doctor", "evaluate", "download_wiki", "check")
"""Tools of which a right line takes seconds, or (check) patches Megatron before anything imports it, which the server
of tools has done: not in the short form."""
VALUES = [
    "0", "1", "2", "-1", "7", "1e-5", "1e999", "-inf", "nan", "1_0", "0x10", "٣", "1.5", "9" * 30, "1" + "0" * 4400, "",
    " ", "true", "false", "none", "None", "auto", "tiny", "8B", "qwen3-8B", "fp32", "bf16", "fp8", "en", "zh", "a,b",
    "1/0", "3/2", "0.5 A 0.5 B", "$(touch pwned)", "`touch pwned`", "a\nb", "\x1b[2J", "\u202eabc", "\udcff", "--", "-",
    "-h", "--help", "@x", "{}", "[", "'", '"', "*", "x" * 300, "hf_" + "a" * 34,
]  # fmt: skip
PLACES = ["text.jsonl", "chat.jsonl", "tokenizer", "model", "text_document", "text_document.bin", "out", "missing", ".",
          "model/config.json", "tokenizer/tokenizer.json", "new/folder", "link", "binary", "empty", "run"]  # fmt: skip


def right_lines() -> dict[str, list[str]]:
    """A line of each tool that works, or nearly; its paths relative to the working folder."""
    job = Job(world=Path(), output=Path("out"), processes=1)
    here = ["--hf_model_id", "tokenizer", "--dataset_path", "text_document", "--executor", "local", "--max_steps", "3"]
    named = ["--model_name", "llama31_8b", *here, "--dry-run"]
    convert = ["auto", "model", "out", "1", "1", "false", "false", "false", "fp32"]
    return {
        "train": [str(value) for value in job.values],
        "plan": ["8B", "--gpus", "8", "--global-batch", "128"],
        "convert": convert,
        "check": [*convert[:2], "run/absent", *convert[3:]],
        "verify": ["run"],
        "export": ["run", "out"],
        "evaluate": ["model", "cmmlu", "questions", "--output", "out", "--cache", "cache", "--limit", "1"],
        "compare": ["run", "out"],
        "report": ["run", "--output", "out.html"],
        "watch": ["run", "--once"],
        "doctor": ["--json", "--json"],
        "data pretrain": ["text.jsonl", "tokenizer", "out", "--workers", "1"],
        "data sft": ["chat.jsonl", "LLama3Tokenizer", "160", "out", "tokenizer", "--workers", "1"],
        "data inspect": ["chat.jsonl", "--tokenizer", "tokenizer", "--sample", "0"],
        "data verify": ["text_document", "--tokenizer", "tokenizer"],
        "data tokenizer": ["text.jsonl", "out", "--vocab-size", "512"],
        "new-model": ["tiny", "out", "--tokenizer", "tokenizer"],
        "pretrain_llm": named,
        "finetune_llm": [*named, "--nemo_model", "model", "--dataset_path", "chat"],
        "convert_from_hf_to_nemo2": ["--source", "model", "--output-path", "out"],
        "convert_from_nemo2_to_hf": ["--source", "run", "--output-path", "out"],
        "preprocess_data_for_megatron": [
            "--input",
            "text.jsonl",
            "--output-prefix",
            "out",
            "--tokenizer-library",
            "huggingface",
            "--tokenizer-type",
            "tokenizer",
            "--workers",
            "1",
        ],
        "prepare_data": ["questions"],
        "download_wiki": ["--input", "text.jsonl", "--output", "out"],
    }


@cache
def flags(tool: str) -> list[str]:
    """Those that its help names."""
    said = run_tool(tool, ["--help"], shared_world())
    return sorted(set(re.findall(r"(?<![\w-])--[a-z][a-z0-9_-]*[a-z0-9]", said.text))) or ["--help"]


def lines_of(tool: str) -> st.SearchStrategy[tuple[list[str], dict[str, str]]]:
    """Words and variables."""
    right = right_lines().get(tool, ["model"])
    text = st.text(st.characters(exclude_characters="/~.\0", codec=None), max_size=8).filter(_can_be_typed)
    value = st.sampled_from(VALUES) | st.sampled_from(PLACES) | text | st.integers(-(10**6), 10**6).map(str)
    flag = st.sampled_from(flags(tool)) | st.sampled_from(flags(tool)).map(lambda flag: flag[:-2])
    word = value | flag | st.builds("{}={}".format, flag, value)
    change = st.tuples(st.sampled_from(["replace", "drop", "insert", "double"]), st.integers(0, 40), word)
    changed = st.lists(change, max_size=4).map(partial(_changed, right))
    variable = st.sampled_from([row.name for row in VARIABLES]) | st.sampled_from(["MP_X", "MP_", "DRY_RUN", "RANK"])
    given_value = value.filter(lambda text: "\0" not in text)
    variables = st.dictionaries(variable, given_value, max_size=2 if tool in ("train", "pretrain_llm") else 0)
    words = (changed | changed | st.lists(word, max_size=8)).map(lambda line: [w for w in line if "\0" not in w])
    return st.tuples(words, variables)


def _can_be_typed(text: str) -> bool:
    """Whether a word of a process can be that: half a surrogate pair cannot, bytes that are not UTF-8 can."""
    try:
        return bool(os.fsencode(text)) or not text
    except UnicodeEncodeError:
        return False


def _changed(right: Sequence[str], changes: Sequence[tuple[str, int, str]]) -> list[str]:
    words = list(right)
    for how, number, word in changes:
        at = number % (len(words) + 1)
        if how == "insert" or at == len(words):
            words.insert(at, word)
        elif how == "replace":
            words[at] = word
        elif how == "drop":
            del words[at]
        else:
            words.insert(at, words[at])
    return words


def cases() -> list[Case]:
    """A hundred batches or more, of every tool in turn."""
    names = tools()
    batches = {tool: OFTEN.get(tool, 4) for tool in names}
    numbered = [(number, tool) for tool in names for number in range(batches[tool])]
    return [
        Case(name=f"{tool} {number}", kind=tool, run=partial(batch, tool, number, BATCH))
        for number, tool in sorted(numbered, key=lambda pair: pair[0])
    ]


def short_cases() -> list[Case]:
    """A few lines of each tool."""
    return [
        Case(name=f"{tool} short", kind=tool, run=partial(batch, tool, 1000, 4)) for tool in tools() if tool not in SLOW
    ]


def batch(tool: str, number: int, count: int, folder: Path) -> Outcome:
    """Run so many command lines of a tool."""
    problems: list[str] = []
    tried = refused = 0

    @seed(f"{tool} {number}")
    @settings(
        max_examples=count, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=HealthCheck
    )
    @given(lines_of(tool))
    def every(line: tuple[list[str], dict[str, str]]) -> None:
        nonlocal tried, refused
        words, variables = line
        place = _place(folder)
        said = run_tool(tool, words, place, variables)
        tried += 1
        refused += bool(said.status)
        if problem := said.problem() or _outside(place):
            problems.append(f"{variables} {tool} {words}: {problem}")

    every()
    problem = f"{len(problems)} of {tried}; {' | '.join(problems[:3])}" if problems else ""
    return Outcome(tried=tried, noticed=refused, survived=tried - len(problems), problem=problem)


def _place(folder: Path) -> Path:
    """A working folder with all that a line may name, as new."""
    place = folder / "place"
    if place.exists():
        shutil.rmtree(place)
    place.mkdir(parents=True)
    world = shared_world()
    for name in ("text.jsonl", "chat.jsonl", "text_document.bin", "text_document.idx"):
        (place / name).hardlink_to(world / name) if name.endswith((".bin", ".idx")) else shutil.copy(
            world / name, place
        )
    for name in ("tokenizer", "model"):
        shutil.copytree(world / name, place / name)
    (place / "binary").write_bytes(bytes(range(256)))
    (place / "empty").touch()
    (place / "link").symlink_to("link")
    shutil.copytree(template() / "run", place / "run", ignore=shutil.ignore_patterns("iter_0000002", "iter_0000004"))
    (place / "chat").mkdir()
    shutil.copy(world / "chat.jsonl", place / "chat" / "training.jsonl")
    (place / "questions").symlink_to(template() / "questions")
    return place


def _outside(place: Path) -> str:
    """Whether something of the lines was executed."""
    return "it executed a value" if any(place.rglob("pwned")) else ""


PART = Part(
    name="command_lines",
    title="Command lines made by hypothesis",
    goal=GOAL,
    must="no traceback, none that loops or hangs, none ended by a signal, no failure without a word, no control "
    "characters on the screen, nothing executed",
    how="Every command of `megatron-patch` and every script under examples/ and toolkits/, with right lines of which "
    "words are changed, dropped, doubled or added, with any words, and with MP_ variables; a fork for each line, "
    "where root may with a read-only file system outside of its folder and no network.",
    cases=cases,
    short=1,
)
