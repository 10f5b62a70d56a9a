"""The cache: one per content, built once, whole or rebuilt."""

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

import pytest

from megatron_patch.common.messages import Message
from megatron_patch.data.jsonl import DataError
from megatron_patch.data.sft.cache import CacheSource, TokenizedCache, _build_elsewhere, defect, open_cache
from megatron_patch.data.sft.chat_tokenizer import ChatTokenizer
from megatron_patch.data.sft.encoder import Encoder
from megatron_patch.data.sft.formats import Conversation
from megatron_patch.data.sft.rendering.template import ChatTemplate, TemplateError

ROOT = Path(__file__).resolve().parents[3]
Write = Callable[[Path, list[Any]], Path]


@pytest.fixture
def data(tmp_path: Path, conversations: list[Any], write_json_lines: Write) -> Path:
    return write_json_lines(tmp_path / "data.jsonl", [{"messages": messages} for messages in conversations])


def build(data: Path, tokenizer_folder: Path, folder: Path, **options: Any) -> tuple[TokenizedCache, list[str]]:
    said: list[Message] = []
    cache = open_cache(CacheSource.of([data], tokenizer_folder), folder, say=said.append, **{"workers": 1, **options})
    return cache, list(map(str, said))


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
    assert len(said) == 1 and "tokenizing 1 file into" in said[0]
    expected = Encoder(tokenizer).encode(
        [template.render(Conversation(messages=messages)) for messages in conversations]
    )
    for number, (tokens, turns) in enumerate(expected):
        assert cache.row(number)[0].tolist() == tokens.tolist()
        assert cache.row(number)[1].tolist() == turns.tolist()
        assert cache.origin(number) == (str(data), number + 1, 0)
    assert len(cache) == len(expected)
    other, _ = build(data, tokenizer_folder, tmp_path / "three", workers=3)
    for name in ("tokens", "turns", "offsets", "origins"):
        assert (other.folder / f"{name}.bin").read_bytes() == (cache.folder / f"{name}.bin").read_bytes()


def test_errors_of_the_building_process_are_raised_here(
    tokenizer_folder: Path, tmp_path: Path, write_json_lines: Write
) -> None:
    (tmp_path / "list.json").write_text('[{"instruction": "a", "output": "b"},\n{"instruction"}]')
    with pytest.raises(DataError, match=r"list\.json:2: row 2: bad JSON"):
        build(tmp_path / "list.json", tokenizer_folder, tmp_path / "cache", workers=2)
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_any_other_error_of_the_building_process_is_told_too(
    data: Path, tokenizer_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its traceback is in the log, but the log is not the screen. A process that was killed says nothing itself."""
    source = CacheSource.of([data], tokenizer_folder)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"^tokenizing into .* failed: NotADirectoryError: .*file"):
        _build_elsewhere(source, tmp_path / "file" / "sft-0", 2)
    (tmp_path / "python").write_text("#!/bin/sh\nkill -KILL $$\n")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    with pytest.raises(DataError, match="failed: killed by SIGKILL, as the kernel does when memory runs out"):
        _build_elsewhere(source, tmp_path / "sft-0", 2)


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
    key = CacheSource.of([data], tokenizer_folder).key()
    folder = tmp_path / "tokenizer"
    shutil.copytree(tokenizer_folder, folder)
    assert CacheSource.of([data], folder).key() == key
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    assert CacheSource.of([data], folder).key() != key
    (folder / "chat_template.jinja").unlink()
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["ignore_merges"] = not content["model"]["ignore_merges"]
    (folder / "tokenizer.json").write_text(json.dumps(content))
    assert CacheSource.of([data], folder).key() != key


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
    assert any(", again: " in line for line in said), said
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
from megatron_patch.data.sft.cache import CacheSource, open_cache
work = tokenize.tokenize_chunk
def slowly(*arguments):
    print("working", flush=True)
    while not Path(sys.argv[4]).exists():
        time.sleep(0.05)
    return work(*arguments)
def say(line):
    print(line, flush=True)
tokenize.tokenize_chunk = slowly
cache = open_cache(CacheSource.of([sys.argv[1]], sys.argv[2]), Path(sys.argv[3]), workers=1, say=say)
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
    outputs = [process.communicate(timeout=300)[0] for process in (first, *others)]
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


def test_a_template_that_works_for_ever_stops_the_build_and_names_the_line(
    tokenizer_folder: Path, tmp_path: Path, write_json_lines: Write, conversations: list[Any]
) -> None:
    folder = tmp_path / "tokenizer"
    shutil.copytree(tokenizer_folder, folder)
    (folder / "chat_template.jinja").write_text(
        "{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}"
    )
    data = write_json_lines(tmp_path / "data.jsonl", [{"messages": messages} for messages in conversations])
    with pytest.raises(TemplateError, match=r"data\.jsonl:1: .*more than 10,000,000 units of work"):
        build(data, folder, tmp_path / "cache")
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]
