"""The driver with its 25 values, as a user starts it in a shell."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers

from ..faults import warm_start
from .harness import REPOSITORY, children, environment

DRIVER = REPOSITORY / "examples" / "llama3_1" / "run_mcore_llama3_1.sh"


def user_environment(**variables: str) -> dict[str, str]:
    """Without the MP_ variables of whoever runs the tests."""
    return {name: value for name, value in environment().items() if not name.startswith("MP_")} | variables


def command(values: Iterable[object]) -> list[str]:
    """The driver's command line."""
    return ["sh", str(DRIVER), *map(str, values)]


def run(words: list[str], environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """A command to its end, from a folder that is not the repository."""
    return subprocess.run(words, env=environ, cwd=os.sep, capture_output=True, text=True, timeout=400, check=False)


def run_warm(values: Iterable[object], environ: dict[str, str], screen: Path) -> subprocess.CompletedProcess[str]:
    """The same without the time that imports take (faults/warm_start.py): for what is computed, not how it starts.

    Args:
        screen: file name; `.out` and `.err` are added for what is said.
    """
    return warm_start.run(list(values), environ, screen, cwd=os.sep, timeout=400)


def train(values: Iterable[object], *, warm: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    """Train to the end; fail with what the driver said.

    Args:
        warm: as `screen` of run_warm; in a shell if None.
    """
    environ = user_environment(**variables)
    done = run_warm(values, environ, warm) if warm else run(command(values), environ)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done


def until(condition: Callable[[], bool], job: subprocess.Popen[str]) -> None:
    """Wait for it while the run goes on."""
    while not condition():
        assert job.poll() is None, "the run ended before that"
        time.sleep(0.005)


def kill_all(pid: int) -> None:
    """SIGKILL to a process and to all that it started."""
    for child in children(pid):
        kill_all(child)
    os.kill(pid, signal.SIGKILL)


def write_word_tokenizer(folder: Path, size: int) -> Path:
    """A tokenizer of the words t0, t1, ...; t1 ends a document."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.WordLevel({f"t{i}": i for i in range(size)}, unk_token="t0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "t1", "unk_token": "t0"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder
