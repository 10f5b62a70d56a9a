"""What the driver promises about layouts and changed values, trained for real on the CPU."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from megatron_patch.launch.command import REPOSITORY

DRIVER = REPOSITORY / "examples" / "llama3_1" / "run_mcore_llama3_1.sh"
BATCH, SEQ = 4, 64


@pytest.fixture
def train(world: Path, values: Callable[..., list[str]]) -> Callable[..., list[dict[str, float]]]:
    """Run the driver to its end; returns the records of metrics.jsonl."""

    def run(output: Path, *, iterations: int, **changes: str) -> list[dict[str, float]]:
        tokens = {"TRAIN_TOKENS_OR_ITERS": str(iterations * BATCH * SEQ), "WARMUP_TOKENS_OR_ITERS": str(BATCH * SEQ)}
        sizes = {"GLOBAL_BATCH_SIZE": str(BATCH), "SEQ_LEN": str(SEQ), "PAD_LEN": str(SEQ)}
        typed = values(**{**sizes, **tokens, "VALID_DATASET_PATH": "none", "OUTPUT_BASEPATH": str(output)} | changes)
        environ = {name: value for name, value in os.environ.items() if not name.startswith("MP_")}
        environ |= {"PYTHON": sys.executable, "MP_TOKENIZER_PATH": "tokenizer", "MP_DEVICE": "cpu"}
        done = subprocess.run(
            ["sh", str(DRIVER), *typed], cwd=world, env=environ, capture_output=True, text=True, timeout=280
        )
        assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]

    return run


@pytest.mark.slow
def test_tensor_parallel_beyond_the_kv_heads(train: Callable[..., list[dict[str, float]]], tmp_path: Path) -> None:
    """`tiny` has 2 KV heads: at TP 4 two ranks share one, and every loss stays that of one process."""
    alone = train(tmp_path / "tp1", iterations=10)
    shared = train(tmp_path / "tp4", iterations=10, TP="4", SP="true")
    assert len(alone) == len(shared) == 10
    assert max(abs(one["loss"] - two["loss"]) for one, two in zip(alone, shared, strict=True)) < 2e-6


@pytest.mark.slow
def test_more_training_at_another_layout(train: Callable[..., list[dict[str, float]]], tmp_path: Path) -> None:
    """Resumed with more tokens as an uneven pipeline: nothing is trained twice, the rate follows the new cosine."""
    first = train(tmp_path / "out", iterations=4, DO="true")
    records = train(tmp_path / "out", iterations=7, DO="true", PP="3")
    assert [record["iteration"] for record in records] == [1, 2, 3, 4, 5, 6, 7]
    assert records[:4] == first
    for record in records[4:]:  # Megatron steps its schedule after the optimizer: iteration i uses the rate of i - 1
        done = (record["iteration"] - 1 - 1) / (7 - 1)
        assert record["lr"] == pytest.approx(1e-4 + (1e-3 - 1e-4) * 0.5 * (1 + math.cos(math.pi * done)), rel=1e-6)
