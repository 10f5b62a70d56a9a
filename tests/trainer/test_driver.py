"""The whole straight line as a user walks it: text, tokenizer, idxmap, the driver with its 25 values, resume."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from megatron_patch.data.train_tokenizer import save, train

from .harness import REPOSITORY, complete_iterations, environment, read_checkpoint, read_metrics

DRIVER = REPOSITORY / "examples" / "llama3_1" / "run_mcore_llama3_1.sh"
PREPROCESS = REPOSITORY / "toolkits" / "pretrain_data_preprocessing" / "run_make_pretraining_dataset.sh"
ITERATIONS, BATCH, GLOBAL_BATCH, SEQ = 12, 1, 4, 64
REPEATABLE = ("iteration", "loss", "lr", "grad_norm", "tokens", "validation_loss")


def sh(script: Path, *words: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a door as a user does, without the MP_ variables of whoever runs the tests."""
    environ = {name: value for name, value in environment().items() if not name.startswith("MP_")}
    command = ["sh", str(script), *map(str, words)]
    done = subprocess.run(
        command, env=environ | variables, cwd=os.sep, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer and an idxmap of this repository's own sources."""
    folder = tmp_path_factory.mktemp("world")
    sources = [path.read_text() for path in sorted((REPOSITORY / "megatron_patch").glob("*/*.py"))[:20]]
    (folder / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in sources))
    save(train([folder / "text.jsonl"], vocab_size=768), folder / "tokenizer")
    sh(PREPROCESS, folder / "text.jsonl", folder / "tokenizer", folder / "data")
    return folder


def drive(world: Path, output: Path) -> subprocess.CompletedProcess[str]:
    """The 25 values."""
    data = world / "data_text_document"
    tokens = GLOBAL_BATCH * SEQ
    return sh(
        DRIVER, "dsw", "tiny", BATCH, GLOBAL_BATCH, 1e-3, 1e-4, SEQ, SEQ, "fp32", 1, 1, 1, "false", "false", "true",
        "false", "false", "false", 5, data, data, "none", ITERATIONS * tokens, 2 * tokens, output,
        MP_NPROC="1", MP_TOKENIZER_PATH=str(world / "tokenizer"), MP_EVAL_INTERVAL="6", MP_EVAL_ITERS="1",
    )  # fmt: skip


def repeatable(output: Path) -> list[dict]:
    """What two runs must agree on."""
    return [{name: record.get(name) for name in REPEATABLE} for record in read_metrics(output)]


def test_from_text_to_a_resumed_run(world: Path, tmp_path: Path) -> None:
    """It learns; the same command goes on from the newest checkpoint, bitwise; at the end it has nothing to do."""
    output = tmp_path / "out"
    first = drive(world, output)
    losses = [record["loss"] for record in read_metrics(output) if "loss" in record]
    assert len(losses) == ITERATIONS
    assert losses[-1] < losses[0] - 0.5
    assert [r["iteration"] for r in read_metrics(output) if "validation_loss" in r] == [6, 12]
    assert complete_iterations(output / "checkpoints") == [5, 10, 12]
    assert f"iteration 12/12 | loss {losses[-1]:.4f}" in first.stdout
    assert "from scratch" in first.stdout
    for name in ("plan.json", "command.txt", "metrics.jsonl", "logs", "tensorboard", "cache"):
        assert (output / name).exists(), name
    assert list(json.loads((output / "startup.json").read_text())["parts"])[:3] == ["launcher", "torchrun", "torch"]

    before, weights = repeatable(output), read_checkpoint(output / "checkpoints" / "iter_0000012")
    for step in (10, 12):
        shutil.rmtree(output / "checkpoints" / f"iter_{step:07d}")
    assert "resuming from iteration 5" in drive(world, output).stdout
    assert repeatable(output) == before
    again = read_checkpoint(output / "checkpoints" / "iter_0000012")
    assert [name for name in weights if not torch.equal(weights[name], again[name])] == []

    assert "finished" in drive(world, output).stdout
    assert repeatable(output) == before
