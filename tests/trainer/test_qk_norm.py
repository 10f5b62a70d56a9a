"""q/k norm, qkv bias, a head_dim of its own, tied embeddings (Qwen has them) on the CPU: each layout as one process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from . import harness
from .harness import Run, read_checkpoint, train

LAYERS, HEAD_DIM = 4, 32
FLAGS = f"--qk-layernorm --add-qkv-bias --kv-channels {HEAD_DIM}"
TOLERANCE = 2e-6
"""In nats, over 20 iterations. Gradients of q/k norm that are not summed over TP show 1e-4."""
TP2, PP2 = "--tensor-model-parallel-size 2 ", "--pipeline-model-parallel-size 2 "


@pytest.fixture(scope="module", autouse=True)
def tied() -> Iterator[None]:
    """All runs of this file have one matrix for embedding and output."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(harness, "MODEL", harness.MODEL.replace("--untie-embeddings-and-output-weights", ""))
        yield


@pytest.fixture(scope="module")
def common(tmp_path_factory: pytest.TempPathFactory, data: Path, tied: None) -> Path:
    """Checkpoints of three iterations, so that no norm is all ones and no bias all zeros."""
    output = tmp_path_factory.mktemp("common")
    train(output, data, f"{FLAGS} --lr 1e-2 --train-iters 3 --save {output}/checkpoints --save-interval 3")
    return output / "checkpoints"


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, data: Path, common: Path) -> Run:
    """20 iterations in one process."""
    return train(tmp_path_factory.mktemp("alone"), data, started_from(common))


def started_from(common: Path) -> str:
    """Flags: weights only."""
    return f"{FLAGS} --load {common} --finetune --no-load-optim --no-load-rng"


def test_checkpoint(common: Path) -> None:
    """The names are those of Transformer Engine's spec, and every such weight was trained."""
    tensors = read_checkpoint(common / "iter_0000003")
    assert "output_layer.weight" not in tensors
    for name in ("q_layernorm.weight", "k_layernorm.weight"):
        norm = tensors[f"decoder.layers.self_attention.{name}"]
        assert norm.shape == (LAYERS, HEAD_DIM) and not torch.any(norm == 1)
    bias = tensors["decoder.layers.self_attention.linear_qkv.bias"]
    assert bias.shape == (LAYERS, 8 * HEAD_DIM) and torch.count_nonzero(bias) > bias.numel() * 0.6  # k's hardly matters


@pytest.mark.parametrize(
    ("processes", "flags"),
    [
        pytest.param(2, TP2 + "--sequence-parallel", id="TP2+SP"),
        pytest.param(2, TP2, id="TP2", marks=pytest.mark.slow),
        pytest.param(4, TP2 + PP2 + "--sequence-parallel", id="TP2xPP2+SP", marks=pytest.mark.slow),
    ],
)
def test_layouts(tmp_path: Path, data: Path, common: Path, alone: Run, processes: int, flags: str) -> None:
    """Each rank's norms see its own heads only."""
    run = train(tmp_path, data, f"{started_from(common)} {flags}", processes=processes)
    assert len(run.losses) == 20
    assert max(abs(a - b) for a, b in zip(run.losses, alone.losses, strict=True)) <= TOLERANCE
