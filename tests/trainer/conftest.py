"""Expensive runs that several tests read: made once for a session, on first use."""

from __future__ import annotations

from pathlib import Path

import pytest

from .harness import Run, build_idxmap, train


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prefix of a small idxmap data set."""
    return build_idxmap(tmp_path_factory.mktemp("data") / "documents")


@pytest.fixture(scope="session")
def first(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Run:
    """Three iterations from scratch, saved."""
    output = tmp_path_factory.mktemp("first")
    return train(output, data, f"--train-iters 3 --save {output}/checkpoints --save-interval 3")


@pytest.fixture(scope="session")
def start(first: Run) -> str:
    """Flags that start from one common checkpoint, weights only: TP and PP ranks draw other random numbers."""
    return f"--load {first.output}/checkpoints --finetune --no-load-optim --no-load-rng"


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory, data: Path, start: str) -> Run:
    """20 iterations on one process, with everything that a run leaves behind."""
    output = tmp_path_factory.mktemp("reference")
    return train(output, data, f"{start} --tensorboard-dir {output}/tensorboard", torchrun=True)
