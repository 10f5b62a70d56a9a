"""The cache: one per content, built once, whole or rebuilt, and what selection makes of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megatron_patch.data.jsonl import DataError
from megatron_patch.data.sft.cache import Source, TokenizedCache, defect, open_cache
from megatron_patch.data.sft.chat_tokenizer import ChatTokenizer
from megatron_patch.data.sft.encoder import Encoder
from megatron_patch.data.sft.formats import Conversation
from megatron_patch.data.sft.report import TooMuchLost
from megatron_patch.data.sft.selection import select
from megatron_patch.data.sft.template import ChatTemplate, TemplateError

ROOT = Path(__file__).resolve().parents[3]
Write = Callable[[Path, list[Any]], Path]


@pytest.fixture
def data(tmp_path: Path, conversations: list[Any], write_json_lines: Write) -> Path:
    return write_json_lines(tmp_path / "data.jsonl", [{"messages": messages} for messages in conversations])


def build(data: Path, tokenizer_folder: Path, folder: Path, **options: Any) -> tuple[TokenizedCache, list[str]]:
    said: list[str] = []
    cache = open_cache(Source.of([data], tokenizer_folder), folder, say=said.append, **{"workers": 1, **options})
    return cache, said


def contents(cache: TokenizedCache) -> list[list[int]]:
    return [cache.row(number)[0].tolist() for number in range(len(cache))]


def test_a_cache_is_what_encoding_gives_at_any_number_of_workers(
    data: Path,
    tokenizer_folder: Path,
    tmp_path: Path,
    conversations: list[Any],
    tokenizer: ChatTokenizer,
    template: ChatTemplate,
) -> None:
    cache, said = build(data, tokenizer_folder, tmp_path / "one")
    assert len(said) == 1 and "tokenizing 1 file(s)" in said[0]
    expected = Encoder(tokenizer).encode(
        [template.render(Conversation(messages=messages)) for messages in conversations]
    )
    for number, (tokens, turns) in enumerate(expected):
        assert cache.row(number)[0].tolist() == tokens.tolist()
        assert cache.row(number)[1].tolist() == turns.tolist()
        assert cache.origin(number) == (str(data), number + 1)
    assert len(cache) == len(expected)
    other, _ = build(data, tokenizer_folder, tmp_path / "three", workers=3)
    for name in ("tokens", "turns", "offsets", "origins"):
        assert (other.folder / f"{name}.bin").read_bytes() == (cache.folder / f"{name}.bin").read_bytes()


def test_errors_of_the_building_process_are_raised_here(
    tokenizer_folder: Path, tmp_path: Path, write_json_lines: Write
) -> None:
    (tmp_path / "list.json").write_text('[{"instruction": "a", "output": "b"},\n{"instruction"}]')
    with pytest.raises(DataError, match=r"list\.json:2: bad JSON"):
        build(tmp_path / "list.json", tokenizer_folder, tmp_path / "cache", workers=2)
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_the_second_run_builds_nothing(data: Path, tokenizer_folder: Path, tmp_path: Path) -> None:
    first, _ = build(data, tokenizer_folder, tmp_path / "cache")
    before = (first.folder / "tokens.bin").stat()
    second, said = build(data, tokenizer_folder, tmp_path / "cache")
    assert said == []
    assert (second.folder / "tokens.bin").stat().st_mtime_ns == before.st_mtime_ns


def test_changed_data_at_the_same_path_size_and_time_is_seen(
    data: Path, tokenizer_folder: Path, tmp_path: Path
) -> None:
    first, _ = build(data, tokenizer_folder, tmp_path / "cache")
    stat = data.stat()
    text = data.read_bytes()
    at = text.index(b"quick")
    data.write_bytes(text[:at] + b"slick" + text[at + 5 :])
    os.utime(data, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert data.stat().st_size == stat.st_size
    second, said = build(data, tokenizer_folder, tmp_path / "cache")
    assert len(said) == 1
    assert second.folder != first.folder
    assert contents(second) != contents(first)


def test_another_template_or_tokenizer_is_another_cache(data: Path, tokenizer_folder: Path, tmp_path: Path) -> None:
    key = Source.of([data], tokenizer_folder).key()
    folder = tmp_path / "tokenizer"
    shutil.copytree(tokenizer_folder, folder)
    assert Source.of([data], folder).key() == key
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    assert Source.of([data], folder).key() != key
    (folder / "chat_template.jinja").unlink()
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["ignore_merges"] = not content["model"]["ignore_merges"]
    (folder / "tokenizer.json").write_text(json.dumps(content))
    assert Source.of([data], folder).key() != key


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["tokens.bin", "turns.bin", "offsets.bin", "origins.bin", "meta.json"])
@pytest.mark.parametrize(
    "damage",
    [
        flip,
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(path.read_bytes() + b"\0"),
        lambda path: path.write_bytes(b""),
        lambda path: path.unlink(),
    ],
    ids=["bit", "short", "long", "empty", "missing"],
)
def test_a_damaged_cache_is_built_again(
    built: tuple[Path, Path, Path], name: str, damage: Callable[[Path], None], tokenizer_folder: Path
) -> None:
    data, folder, target = built
    before = [(target / f"{part}.bin").read_bytes() for part in ("tokens", "turns", "offsets", "origins")]
    damage(target / name)
    if name == "meta.json" and defect(target) is None:
        return  # a digit of a row's number in an example, or white space: the four files are whole
    cache, said = build(data, tokenizer_folder, folder)
    assert any("building it again" in line for line in said), said
    assert [(target / f"{part}.bin").read_bytes() for part in ("tokens", "turns", "offsets", "origins")] == before
    assert defect(cache.folder) is None


@pytest.fixture(scope="module")
def built(
    tmp_path_factory: pytest.TempPathFactory,
    conversations: list[Any],
    write_json_lines: Write,
    tokenizer_folder: Path,
) -> tuple[Path, Path, Path]:
    folder = tmp_path_factory.mktemp("damage")
    data = write_json_lines(folder / "data.jsonl", [{"messages": messages} for messages in conversations[:9]])
    cache, _ = build(data, tokenizer_folder, folder / "cache")
    return data, folder / "cache", cache.folder


SCRIPT = """
import sys, time
from pathlib import Path
from megatron_patch.data.sft import tokenize
from megatron_patch.data.sft.cache import Source, open_cache
work = tokenize.tokenize_chunk
def slowly(*arguments):
    print("working", flush=True)
    while not Path(sys.argv[4]).exists():
        time.sleep(0.05)
    return work(*arguments)
