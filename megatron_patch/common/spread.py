"""The same work on many tasks: by threads, and where these are many, by several processes that take from one list.

Threads of one process wait for each other: for the GIL after every call that left it, for the map of its memory. The
processes are forked, so tasks and work may be anything; what they say and return is pickled.
"""

from __future__ import annotations

import itertools
import os
import signal
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any, ClassVar, NamedTuple
from weakref import WeakValueDictionary

from megatron_patch.common.errors import WorkerKilled
from megatron_patch.common.parent import end_with_parent
from megatron_patch.common.signals import handled_by
from megatron_patch.common.threads import one_torch_thread, started_pool

THREADS_EACH = 16
"""Most threads of a process that is one of several. A fork of a process with torch takes 10 ms."""


class _Numbered:
    """A function that this process and those that it forks know by a number."""

    _all: ClassVar[WeakValueDictionary[int, _Numbered]] = WeakValueDictionary()
    _numbers: ClassVar[itertools.count[int]] = itertools.count()

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function, self._number = function, next(_Numbered._numbers)
        _Numbered._all[self._number] = self

    @classmethod
    def call(cls, number: int, args: tuple[Any, ...]) -> Any:
        """What another process asked for."""
        return cls._all[number]._function(*args)


class Relay(_Numbered):
    """A function of this process that may be called in work, wherever that is done. It returns nothing there."""

    home: ClassVar[_Home | None] = None
    """In a process that was forked for work: the way to the one that it works for."""

    def __call__(self, *args: Any) -> None:
        """Call it, or have it called."""
        if Relay.home is None:
            self._function(*args)
        else:
            Relay.home.send("call", self._number, args)


class SideTask(_Numbered):
    """A function that the processes of a `spread` that is running can call, beside the tasks.

    As many as there are threads wait until all tasks are begun: being short they fill the time of those that end first.
    """

    def begin(self, *args: Any) -> Future[Any] | None:
        """Have it called; None where no processes run. Cancelled where the spread ends by an error."""
        return None if _Crew.running is None else _Crew.running.add(self._number, args)


