"""Conversion by several processes, as more than two workers are: what forks share, and what they must not."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from megatron_patch.checkpoint import store
from megatron_patch.checkpoint.cli import main
from megatron_patch.checkpoint.converter.conversion import Conversion
from megatron_patch.checkpoint.converter.convert import hf_side
from megatron_patch.checkpoint.formats.hf_folder import open_hf_folder
from megatron_patch.checkpoint.manifest import verify
from megatron_patch.checkpoint.store import HashingFile, staged
from megatron_patch.common.spread import spread

from .models import MODELS, SMALL, make_model, read_weights, same_bits

WORKER = Path(__file__).with_name("processes_worker.py")


def test_torch_may_have_had_threads_before_the_forks(tmp_path: Path) -> None:
    """Threads of a forked process found torch's thread pool gone, "Invalid thread pool!": seen on 64 cores.

    Workers of the tokenization would wait forever for threads that are not there, had they operations of torch.
    The embedding is large enough for an operation that torch would do by several threads.
    """
    hf = make_model(tmp_path / "hf", replace(SMALL, vocab_size=2000))
    done = subprocess.run([sys.executable, WORKER, hf, tmp_path], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "forked 15"
    assert verify(tmp_path / "megatron") > 0 and verify(tmp_path / "back") > 0
    before, after = read_weights(hf), read_weights(tmp_path / "back")
    assert before.keys() == after.keys() and all(same_bits(before[name], after[name]) for name in before)
    assert main(["--source", str(hf), "--output-path", str(tmp_path / "one"), "--workers", "1"]) == 0
    assert contents(tmp_path / "one") == contents(tmp_path / "megatron"), (
        "as many cores as a machine has, the same sums"
    )


def test_memory_that_is_kept_for_files_is_each_process_s_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was shared by all forks of a process that had written a file: they wrote each other's bytes."""
    monkeypatch.setattr(threading, "active_count", lambda: 1)
    monkeypatch.setattr(store, "_SPARE", [])
    with staged(tmp_path / "target", {}) as stage:
        with HashingFile(stage.path / "before", stage) as file:
            file.write(b"before")
        assert len(store._SPARE) == 1

        def write(task: int) -> int:
            with HashingFile(stage.path / str(task), stage) as file:
                file.write(b"%d" % task * 10_000)
                (tmp_path / f"began-{task}").touch()
                wait_for(tmp_path / f"began-{1 - task}")
            return os.getpid()

        assert len({*spread(write, range(2), 17), os.getpid()}) == 3
    assert [(tmp_path / "target" / name).read_bytes() for name in "01"] == [b"0" * 10_000, b"1" * 10_000]
    assert verify(tmp_path / "target") > 0


def test_nothing_is_verified_before_the_forks(tmp_path: Path) -> None:
    """Threads that verify keep a process from being forked: a tied head that is stored had one process do it all."""
    hf = make_model(tmp_path / "hf", MODELS["tied"])
    weights = load_file(hf / "model.safetensors")
    twin = {"lm_head.weight": weights["model.embed_tokens.weight"].clone()}
    save_file(weights | twin, hf / "model.safetensors", metadata={"format": "pt"})
    folder, opened = open_hf_folder(hf, "auto"), []
    folder.files.on_open = opened.append
    hf_side(folder, Conversion(model=folder.model, vocab_size=500, precision="bf16", workers=34))
    assert folder.tied_twin is not None and opened == []


def contents(folder: Path) -> dict[str, bytes]:
    """Of every file."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def wait_for(file: Path) -> None:
    deadline = time.monotonic() + 120
    while not file.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
