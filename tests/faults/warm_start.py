"""The driver with 25 values, its launcher and its ranks as real processes, without the time that imports take.

A server imports torch and Megatron once. For each start it forks a process that is the driver; where the driver would
become torchrun it becomes torchrun's code in the same process, as `execve` would make it, and where torchrun would
start a rank by `Popen` the rank is a fork. Everything else is the project's own: plan, locks, signals, elastic agent,
gloo, checkpoints. A start takes two seconds instead of twelve.

The variable FAULTS_INJECT names a fault that the ranks arm before they run (injection.py).
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import re
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from .forked import become, default_signals, set_environment, speak_into, start_server

LAUNCHER = ["-m", "megatron_patch.torchrun"]
DEAD = 255
"""Exit status of a start whose server has ended."""


class Started:
    """One start: the driver, which becomes the launcher."""

    def __init__(self, pid: int, answers: Any, screen: Path) -> None:
        self.pid, self.screen = pid, screen
        self._answers = answers
        self._status: int | None = None
        self._seen = {pid}

    def ranks(self) -> list[int]:
        """Processes that the launcher has started."""
        found = children(self.pid)
        self._seen |= set(found)
        return found

    def poll(self) -> int | None:
        """The launcher's exit status; -N where signal N killed it; None while it lives."""
        return self.wait(0.0)

    def wait(self, timeout: float) -> int | None:
        """As poll, after so many seconds at most."""
        if self._status is None and select.select([self._answers], [], [], timeout)[0]:
            line = self._answers.readline()
            self._status = int(line) if line else DEAD
        return self._status

    def end(self) -> None:
        """Kill what is left of it."""
        self.ranks()
        for pid in self._seen:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.wait(20.0)

    def iteration(self) -> int:
        """The last that is on the screen."""
        return max(map(int, re.findall(r"^iteration +(\d+)/", self.said(), re.MULTILINE)), default=0)

    def said(self) -> str:
        """Everything on its screen."""
        return self.screen.read_text(errors="replace") if self.screen.exists() else ""


class Starter:
    """A client of the server, which is started at the first use."""

    def __init__(self) -> None:
        self._server: subprocess.Popen[bytes] | None = None

    def begin(self) -> subprocess.Popen[bytes]:
        """The server."""
        if self._server is None or self._server.poll() is not None:
            self._server = start_server("warm_start")
        return self._server

    def start(
        self,
        values: Sequence[object],
        environ: Mapping[str, str],
        screen: Path,
        *,
        errors: Path | None = None,
        cwd: str = "",
    ) -> Started:
        """Start the driver, or torchrun; nothing of an earlier start may live.

        Args:
            values: the driver's; or torchrun's whole command line, from the interpreter on.
            errors: for standard error, where it is not to be on the screen too.
            cwd: the folder that it is started from; this process's if empty.
        """
        server = self.begin()
        assert server.stdin and server.stdout
        screen.parent.mkdir(parents=True, exist_ok=True)
        request = {"values": [str(value) for value in values], "environ": dict(environ), "screen": str(screen)}
        request |= {"errors": str(errors or screen), "cwd": cwd or str(Path.cwd())}
        server.stdin.write(json.dumps(request).encode() + b"\n")
        pid = server.stdout.readline()
        assert pid, "the server of warm starts has ended"
        return Started(int(pid), server.stdout, screen)


STARTER = Starter()


def run(
    values: Sequence[object], environ: Mapping[str, str], screen: Path, *, cwd: str = "", timeout: float
) -> subprocess.CompletedProcess[str]:
    """Start it as Starter.start does, and wait for its end.

    Args:
        screen: file name; `.out` and `.err` are added for what is said.
    """
    out, err = (Path(f"{screen}.{time.monotonic_ns()}.{ending}") for ending in ("out", "err"))
    started = STARTER.start(values, environ, out, errors=err, cwd=cwd)
    try:
        status = started.wait(timeout)
    finally:
        started.end()
    assert status is not None, f"it does not end:\n{started.said()}"
    return subprocess.CompletedProcess([], status, out.read_text(), err.read_text())


