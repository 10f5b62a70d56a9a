"""Work on several cores: in order, and with a sentence where a worker is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from megatron_patch.data import workers
from megatron_patch.data.workers import AHEAD, MOST_PER_CORE, in_order, more_than_taken, workers_for


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_results_come_in_the_items_order(workers: int) -> None:
    def work(item: int) -> tuple[int, int]:
        time.sleep(0.01 * (item % 3))  # later ones are done first
        return item, os.getpid()

    results = list(in_order(work, iter(range(20)), workers))
    assert [item for item, _ in results] == list(range(20))
    assert len({process for _, process in results}) <= workers
    assert (os.getpid() in {process for _, process in results}) == (workers == 1)


def test_items_are_not_taken_far_ahead() -> None:
    taken = []

    def items() -> object:
        for item in range(100):
            taken.append(item)
            yield item

    results = in_order(str, items(), 2)
    assert next(results) == "0"
    assert len(taken) <= 2 * AHEAD + 1
    results.close()


def test_what_the_work_raises_is_raised_here() -> None:
    def work(item: int) -> int:
        return 1 // item

    with pytest.raises(ZeroDivisionError):
        list(in_order(work, [2, 1, 0], 2))


def test_a_killed_worker_is_said() -> None:
    def work(item: int) -> int:
        if item == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return item

    with pytest.raises(RuntimeError, match="a worker was killed"):
        list(in_order(work, range(10), 2))


def test_no_more_workers_than_make_sense(monkeypatch: pytest.MonkeyPatch) -> None:
    """A million was forked until the machine had no more; what was taken is said."""
    monkeypatch.setattr(workers, "usable_cores", lambda: 2)  # not as many as this machine may have
    most = MOST_PER_CORE * 2
    results = set(in_order(lambda _: os.getpid(), range(20 * most), 1_000_000))
    assert len(results) <= most
    assert (workers_for(0), workers_for(1), workers_for(10**9)) == (2, 1, most)
    assert more_than_taken(1) == more_than_taken(0) == "" and "of 1000000 asked for" in str(more_than_taken(1_000_000))


LIMITED = """
import resource
from megatron_patch.common.errors import WorkersRefused
from megatron_patch.data import workers

workers.usable_cores = lambda: 16
resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24))
try:
    list(workers.in_order(abs, range(100), 16))
except WorkersRefused as error:
    print(error)
"""


def test_a_machine_that_gives_no_more_processes() -> None:
    """The executor would leave those that it has begun waiting, and this process for them, for ever."""
    command = [sys.executable, "-c", LIMITED]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert "Too many open files" in done.stdout and "ulimit -n" in done.stdout, done


ORPHANS = """
import os, sys, time
from megatron_patch.data.workers import in_order

def work(item):
    os.write(1, f"{os.getpid()}\\n".encode())  # at once: two write here
    time.sleep(600)

list(in_order(work, range(2), 2))
"""


def test_workers_end_with_their_parent() -> None:
    """Killed with SIGKILL it can tell nobody."""
    parent = subprocess.Popen([sys.executable, "-c", ORPHANS], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    workers = [int(parent.stdout.readline()) for _ in range(2)]
    parent.kill()
    assert parent.stdout.read() == ""  # the pipe closes when the last process that holds it has ended
    parent.wait()
    assert not any(Path(f"/proc/{worker}/exe").exists() for worker in workers)
