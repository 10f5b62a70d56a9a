"""Layers replayed as CUDA graphs: the same bits as layers started kernel by kernel, saved and resumed; and an end."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from ..trainer.harness import Run
from .harness import BF16, FP8, launch, train

TP2 = "--tensor-model-parallel-size 2 --sequence-parallel --eval-interval 5 --eval-iters 2 "
GRAPHS = "--cuda-graph-impl local "

pytestmark = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")


def validation_losses(run: Run) -> list[float]:
    """In order."""
    return [record["validation_loss"] for record in run.metrics if "validation_loss" in record]


@pytest.mark.parametrize("precision", [BF16, FP8 + "--fp8-recipe tensorwise "], ids=["bf16", "fp8"])
def test_replayed_layers(tmp_path: Path, data: Path, precision: str) -> None:
    """With validations in between; and one goes on from the other's checkpoint, both ways."""
    flags = f"{precision} {TP2} --valid-data-path {data} "
    kinds = {"eager": "", "graphs": GRAPHS}
    runs = {
        kind: train(
            tmp_path / kind, data, f"{flags} {more} --save {tmp_path}/of-{kind} --save-interval 10", processes=2
        )
        for kind, more in kinds.items()
    }
    assert "CUDA graphs: 8" in runs["graphs"].stdout and "CUDA graphs" not in runs["eager"].stdout
    assert runs["graphs"].losses == runs["eager"].losses
    assert validation_losses(runs["graphs"]) == validation_losses(runs["eager"]) != []
    for kind, other in (("eager", "graphs"), ("graphs", "eager")):
        shutil.rmtree(tmp_path / f"of-{other}" / "iter_0000020")
        loading = f"--load {tmp_path}/of-{other} --ckpt-step 10"
        again = train(tmp_path / f"again-{kind}", data, f"{flags} {kinds[kind]} {loading}", processes=2)
        assert again.losses == runs["eager"].losses[10:]


def test_an_error_ends_the_run(tmp_path: Path, data: Path) -> None:
    """Communicators that still have graphs do not keep the process from ending with what went wrong."""
    flags = f"{BF16} {TP2} {GRAPHS} --valid-data-path {data} --lr 1e30 --clip-grad 0"
    run = launch(tmp_path, data, flags, processes=2, timeout=120)
    assert run.returncode not in (0, None)
    assert "CUDA graphs: 8" in run.stdout
