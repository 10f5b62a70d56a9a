"""A small world for runs over several machines: data, a tokenizer, 25 values."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ..launch.conftest import write_idxmap, write_tokenizer
from . import machines
from .machines import SCRIPT, Machine, losses, two_machines

VALUES = (
    "dlc tiny 2 8 1e-3 1e-4 64 64 fp32 1 1 1 false true true false false false "
    "5 {world}/text none none 20480 1024 {out}"
)
"""ITERATIONS on 2 data-parallel ranks, a checkpoint every 5."""
ITERATIONS = 40


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer and an idxmap."""
    root = tmp_path_factory.mktemp("world").resolve()
    write_tokenizer(root / "tokenizer")
    write_idxmap(root / "text", documents=200)
    return root


@pytest.fixture(scope="session")
def values(world: Path) -> Callable[..., list[str]]:
    """The 25 values with an output folder, some of them replaced by their position."""

    def build(output: Path, changes: dict[int, str] | None = None) -> list[str]:
        typed = VALUES.format(world=world, out=output).split()
        for position, value in (changes or {}).items():
            typed[position - 1] = value
        return typed

    return build


@pytest.fixture(scope="session")
def alone(values: Callable[..., list[str]], world: Path, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """Losses of the same two ranks on one machine."""
    output = tmp_path_factory.mktemp("alone") / "out"
    environ = {"MP_TOKENIZER_PATH": str(world / "tokenizer"), "MP_NPROC": "2", "MP_DEVICE": "cpu"}
    environ |= {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    command = ["sh", str(SCRIPT), *values(output, {1: "dsw"})]
    done = subprocess.run(command, env=os.environ | environ, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(losses(output)) == ITERATIONS
    return losses(output)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Machine, Machine]]:
    """Two machines."""
    if not machines.possible():
        pytest.skip(machines.WHY_NOT)
    with two_machines(tmp_path) as both:
        yield both
