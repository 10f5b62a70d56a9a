"""Work spread over threads and processes: real forks, real kills."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from megatron_patch.checkpoint.errors import CheckpointError
from megatron_patch.common import spread as module
from megatron_patch.common.errors import WorkerKilled, WorkersRefused
from megatron_patch.common.machine import children_of
from megatron_patch.common.messages import at
from megatron_patch.common.spread import Relay, SideTask, spread

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=[2, 20])
def workers(request: pytest.FixtureRequest) -> int:
    """Threads of this process; ten processes."""
    return request.param


@pytest.fixture
def two_of_ten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty workers are two processes."""
    monkeypatch.setattr(module, "THREADS_EACH", 10)


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Threads that earlier tests have left do not count; no process is left."""
    before = children_of(os.getpid())
    monkeypatch.setattr(threading, "active_count", lambda: 1)
    yield
    assert children_of(os.getpid()) == before


def test_results_come_in_the_order_of_the_tasks(workers: int) -> None:
    moments: list[int] = []
    began = Relay(moments.append)

    def work(task: int) -> tuple[int, int]:
        began(task)
        time.sleep(0.01)
        return task * task, os.getpid()

    found = spread(work, range(100), workers, lambda task: -task)
    assert [square for square, _ in found] == [task * task for task in range(100)]
    assert len({pid for _, pid in found}) == {2: 1, 20: 10}[workers]
    assert ({pid for _, pid in found} == {os.getpid()}) == (workers == 2)
    assert sorted(moments) == list(range(100))
    assert workers != 2 or set(moments[:2]) == {98, 99}


def test_the_first_error_is_raised_here(workers: int) -> None:
    def work(task: int) -> None:
        if task == 40:
            raise CheckpointError.of([at(Path("file"), "manifest-missing"), at("other", "manifest-bytes", found=1)])
        time.sleep(0.01)

    with pytest.raises(CheckpointError) as raised:
        spread(work, range(100), workers)
    assert [(m.values["path"], m.told.code) for m in raised.value.messages] == [
        (Path("file"), "manifest-missing"),
        ("other", "manifest-bytes"),
    ]


def test_an_error_in_what_is_relayed_ends_the_work(workers: int) -> None:
    def refuse(task: int) -> None:
        raise CheckpointError("manifest-missing")

    with pytest.raises(CheckpointError):
        spread(Relay(refuse), range(30), workers)


def test_an_error_that_cannot_be_pickled_is_told() -> None:
    class Local(Exception):
        pass

    def work(task: int) -> None:
        raise Local("why")

    with pytest.raises(RuntimeError, match="why"):
        spread(work, range(30), 20)


def test_a_process_that_is_done_takes_tasks_of_the_others(tmp_path: Path, two_of_ten: None) -> None:
    """The threads of the first all wait for tasks that nobody else can begin before these end."""

    def work(task: int) -> int:
        (tmp_path / str(task)).touch()
        if task < 10:
            wait_until(lambda: len(list(tmp_path.iterdir())) == 40)
        return os.getpid()

    pids = spread(work, range(40), 20)
    assert len(set(pids[:10])) == 1 and set(pids[10:20]) == set(pids[20:]) != set(pids[:10])


@pytest.mark.parametrize("count", [3, 100])
def test_side_tasks_are_run_by_the_processes(count: int) -> None:
    """Some of many at once; as many as there are threads when the tasks are begun."""
    order: list[int] = []
    side, futures = SideTask(lambda number: (number, os.getpid())), list[Future[tuple[int, int]] | None]()
    begin = Relay(lambda task: futures.append(side.begin(task)))
    note = Relay(lambda task: order.append(sum(future is not None and future.done() for future in futures)))

    def work(task: int) -> int:
        if task < count:
            begin(task)
        time.sleep(0.002)
        note(task)
        return os.getpid()

    assert side.begin(0) is None
    pids = set(spread(work, range(200), 20))
    done = [future.result(0) for future in futures if future is not None]
    assert sorted(number for number, _ in done) == list(range(count)) and {pid for _, pid in done} <= pids
    assert (order[150] > 0) == (count == 100)
    assert side.begin(0) is None


def test_side_tasks_are_cancelled_where_the_work_fails() -> None:
    side, futures = SideTask(lambda: time.sleep(600)), list[Future[None] | None]()
    begin = Relay(lambda: futures.append(side.begin()))

    def work(task: int) -> None:
        begin()
        if task == 0:
            raise CheckpointError("manifest-missing")

    with pytest.raises(CheckpointError):
        spread(work, range(30), 20)
    assert futures and all(future is not None and future.cancelled() for future in futures)


def test_an_error_of_a_side_task_is_raised_here() -> None:
    side = SideTask(Path("/absent").read_bytes)
    begin = Relay(lambda: side.begin() and None)
    with pytest.raises(FileNotFoundError, match="/absent"):
        spread(lambda task: begin(), range(30), 20)


@pytest.mark.parametrize("victim", [0, 13, 29])
def test_a_killed_process_is_an_error(victim: int) -> None:
    """Whether it has forked others or not."""

    def work(task: int) -> None:
        if task == victim:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.01)

    with pytest.raises(WorkerKilled) as raised:
        spread(work, range(30), 20)
    assert raised.value.code == "worker-killed"


def test_processes_without_work_end_too() -> None:
    """The first task is an error before the others have begun, or said who they are."""

    def work(task: int) -> None:
        raise CheckpointError("manifest-missing")

    before = children_of(os.getpid())
    for _ in range(5):
        with pytest.raises(CheckpointError):
            spread(work, range(33), 66)
        assert children_of(os.getpid()) == before


@pytest.mark.parametrize("here", [True, False])
def test_a_machine_with_no_more_processes(monkeypatch: pytest.MonkeyPatch, here: bool) -> None:
    """Refused in this process, or in those that it has forked: said, and nobody is left."""
    fork, forks, me = os.fork, list[None](), os.getpid()

    def some_forks() -> int:
        forks.append(None)
        if len(forks) > 3 if here else os.getpid() != me:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        return fork()

    monkeypatch.setattr(os, "fork", some_forks)
    with pytest.raises(WorkersRefused) as raised:
        spread(lambda task: time.sleep(0.01), range(1000), 100)
    assert raised.value.messages[0].values == {"error": "Resource temporarily unavailable"}


def test_children_of_others_are_not_waited_for() -> None:
    """A process that this one has started by other means goes on."""
    with subprocess.Popen(["sleep", "600"]) as other:
        assert spread(lambda task: task, range(30), 20) == list(range(30))
        assert other.poll() is None
        other.kill()


def test_nothing_is_forked_where_other_threads_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    end = threading.Event()
    other = threading.Thread(target=end.wait)
    other.start()
    try:
        assert set(spread(lambda task: os.getpid(), range(30), 20)) == {os.getpid()}
    finally:
        end.set()
        other.join()


def test_processes_end_with_the_one_that_they_work_for(tmp_path: Path) -> None:
    program = f"""
