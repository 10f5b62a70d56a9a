"""What a run's processes do for others: locks that end with them, words about who holds them and how they ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_patch.common.messages import Message
from megatron_patch.runs import status as run_status
from megatron_patch.runs.status import Occupied, read_end, read_holder, record_end, state_of, take

from .harness import REPOSITORY

CLAIM_AND_FORK = """
import os, signal, sys
from pathlib import Path
from megatron_patch.runs.status import take_as_rank

take_as_rank(Path(sys.argv[1]), print)
began, begins = os.pipe()
if child := os.fork():
    os.read(began, 1)  # a busy machine may let the child wait, with this process's files
    print(child, flush=True)
    sys.stdin.read()
    os._exit(0)
os.write(begins, b".")
signal.pause()
"""
LAUNCH = """
import os, sys
from pathlib import Path
from megatron_patch.runs.status import take

os.set_inheritable(take(Path(sys.argv[1])), True)
os.execv(sys.executable, [sys.executable, "-c", "print('up', flush=True); import sys; sys.stdin.read()"])
"""


SWALLOWS = """
import os, signal, time
from megatron_patch.torchrun import Stop

Stop().listen(to_launcher=False)
try:
    os.kill(os.getpid(), signal.SIGINT)
except SystemExit:
    print("swallowed", flush=True)
time.sleep(600)
"""
INTERRUPTED = """
import os, signal
from megatron_patch.common.terminal import guard

guard()
os.kill(os.getpid(), signal.SIGINT)
signal.pause()
"""


def start(code: str, folder: Path) -> subprocess.Popen[str]:
    """A process that ends when its standard input does."""
    return subprocess.Popen(
        [sys.executable, "-c", code, str(folder)],
        cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_signal_before_the_ranks_ends_a_launcher_whose_imports_swallow_it() -> None:
    """Ctrl-C while torch was imported was lost now and then, and the run went on."""
    done = subprocess.run([sys.executable, "-c", SWALLOWS], cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (130, "swallowed\n")
    assert "stopped by SIGINT, before training" in done.stderr


def test_ctrl_c_is_a_word_and_not_a_traceback() -> None:
    command = [sys.executable, "-c", INTERRUPTED]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "interrupted\n")


def end(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    process.wait(timeout=300)


def test_a_folder_is_free_when_its_run_is_gone(tmp_path: Path) -> None:
    """Also while a data loader of that run, which shares its files, still lives."""
    (tmp_path / "logs").mkdir()
    run = start(CLAIM_AND_FORK, tmp_path)
    child = int(first_line(run))
    try:
        assert state_of(tmp_path)[0] == "running"
        end(run)
        assert Path(f"/proc/{child}").exists() and read_state(child) != "Z"
        assert state_of(tmp_path)[0] == "free"
    finally:
        os.kill(child, 9)


def read_state(pid: int) -> str:
    """R, S, Z ... of a process."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_the_launchers_lock_goes_with_it_into_another_program(tmp_path: Path) -> None:
    """And the refusal says who holds it."""
    run = start(LAUNCH, tmp_path)
    assert first_line(run) == "up"
    try:
        before = (tmp_path / run_status.LAUNCHER).read_bytes()
        with pytest.raises(Occupied, match=f"is writing into .*: process {run.pid} on .*, since 20") as caught:
            take(tmp_path)
        assert not caught.value.ending
        assert (tmp_path / run_status.LAUNCHER).read_bytes() == before
    finally:
        end(run)
    assert state_of(tmp_path)[0] == "free"
    os.close(take(tmp_path))
    holder = read_holder(tmp_path)
    assert holder is not None and holder.pid == os.getpid() and holder.is_here


def test_a_run_that_is_ending_is_waited_for(tmp_path: Path) -> None:
    """Its launcher is gone, its rank is not: it is told once, and the wait is over when the rank is."""
    os.close(take(tmp_path))
    rank = start(CLAIM_AND_FORK, tmp_path)
    child = int(first_line(rank))
    try:
        assert state_of(tmp_path)[0] == "ending"
        with pytest.raises(Occupied, match="which is still ending") as caught:
            take(tmp_path)
        assert caught.value.ending
        said: list[str] = []
        run_status.wait_while_ending(tmp_path, said.append, 0.0)
        assert said == [], "no patience, no words"

        def say(line: str) -> None:
            said.append(line)
            end(rank)

        run_status.wait_while_ending(tmp_path, say, 300.0)
        assert len(said) == 1 and f"process {os.getpid()} on" in said[0]
        os.close(take(tmp_path))
    finally:
        os.kill(child, 9)


def test_a_rank_waits_for_the_ranks_before_it(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    first = start(CLAIM_AND_FORK, tmp_path)
    child = int(first_line(first))
    second = start(CLAIM_AND_FORK, tmp_path)
    try:
        assert first_line(second).startswith("waiting for the ranks of another run")
        end(first)
        os.kill(int(first_line(second)), 9)
        assert state_of(tmp_path)[0] == "running"
        end(second)
    finally:
        os.kill(child, 9)


def test_who_ends_first_says_why(tmp_path: Path) -> None:
    assert read_end(tmp_path) is None
    record_end(tmp_path, "failed", Message("uncoded", text="rank 3 of 8: it broke"), 7)
    record_end(tmp_path, "failed", Message("rank-lost-connection", rank="rank 0 of 8"))
    ended = read_end(tmp_path)
    assert ended is not None and (ended.how, ended.cause, ended.iteration) == ("failed", "rank 3 of 8: it broke", 7)
    assert [path.name for path in tmp_path.iterdir()] == ["ended.json"]
    os.close(take(tmp_path))
    assert read_end(tmp_path) is None, "a new start"
