"""The command-line tools, each command in a fork of a server that has imported them: real files, descriptors, exit.

Where root may, a command runs in name spaces of its own: it can write below its working folder only, and there is no
network. It gets a CPU limit, so that what loops is told from what waits for a busy machine.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, NoReturn

from megatron_patch.cli import COMMANDS

from .forked import REPOSITORY, become, set_environment, speak_into, start_server

CPU_SECONDS, WALL_SECONDS = 30, 400.0
"""What one command may take: its CPU time says that it loops; the clock says that it waits for ever."""
NEW_NAMESPACES = 0x00020000 | 0x40000000
"""CLONE_NEWNS and CLONE_NEWNET. Source: unshare(2)."""
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18
"""Source: mount(2)."""
SCRIPTS = {
    "pretrain_llm": ("megatron_patch.nemo.cli", ("pretrain",)),
    "finetune_llm": ("megatron_patch.nemo.cli", ("finetune",)),
    "convert_from_hf_to_nemo2": ("megatron_patch.nemo.convert", ("hf2mcore", "convert_from_hf_to_nemo2.py")),
    "convert_from_nemo2_to_hf": ("megatron_patch.nemo.convert", ("mcore2hf", "convert_from_nemo2_to_hf.py")),
    "preprocess_data_for_megatron": ("megatron_patch.nemo.data", ()),
    "download_wiki": ("megatron_patch.data.download", ()),
    "prepare_data": ("megatron_patch.evaluation.install_data", ()),
}
"""Tools that are scripts under examples/ and toolkits/: their module, and what they give to its main function."""


@dataclass(frozen=True, kw_only=True)
class Said:
    """What a command did."""

    status: int | None
    """Exit status, -N where signal N ended it, None where it had to be killed."""
    out: str
    err: str
    seconds: float
    started: bool
    """It would have become torchrun."""

    @property
    def text(self) -> str:
        """Both streams."""
        return self.out + self.err

    def problem(self) -> str:
        """What no command may do, whatever it is given; empty if it did none of it."""
        if self.status is None or self.status == -signal.SIGXCPU:
            return f"it loops or hangs: {self.seconds:.0f} s"
        if self.status < 0:
            return f"it was ended by {signal.Signals(-self.status).name}"
        if "Traceback (most recent call last)" in self.text:
            return f"a traceback: {self.text[-600:]}"
        if self.status and not self.text.strip():
            return f"status {self.status} without a word"
        if any(character in self.text for character in "\x1b\x07\x9b\u202e"):
            return "it writes control characters"
        return ""


def tools() -> list[str]:
    """Their names."""
    return [*COMMANDS, *SCRIPTS]


def run_tool(
    tool: str, words: Sequence[str], place: Path, environ: Mapping[str, str] | None = None, *, isolated: bool = True
) -> Said:
    """Run one command, its working folder being `place`.

    Args:
        environ: variables besides those of this process.
        isolated: in name spaces of its own, where root may.
    """
    (place / "tmp").mkdir(exist_ok=True)
    out, err = place / "tmp" / ".out", place / "tmp" / ".err"
    for file in (out, err):
        file.unlink(missing_ok=True)
    variables = {**clean_environment(place), **(environ or {})}
    request = {"tool": tool, "words": list(words), "place": str(place), "environ": variables, "isolated": isolated}
    began = time.monotonic()
    status = _ask(request)
    said_out, said_err = (file.read_text(errors="replace") if file.exists() else "" for file in (out, err))
    started = "would become torchrun" in said_out
    return Said(status=status, out=said_out, err=said_err, seconds=time.monotonic() - began, started=started)


def clean_environment(place: Path) -> dict[str, str]:
    """A user's, without what belongs to whoever runs this."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "OMP_NUM_THREADS") if name in os.environ}
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(place / "tmp"), "MP_DEVICE": "cpu", "COLUMNS": "100"}
    return kept | offline | {"TMPDIR": str(place / "tmp"), "PYTHONPATH": str(REPOSITORY), "PYTHONWARNINGS": "ignore"}


