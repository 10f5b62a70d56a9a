"""Starting from a Hugging Face folder, in bf16 and where the weights themselves are fp8."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from megatron_patch.models import model_of_size

from ..trainer.harness import VOCAB_SIZE
from .harness import BF16, FP8, train

SHAPE = replace(
    model_of_size("tiny"),
    hidden_size=64,
    ffn_hidden_size=128,
    num_attention_heads=4,
    head_dim=16,
    vocab_size=VOCAB_SIZE + 1,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of random weights, ten times larger than fresh ones: a start from other weights shows at once."""
    from megatron_patch.checkpoint.random_model import make_hf_checkpoint

    target = tmp_path_factory.mktemp("hf") / "model"
    make_hf_checkpoint(target, replace(SHAPE, init_method_std=0.2), seed=7)
    return target


def test_fp8_starts_from_the_same_weights(tmp_path: Path, data: Path, folder: Path) -> None:
    """And goes on from them: with fp8 weights Megatron takes its fp32 copies from the fresh ones unless told."""
    flags = f"--hf-checkpoint {folder} --train-iters 5"
    bf16 = train(tmp_path / "bf16", data, f"{BF16} {flags}")
    fp8 = train(tmp_path / "fp8", data, f"{FP8} --fp8-recipe tensorwise {flags}")
    fresh = train(tmp_path / "fresh", data, f"{BF16} --train-iters 5")
    assert abs(bf16.losses[0] - fresh.losses[0]) > 0.5
    assert max(abs(a - b) for a, b in zip(bf16.losses, fp8.losses, strict=True)) < 0.1
