"""The whole straight line as a user walks it: text, tokenizer, idxmap, the driver with its 25 values, resume."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from megatron_patch.data.train_tokenizer import save, train
from megatron_patch.runs.recovery import read_events
from megatron_patch.runs.status import LAUNCHER, take

from ..english import english
from . import driver
from .driver import user_environment
from .harness import REPOSITORY, children, complete_iterations, read_checkpoint, read_metrics

PREPROCESS = REPOSITORY / "toolkits" / "pretrain_data_preprocessing" / "run_make_pretraining_dataset.sh"
ITERATIONS, BATCH, GLOBAL_BATCH, SEQ = 12, 1, 4, 64
REPEATABLE = ("iteration", "loss", "lr", "grad_norm", "tokens", "validation_loss")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer and an idxmap of this repository's own sources."""
    folder = tmp_path_factory.mktemp("world")
    sources = [path.read_text() for path in sorted((REPOSITORY / "megatron_patch").glob("*/*.py"))[:20]]
    (folder / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in sources))
    save(train([folder / "text.jsonl"], vocab_size=768), folder / "tokenizer")
    words = ["sh", PREPROCESS, folder / "text.jsonl", folder / "tokenizer", folder / "data"]
    assert driver.run([*map(str, words)], user_environment()).returncode == 0
    return folder


def values(world: Path, output: Path, *, iterations: int = ITERATIONS, save: int = 5, lr: float = 1e-3) -> list[object]:
    """The 25 values."""
    data, tokens = world / "data_text_document", GLOBAL_BATCH * SEQ
    return [
        "dsw", "tiny", BATCH, GLOBAL_BATCH, lr, 1e-4, SEQ, SEQ, "fp32", 1, 1, 1, "false", "false", "true",
        "false", "false", "false", save, data, data, "none", iterations * tokens, 2 * tokens, output,
    ]  # fmt: skip


def variables(world: Path) -> dict[str, str]:
    tokenizer = {"MP_TOKENIZER_PATH": str(world / "tokenizer")}
    return {"MP_NPROC": "1", "MP_EVAL_INTERVAL": "6", "MP_EVAL_ITERS": "1"} | tokenizer


def drive(world: Path, output: Path, *, warm: bool = True, **more: str) -> subprocess.CompletedProcess[str]:
    screen = output.with_name(f"{output.name}.screen") if warm else None
    return driver.train(values(world, output), warm=screen, **variables(world) | more)


def long_run(world: Path, output: Path, lr: float = 1e-3) -> tuple[list[str], dict[str, str]]:
    """Command and environment."""
    words = driver.command(values(world, output, iterations=1000, save=1000, lr=lr))
    return words, user_environment(**variables(world) | {"MP_EVAL_INTERVAL": "1000"})


def test_a_refused_second_start_changes_nothing(world: Path, tmp_path: Path) -> None:
    """From the moment at which the first has written its plan, long before its ranks are there."""
    output = tmp_path / "out"
    command, environ = long_run(world, output)
    first = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        while first.poll() is None and not (output / "command.txt").exists():
            time.sleep(0.005)
        before = {name: (output / name).read_bytes() for name in ("plan.json", "command.txt", LAUNCHER)}
        other, _ = long_run(world, output, lr=2e-3)
        second = subprocess.run(other, env=environ, capture_output=True, text=True, timeout=300, check=False)
        assert second.returncode == 2
        assert f"another run is writing there: process {first.pid} on {socket.gethostname()}, since 20" in second.stderr
        assert {name: (output / name).read_bytes() for name in before} == before
        while first.poll() is None and len(read_metrics(output)) < 1:
            time.sleep(0.01)
        first.send_signal(signal.SIGINT)
        screen, _ = first.communicate(timeout=300)
    finally:
        first.kill()
    assert first.returncode == 128 + signal.SIGINT, screen
    (saved,) = complete_iterations(output / "checkpoints")
    assert f"stopped by SIGINT after iteration {saved}; the same command goes on from there" in screen


def test_a_start_waits_for_a_run_that_is_ending(world: Path, tmp_path: Path) -> None:
    """Its launcher was killed, and its rank lives on until it is told about."""
    output = tmp_path / "out"
    os.close(take(output))
    code = "import sys; from pathlib import Path; from megatron_patch.runs.status import take_as_rank; "
    code += "take_as_rank(Path(sys.argv[1]), print); print('up', flush=True); sys.stdin.read()"
    rank = subprocess.Popen(
        [sys.executable, "-c", code, str(output)], cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert rank.stdout is not None and rank.stdout.readline() == b"up\n"
    command, environ = long_run(world, output)
    second = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert second.stderr is not None
        assert second.stderr.readline().startswith(
            f"waiting for the run that is ending in {output} (process {os.getpid()}"
        )
        assert not (output / "plan.json").exists()
        rank.communicate(timeout=300)
        while second.poll() is None and not (output / "command.txt").exists():
            time.sleep(0.005)
        assert second.poll() is None
        second.send_signal(signal.SIGTERM)
        second.communicate(timeout=300)
    finally:
        second.kill()
        rank.kill()
    assert second.returncode in (-signal.SIGTERM, 128 + signal.SIGTERM), "it may be Python that was starting"


def repeatable(output: Path) -> list[dict]:
    """What two runs must agree on."""
    return [{name: record.get(name) for name in REPEATABLE} for record in read_metrics(output)]


def test_from_text_to_a_resumed_run(world: Path, tmp_path: Path) -> None:
    """It learns; the same command goes on from the newest checkpoint, bitwise; at the end it has nothing to do."""
    output = tmp_path / "out"
    first = drive(world, output, warm=False)
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
    resumed = drive(world, output, MP_LANG="zh").stdout
    assert "断点续训：从第 5 次迭代继续" in resumed and english(resumed) == []
    assert repeatable(output) == before
    again = read_checkpoint(output / "checkpoints" / "iter_0000012")
    assert [name for name in weights if not torch.equal(weights[name], again[name])] == []

    assert "finished" in drive(world, output).stdout
    assert repeatable(output) == before


@pytest.mark.slow
def test_a_killed_rank_is_started_again(world: Path, tmp_path: Path) -> None:
    """MP_MAX_RESTARTS: from the newest checkpoint, under the same lock, to the bits of a run that nobody disturbed."""
    whole, output = tmp_path / "whole", tmp_path / "out"
    drive(world, whole)
    command = driver.command(values(world, output))
    environ = user_environment(**variables(world), MP_MAX_RESTARTS="2")
    job = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        while job.poll() is None and len(complete_iterations(output / "checkpoints")) < 1:
            time.sleep(0.005)
        (rank,) = [pid for pid in children(job.pid) if "--output-dir" in Path(f"/proc/{pid}/cmdline").read_text()]
        os.kill(rank, signal.SIGKILL)
        screen, _ = job.communicate(timeout=300)
    finally:
        job.kill()
    assert job.returncode == 0, screen
    assert "restart 1 of 2: rank 0 was killed by SIGKILL" in screen
    assert repeatable(output) == repeatable(whole)
    (event,) = read_events(output)
    assert event.kind == "restart"
