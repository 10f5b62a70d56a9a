"""Runs that several GPU tests read. The machine's processor makes the references."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ..trainer.harness import Run, build_idxmap
from ..trainer.harness import train as train_on_cpu
from .harness import recorded


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder needs a GPU."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.gpu)


@pytest.fixture(scope="session", autouse=True)
def gpu() -> None:
    """Fail, not skip: `make test-gpu` was asked for."""
    assert torch.cuda.is_available(), "torch sees no GPU: run `python -m megatron_patch.doctor`"


Once = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """Fill a folder by name, once for all workers of pytest-xdist; returns the folder."""
    base = tmp_path_factory.getbasetemp()
    root = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def fill(name: str, build: Callable[[Path], object]) -> Path:
        folder, done = root / f"once-{name}", root / f"once-{name}.done"
        with (root / f"once-{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                build(folder)
                done.touch()
        return folder

    return fill


@pytest.fixture(scope="session")
def data(once: Once) -> Path:
    """Prefix of a small idxmap data set."""
    return once("data", lambda folder: build_idxmap(folder / "documents")) / "documents"


@pytest.fixture(scope="session")
def start(once: Once, data: Path) -> str:
    """Flags that start from a checkpoint which a CPU wrote in fp32."""

    def make(folder: Path) -> None:
        train_on_cpu(folder, data, f"--train-iters 3 --save {folder}/checkpoints --save-interval 3")

    return f"--load {once('start', make)}/checkpoints --finetune --no-load-optim --no-load-rng"


@pytest.fixture(scope="session")
def cpu(once: Once, data: Path, start: str) -> Run:
    """20 iterations in fp32 on the processor."""
    return recorded(once("cpu", lambda folder: train_on_cpu(folder, data, start)))
