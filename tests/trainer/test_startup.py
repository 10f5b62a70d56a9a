"""The account of the way to the first step adds up, and takes over what the launcher noted."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from megatron_patch.launch.command import REPOSITORY, STARTED_VARIABLE
from megatron_patch.trainer.startup import Startup

from .harness import launch


def test_parts_follow_each_other_without_gaps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STARTED_VARIABLE, "100.0 100.5")
    startup = Startup(102.0)
    startup.done("torch", 103.25)
    startup.done("model", 103.26)
    startup.done("torch", 104.0)  # a part may come in two pieces
    assert startup.parts == pytest.approx({"launcher": 0.5, "torchrun": 1.5, "torch": 1.99, "model": 0.01})
    assert startup.seconds == pytest.approx(sum(startup.parts.values())) == pytest.approx(4.0)
    assert startup.line() == "first step after 4.0 s: launcher 0.5, torchrun 1.5, torch 2.0"
    startup.write(tmp_path)
    record = json.loads((tmp_path / "startup.json").read_text())
    assert record == {"began": 100.0, "seconds": startup.seconds, "parts": startup.parts}


def test_without_a_launcher_the_rank_is_the_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(STARTED_VARIABLE, raising=False)
    startup = Startup(102.0)
    startup.done("torch", 103.0)
    assert startup.parts == {"torch": 1.0}


def test_the_note_begins_with_the_shell() -> None:
    """It became Python by `exec`, so what it did before counts; a clock that tells of an hour is not believed."""
    code = "from megatron_patch.launch import command as c; c.LONGEST_START = 1e6; "
    code += "print(c.started()[c.STARTED_VARIABLE], c.IMPORTED)"
    before = time.time()
    shell = ["sh", "-c", 'sleep 0.3; exec "$0" -c "$1"', sys.executable, code]
    run = subprocess.run(shell, cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=True)
    began, started, imported = map(float, run.stdout.split())
    assert before - 0.05 < began < imported - 0.25  # the kernel counts in hundredths
    assert started <= time.time()
    code = code.replace("1e6", "0.0")
    run = subprocess.run([*shell[:-1], code], cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=True)
    began, _, imported = map(float, run.stdout.split())
    assert began == pytest.approx(imported, abs=0.001)


LISTING = """
import atexit, sys
from pathlib import Path

from megatron_patch.trainer.entry import main

listing = Path(sys.argv[sys.argv.index("--output-dir") + 1]) / "modules.txt"
atexit.register(lambda: listing.write_text("\\n".join(sys.modules)))
main()
"""


def test_pretraining_imports_nothing_of_finetuning(tmp_path: Path, data: Path) -> None:
    """Each import is made by every rank, on its way to the first step."""
    script = tmp_path / "rank.py"
    script.write_text(LISTING)
    run = launch(tmp_path / "out", data, "--train-iters 3", script=script)
    assert run.returncode == 0, run.stderr
    modules = set((tmp_path / "out" / "modules.txt").read_text().splitlines())
    assert "megatron_patch.trainer.data.datasets" in modules
    heavy = {"pyarrow", "rich", "megatron_patch.trainer.data.sft"}  # zstandard is torch's own, where it is installed
    heavy |= {f"megatron_patch.data.sft.{name}" for name in ("cache", "dataset", "encoder", "rows", "template")}
    assert heavy & modules == set()
