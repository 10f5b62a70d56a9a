"""The data tools in Chinese, as processes: what they refuse, what they lose and why, what they report."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

CHINESE = re.compile("[\u4e00-\u9fff]")
GOOD = {"messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]}
ROWS = [
    GOOD,
    {"messages": [{"role": "user", "content": "?"}, {"role": "robot", "content": "!"}]},
    {"text": "2+2?"},
    {"instruction": "2+2?", "output": ""},
    {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "tool_calls": [{"function": {}}]}]},
]
REASONS = [
    ":2：第 2 条消息的 role 是 'robot'；可用：system、developer",
    ":3：不是已知的格式：它的键是 'text'；需要以下之一：messages、conversations",
    ":4：output 是空的",
    ":5：第 2 条消息：有一个工具调用没有函数名",
    ":6：第 2 列的 JSON 有误：",
]


def run(module: str, *arguments: object, language: str = "zh") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"megatron_patch.data.{module}", *map(str, arguments)]
    return subprocess.run(command, env=os.environ | {"MP_LANG": language}, capture_output=True, text=True, check=False)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    lines = [json.dumps(row) for row in ROWS]
    (tmp_path / "rows.jsonl").write_text("\n".join([*lines, "{broken}"]) + "\n")
    return tmp_path / "rows.jsonl"


def test_the_report_of_a_cache_is_in_the_language_of_its_reader(
    rows: Path, tokenizer_folder: Path, tmp_path: Path
) -> None:
    """Tokenized by an English process with workers, read by a Chinese one: the reasons of single rows too."""
    values = [rows, "LLama3Tokenizer", 128, tmp_path / "out", tokenizer_folder, "true", "--max-lost", 1, "--workers", 2]
    english = run("sft.build_idxmap", *values, "--cache", tmp_path / "cache", language="en")
    assert english.returncode == 0 and "1 of 6 rows used" in english.stdout, english.stderr
    assert "no known format: its keys are 'text'" in english.stdout and not CHINESE.search(english.stdout)
    done = run("sft.build_idxmap", *values, "--cache", tmp_path / "cache", "--overwrite")
    assert "使用 6 行中的 1 行" in done.stdout and "正在对" not in done.stderr, done.stderr
    assert [line for line in done.stdout.splitlines() if not CHINESE.search(line)] == [f"{rows}：messages 3、alpaca 1"]
    assert [reason for reason in REASONS if f"{rows}{reason}" not in done.stdout] == []
    report = json.loads((tmp_path / "out_text_document.sft.json").read_text())["report"]
    assert report["lost"]["empty"]["first"][0]["why"] == "output is empty"
    assert not CHINESE.search(json.dumps(report, ensure_ascii=False))


def test_too_much_lost(rows: Path, tokenizer_folder: Path, tmp_path: Path) -> None:
    done = run("sft.build_idxmap", rows, "LLama3Tokenizer", 128, tmp_path / "out", tokenizer_folder, "--workers", 2)
    first, *more = done.stderr[done.stderr.index("错误") :].splitlines()
    assert (done.returncode, first) == (1, "错误：舍弃了 83.3% 的行；最多允许 10.0% [sft-too-much-lost]")
    assert len(more) == 10 and sum(map(bool, map(CHINESE.search, more))) == 9  # one has names of formats alone


def test_wrong_values_of_the_tools(tmp_path: Path) -> None:
    sft = run("sft.build_idxmap", tmp_path / "no", "GPT2", 1, "x/", tmp_path, "--max-lost", 2, "--workers", -1)
    text = run("preprocess", tmp_path / "no", tmp_path, "x/", "--workers", "many", "--shard", "3/2", "--merge", -1)
    for done, count in ((sft, 7), (text, 6)):
        lines = done.stderr.splitlines()
        assert done.returncode == 2 and len(lines) == count, done.stderr
        assert all(re.fullmatch(r"错误：.*[\u4e00-\u9fff].* \[[a-z0-9-]+\]", line) for line in lines), done.stderr


def test_a_corpus_and_its_check(tokenizer_folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "a.jsonl"
    source.write_text('{"text": "one"}\n{"test": "two"}\n')
    bad = run("preprocess", source, tokenizer_folder, tmp_path / "out")
    assert bad.returncode == 1
    assert f"错误：{source}:2：没有键 'text'；现有的键：'test'；用 --json-key 选择其他键 [row-no-key]" in bad.stderr
    source.write_text('{"text": "one"}\n\n')
    done = run("preprocess", source, tokenizer_folder, tmp_path / "out")
    assert done.returncode == 0 and "空行 1" in done.stdout, done.stderr
    assert [line for line in done.stdout.splitlines() if not CHINESE.search(line)] == []
    data = tmp_path / "out_text_document.bin"
    assert run("verify", data).stdout.startswith(f"{tmp_path}/out_text_document：完整\n    注意：")
    data.write_bytes(data.read_bytes() + b"xx")
    broken = run("verify", data)
    assert broken.returncode == 1 and "已损坏" in broken.stdout and "索引说是" in broken.stdout


def test_one_row_beside_its_rendering(rows: Path, tokenizer_folder: Path) -> None:
    done = run("sft.inspection", rows, "--tokenizer", tokenizer_folder, "--line", 1, 2)
    assert done.returncode == 0, done.stderr
    assert "这一行的内容" in done.stdout and "没有略去任何内容；使用。" in done.stdout
    assert f"{rows}:2：舍弃：第 2 条消息的 role 是 'robot'" in done.stdout
    absent = run("sft.inspection", rows, "--tokenizer", tokenizer_folder, "--line", 99)
    assert absent.stderr == f"错误：{rows} 的第 99 行没有数据 [data-no-line]\n"


def test_a_tokenizer_that_cannot_be_used(rows: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "tokenizer_config.json").write_text("[]")
    done = run("sft.inspection", rows, "--tokenizer", tmp_path / "tokenizer")
    assert done.returncode == 2
    assert done.stderr.startswith(f"错误：--tokenizer：{tmp_path}/tokenizer/tokenizer_config.json："), done.stderr


@pytest.mark.parametrize("tool", ["preprocess", "sft.build_idxmap", "sft.inspection", "verify"])
def test_help_is_chinese_for_every_flag(tool: str) -> None:
    done = run(tool, "--help")
    assert done.returncode == 0 and done.stdout.startswith("用法：")
    flags = re.findall(r"^  (--[a-z-]+.*(?:\n {6,}.*)*)", done.stdout, re.MULTILINE)
    known = [flag for flag in flags if not flag.startswith(("--color", "--help"))]
    assert known and all(map(CHINESE.search, known)), done.stdout
