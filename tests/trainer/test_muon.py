"""MP_OPTIMIZER=muon on the CPU: what its update is, that it resumes bitwise, and that TP does not change it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from .harness import Run, read_checkpoint
from .planned import SEQ, make_world, start

pytest.importorskip("emerging_optimizers", reason="the extra `muon` is not installed")
LENGTH = {"TRAIN_TOKENS_OR_ITERS": 6 * 8 * SEQ, "WARMUP_TOKENS_OR_ITERS": 0, "SAVE_INTERVAL": 2}
MUON = {"MP_OPTIMIZER": "muon", "MP_WEIGHT_DECAY": "0", "MP_LR_DECAY_STYLE": "constant"}
LR = 1e-3


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def whole(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """6 iterations in bf16, each second one saved."""
    return start(world, tmp_path_factory.mktemp("whole") / "out", variables=MUON, PR="bf16", **LENGTH)


def weights(run: Run, step: int) -> dict[str, torch.Tensor]:
    return read_checkpoint(run.output / "checkpoints" / f"iter_{step:07d}")


def test_an_update_is_orthogonal(world: Path, tmp_path: Path) -> None:
    """One iteration in fp32 without weight decay: a matrix moves as far in every direction, by LR x 0.2 x root of its
    longer side; Newton-Schulz, of enough steps for the smallest, leaves singular values of 0.7 to 1.2. An embedding
    moves as under Adam."""
    run = start(world, tmp_path / "out", variables={**MUON, "MP_MUON_STEPS": "15"}, **LENGTH | {"SAVE_INTERVAL": 1})
    before, after = weights(run, 1), weights(run, 2)
    for name in ("decoder.layers.mlp.linear_fc2.weight", "decoder.layers.self_attention.linear_proj.weight"):
        for layer in range(2):
            moved = after[name][layer] - before[name][layer]
            values = torch.linalg.svdvals(moved) / (LR * 0.2 * max(moved.shape) ** 0.5)
            assert values.min() > 0.6 and values.max() < 1.3, (name, values)
    moved = after["embedding.word_embeddings.weight"] - before["embedding.word_embeddings.weight"]
    assert moved.abs().max() < 1.5 * LR
    assert torch.linalg.svdvals(moved).min() < 1e-4  # rows of tokens that do not occur stay


def test_it_is_resumed_bitwise(whole: Run, world: Path, tmp_path: Path) -> None:
    assert whole.losses[-1] < whole.losses[0] - 0.2
    again = tmp_path / "out"
    shutil.copytree(whole.output, again)
    for step in (4, 6):
        shutil.rmtree(again / "checkpoints" / f"iter_{step:07d}")
    run = start(world, again, variables=MUON, PR="bf16", **LENGTH)
    assert "resuming from iteration 2" in run.stdout
    assert run.losses == whole.losses
    found, expected = weights(run, 6), weights(whole, 6)
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "layout"), [(2, {"TP": 2}), (2, {}), (2, {"PP": 2})])
def test_layouts_agree(world: Path, tmp_path: Path, processes: int, layout: dict[str, int]) -> None:
    """From a common checkpoint; a matrix is orthogonalized whole at every TP."""
    first = start(world, tmp_path / "first", variables=MUON, **LENGTH)
    again = tmp_path / "again"
    shutil.copytree(first.output, again)
    for step in (4, 6):
        shutil.rmtree(again / "checkpoints" / f"iter_{step:07d}")
    run = start(world, again, processes=processes, variables=MUON, **LENGTH | layout)
    assert run.losses == pytest.approx(first.losses, abs=2e-4)