def say(line):
    print(line, flush=True)
tokenize.tokenize_chunk = slowly
cache = open_cache(Source.of([sys.argv[1]], sys.argv[2]), Path(sys.argv[3]), workers=1, say=say)
print(len(cache), flush=True)
"""


def start(data: Path, tokenizer_folder: Path, folder: Path, go: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SCRIPT, str(data), str(tokenizer_folder), str(folder), str(go)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def wait_for(process: subprocess.Popen[str], word: str) -> list[str]:
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line.strip())
        if word in line:
            return lines
    raise AssertionError(f"{word!r} never came: {lines}")


def test_one_builds_and_the_others_wait(data: Path, tokenizer_folder: Path, tmp_path: Path) -> None:
    first = start(data, tokenizer_folder, tmp_path / "cache", tmp_path / "go")
    wait_for(first, "working")
    others = [start(data, tokenizer_folder, tmp_path / "cache", tmp_path / "go") for _ in range(2)]
    for process in others:
        wait_for(process, "waiting for the process that builds")
    (tmp_path / "go").touch()
    outputs = [process.communicate(timeout=120)[0] for process in (first, *others)]
    assert [process.returncode for process in (first, *others)] == [0, 0, 0]
    assert [output.split() for output in outputs[1:]] == [["60"], ["60"]]  # neither worked nor waited again


def test_a_killed_builder_leaves_nothing_that_looks_like_a_cache(
    data: Path, tokenizer_folder: Path, tmp_path: Path
) -> None:
    first = start(data, tokenizer_folder, tmp_path / "cache", tmp_path / "never")
    wait_for(first, "working")
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir() and path.name.startswith("sft-")]
    cache, _ = build(data, tokenizer_folder, tmp_path / "cache")
    assert len(cache) == 60
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir() and path != cache.folder]


def test_files_that_cannot_be_masked_stop_the_build_and_name_the_line(
    tokenizer_folder: Path, tmp_path: Path, write_json_lines: Write, conversations: list[Any]
) -> None:
    folder = tmp_path / "tokenizer"
    shutil.copytree(tokenizer_folder, folder)
    (folder / "chat_template.jinja").write_text(
        "{{ messages | length }}{% for m in messages %}{{ m['role'] + m['content'] }}{% endfor %}"
    )
    data = write_json_lines(tmp_path / "data.jsonl", [{"messages": messages} for messages in conversations])
    with pytest.raises(TemplateError, match=r"data\.jsonl:1: .*message 3 \(assistant\)"):
        build(data, folder, tmp_path / "cache")
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


# ---------------------------------------------------------------- what is used, and what is not


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory, write_json_lines: Write, tokenizer_folder: Path) -> TokenizedCache:
    """20 rows: 14 fine, then long ones and such that cannot be used."""
    folder = tmp_path_factory.mktemp("mixed")
    fine = [{"instruction": f"q {i}", "output": "yes", "id": i} for i in range(14)]
    rows = [
        *fine,
        {"instruction": "q", "output": "word " * 200},  # 15: its prompt fits
        {"instruction": "word " * 200, "output": "yes"},  # 16: only its prompt would be left
        {"instruction": "q", "output": ""},  # 17
        {"instruction": "q", "output": "half a llama: \ud83e"},  # 18
        {"messages": [{"role": "user", "content": "nobody answers"}]},  # 19
        {"instruction": "<|eot_id|>", "output": "yes"},  # 20
    ]
    cache, _ = build(write_json_lines(folder / "rows.jsonl", rows), tokenizer_folder, folder / "cache")
    return cache


LENGTH = 120


def test_every_row_is_accounted_for(mixed: TokenizedCache, tmp_path: Path) -> None:
    selected, report = select(mixed, seq_length=LENGTH, loss="assistant", max_lost=0.25)
    assert report.rows == 20 and report.samples == 16 and report.lost_rows == 4
    assert {cause: [example.line for example in found.first] for cause, found in report.lost.items()} == {
        "malformed": [18],
        "empty": [17],
        "no trainable token": [16, 19],
    }
    assert [example.line for example in report.truncated.first] == [15, 16]
    assert selected.lengths.max() == LENGTH and report.tokens == selected.lengths.sum()
    masks = [selected.sample(number)[2] for number in range(len(selected.rows))]
    assert report.trained_tokens == sum(int(mask.sum()) for mask in masks)
    report.write(tmp_path / "report.json")
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["lost"]["empty"]["first"][0]["line"] == 17
    assert written["files"][0]["formats"] == {"alpaca": 19, "messages": 1}
    assert written["files"][0]["unused_keys"] == {"id": 14}
    text = "\n".join(report.lines())
    assert "16 of 20 rows used" in text and "rows.jsonl:18: its text holds half" in text and "in 1 rows" in text


def test_overlong_rows(mixed: TokenizedCache) -> None:
    _, report = select(mixed, seq_length=LENGTH, loss="assistant", overlong="drop", max_lost=0.3)
    assert report.lost["too long"].count == 2 and report.samples == 15 and report.truncated.count == 0
    with pytest.raises(TooMuchLost, match=r"OVERLONG is error[\s\S]*rows\.jsonl:15: \d+ tokens; a row holds 121"):
        select(mixed, seq_length=LENGTH, loss="assistant", overlong="error", max_lost=1.0)
    _, report = select(mixed, seq_length=4096, loss="assistant", overlong="error", max_lost=0.2)
    assert "too long" not in report.lost


def test_losing_too_much_is_an_error_with_the_whole_account(mixed: TokenizedCache) -> None:
    with pytest.raises(
        TooMuchLost, match=r"20\.0% of the rows are lost; allowed 10\.0%[\s\S]*:18: its text holds half"
    ):
        select(mixed, seq_length=LENGTH, loss="assistant")
    with pytest.raises(TooMuchLost, match="nothing is left to train on"):
        select(mixed, seq_length=4, loss="assistant", max_lost=1.0)


@pytest.mark.parametrize("loss", ["assistant", "last", "all"])
@pytest.mark.parametrize("seq_length", [130, 400, 2000])
def test_counts_equal_the_masks(built: tuple[Path, Path, Path], loss: str, seq_length: int) -> None:
    data, _, target = built
    cache = TokenizedCache(target, [data])
    selected, report = select(cache, seq_length=seq_length, loss=loss, max_lost=1.0)
    by_hand = []
    for number in range(len(cache)):
        tokens, turns = (part[: seq_length + 1] for part in cache.row(number))
        wanted = {"assistant": turns > 0, "last": turns == 2, "all": turns >= 0}[loss]
        by_hand.append(int(wanted[1:].sum()))
        if by_hand[-1]:
            at = int(np.searchsorted(selected.rows, number))
            inputs, labels, mask = selected.sample(at)
            assert inputs.tolist() == tokens[:-1].tolist() and labels.tolist() == tokens[1:].tolist()
            assert mask.tolist() == wanted[1:].tolist()
    assert report.trained_tokens == sum(by_hand)
    assert selected.rows.tolist() == [number for number, count in enumerate(by_hand) if count]
