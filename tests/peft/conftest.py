"""One world for all tests of adapters."""

from __future__ import annotations

import pytest

from ..trainer.harness import Run, build_idxmap
from .world import CONFIGS, Compared, World, make_world, peft_losses

OTHERS = [pytest.param(family, marks=pytest.mark.slow) for family in CONFIGS if family != "llama"]


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("lora")
    return make_world(folder, build_idxmap(folder / "documents"), "llama")


@pytest.fixture(scope="session")
def ours(world: World) -> Run:
    """20 steps in one process."""
    return world.train("ours")


@pytest.fixture(scope="session", params=["llama", *OTHERS])
def compared(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, world: World, ours: Run
) -> Compared:
    """Each family beside PEFT."""
    if request.param != "llama":
        world = make_world(tmp_path_factory.mktemp(request.param), world.data, request.param)
        ours = world.train("ours")
    return Compared(world=world, ours=ours, theirs=peft_losses(world, ours.output / "cache"))
