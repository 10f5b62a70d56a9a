"""A small world for runs over several machines: data, a tokenizer, 25 values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ..launch.conftest import write_idxmap, write_tokenizer
from . import machines
from .machines import Machine, two_machines

VALUES = (
    "dlc tiny 2 8 1e-3 1e-4 64 64 fp32 1 1 1 false true true false false false "
    "5 {world}/text none none 20480 1024 {out}"
)
"""40 iterations on 2 data-parallel ranks, a checkpoint every 5."""


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


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Machine, Machine]]:
    """Two machines."""
    if not machines.possible():
        pytest.skip(machines.WHY_NOT)
    with two_machines(tmp_path) as both:
        yield both
