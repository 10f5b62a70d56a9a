"""Ranks that hang or are slow, by real signals: the right one is named, with what it did."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from megatron_patch.common.messages import Message, named
from megatron_patch.runs.heartbeat import Beat, find_hung
from megatron_patch.runs.recovery import read_events
from megatron_patch.runs.status import read_end
from megatron_patch.trainer.callbacks.straggler import find_stragglers

from .harness import MODEL, build_idxmap, children, command, complete_iterations, environment, launch, read_metrics


def rank_of(launcher: int, rank: int) -> int:
    """The process of one rank."""
    for pid in children(launcher):
        words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        if f"RANK={rank}".encode() in words:
            return pid
    raise AssertionError(f"rank {rank} is gone")


def begin(output: Path, data: Path, extra: str) -> subprocess.Popen[str]:
    """Two ranks that have done a step."""
    flags = f"--train-iters 100000 --log-interval 1000 {extra}"
    job = subprocess.Popen(
        command(output, data, flags, processes=2),
        env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    while job.poll() is None and len(read_metrics(output)) < 3:
        time.sleep(0.02)
    assert job.poll() is None, job.communicate()[0]
    return job


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["", "--pipeline-model-parallel-size 2"], ids=["DP", "PP"])
@pytest.mark.parametrize("hung", [0, 1])
def test_a_stopped_rank_is_named(tmp_path: Path, data: Path, layout: str, hung: int) -> None:
    """Within MP_DISTRIBUTED_TIMEOUT_MINUTES, and not the one that waits for it."""
    job = begin(tmp_path, data, f"{layout} --distributed-timeout-minutes 1")
    try:
        began = time.monotonic()
        os.kill(rank_of(job.pid, hung), signal.SIGSTOP)
        screen, _ = job.communicate(timeout=300)
        took = time.monotonic() - began
    finally:
        job.kill()
    assert job.returncode == 5, screen
    assert f"rank {hung} hangs: it is stopped (SIGSTOP), in " in screen
    assert f"rank {1 - hung}" not in screen
    assert "no rank has got on for 58 s" in screen
    assert took < 120
    (event,) = read_events(tmp_path)
    assert event.kind == "hang" and f"rank {hung}" in event.words
    ended = read_end(tmp_path)
    assert ended is not None and f"rank {hung} hangs" in ended.cause


@pytest.mark.slow
def test_a_job_that_is_suspended_goes_on(tmp_path: Path, data: Path) -> None:
    """Launcher and ranks together, for longer than they wait for each other: as a scheduler does."""
    job = begin(tmp_path, data, "--distributed-timeout-minutes 1")
    everybody = [job.pid, rank_of(job.pid, 0), rank_of(job.pid, 1)]
    try:
        for number in (signal.SIGSTOP, signal.SIGCONT):
            for pid in everybody:
                os.kill(pid, number)
            if number == signal.SIGSTOP:
                time.sleep(65)
        done = len(read_metrics(tmp_path))
        while job.poll() is None and len(read_metrics(tmp_path)) < done + 20:
            time.sleep(0.1)
        time.sleep(3)
        assert job.poll() is None, job.communicate()[0]
        job.send_signal(signal.SIGTERM)
        screen, _ = job.communicate(timeout=300)
    finally:
        job.kill()
    assert job.returncode == 128 + signal.SIGTERM, screen
    assert "hangs" not in screen


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["", "--pipeline-model-parallel-size 2"], ids=["DP", "PP"])
def test_a_straggler_is_named(tmp_path: Path, data: Path, layout: str) -> None:
    """A rank that may run a fifth of the time, until it is named."""
    job = begin(tmp_path, data, f"{MODEL} {layout} --micro-batch-size 4 --hidden-size 256 --ffn-hidden-size 1024")
    slow, over = rank_of(job.pid, 0), threading.Event()

    def brake() -> None:
        while not over.is_set():
            for number, seconds in ((signal.SIGSTOP, 0.04), (signal.SIGCONT, 0.01)):
                os.kill(slow, number)
                time.sleep(seconds)

    thread = threading.Thread(target=brake)
    thread.start()
    try:
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline and not read_events(tmp_path) and job.poll() is None:
            time.sleep(0.2)
    finally:
        over.set()
        thread.join()
        job.send_signal(signal.SIGTERM)
        screen, _ = job.communicate(timeout=300)
    event = read_events(tmp_path)[0]
    assert event.kind == "slow" and event.words.startswith("rank 0 is slow: its forward passes took ")
    assert event.words in screen
    assert event.words in (tmp_path / "logs" / "rank_1.log").read_text()


NEVER = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
int fsync(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, sizeof path - 1);
    path[size > 0 ? size : 0] = 0;
    while (strstr(path, "iter_0000002/__1_")) sleep(1);
    return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(fd);
}
"""
"""A disk that never answers rank 1 in the second checkpoint."""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs a C compiler")
def test_a_save_that_never_returns(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends the run in time, names the checkpoint and the rank's file, and leaves the one before."""
    (tmp_path / "never.c").write_text(NEVER)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", tmp_path / "never.so", tmp_path / "never.c", "-ldl"], check=True)
    monkeypatch.setenv("LD_PRELOAD", str(tmp_path / "never.so"))
    output = tmp_path / "out"
    saving = f"--background-save --save {output}/checkpoints --save-interval 1 --distributed-timeout-minutes 1"
    found = launch(output, data, f"--train-iters 100000 --log-interval 1000 {saving}", processes=2, timeout=400)
    assert found.returncode == 5, found.stderr
    assert f"{output}/checkpoints/iter_0000002 is not written: writing __1_" in found.stderr
    assert "error on rank 1 of 2" in found.stderr
    assert complete_iterations(output / "checkpoints") == [1]


@pytest.mark.slow
def test_data_cut_short_under_a_run(tmp_path: Path) -> None:
    """The kernel ends a rank that reads behind the end of a mapped file; the sentence says what that means."""
    data = build_idxmap(tmp_path / "documents", documents=2000)
    job = begin(tmp_path / "out", data, "")
    os.truncate(f"{data}.bin", 0)
    try:
        screen, _ = job.communicate(timeout=300)
    finally:
        job.kill()
    assert job.returncode == 1, screen
    assert "was killed by SIGBUS: a file that it had mapped was cut short" in screen


def beat(**changes: object) -> Beat:
    usual = {"pid": 1, "alive": 100.0, "advanced": 40.0, "step": 7, "timed": True, "phase": "forward", "waits": True}
    return Beat(**{**usual, "where": "here", **changes})  # type: ignore[arg-type]


def test_who_hangs() -> None:
    """Not those that wait in a collective; nobody while one gets on, or in a phase that takes as long as it takes."""
    busy = beat(waits=False, where="_read (megatron_patch/trainer/data/batch.py:103)")
    assert find_hung({0: beat(), 1: busy}, 100.0, 50.0) == {
        1: Message("hang-where-step", phase=named("forward"), step=7, place=busy.where)
    }
    assert find_hung({0: beat(), 1: busy}, 100.0, 70.0) == {}
    assert find_hung({0: beat(advanced=99.0), 1: busy}, 100.0, 50.0) == {}
    assert find_hung({0: beat(timed=False), 1: busy}, 100.0, 50.0) == {}
    assert find_hung({}, 100.0, 50.0) == {}
    stopped = subprocess.Popen(["sleep", "600"])
    stopped.send_signal(signal.SIGSTOP)
    os.waitpid(stopped.pid, os.WUNTRACED)
    found = find_hung({0: beat(timed=False), 1: beat(alive=45.0, pid=stopped.pid)}, 100.0, 50.0)
    stopped.kill()
    stopped.wait()
    assert list(found) == [1], "in any phase"
    computes = beat(alive=45.0, pid=os.getpid(), timed=False)
    assert find_hung({0: beat(timed=False), 1: computes}, 100.0, 50.0) == {}, "a library that lets no thread run"
    assert list(find_hung({0: busy, 1: beat(alive=70.0)}, 100.0, 50.0)) == [1], "before one that is busy"
    assert list(find_hung({0: beat(), 1: beat(step=6)}, 100.0, 50.0)) == [1], "all wait: the one that is behind"
    assert list(find_hung({0: beat(), 1: busy}, 100.0, 50.0, is_alone=False)) == [], "for a rank elsewhere, maybe"


def test_who_is_slow() -> None:
    assert find_stragglers([1.0, 1.6], [0, 0], 3.0) == {1: (1.6, 1.0)}
    assert find_stragglers([1.0, 1.4], [0, 0], 3.0) == {}
    assert find_stragglers([1.0, 1.6], [0, 0], 30.0) == {}, "nobody waits for long"
    assert find_stragglers([1.0, 1.0, 2.0, 2.1], [0, 0, 1, 1], 5.0) == {}, "the second stage has more to do"
    assert find_stragglers([1.0, 1.0, 2.0, 4.0], [0, 0, 1, 1], 6.0) == {3: (4.0, 2.0)}
    assert find_stragglers([1.0, 2.0], [0, 1], 4.0) == {1: (2.0, 1.0)}
