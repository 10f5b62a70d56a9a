"""Under MP_LANG=zh no line of a tool holds an English sentence: real processes, what they print and write as HTML."""

from __future__ import annotations

import html
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from megatron_patch.common.messages import Message, named
from megatron_patch.launch.plan import Plan, content_of
from megatron_patch.runs.folder import write_plan
from megatron_patch.runs.recovery import Event, note_event
from megatron_patch.runs.status import record_end

from ..english import english

STEP = {"loss": 5.0, "lr": 1e-3, "grad_norm": 1.0, "tokens": 512, "step_ms": 9.0, "peak_memory_bytes": 1e9}
STEP |= {"tokens_per_s_per_gpu": 9000.0, "tflops_per_gpu": 0.1}


def run(module: str, *words: object, status: int = 0, **variables: str) -> str:
    """What `python -m megatron_patch.MODULE` prints on both streams."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MP_")}
    command = [sys.executable, "-m", f"megatron_patch.{module}", *map(str, words)]
    environ |= {"MP_LANG": "zh", "MP_DEVICE": "cpu", "PYTHONPATH": os.pathsep.join(sys.path), **variables}
    done = subprocess.run(command, capture_output=True, text=True, env=environ, timeout=120, check=False)
    assert done.returncode == status, f"{done.stdout}\n{done.stderr}"
    said = done.stdout + done.stderr
    assert re.search(r"[\u4e00-\u9fff]", said), said
    return said


def test_english_is_found() -> None:
    """The test of the test."""
    assert english("错误：no such file here") and english("the steps, and the data")
    assert not english("权重来自 Hugging Face 文件夹 /a b/c，TP 4 PP 2，micro batch 8")
    assert not english("sh run.sh dsw tiny one two three")


def test_the_plan_has_no_english_line(
    values: Callable[..., list[str]], surroundings: Callable[..., dict[str, str]]
) -> None:
    for changes in ({}, {"TP": "2", "SP": "true"}, {"PRETRAIN_CHECKPOINT_PATH": "hf-tiny", "SFT": "false"}):
        assert english(run("launch", *values(**changes), "--dry-run", **surroundings())) == []


def test_what_is_wrong_with_a_command_line(
    values: Callable[..., list[str]], surroundings: Callable[..., dict[str, str]]
) -> None:
    wrong = values(TP="three", LR="-1", DATASET_PATH="nowhere", PR="fp7", AC="some", OUTPUT_BASEPATH="text.bin")
    assert english(run("launch", *wrong, status=2, **surroundings(MP_NO_SUCH="1", MP_SEED="x"))) == []
    assert english(run("launch", *values()[:7], status=2, **surroundings())) == []


@pytest.mark.parametrize(
    ("module", "words", "status"),
    [
        ("launch", "--help", 0),
        ("cli", "--help", 0),
        ("cli", "no-such-command", 2),
        ("planner", "--help", 0),
        ("planner", "8B --gpus 16 --global-batch 64 --mtbf-hours 50000 --tokens 1e12", 0),
        ("planner", "8B --gpus 7 --global-batch 13", 1),
        ("planner", "8B --gpus none --global-batch 13", 2),
        ("planner", "8B --gpus 12 --global-batch 12 --set LR", 2),
        ("report", "--help", 0),
        ("report", "/no/such/folder", 2),
        ("watch", "--help", 0),
        ("watch", "/no/such/folder", 2),
        ("doctor", "--help", 0),
        ("doctor", "", 0),
    ],
)
def test_no_tool_has_an_english_line(module: str, words: str, status: int) -> None:
    assert english(run(module, *words.split(), status=status)) == []


def chinese(page: str) -> str:
    """The text of an HTML page as it is shown in Chinese."""
    page = re.sub(r"<(script|style)\b.*?</\1>", "", page, flags=re.DOTALL)
    page = re.sub(r'<(t?span) lang="en">.*?</\1>', "", page, flags=re.DOTALL)
    return html.unescape(re.sub(r"<[^>]+>", "\n", page))


def test_a_run_is_watched_and_reported(tmp_path: Path, plan_of: Callable[..., Plan]) -> None:
    """Its plan has notes, a rank hung, one was slow, it was started again, and a line of its metrics is torn."""
    output = tmp_path / "run"
    output.mkdir()
    write_plan(output, content_of(plan_of(PRETRAIN_CHECKPOINT_PATH="hf-tiny", TP="2")))
    steps = [STEP | {"iteration": number, "loss": None if number == 2 else 5.0} for number in (1, 2, 3)]
    (output / "metrics.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps) + "torn")
    where = Message("hang-where-step", phase=named("forward and backward"), step=3, place="step (a.py:1)")
    hang = Message("hang-verdict", hang=Message("hang-one", rank=1, what=where), seconds=600)
    slow = Message("slow-rank", rank=1, mine=9.0, others=3.0, first=1, last=3)
    note_event(output, Event.of("hang", hang, iteration=3))
    note_event(output, Event.of("slow", slow, iteration=3))
    note_event(output, Event.of("restart", Message("again", count=1, most=3, cause=hang), iteration=3))
    (output / "logs").mkdir()
    record_end(output, "failed", hang, 3)
    assert english(run("watch", "--once", output)) == []
    assert english(run("report", output)) == []
    written = (output / "report.html").read_text(encoding="utf-8")
    assert 'id="zh" checked' in written
    page = chinese(written)
    assert "rank 1 卡住：处于第 3 步的 前向和反向" in page
    assert english(page) == []
