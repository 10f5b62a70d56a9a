"""Expensive runs that several tests read: made once for a session, on first use."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from .harness import Run, architecture, build_idxmap, train

SAVED = "--train-iters 3 --save {output}/checkpoints --save-interval 3"
LOADED = "--load {output}/checkpoints --finetune --no-load-optim --no-load-rng"


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prefix of a small idxmap data set."""
    return build_idxmap(tmp_path_factory.mktemp("data") / "documents")


@pytest.fixture(scope="session")
def first(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Run:
    """Three iterations from scratch, saved."""
    output = tmp_path_factory.mktemp("first")
    return train(output, data, SAVED.format(output=output))


@pytest.fixture(scope="session")
def start(first: Run) -> str:
    """Flags that start from one common checkpoint, weights only: TP and PP ranks draw other random numbers."""
    return LOADED.format(output=first.output)


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory, data: Path, start: str) -> Run:
    """20 iterations on one process, with everything that a run leaves behind."""
    output = tmp_path_factory.mktemp("reference")
    return train(output, data, f"{start} --tensorboard-dir {output}/tensorboard", torchrun=True)


@pytest.fixture(scope="session")
def start_of(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Callable[[str], str]:
    """As `start`, of another family: with the flags of its architecture."""

    @cache
    def made(family: str) -> str:
        output = tmp_path_factory.mktemp(f"first-{family}")
        train(output, data, architecture(family) + SAVED.format(output=output))
        return architecture(family) + LOADED.format(output=output)

    return made


@pytest.fixture(scope="session")
def reference_of(
    tmp_path_factory: pytest.TempPathFactory, data: Path, start_of: Callable[[str], str]
) -> Callable[[str], Run]:
    """As `reference`, of another family."""
    return cache(lambda family: train(tmp_path_factory.mktemp(f"reference-{family}"), data, start_of(family)))