def children(pid: int) -> list[int]:
    """Processes that `pid` has started and that live."""
    with contextlib.suppress(OSError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def is_alive(pid: int) -> bool:
    """Whether it runs; a zombie does not."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def serve() -> None:
    """Import what launchers and ranks import, and fork for each line of standard input; learn what else they import."""
    from megatron_patch.backend import enable

    enable("cpu")
    for name in (
        "torch.distributed.run",
        "megatron.training",
        "megatron_patch.trainer.entry",
        "megatron_patch.torchrun",
    ):
        import_module(name)
    gc.freeze()  # no collection in a fork touches, and so copies, what all share
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    with tempfile.NamedTemporaryFile() as file:
        for line in sys.stdin.buffer.raw:  # type: ignore[attr-defined]
            _import_all(Path(file.name))
            _serve_one(json.loads(line) | {"imported": file.name}, answers)


def _import_all(names: Path) -> None:
    """What processes have noted that they had to import."""
    for name in dict.fromkeys(names.read_text().split()):
        if name not in sys.modules:
            with contextlib.suppress(Exception):
                import_module(name)
    names.write_text("")
    gc.freeze()


@contextlib.contextmanager
def _noted(names: str) -> Iterator[None]:
    """Note what is imported meanwhile: a later fork need not."""
    known = set(sys.modules)
    try:
        yield
    finally:
        with contextlib.suppress(OSError), Path(names).open("a") as file:
            file.write("\n".join([*(set(sys.modules) - known), ""]))


def _serve_one(request: Mapping[str, Any], answers: Any) -> None:
    pid = os.fork()
    if pid == 0:
        answers.close()
        become(partial(_drive, request))
    print(pid, file=answers)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), file=answers)


def _drive(request: Mapping[str, Any]) -> int:
    """Be the driver, or torchrun."""
    default_signals((signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1))
    speak_into(request["screen"], request["errors"])
    set_environment(request["environ"])
    os.chdir(request["cwd"])
    tempfile.tempdir = None  # TMPDIR is looked up again
    os.execve = partial(_become, request["imported"])  # type: ignore[assignment]
    from megatron_patch.launch import command
    from megatron_patch.launch.driver import main

    if list(request["values"][1:3]) == LAUNCHER:
        os.execve(request["values"][0], request["values"], request["environ"])
    command.IMPORTED = time.time()
    return main(request["values"], os.environ)


def _become(imported: str, path: str, argv: Sequence[str], environ: Mapping[str, str]) -> NoReturn:
    """What execve does with torchrun's command line."""
    from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler

    from megatron_patch.torchrun import main

    subprocess_handler.SubprocessHandler._popen = lambda self, args, env: Rank(args, env, imported)
    set_environment(environ)
    assert list(argv[1:3]) == LAUNCHER, argv
    sys.argv = ["torchrun.py", *argv[3:]]
    with _noted(imported):
        sys.exit(main(list(argv[3:])))


class Rank:
    """A forked rank with the part of Popen that torchrun uses."""

    def __init__(self, args: Sequence[str], environ: Mapping[str, str], imported: str) -> None:
        self.args, self.returncode = args, None
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            become(partial(self._run, environ, imported))

    def poll(self) -> int | None:
        """As of Popen."""
        return self.returncode if self.returncode is not None else self._reap(os.WNOHANG)

    def wait(self, timeout: float | None = None) -> int:
        """As of Popen."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(list(self.args), timeout or 0)
            time.sleep(0.005)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """As of Popen."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def _reap(self, flags: int) -> int | None:
        try:
            done, status = os.waitpid(self.pid, flags)
        except ChildProcessError:
            done, status = self.pid, 0
        if done:
            self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def _run(self, environ: Mapping[str, str], imported: str) -> None:
        default_signals((signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1, signal.SIGALRM))
        signal.setitimer(signal.ITIMER_REAL, 0)
        os.closerange(3, 256)
        set_environment(environ)
        import_module("megatron_patch.trainer.entry").BEGAN = time.time()
        script = next(word for word in self.args if str(word).endswith(".py"))
        sys.argv = [str(word) for word in self.args[self.args.index(script) :]]
        if "FAULTS_INJECT" in os.environ:
            from .injection import arm

            arm(os.environ["FAULTS_INJECT"])
        with _noted(imported):
            runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    serve()
