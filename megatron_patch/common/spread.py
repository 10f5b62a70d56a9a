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
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any, ClassVar, NamedTuple
from weakref import WeakValueDictionary

from megatron_patch.common.errors import WorkerKilled, WorkersRefused
from megatron_patch.common.parent import adopting_orphans, end_with_parent
from megatron_patch.common.signals import answered_afterwards
from megatron_patch.common.threads import limits_told, one_torch_thread, started_pool

THREADS_EACH = 2
"""Most threads of a process. On 64 cores 32 processes of two were faster than 4 of 16 and 16 of 4, whose threads wait
more for the GIL, and than 64 of one."""
FEW_WORKERS = 4
"""So many are threads of this process: they seldom wait for the GIL."""


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
    """Talks with the process that this one works for; any thread may send."""

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
    lock that the work waits for. Several are a process group: they ignore Ctrl-C, and end with this one.

    Returns:
        what the work returned, in the order of the tasks.
    Raises:
        WorkerKilled: a process was killed.
        WorkersRefused: the machine does not give so many.
        whatever the work raised first; tasks that were not begun are left.
    """
    processes = 1 if workers <= FEW_WORKERS else min(len(tasks), -(-workers // THREADS_EACH))
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
    with limits_told():
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
    group: int = 0
    """Of the processes: the first one's id. Only the first ones are children of this process."""
    side_tasks: deque[_Job] = field(default_factory=deque)
    futures: dict[int, Future[Any]] = field(default_factory=dict)
    results: dict[int, Any] = field(default_factory=dict)

    running: ClassVar[_Crew | None] = None
    """Of this process, while its crew works."""

    def run(self) -> dict[int, Any]:
        """What the work returned, by task."""
        with adopting_orphans():
            try:
                _Crew.running = self
                # what handlers raise in the calls that modules have registered for forks, as logging has, Python
                # ignores, and Ctrl-C was lost
                with answered_afterwards():
                    self._fork()
                self._ask()
                while any(child.free < self.threads for child in self.children):
                    ready = wait([child.connection for child in self.children])
                    for child in [child for child in self.children if child.connection in ready]:
                        self._hear(child)
            finally:
                _Crew.running = None
                with answered_afterwards():
                    self._end()
        return self.results

    def _fork(self) -> None:
        """One process for each part."""
        with limits_told():
            pipes = [Pipe() for _ in self.parts]
        self.children = [
            _Child(connection=ours, free=self.threads, part=deque(part))
            for (ours, _), part in zip(pipes, self.parts, strict=True)
        ]
        try:
            self._fork_halves(range(len(pipes)), pipes)
        finally:
            for _, theirs in pipes:
                theirs.close()

    def _fork_halves(self, numbers: range, pipes: list[tuple[Connection, Connection]]) -> None:
        """Fork processes that fork half of what is left each: with torch a fork takes 6 to 10 ms, and 32 after each
        other as long as a third of a conversion of 16 GB."""
        while numbers:
            half, parent = numbers[: -(-len(numbers) // 2)], os.getpid()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # libraries have threads, which Python has not
                with limits_told():
                    pid = os.fork()
            if pid == 0:
                self._work_for(parent, half, pipes)
            self.group = self.group or pid
            with suppress(ProcessLookupError):  # it has ended, where nobody's SIGCHLD is heard
                os.setpgid(pid, self.group)  # as it does itself: whoever is first
            numbers = numbers[len(half) :]

    def _work_for(self, parent: int, numbers: range, pipes: list[tuple[Connection, Connection]]) -> None:
        """Be the first of these processes, and fork the others."""
        try:
            end_with_parent(signal.SIGKILL, parent)
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process gets it too, and ends the others
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGHUP, signal.SIG_DFL)
            os.setpgid(0, self.group)
            self.group = os.getpgrp()
            _, connection = pipes[numbers[0]]
            _Crew.running, Relay.home = None, _Home(connection)
            try:
                self._fork_halves(numbers[1:], pipes)
            except WorkersRefused as error:
                Relay.home.send("error", error)
                raise
            for end in itertools.chain.from_iterable(pipes):
                if end is not connection:
                    end.close()
            _serve(self.work, self.threads, Relay.home)
        finally:
            os._exit(0)

    def add(self, function: int, args: tuple[Any, ...]) -> Future[Any]:
        """Have a numbered function called."""
        job = _Job(-1 - len(self.futures), function, args)
        self.side_tasks.append(job)
        future = self.futures[job.key] = Future()
        return future

    def _ask(self) -> None:
        """Give free threads something to do, as long as there is something: first where most are free."""
        while (child := max(self.children, key=lambda one: one.free)).free and (job := self._next(child)) is not None:
            child.free -= 1
            with suppress(BrokenPipeError):  # it has ended: what it said before, or that it said nothing, is heard next
                child.connection.send(job)

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
        self._ask()

    def _end(self) -> None:
        if self.group:
            with suppress(ProcessLookupError):  # all have ended, and SIGCHLD is ignored
                os.killpg(self.group, signal.SIGKILL)
            with suppress(ChildProcessError):  # when all have ended: those of one that ends become this process's
                while True:
                    os.waitpid(-self.group, 0)
        for child in self.children:
            child.connection.close()
        for future in self.futures.values():
            future.cancel()  # unless it has its result


def _serve(work: Callable[[int], object], threads: int, home: _Home) -> None:
    one_torch_thread()
    try:
        with limits_told():
            pool: ThreadPoolExecutor = started_pool(threads)
    except WorkersRefused as error:
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
