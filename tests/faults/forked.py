"""A server that has imported what takes long, and its forks: signals, streams, environment and end of each."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

REPOSITORY = Path(__file__).resolve().parents[2]


def start_server(module: str, **options: Any) -> subprocess.Popen[bytes]:
    """Run a module of this folder, to be written to and read from; it ends with this process."""
    path = {"PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'tests'}", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    command, pipes = [sys.executable, "-m", f"faults.{module}"], {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    server = subprocess.Popen(command, bufsize=0, env={**os.environ, **path}, **pipes, **options)
    atexit.register(server.kill)
    return server


def become(work: Callable[[], int | None]) -> NoReturn:
    """Do the work and end as Python does; nothing of the server goes on in this process."""
    status = 1
    try:
        atexit._clear()  # what the server would do at its own end
        os.setsid()
        status = work() or 0
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        _leave(status)
    raise AssertionError


def _leave(status: int) -> NoReturn:
    with contextlib.suppress(BaseException):
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BaseException):
            stream.flush()
    os._exit(status)


def set_environment(environ: Mapping[str, str]) -> None:
    """These variables and no others."""
    os.environ.clear()
    os.environ.update(environ)


def default_signals(numbers: Iterable[signal.Signals]) -> None:
    """As Python has them when it starts."""
    for number in numbers:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def speak_into(out: str, err: str | None = None) -> None:
    """Standard output and error go to the end of files, of one if only one is given; nothing is read."""
    for descriptor, path in ((1, out), (2, err or out)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
