"""Evaluation in Chinese, as processes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_patch.evaluation import synthetic

CHINESE = re.compile("[\u4e00-\u9fff]")


def run(module: str, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"megatron_patch.{module}", *map(str, arguments)]
    root = str(Path(__file__).parents[2])
    environ = os.environ | {"MP_LANG": "zh", "PYTHONPATH": root}
    return subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True, check=False)


def test_all_wrong_values(tmp_path: Path) -> None:
    values = ("cmlu,cmlu", tmp_path / "no", "--limit", 0, "--dtype", "fp8", "--apply-chat-template")
    done = run("evaluation", tmp_path / "none", *values, cwd=tmp_path)
    lines = done.stderr.splitlines()
    assert done.returncode == 2 and len(lines) == 5, done.stderr
    assert all(re.fullmatch(r"错误：.*[\u4e00-\u9fff].* \[[a-z0-9-]+\]", line) for line in lines), done.stderr
    assert f"错误：CHECKPOINT：{tmp_path}/none 不是文件夹 [usage-no-folder]" in lines


@pytest.mark.slow
def test_scores(model: Path, tmp_path: Path) -> None:
    """Every line on the screen that is ours; the files stay English."""
    made = run("evaluation.synthetic", tmp_path / "data", "--questions", 2, cwd=tmp_path)
    assert made.returncode == 0 and len(made.stdout.splitlines()) == 2 and "虚构了" in made.stdout
    values = (model, "ceval-valid_law", tmp_path / "data", "--limit", 2, "--output", tmp_path / "out")
    done = run("evaluation", *values, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "虚构的题目" in done.stdout and "| 科目 | 题数 | 准确率（%） | 标准误 |" in done.stdout
    assert "个选项，每秒" in done.stdout and f"已写入 {tmp_path}/out/results.json" in done.stdout
    assert "正在为选项计分" in done.stderr
    written = (tmp_path / "out" / "results.md").read_text()
    assert "| Subject | Questions |" in written and "invented questions" in written
    again = run("evaluation.compare", tmp_path / "out", tmp_path / "out", "--output", tmp_path / "both", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "题上的对数似然完全相同。" in again.stdout and "虚构的题目" in again.stdout
    plain = [line for line in again.stdout.splitlines() if line.strip("| -:") and not CHINESE.search(line)]
    assert len(plain) == 1 and plain[0].startswith("| C-Eval (validation) | 2 |")
    (tmp_path / "out" / "results.json").write_text("{}")
    foreign = run("evaluation.compare", tmp_path / "out", tmp_path / "out", cwd=tmp_path)
    assert foreign.returncode == 2 and foreign.stderr.startswith(
        "错误：RESULTS：不是 `sh LM-Evaluation-Harness/evaluate.sh` 写的结果："
    ), foreign


def test_data_that_cannot_be_used(model: Path, tmp_path: Path) -> None:
    synthetic.make(tmp_path / "data", 1)
    (tmp_path / "data" / "ceval" / "dev" / "law_dev.csv").unlink()
    done = run("evaluation", model, "ceval-valid", tmp_path / "data", cwd=tmp_path)
    assert done.returncode == 2 and "错误：C-Eval (validation)，" in done.stderr.replace(", ", "，"), done.stderr
    assert "缺少 dev/law_dev.csv [file-missing]" in done.stderr
    (tmp_path / "a.zip").write_text("no archive")
    torn = run("evaluation", model, "cmmlu", tmp_path / "a.zip", cwd=tmp_path)
    assert f"错误：{tmp_path}/a.zip：无法解压：" in torn.stderr, torn.stderr