class _Home:
    """Talks with the process that forked this one; any thread may send."""

    def __init__(self, connection: Connection) -> None:
        self.connection, self._lock = connection, threading.Lock()

    def send(self, kind: str, *values: Any) -> None:
        with self._lock:
            self.connection.send((kind, values))


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
    # neighbours together: they often read the same
    parts = [[n for n in in_time if first <= n < last] for first, last in itertools.pairwise(bounds)]
    results = _Crew(lambda number: work(tasks[number]), parts, -(-workers // processes)).run()
    return [results[number] for number in range(len(tasks))]


def _in_threads[T, R](work: Callable[[T], R], tasks: Sequence[T], workers: int) -> list[R]:
    pool: ThreadPoolExecutor = started_pool(min(workers, len(tasks)))
    try:
        jobs = [pool.submit(work, task) for task in tasks]
        return [job.result() for job in jobs]
    finally:
        pool.shutdown(cancel_futures=True)


class _Job(NamedTuple):
    """What a process is asked to do."""

    key: int
    """Of a task, its number; of a side task, a negative one."""
    function: int = 0
    args: tuple[Any, ...] = ()
    """Of a side task."""


@dataclass(kw_only=True)
class _Child:
    """A forked process."""

    pid: int
    connection: Connection
    free: int
    """Threads without a job."""
    part: deque[int]
    """Tasks that it takes first."""


@dataclass
class _Crew:
    """Forked processes. Each takes the tasks of its own part, and when these are begun, those of the others."""

    work: Callable[[int], Any]
    parts: list[list[int]]
    threads: int
    """Of each process."""
    children: list[_Child] = field(default_factory=list)
    side_tasks: deque[_Job] = field(default_factory=deque)
    futures: dict[int, Future[Any]] = field(default_factory=dict)
    results: dict[int, Any] = field(default_factory=dict)

    running: ClassVar[_Crew | None] = None
    """Of this process, while its crew works."""

    def run(self) -> dict[int, Any]:
        """What the work returned, by task."""
        left = [deque(part) for part in self.parts]
        try:
            _Crew.running = self
            for part in left:
                with _signals_afterwards():
                    connection, pid = _fork(self.work, self.threads)
                    child = _Child(pid=pid, connection=connection, free=self.threads, part=part)
                    self.children.append(child)
                self._ask(child)
            while any(child.free < self.threads for child in self.children):
                ready = wait([child.connection for child in self.children])
                for child in [child for child in self.children if child.connection in ready]:
                    self._hear(child)
        finally:
            _Crew.running = None
            self._end()
        return self.results

    def add(self, function: int, args: tuple[Any, ...]) -> Future[Any]:
        """Have a numbered function called."""
        job = _Job(-1 - len(self.futures), function, args)
        self.side_tasks.append(job)
        future = self.futures[job.key] = Future()
        return future

    def _ask(self, child: _Child) -> None:
        """Give each free thread of a process something to do, as long as there is something."""
        while child.free and (job := self._next(child)) is not None:
            child.free -= 1
            try:
                child.connection.send(job)
            except BrokenPipeError:
                raise WorkerKilled("worker-killed") from None

    def _next(self, child: _Child) -> _Job | None:
        part = child.part or max((child.part for child in self.children), key=len)
        if self.side_tasks and (not part or len(self.side_tasks) > self.threads * len(self.parts)):
            return self.side_tasks.popleft()
        return _Job(part.popleft()) if part else None

    def _hear(self, child: _Child) -> None:
        """Do what a process asks for, or take what it has done."""
        try:
            kind, values = child.connection.recv()
        except (EOFError, ConnectionResetError):
            raise WorkerKilled("worker-killed") from None
        if kind == "error":
            raise values[0]
        if kind == "call":
            Relay.call(*values)
        else:
            key, result = values
            child.free += 1
            if key < 0:
                self.futures[key].set_result(result)
            else:
                self.results[key] = result
        for one in self.children:
            self._ask(one)

    def _end(self) -> None:
        for child in self.children:
            os.kill(child.pid, signal.SIGKILL)
        for child in self.children:
            os.waitpid(child.pid, 0)
            child.connection.close()
        for future in self.futures.values():
            future.cancel()  # unless it has its result


def _fork(work: Callable[[int], object], threads: int) -> tuple[Connection, int]:
    """A process that does the work that it is asked for, and ends with this one."""
    parent = os.getpid()
    ours, theirs = Pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # libraries have threads, which Python has not
        pid = os.fork()
    if pid == 0:
        try:
            end_with_parent(signal.SIGKILL, parent)
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it too, and ends its children
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGHUP, signal.SIG_DFL)
            _Crew.running, Relay.home = None, _Home(theirs)
            _serve(work, threads, Relay.home)
        finally:
            os._exit(0)
    theirs.close()
    return ours, pid


@contextmanager
def _signals_afterwards() -> Iterator[None]:
    """Have signals answered when a process is forked and known: what their handlers raise in the calls that modules
    have registered for forks, as logging has, Python ignores, and Ctrl-C was lost."""
    came = list[int]()
    ours = [number for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if callable(signal.getsignal(number))]
    with handled_by(lambda number, _: came.append(number), ours):
        yield
    for one in came:
        signal.raise_signal(one)


def _serve(work: Callable[[int], object], threads: int, home: _Home) -> None:
    try:
        one_torch_thread()
        pool: ThreadPoolExecutor = started_pool(threads)
    except RuntimeError as error:  # no more threads
        home.send("error", error)
        raise
    while True:
        pool.submit(_do_and_tell, work, home.connection.recv(), home)


def _do_and_tell(work: Callable[[int], object], job: _Job, home: _Home) -> None:
    try:
        done = _Numbered.call(job.function, job.args) if job.key < 0 else work(job.key)
        home.send("result", job.key, done)
    except BaseException as error:
        try:
            home.send("error", error)
        except Exception:  # it cannot be pickled
            home.send("error", RuntimeError(repr(error)))