@cache
def begin() -> subprocess.Popen[bytes]:
    """The server."""
    return start_server("tools", stderr=subprocess.DEVNULL)


def _ask(request: Mapping[str, Any]) -> int | None:
    """Have the server run a command; its exit status."""
    server = begin()
    assert server.stdin and server.stdout
    server.stdin.write(json.dumps(request).encode() + b"\n")
    answer = server.stdout.readline()
    assert answer, "the server of tools has ended"
    status: int | None = json.loads(answer)
    return status


def serve() -> None:
    """Import what the tools import, then fork for each line of standard input."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    prepare()
    gc.freeze()  # no collection in a fork touches, and so copies, what all share
    can_isolate()
    for line in sys.stdin.buffer.raw:  # type: ignore[attr-defined]
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            answers.close()
            become(partial(_run, request))
        print(json.dumps(_wait(pid)), file=answers)


def prepare() -> None:
    """Import the whole package, besides what runs on ranks."""
    for path in sorted((REPOSITORY / "megatron_patch").rglob("*.py")):
        name = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")
        if not name.endswith("__main__") and ".backend" not in name and ".trainer" not in name:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)


@cache
def can_isolate() -> bool:
    """Whether a process may have name spaces of its own here."""
    return subprocess.run(["unshare", "-m", "-n", "true"], capture_output=True, check=False).returncode == 0


def _wait(pid: int) -> int | None:
    deadline = time.monotonic() + WALL_SECONDS
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            with contextlib.suppress(OSError):
                os.killpg(pid, signal.SIGKILL)  # what it left behind
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def _run(request: Mapping[str, Any]) -> int:
    """Be the command."""
    place = Path(request["place"])
    speak_into(str(place / "tmp" / ".out"), str(place / "tmp" / ".err"))
    if request["isolated"] and can_isolate():
        _isolate(place)
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    set_environment(request["environ"])
    os.chdir(place)
    tempfile.tempdir = None  # TMPDIR is another now
    os.execve = _become  # type: ignore[assignment]
    return _call(request["tool"], list(request["words"]))


def _call(tool: str, words: list[str]) -> int:
    from megatron_patch.common.terminal import guard

    if tool in COMMANDS:
        from megatron_patch.cli import main

        guard()
        return main([*tool.split(), *words])
    name, given = SCRIPTS[tool]
    sys.argv = sys.orig_argv[:] = [f"{tool}.py", *words]
    module: Any = importlib.import_module(name)
    calls = {
        "megatron_patch.nemo.cli": lambda: module.main(words, os.environ, *given),
        "megatron_patch.nemo.data": partial(getattr(module, "preprocess_data_for_megatron", None) or print, words),
        "megatron_patch.evaluation.install_data": lambda: module.main(),
        "megatron_patch.data.download": lambda: module.main(next(iter(module.EXAMPLES)), words),
    }
    guard()
    return int(calls.get(name, lambda: module.main(words, *given))() or 0)


def _become(path: str, argv: Sequence[str], environ: Mapping[str, str]) -> NoReturn:
    print(f"would become {'torchrun' if 'megatron_patch.torchrun' in argv else path}", flush=True)
    sys.exit(0)


def _isolate(place: Path) -> None:
    """Everything is read-only but `place`; no network."""
    libc = ctypes.CDLL(None, use_errno=True)
    inside = str(place).encode()
    steps = [
        lambda: libc.unshare(NEW_NAMESPACES),
        lambda: libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None),
        lambda: libc.mount(inside, inside, None, MS_BIND | MS_REC, None),
        lambda: libc.mount(b"none", b"/", None, MS_REMOUNT | MS_BIND | MS_RDONLY, None),
    ]
    for step in steps:
        if step():
            raise OSError(ctypes.get_errno(), f"name spaces: {os.strerror(ctypes.get_errno())}")


if __name__ == "__main__":
    serve()
