"""Chat and generate in Chinese, as processes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(module: str, *arguments: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"megatron_patch.{module}", *map(str, arguments)]
    environ = os.environ | {"MP_LANG": "zh"}
    return subprocess.run(command, cwd=ROOT, env=environ, input=stdin, capture_output=True, text=True, check=False)


def test_each_wrong_value_is_a_chinese_line(tmp_path: Path) -> None:
    done = run("generate", tmp_path / "none", "--top-p", 2, "--seed", "x", "--prompt", "a")
    lines = done.stderr.splitlines()
    assert done.returncode == 2 and len(lines) == 3, done.stderr
    assert all(re.fullmatch(r"错误：.*[\u4e00-\u9fff].* \[[a-z-]+\]", line) for line in lines), done.stderr


@pytest.mark.slow
def test_two_models_side_by_side(model: Path, untrained: Path) -> None:
    """What is shown is Chinese, what a program reads is not."""
    values = (model, "--before", untrained, "--prompt", "a", "--max-new-tokens", 2)
    shown = run("generate", *values)
    assert shown.returncode == 0, shown.stderr
    assert "之前：" in shown.stdout and "之后：" in shown.stdout and "个参数" in shown.stderr
    rows = [json.loads(line) for line in run("generate", *values, "--json").stdout.splitlines()]
    assert [row["model"].split(":")[0] for row in rows] == ["before", "after"]


def test_chat_answers_its_commands_in_chinese(model: Path) -> None:
    done = run("generate.chat", model, "--max-new-tokens", 2, stdin="/what\n/reset\n2+2?\n")
    assert done.returncode == 0, done.stderr
    assert "[/what 不是命令；可用：" in done.stderr and "[新对话]" in done.stderr
