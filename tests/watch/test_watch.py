"""`python -m megatron_patch.watch RUN`: a frame is right, and follows what a run writes."""

from __future__ import annotations

import dataclasses
import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import pytest
from rich.console import Console

from megatron_patch.common.messages import Message
from megatron_patch.launch.command import REPOSITORY
from megatron_patch.models import model_of_size
from megatron_patch.runs.status import LAUNCHER, read_holder, record_end, take
from megatron_patch.watch.follow import Follower
from megatron_patch.watch.view import frame, sparkline

PLAN = {
    "values": {"SFT": False, "PR": "bf16", "DO": True, "LR": 1e-5, "MIN_LR": 1e-6, "SEQ_LEN": 8192}
    | {"GLOBAL_BATCH_SIZE": 8, "DATASET_PATH": "/text", "PRETRAIN_CHECKPOINT_PATH": "none"},
    "shape": dataclasses.asdict(model_of_size("8B")),  # as version 1 wrote it
    "vocab_size": 128256,
    "layout": {"nodes": 2, "processes": 8, "tp": 4, "pp": 1, "vp": 1, "cp": 1, "dp": 4, "sequence_parallel": True},
    "schedule": {"train_iters": 100, "warmup_iters": 1, "tokens_per_iteration": 65536, "save_interval": 100}
    | {"eval_interval": 10, "eval_iters": 0, "arithmetic": []},
    "tokenizer": {"path": "/tokenizer", "ids": 128256},
    "device": "cuda",
    "gpu": {"name": "NVIDIA H200", "memory_bytes": 150 * 10**9},
    "warnings": ["the last stage is slow"],
    "notes": ["nothing of interest"],
}


def step(iteration: int, **more: Any) -> str:
    record = {"iteration": iteration, "loss": 8.0 - iteration / 20, "lr": 1e-5, "grad_norm": 1.0}
    record |= {"tokens": iteration * 1000, "step_ms": 500.0, "tokens_per_s_per_gpu": 9000.0, "tflops_per_gpu": 494.7}
    return json.dumps(record | {"peak_memory_bytes": 75 * 10**9} | more) + "\n"


def shown(follower: Follower, *, ago: float = 0.0) -> str:
    console = Console(width=100, record=True, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    console.print(frame(follower.run, follower.ended, now=follower.run.written + ago, width=100))
    return console.export_text()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "plan.json").write_text(json.dumps(PLAN))
    (tmp_path / "metrics.jsonl").write_text("".join(map(step, range(1, 51))))
    return tmp_path


def test_what_the_profiler_says_without_a_gpu_is_no_news(run: Path) -> None:
    (run / "logs").mkdir()
    said = "ERROR:2026-11-26 22:15:33 1:1 DeviceProperties.cpp:48] gpuGetDeviceCount failed with code 35"
    (run / "logs" / "rank_0.log").write_text(f"{said}\nERROR: a real one\n")
    follower = Follower(run)
    follower.look()
    words = shown(follower, ago=1e6)
    assert "gpuGetDeviceCount" not in words and "a real one" in words


def test_a_frame(run: Path) -> None:
    """50 of 100 iterations at 0.5 s; half of the peak; half of the memory."""
    follower = Follower(run)
    follower.look()
    said = shown(follower)
    assert "pretraining 8B in bf16, 2 x 8 NVIDIA H200, TP 4, DP 4" in said
    assert "iteration 50 of 100, 50%, 50k tokens, 0:00:25 left" in said
    assert "5.5000 (first 7.9500, lowest 5.5000) | lr 1.00e-05 | norm 1.00" in said
    assert "█▇" in said
    assert "9,000 tokens/s/GPU | 0.5 s a step | 495 TFLOP/s/GPU, MFU 50.0%" in said
    assert "75.00 GB at most of 150.00 GB, 50%" in said
    assert "the last stage is slow (plan.json)" in said
    assert "nothing of interest" not in said


def test_a_sparkline_goes_from_its_lowest_to_its_highest() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([0, 0, 7, 7], 2) == "▁█"
    assert sparkline([3, 3], 9) == "▁▁"
    assert sparkline([4, 8], 9, lowest=0.0) == "▅█"


def test_what_is_wrong_is_said(run: Path) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write("not json\n")
        file.write(step(51, loss=None, skipped=True))
        file.writelines(step(iteration, loss=9.0, step_ms=2000.0) for iteration in range(52, 82))
    (run / "logs").mkdir()
    (run / "logs" / "rank_3.log").write_text("RuntimeError: CUDA error: out of memory\n")
    follower = Follower(run)
    follower.look()
    said = shown(follower, ago=100.0)
    assert "no step for 0:01:40 (usually 2 s): stopped, or stuck" in said
    assert "a line of metrics.jsonl cannot be read: not json" in said
    assert "1 iteration was skipped by the loss scaler" in said
    assert "no finite loss in 1 iteration, first in 51" in said
    assert "steps take 4.0 times as long as usual" in said
    assert "the loss has risen by" in said
    assert "RuntimeError: CUDA error: out of memory (logs/rank_3.log:1)" in said


