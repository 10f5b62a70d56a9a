"""What goes wrong inside of a rank: armed before it runs, at its start, in a step, or while it writes a checkpoint.

`FAULTS_INJECT` is JSON: kind, phase, rank, and the paths that the kind needs. Standard library, until it strikes.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

PLACES = {
    "start": ("megatron_patch.trainer.data.datasets", "provide_datasets", 1),
    "step": ("megatron_patch.trainer.step", "forward_step", 4),
    "save": ("megatron_patch.backend.saving.asynchronous", "write_items", 3),
}
"""Module, function and call before which it strikes: data, the fourth iteration, the second checkpoint's first file."""


def arm(text: str) -> None:
    """Strike once, in the phase and rank that the text names."""
    fault = json.loads(text)
    if int(os.environ["RANK"]) != fault["rank"]:
        return
    module_name, name, call = PLACES[fault["phase"]]
    module = import_module(module_name)
    original = getattr(module, name)
    calls = [0]

    def struck(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == call:
            print(f"injected: {fault['kind']}", flush=True)
            KINDS[fault["kind"]](fault)
        return original(*args, **kwargs)

    setattr(module, name, struck)


def _raise(error: Callable[[], BaseException], fault: dict[str, Any]) -> None:
    raise error()


def _signal_launcher(number: int, fault: dict[str, Any]) -> None:
    os.kill(os.getppid(), number)


def _signal_self(number: int, fault: dict[str, Any]) -> None:
    os.kill(os.getpid(), number)


def _no_descriptors(fault: dict[str, Any]) -> None:
    used = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    resource.setrlimit(resource.RLIMIT_NOFILE, (used - 1, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


def _small_files(fault: dict[str, Any]) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def _fill(fault: dict[str, Any]) -> None:
    """The disk that the run writes to."""
    with Path(fault["output"], "filler").open("wb", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                pass


def _truncate_data(fault: dict[str, Any]) -> None:
    os.truncate(fault["data"], 100)


def _remove_checkpoints(fault: dict[str, Any]) -> None:
    shutil.rmtree(Path(fault["output"], "checkpoints"), ignore_errors=True)


def _close_connections(fault: dict[str, Any]) -> None:
    """As a network that is gone."""
    for entry in os.listdir("/proc/self/fd"):  # noqa: PTH208
        try:
            if os.readlink(f"/proc/self/fd/{entry}").startswith("socket:"):  # noqa: PTH115
                socket.socket(fileno=os.dup(int(entry))).shutdown(socket.SHUT_RDWR)
        except OSError:
            continue


def _read_only(fault: dict[str, Any]) -> None:
    os.system(f"mount -o remount,ro {fault['output']}")


def _leave(fault: dict[str, Any]) -> None:
    gc.collect()
    sys.stdout.flush()
    os._exit(3)


KINDS: dict[str, Callable[[dict[str, Any]], None]] = {
    "an exception": partial(_raise, lambda: RuntimeError("injected")),
    "no memory": partial(_raise, lambda: MemoryError("injected")),
    "a silent exit": _leave,
    "a crash (SIGSEGV)": partial(_signal_self, signal.SIGSEGV),
    "SIGKILL": partial(_signal_self, signal.SIGKILL),
    "SIGTERM to the launcher": partial(_signal_launcher, signal.SIGTERM),
    "SIGINT to the launcher": partial(_signal_launcher, signal.SIGINT),
    "SIGHUP to the launcher": partial(_signal_launcher, signal.SIGHUP),
    "no descriptors": _no_descriptors,
    "files may have 20 kB (RLIMIT_FSIZE)": _small_files,
    "connections closed": _close_connections,
    "data cut under the run": _truncate_data,
    "checkpoints removed": _remove_checkpoints,
    "a full disk (tmpfs)": _fill,
    "a read-only disk (tmpfs)": _read_only,
    "stopped (SIGSTOP)": partial(_signal_self, signal.SIGSTOP),
    "a call that never returns": lambda fault: time.sleep(10_000),
}