import os, sys, time
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from megatron_patch.common.spread import spread
def work(task):
    (Path({str(tmp_path)!r}) / str(os.getpid())).touch()
    time.sleep(600)
spread(work, range(30), 20)
"""
    process = subprocess.Popen([sys.executable, "-c", program])
    wait_until(lambda: len(list(tmp_path.iterdir())) == 10)
    process.kill()
    process.wait()
    pids = [int(file.name) for file in tmp_path.iterdir()]
    wait_until(lambda: not any(alive(pid) for pid in pids))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_ctrl_c_in_a_fork_is_not_lost() -> None:
    """Python ignores what is raised in calls that modules have registered for forks: the work went on to its end."""
    program = f"""
import os, signal, sys; sys.path.insert(0, {str(ROOT)!r})
from megatron_patch.common.machine import children_of
from megatron_patch.common.spread import spread
os.register_at_fork(after_in_parent=lambda: signal.raise_signal(signal.SIGINT))
try:
    spread(lambda task: task, range(100), 20)
except KeyboardInterrupt:
    print("interrupted", len(children_of(os.getpid())))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("interrupted 0\n", "")


@pytest.mark.parametrize("begins", ["pass", "1 / 0"])
def test_ctrl_c_while_processes_are_ended_waits_until_all_are(begins: str) -> None:
    """Once at the end of the work, or again while that of the first ends them: their zombies were left to the first
    process of a container, which may not wait for them."""
    program = f"""
import os, signal, sys; sys.path.insert(0, {str(ROOT)!r})
from megatron_patch.common.machine import children_of
from megatron_patch.common.spread import spread
kill = os.killpg
def then_ctrl_c(group, number):
    kill(group, number)
    signal.raise_signal(signal.SIGINT)
os.killpg = then_ctrl_c
def work(task):
    {begins}
try:
    spread(work, range(100), 20)
except KeyboardInterrupt:
    print("interrupted", len(children_of(os.getpid())), signal.getsignal(signal.SIGINT) is signal.default_int_handler)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("interrupted 0 True\n", "")


def test_killed_processes_for_which_nobody_waits() -> None:
    """Where a shell ignores SIGCHLD (`trap "" CHLD`), so do its programs: who ends is gone at once, and there is no
    group to be killed."""
    program = f"""
import os, signal, sys; sys.path.insert(0, {str(ROOT)!r})
from megatron_patch.common import spread as module
from megatron_patch.common.errors import WorkerKilled
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
hear = module._Crew._hear
def when_all_are_gone(self, child):
    try:
        while True:
            os.waitpid(-self.group, 0)
    except ChildProcessError:
        hear(self, child)
module._Crew._hear = when_all_are_gone
try:
    module.spread(lambda task: os.killpg(os.getpgrp(), signal.SIGKILL), range(3), 6)
except WorkerKilled:
    print("killed")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("killed\n", "")


def test_a_machine_with_no_more_threads() -> None:
    """Those that had begun waited for the others for ever, and the process for them: it said why, and did not end."""
    program = f"""
import sys, threading; sys.path.insert(0, {str(ROOT)!r})
from megatron_patch.common.spread import spread
start = threading.Thread.start
def two(thread):
    if threading.active_count() > 2:
        raise RuntimeError("can't start new thread")
    start(thread)
threading.Thread.start = two
spread(lambda task: task, range(10), 4)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1 and "threads or open files (can't start new thread): fewer" in done.stderr
