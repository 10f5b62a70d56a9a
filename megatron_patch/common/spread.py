"""The same work on many tasks: by threads, and where these are many, by several processes that have some each.

Threads of one process wait for each other: for the GIL after every call that left it, for the map of its memory. The
processes are forked, so tasks and work may be anything; what they say and return is pickled.
"""

from __future__ import annotations

import itertools
import os
import signal
import threading
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any, ClassVar
from weakref import WeakValueDictionary

from megatron_patch.common.errors import WorkerKilled
from megatron_patch.common.parent import end_with_parent
from megatron_patch.common.threads import one_torch_thread, started_pool

THREADS_EACH = 16
"""Most threads of a process that is one of several. A fork of a process with torch takes 10 ms."""


class Relay:
    """A function of this process that may be called in work, wherever that is done. It returns nothing there."""

    _all: ClassVar[WeakValueDictionary[int, Relay]] = WeakValueDictionary()
    _numbers: ClassVar[itertools.count[int]] = itertools.count()
    home: ClassVar[_Home | None] = None
    """In a process that was forked for work: the way to the one that it works for."""

    def __init__(self, function: Callable[..., object]) -> None:
        self._function, self._number = function, next(Relay._numbers)
        Relay._all[self._number] = self

    def __call__(self, *args: Any) -> None:
        """Call it, or have it called."""
        if Relay.home is None:
            self._function(*args)
        else:
            Relay.home.send("call", self._number, args)

    @classmethod
    def call(cls, number: int, args: tuple[Any, ...]) -> None:
        """What another process asked for."""
        cls._all[number](*args)


class _Home:
    """Sends to the process that forked this one, from any thread."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._lock = connection, threading.Lock()

    def send(self, kind: str, *values: Any) -> None:
        with self._lock:
            self._connection.send((kind, values))


def spread[T, R](
    work: Callable[[T], R], tasks: Sequence[T], workers: int, moment: Callable[[T], float] = lambda task: 0.0
) -> list[R]:
    """Do the work on each task, `workers` at a time.

    Args:
        moment: tasks of a lower one are begun earlier.

    There is one process where workers are few, and where this one has other threads: at a fork one of them may hold a
    lock that the work waits for.

    Returns:
        what the work returned, in the order of the tasks.
    Raises:
        WorkerKilled: a process was killed.
        whatever the work raised first; tasks that were not begun are left.
    """
    processes = min(len(tasks), -(-workers // THREADS_EACH))
    in_time = sorted(range(len(tasks)), key=lambda number: moment(tasks[number]))
    if processes <= 1 or threading.active_count() > 1:
        done = dict(zip(in_time, _in_threads(work, [tasks[number] for number in in_time], workers), strict=True))
        return [done[number] for number in range(len(tasks))]
    bounds = [len(tasks) * i // processes for i in range(processes + 1)]
    children: dict[Connection, int] = {}
    results: dict[int, R] = {}
    try:
        for first, last in itertools.pairwise(bounds):  # neighbours together: they often read the same
            part = [number for number in in_time if first <= number < last]
            connection, pid = _fork(partial(_in_threads, partial(_send_result, work, tasks), part, THREADS_EACH))
            children[connection] = pid
        _listen(children, results)
    finally:
        for pid in children.values():
            os.kill(pid, signal.SIGKILL)
        for connection, pid in children.items():
            os.waitpid(pid, 0)
            connection.close()
    return [results[number] for number in range(len(tasks))]


def _in_threads[T, R](work: Callable[[T], R], tasks: Sequence[T], workers: int) -> list[R]:
    pool: ThreadPoolExecutor = started_pool(min(workers, len(tasks)))
    try:
        jobs = [pool.submit(work, task) for task in tasks]
        return [job.result() for job in jobs]
    finally:
        pool.shutdown(cancel_futures=True)


def _send_result[T](work: Callable[[T], object], tasks: Sequence[T], number: int) -> None:
    assert Relay.home is not None
    Relay.home.send("result", number, work(tasks[number]))


def _fork(work: Callable[[], object]) -> tuple[Connection, int]:
    """A process that does the work, and ends with this one."""
    parent, (ours, theirs) = os.getpid(), Pipe(duplex=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # libraries have threads, which Python has not
        pid = os.fork()
    if pid == 0:
        try:
            end_with_parent(signal.SIGKILL, parent)
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it too, and ends its children
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            Relay.home = _Home(theirs)
            _work_and_tell(work, Relay.home)
        finally:
            os._exit(0)
    theirs.close()
    return ours, pid


def _work_and_tell(work: Callable[[], object], home: _Home) -> None:
    try:
        one_torch_thread()
        work()
    except BaseException as error:
        try:
            home.send("error", error)
        except Exception:  # it cannot be pickled
            home.send("error", RuntimeError(repr(error)))
    else:
        home.send("done")


def _listen(children: dict[Connection, int], results: dict[int, Any]) -> None:
    """Do what the children ask for, until all are done."""
    working = set(children)
    while working:
        for connection in wait(list(working)):
            assert isinstance(connection, Connection)
            try:
                kind, values = connection.recv()
            except EOFError:
                raise WorkerKilled("worker-killed") from None
            if kind == "call":
                Relay.call(*values)
            elif kind == "result":
                results[values[0]] = values[1]
            elif kind == "error":
                raise values[0]
            else:
                working.remove(connection)
