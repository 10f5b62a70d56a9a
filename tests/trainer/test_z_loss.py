"""--z-loss in training: the same at every layout, shown beside the loss, and nothing without it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from .harness import OTHERS, train

STEPS = "--train-iters 8 --lr-decay-iters 8 --z-loss 0.2"


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, data: Path, start: str) -> list[dict]:
    return train(tmp_path_factory.mktemp("z"), data, f"{start} {STEPS}").metrics


@pytest.mark.parametrize(
    ("layout", "processes"),
    [
        pytest.param("--tensor-model-parallel-size 2 --sequence-parallel", 2, id="TP2 SP"),
        pytest.param("--pipeline-model-parallel-size 2", 2, id="PP2", marks=pytest.mark.slow),
    ],
)
def test_z_loss_is_the_same_in_every_layout(
    layout: str, processes: int, tmp_path: Path, data: Path, start: str, alone: list[dict]
) -> None:
    compare(train(tmp_path, data, f"{start} {STEPS} {layout}", processes=processes).metrics, alone)


@pytest.mark.slow
@pytest.mark.parametrize("family", OTHERS)
def test_other_families(family: str, tmp_path: Path, data: Path, start_of: Callable[[str], str]) -> None:
    """Through a pipeline of two stages, whose tied embeddings see the z-loss too."""
    one, two = (
        train(tmp_path / str(stages), data, f"{start_of(family)} {STEPS} {layout}", processes=stages).metrics
        for stages, layout in ((1, ""), (2, "--pipeline-model-parallel-size 2"))
    )
    compare(two, one)


def compare(found: list[dict], alone: list[dict]) -> None:
    for name, tolerance in (("loss", 2e-6), ("z_loss", 2e-5), ("grad_norm", 2e-5)):
        pairs = zip((one[name] for one in found), (one[name] for one in alone), strict=True)
        assert max(abs(a - b) for a, b in pairs) <= tolerance, name


@pytest.mark.slow
def test_off_is_the_plain_loss(alone: list[dict], tmp_path: Path, data: Path, start: str) -> None:
    """First losses are equal, as the weights are; then the z-loss pulls the normalisers down."""
    plain = train(tmp_path, data, f"{start} {STEPS.replace('--z-loss 0.2', '')}").metrics
    assert not any("z_loss" in record for record in plain)
    assert plain[0]["loss"] == pytest.approx(alone[0]["loss"], abs=2e-6)
    assert plain[-1]["loss"] != alone[-1]["loss"]
    assert alone[-1]["z_loss"] < alone[0]["z_loss"]
