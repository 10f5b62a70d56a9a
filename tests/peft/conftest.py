"""One world for all tests of adapters."""

from __future__ import annotations

import pytest

from ..trainer.harness import Run, build_idxmap
from .world import World, make_adapter, make_model


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("lora")
    make_model(folder / "hf")
    make_adapter(folder / "adapter", folder / "hf")
    return World(folder=folder, data=build_idxmap(folder / "documents"))


@pytest.fixture(scope="session")
def ours(world: World) -> Run:
    """20 steps in one process."""
    return world.train("ours")