@pytest.mark.parametrize(
    ("how", "cause", "words"),
    [
        ("stopped", "SIGINT", "stopped by SIGINT"),
        (
            "failed",
            "rank 3 of 8: it \x1b[31mbroke",
            "failed: rank 3 of 8: it \\x1b[31mbroke",
        ),
    ],
)
def test_a_run_that_ended_is_not_shown_as_running(
    run: Path, how: Literal["stopped", "failed"], cause: str, words: str
) -> None:
    """At once, not after some silence; and a new start is running again."""
    os.close(take(run))
    record_end(run, how, Message("uncoded", text=cause), 50)
    follower = Follower(run)
    follower.look()
    assert f"iteration 50 of 100, 50%, 50k tokens; {words}" in shown(follower)
    assert "left" not in shown(follower)
    lock = take(run)
    follower.look()
    assert "0:00:25 left" in shown(follower)
    os.close(lock)


def test_a_run_that_was_killed_is_not_shown_as_running(run: Path) -> None:
    """It could not say so; its lock does. What happens on another machine cannot be told from here."""
    os.close(take(run))
    follower = Follower(run)
    follower.look()
    assert f"killed: process {os.getpid()} on" in shown(follower)
    (run / "metrics.jsonl").unlink()
    follower = Follower(run)
    follower.look()
    assert "before the first step" in shown(follower)
    holder = read_holder(run)
    assert holder is not None
    (run / LAUNCHER).write_text(json.dumps(asdict(replace(holder, host="elsewhere"))))
    follower.look()
    assert "waiting for the first step" in shown(follower)


def test_each_line_is_read_once_and_a_resume_cuts(run: Path) -> None:
    """A line that is half written waits; a resumed run writes a new, shorter file."""
    path, follower = run / "metrics.jsonl", Follower(run)
    follower.look()
    with path.open("a") as file:
        file.write(step(51)[:40])
    follower.look()
    assert follower.run.done == 50
    with path.open("a") as file:
        file.write(step(51)[40:] + '{"iteration": 51, "validation_loss": 5.25}\n')
    follower.look()
    assert follower.run.done == 51
    assert follower.run.validation == [(51, 5.25)]
    assert follower.run.problems == []
    (run / "new").write_text("".join(map(step, range(1, 41))))
    (run / "new").replace(path)
    follower.look()
    assert [record.iteration for record in follower.run.steps] == list(range(1, 41))


def watch(*arguments: object, **more: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "megatron_patch.watch", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, timeout=300, check=False, **more)


def test_metrics_that_cannot_be_read_are_named(run: Path) -> None:
    """A line that nobody goes on writing, and what is not a file."""
    path = run / "metrics.jsonl"
    record_end(run, "stopped", Message("uncoded", text="SIGTERM"))
    with path.open("a") as file:
        file.write('{"iteration": 51, "lo')
    follower = Follower(run)
    follower.look()
    assert 'the last line of metrics.jsonl is not whole: {"iteration": 51, "lo' in shown(follower)
    path.unlink()
    path.mkdir()
    follower = Follower(run)
    for _ in range(2):
        follower.look()
    assert shown(follower).count("metrics.jsonl cannot be read: Is a directory") == 1


def test_without_a_terminal(run: Path) -> None:
    """One frame as plain text, for the folder and for the file in it."""
    for path in (run, run / "metrics.jsonl"):
        done = watch(path)
        assert done.returncode == 0, done.stderr
        assert "iteration 50 of 100" in done.stdout
        assert "\x1b" not in done.stdout


def test_a_folder_without_a_run_exits_with_2(tmp_path: Path) -> None:
    done = watch(tmp_path / "absent")
    assert done.returncode == 2
    assert "neither plan.json nor metrics.jsonl is there" in done.stderr


def test_on_a_terminal_until_the_run_is_done(run: Path) -> None:
    """Lines that are written while it looks show, and the last iteration ends it."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "megatron_patch.watch", str(run), "--every", "0.05"]
    environ = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    process = subprocess.Popen(command, stdout=theirs, stderr=theirs, stdin=theirs, cwd=REPOSITORY, env=environ)
    os.close(theirs)
    screen = _read_until(ours, "iteration 50 of 100")
    with (run / "metrics.jsonl").open("a") as file:
        file.write(step(51))
    screen += _read_until(ours, "iteration 51 of 100")
    with (run / "metrics.jsonl").open("a") as file:
        file.writelines(map(step, range(52, 101)))
    screen += _read_until(ours, "finished: iteration 100 of 100")
    assert process.wait(300) == 0
    assert "\x1b" in screen, "drawn over, not one below the other"
    os.close(ours)


def _read_until(terminal: int, words: str) -> str:
    screen, deadline, poll = "", time.monotonic() + 300, select.poll()
    poll.register(terminal, select.POLLIN)
    while words not in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen):
        assert time.monotonic() < deadline, screen
        if poll.poll(200):
            screen += os.read(terminal, 65536).decode(errors="replace")
    return screen


def test_it_does_not_wait_for_torch() -> None:
    code = "import sys, megatron_patch.watch.cli; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, timeout=300, check=False)
    assert done.returncode == 0
