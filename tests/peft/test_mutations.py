"""The comparisons can fail: each mistake that adapters invite is far outside of their tolerances."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..trainer import harness
from ..trainer.harness import REPOSITORY, Run, launch_warm
from .test_parity import EVERY_LOSS, FIRST_LOSS, LAYOUT, TP2
from .world import MEGATRON, Compared, World

BROKEN = REPOSITORY / "tests" / "peft" / "broken.py"


@pytest.mark.slow
@pytest.mark.parametrize("mistake", ["k and v", "alpha", "layer", "B"])
def test_seen_at_the_first_loss(
    compared: Compared, tmp_path: Path, mistake: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROKEN", mistake)
    monkeypatch.setattr(harness, "MODEL", MEGATRON[compared.world.family])
    run = launch_warm(tmp_path, compared.world.data, f"{compared.world.start()} --train-iters 3", script=BROKEN)
    assert run.returncode == 0, run.stderr
    gap = abs(run.losses[0] - compared.ours.losses[0])
    print(f"{mistake}: {gap:.1e}")
    assert gap > 10 * FIRST_LOSS


@pytest.mark.slow
def test_a_forgotten_sum_over_tokens_is_seen(
    world: World, ours: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only after the first step: it is about gradients."""
    monkeypatch.setenv("BROKEN", "sum")
    flags = f"{world.start()} --lr 2e-3 --min-lr 2e-4 {TP2} --sequence-parallel"
    run = launch_warm(tmp_path, world.data, flags, processes=2, script=BROKEN)
    assert run.returncode == 0, run.stderr
    gap = max(abs(a - b) for a, b in zip(run.losses, ours.losses, strict=True))
    print(f"sum: {gap:.1e}")
    assert gap > 10 * LAYOUT and EVERY_LOSS > LAYOUT
