"""The converter, the layer check, verify and export in Chinese: no English sentence is left on the screen."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_patch.checkpoint.check.compare import ACCUMULATED, SAME, PartComparison
from megatron_patch.checkpoint.check.report import CheckReport
from megatron_patch.checkpoint.cli import main
from megatron_patch.common.messages import Message
from megatron_patch.common.terminal import width_of

from .test_bad_hugging_face import BAD_HF
from .test_bad_megatron import BAD_MEGATRON, block
from .test_cli import BAD

ENGLISH = re.compile(r"\b[a-z]+ [a-z]+ [a-z]+\b")
"""Three words that follow each other."""


def in_chinese(*words: str | Path, status: int = 0) -> str:
    """What a process says on both of its streams."""
    command = [sys.executable, "-m", *map(str, words)]
    environ = os.environ | {"MP_LANG": "zh", "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    said = done.stdout + done.stderr
    assert not ENGLISH.search(said), said
    return said


def test_help_and_list() -> None:
    helped, listed = in_chinese("megatron_patch.checkpoint", "--help"), in_chinese("megatron_patch.checkpoint", "list")
    assert "流水线并行大小" in helped and "退出状态" in helped and "个 KV 头" in listed


@pytest.mark.parametrize("name", BAD)
def test_a_bad_command_line(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("MP_LANG", "zh")
    assert main(BAD[name][0]) == 2
    said = capsys.readouterr().err
    assert " 个问题；没有写入任何内容。\n" in said and not ENGLISH.search(said), said


UPSTREAMS = ("a configuration of another", "the metadata is damaged")
"""Cases whose message holds words of a library."""


@pytest.mark.parametrize("name", [name for name in (*BAD_HF, *BAD_MEGATRON) if not name.startswith(UPSTREAMS)])
def test_a_bad_folder(
    good: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kind = "hf" if name in BAD_HF else "megatron"
    shutil.copytree(good / kind, tmp_path / "bad")
    (BAD_HF | BAD_MEGATRON)[name][0](tmp_path / "bad")
    monkeypatch.setenv("MP_LANG", "zh")
    capsys.readouterr()
    assert main(["--source", str(tmp_path / "bad"), "--output-path", str(tmp_path / "target")]) == 2
    said = capsys.readouterr().err.replace(str(tmp_path), "")
    assert "没有写入任何内容" in said and not ENGLISH.search(said), said


def test_a_conversion_and_what_is_said_of_it(good: Path, tmp_path: Path) -> None:
    """There and back as processes, then verify of a whole and a damaged folder, and merge of what is not an adapter."""
    shutil.copytree(good / "hf", tmp_path / "hf")
    shutil.copytree(good / "megatron", tmp_path / "megatron")
    convert = ("megatron_patch.checkpoint", "--source", tmp_path / "megatron", "--output-path")
    said = in_chinese(*convert, tmp_path / "dry", "--dry-run")
    assert "模型结构来自" in said and "可用空间" in said
    said = in_chinese(*convert, tmp_path / "back", "--precision", "fp16")
    assert "有舍入" in said and "GB 与文件清单一致" in said and f"已写入 {tmp_path}/back" in said
    assert "GB 与文件清单一致" in in_chinese("megatron_patch.checkpoint", "verify", tmp_path / "back")
    os.truncate(block(tmp_path / "megatron"), 10)
    said = in_chinese("megatron_patch.checkpoint", "verify", tmp_path / "megatron", status=2)
    assert "文件清单要求" in said and "manifest says" not in said
    said = in_chinese("megatron_patch.checkpoint.export", tmp_path / "nothing", tmp_path / "x", status=2)
    assert said == f"{tmp_path}/nothing：没有这个文件夹\n"
    merge = ("megatron_patch.checkpoint.adapters", "merge", "--adapter", tmp_path / "hf", "--output-path")
    assert said and "不是 Megatron 检查点" in in_chinese(*merge, tmp_path / "merged", status=2)


def test_files_keep_english(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The report of the layer check: its table and verdict speak the user's language, check.json does not."""
    numbers = {"max_abs": 0.5, "cosine": 0.9, "precision": "fp32", "tolerance": 1e-5}
    rows = [
        PartComparison(layer=None, part="embedding", mode=SAME, relative_l2=0.0, **numbers),
        PartComparison(layer=3, part="attention", mode=ACCUMULATED, relative_l2=0.1, **numbers),
    ]
    differs = Message("check-differs", field="norm_epsilon", found=1e-5, wanted=1e-6)
    report = CheckReport(rows=rows, about={}, configuration=[differs])
    monkeypatch.setenv("MP_LANG", "zh")
    assert not report.show(tmp_path)
    said = capsys.readouterr().out
    assert not ENGLISH.search(said.replace(str(tmp_path), "")), said
    head, _, embedding, attention, *_, configuration, verdict = said.splitlines()
    assert width_of(head) == width_of(embedding) and attention.startswith("  第 3 层  attention")
    assert configuration == "检查未通过：配置：norm_epsilon 为 1e-05，Megatron 一侧为 1e-06"
    assert verdict.startswith("检查未通过：最先超出容差的是：第 3 层 attention（fp32）")
    kept = json.loads((tmp_path / "check.json").read_text())
    assert kept["configuration"] == ["norm_epsilon is 1e-05, in Megatron's 1e-06"]
    monkeypatch.setenv("MP_LANG", "en")
    table = report.table().splitlines()
    assert table[0] == f"{'':>9}  {'part':13} {'mode':11} {'max abs':>9} {'rel. L2':>9} {'tolerance':>9} {'cosine':>10}"
    assert table[2].split() == ["model", "embedding", "same", "input", "5.00e-01", "0.00e+00", "1.00e-05", "0.9000000"]


@pytest.mark.parametrize(
    ("tool", "said"), {"export": "训练的输出", "adapters": "基座模型", "random_model": "权重随机"}.items()
)
def test_help_of_the_tools_beside_it(tool: str, said: str) -> None:
    assert said in in_chinese(f"megatron_patch.checkpoint.{tool}", "--help")
