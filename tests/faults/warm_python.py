"""A Python that has its imports behind it, for shell scripts that take `PYTHON=...` from their environment.

`warm_python` makes an executable that is called as Python is (`-m MODULE`, a script; anything else goes to the
interpreter itself) and has the work done by a fork of a server, which has imported torch and transformers once. Another
server, itself a fork of that one, has Megatron on the CPU, for the programs that patch torch for it. The fork has the
caller's arguments, folder, environment and open files; the caller waits, passes signals on and ends as the fork does. A
program that starts others by `sys.executable` starts them the same way: torchrun its ranks, say.

What is left out is the start of an interpreter: test_readme.py has a slow test with whole ones.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import json
import os
import runpy
import select
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from .forked import become, default_signals, set_environment
from .warm_caller import FORWARDED

CALLER = Path(__file__).with_name("warm_caller.py")
TESTS = Path(__file__).resolve().parents[1]
PLAIN = (
    *("torch", "numpy", "tokenizers", "safetensors.torch", "transformers.models.llama.modeling_llama"),
    *("matplotlib.pyplot", "gigatoken", "awkward", "rich.console", "pydantic", "megatron_patch.launch.driver"),
)
MEGATRON = ("torch.distributed.run", "megatron.training", "megatron_patch.trainer.entry", "megatron_patch.torchrun")
FREE = 1000
"""Where descriptors wait that are on their way to their own numbers."""
MOST = 250
"""Descriptors that one message can carry, less a few."""


@contextlib.contextmanager
def warm_python(repository: Path) -> Iterator[Path]:
    """An executable whose programs import megatron_patch from `repository`."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # sockets have short names
        yield from _served(Path(folder), repository)


def _served(folder: Path, repository: Path) -> Iterator[Path]:
    python = folder / "python"
    words = shlex.join([sys.executable, "-IS", str(CALLER), str(folder), sys.executable])
    python.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    python.chmod(0o755)
    path = {"PYTHONPATH": f"{repository}:{TESTS}", "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-m", "faults.warm_python", str(folder), str(python)]
    server = subprocess.Popen(command, env={**os.environ, **path}, start_new_session=True)
    try:
        while not all((folder / name).exists() for name in ("plain", "megatron")):
            assert server.poll() is None, "the server of a warm Python has ended"
            time.sleep(0.01)
        yield python
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def main(folder: str, python: str) -> None:
    """Both servers: import, and fork for each caller."""
    sys.path.remove(str(TESTS))
    sys.executable = python
    for name in PLAIN:
        import_module(name)
    if os.fork() == 0:
        import_module("megatron_patch.backend").enable("cpu")
        for name in MEGATRON:
            import_module(name)
        serve(f"{folder}/megatron")
    serve(f"{folder}/plain")


def serve(path: str) -> None:
    """Fork for each caller; tell it the fork's id, and how it has ended."""
    gc.freeze()  # no collection in a fork touches, and so copies, what all share
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(f"{path}.new")
    listening.listen(64)
    Path(f"{path}.new").rename(path)
    running: dict[int, tuple[int, socket.socket]] = {}
    while True:
        for ready in select.select([listening, *running], [], [])[0]:
            if ready is listening:
                caller = listening.accept()[0]
                pid = _fork(caller)
                running[os.pidfd_open(pid)] = pid, caller
                continue
            pid, caller = running.pop(ready)
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            os.close(ready)
            with contextlib.suppress(OSError):  # it may have been killed
                caller.sendall(f"{status}\n".encode())
            caller.close()


def _fork(caller: socket.socket) -> int:
    first, descriptors, _, _ = socket.recv_fds(caller, 4, MOST)
    with caller.makefile("rb") as file:
        request = json.loads(file.read(int.from_bytes(first)))
    pid = os.fork()
    if pid == 0:
        become(partial(_run, request, descriptors))
    for descriptor in descriptors:
        os.close(descriptor)
    caller.sendall(f"{pid}\n".encode())
    return pid


def _run(request: Mapping[str, Any], descriptors: list[int]) -> None:
    """The caller's program."""
    _place(dict(zip(request["descriptors"], descriptors, strict=True)))
    default_signals((*FORWARDED, signal.SIGALRM))
    set_environment(request["environ"])
    os.chdir(request["folder"])
    for stream, number, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        lines = 1 if number == 2 or "-u" in request["options"] or os.isatty(number) else -1
        setattr(sys, stream, open(number, mode, buffering=lines, closefd=False))  # noqa: SIM115
    for part in filter(None, os.environ.get("PYTHONPATH", "").split(":")):
        if part not in sys.path:
            sys.path.insert(0, part)
    _begin()
    name, sys.argv = request["program"], [request["program"], *request["arguments"]]
    if request["module"]:
        sys.modules.pop(name, None)
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(name, run_name="__main__")


def _place(wanted: Mapping[int, int]) -> None:
    """Each descriptor at the number that it had in the caller, and no others."""
    high = {number: fcntl.fcntl(descriptor, fcntl.F_DUPFD, FREE) for number, descriptor in wanted.items()}
    os.closerange(0, FREE)
    for number, descriptor in high.items():
        os.dup2(descriptor, number)
        os.close(descriptor)


def _begin() -> None:
    """What was noted of the time when the server imported it."""
    for module, name in (("megatron_patch.trainer.entry", "BEGAN"), ("megatron_patch.launch.command", "IMPORTED")):
        if module in sys.modules:
            setattr(sys.modules[module], name, time.time())


if __name__ == "__main__":
    from faults import warm_python as this

    this.main(*sys.argv[1:])
