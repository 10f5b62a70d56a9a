"""Ranks without their imports: a server that has imported torch and Megatron once, and forks a process for each rank.

A run of a few tiny steps takes a second; torchrun, and each rank's imports, take seven. Tests of what a rank computes
or says start their ranks here; those of what the driver or torchrun makes of it in faults/warm_start.py; tests of
starting, being asked to stop, a full interpreter's end and of the screen as a user starts all of it.

The ranks are processes of their own, joined by gloo and by a store in a process above them, as under torchrun.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import runpy
import signal
import subprocess
import sys
import time
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

GRACE = 20.0
"""Seconds that ranks get to end by themselves once one has failed."""

_server: subprocess.Popen[str] | None = None


def run(
    script: Path, flags: list[str], *, processes: int, environ: dict[str, str], screen: Path, timeout: float
) -> int:
    """Run a script in every rank; returns 0, or 1 where a rank failed.

    Args:
        screen: file name; `.out` and `.err` are added for what the ranks say.
    """
    global _server
    if _server is None:
        command = [sys.executable, str(Path(__file__).resolve())]
        _server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ)
        atexit.register(_server.kill)
    assert _server.stdin and _server.stdout
    request = {"script": str(script), "flags": flags, "processes": processes, "environ": environ, "screen": str(screen)}
    print(json.dumps(request | {"cwd": str(Path.cwd()), "timeout": timeout}), file=_server.stdin, flush=True)
    status = _server.stdout.readline()
    assert status, "the server of warm ranks has ended"
    return int(status)


def serve() -> None:
    """Import what every rank does, then fork for each line of standard input; learn what else ranks import."""
    from megatron_patch.backend import enable

    enable("cpu")
    import_module("megatron.training")
    import_module("megatron_patch.trainer.entry")
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for line in sys.stdin:
        learned, told = os.pipe()
        launcher = os.fork()
        if launcher == 0:
            _end_with(partial(_launch, json.loads(line), told))
        os.close(told)
        with os.fdopen(learned) as names:
            more = names.read().split()
        print(os.waitstatus_to_exitcode(os.waitpid(launcher, 0)[1]), file=answers)
        for name in more:
            with contextlib.suppress(Exception):
                import_module(name)


def _end_with(work: Any) -> None:
    """Do the work and end this process: nothing of the server's goes on in it."""
    status = 1
    try:
        atexit._clear()
        status = work() or 0
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _launch(request: dict[str, Any], told: int) -> int:
    """What torchrun does: a store, the ranks, and the end of all when one has failed."""
    gates = [os.pipe() for _ in range(request["processes"])]
    ranks = []
    for rank, (gate, _) in enumerate(gates):
        ranks.append(os.fork())
        if ranks[-1] == 0:
            _end_with(partial(_rank, request, rank, gate, told))
    from torch.distributed import TCPStore

    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    for _, gate in gates:
        os.write(gate, f"{store.port}\n".encode())
    return _wait(ranks, time.monotonic() + request["timeout"])


def _rank(request: dict[str, Any], rank: int, gate: int, told: int) -> None:
    known = set(sys.modules)
    os.environ.clear()
    os.environ.update(request["environ"])
    size = str(request["processes"])
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=size, LOCAL_WORLD_SIZE=size, GROUP_RANK="0")
    os.environ.update(MASTER_ADDR="localhost", MASTER_PORT=os.read(gate, 100).decode().strip())
    os.environ.update(TORCHELASTIC_USE_AGENT_STORE="True", TORCHELASTIC_RESTART_COUNT="0", TORCHELASTIC_RUN_ID="warm")
    for number, ending in ((1, "out"), (2, "err")):
        file = os.open(f"{request['screen']}.{ending}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(file, number)
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    os.chdir(request["cwd"])
    sys.argv = [request["script"], *request["flags"]]
    runpy.run_path(request["script"], run_name="__main__")
    if rank == 0:
        os.write(told, "\n".join(sorted(set(sys.modules) - known)).encode())


def _wait(ranks: list[int], deadline: float) -> int:
    """0 when all have ended well; the others are ended once one has not."""
    failed = False
    left = set(ranks)
    while left:
        for pid in list(left):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                left.discard(pid)
                if status and not failed:
                    failed, deadline = True, min(deadline, time.monotonic() + GRACE)
        if left and time.monotonic() > deadline:
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            failed, deadline = True, deadline + 60
        time.sleep(0.005)
    return int(failed)


if __name__ == "__main__":
    serve()
