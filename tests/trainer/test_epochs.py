"""A finetuning of so many epochs: its real length, and the same bits after a kill."""

from __future__ import annotations

import json
import math
import random
import signal
from pathlib import Path

import pytest

from megatron_patch.data.train_tokenizer import save, train
from megatron_patch.launch.argv import megatron_argv
from megatron_patch.launch.driver import make_plan
from megatron_patch.launch.plan import Plan, content_of
from megatron_patch.runs.folder import read_plan, write_plan

from . import driver
from .harness import Run, launch_and_signal, read_metrics
from .planned import start

CONVERSATIONS, SEQ, BATCH = 40, 256, 4
REPEATABLE = ("iteration", "loss", "lr", "grad_norm", "tokens")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer and conversations."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "text.jsonl").write_text('{"text": "a few words of text to learn letters from"}\n' * 50)
    save(train([folder / "text.jsonl"], vocab_size=300), folder / "tokenizer")
    chance = random.Random(5)
    lines = [
        {"instruction": "a" * chance.randint(1, 9), "output": "few words" * chance.randint(1, 3)}
        for _ in range(CONVERSATIONS)
    ]
    (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def typed(world: Path, output: Path) -> dict[str, object]:
    return {
        "SFT": "true",
        "DATASET_PATH": str(world / "train.jsonl"),
        "GLOBAL_BATCH_SIZE": BATCH,
        "SEQ_LEN": SEQ,
        "PAD_LEN": SEQ,
        "SAVE_INTERVAL": 5,
        "TRAIN_TOKENS_OR_ITERS": "1.5epochs",
        "WARMUP_TOKENS_OR_ITERS": "0.5epochs",
        "OUTPUT_BASEPATH": str(output),
    }


def results(output: Path) -> list[dict[str, object]]:
    return [{name: record.get(name) for name in REPEATABLE} for record in read_metrics(output)]


@pytest.mark.parametrize("packing", ["true", pytest.param("false", marks=pytest.mark.slow)])
def test_the_run_is_as_long_as_the_rows_say(packing: str, world: Path, tmp_path: Path) -> None:
    """By what the ranks themselves say of their rows."""
    variables = {"MP_DATASET_TYPE": "raw", "MP_SFT_PACKING": packing}
    run: Run = start(world, tmp_path / "out", variables=variables, **typed(world, tmp_path / "out"))
    plan = read_plan(tmp_path / "out")
    assert plan is not None
    assert plan.epochs is not None
    rows = plan.epochs["size"]
    assert rows < CONVERSATIONS if packing == "true" else rows == CONVERSATIONS
    assert f"{CONVERSATIONS} samples in {rows} rows of {SEQ}" in run.log() + run.stdout
    assert [record["iteration"] for record in run.metrics][-1] == math.ceil(3 * rows / 2 / BATCH)


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_end(world: Path, tmp_path: Path) -> None:
    """Three starts of the driver's: one of the whole, one that is killed, and the same command again."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    variables = {"MP_TOKENIZER_PATH": str(world / "tokenizer"), "MP_DEVICE": "cpu", "MP_DATASET_TYPE": "raw"}
    variables["MP_SFT_PACKING"] = "true"
    driver.train(words(world, whole), **variables)
    plan, _, problems = make_plan([str(word) for word in words(world, killed)], variables, dry_run=False)
    assert plan is not None, problems
    assert plan.schedule.train_iters == len(results(whole)) > 8
    begin(plan, killed)
    counted = read_plan(killed)
    assert len(results(killed)) < plan.schedule.train_iters
    again = driver.train(words(world, killed), **variables)
    assert "counting" not in again.stderr
    assert results(killed) == results(whole)
    resumed = read_plan(killed)
    assert counted is not None
    assert resumed is not None
    assert (resumed.epochs, resumed.schedule) == (counted.epochs, counted.schedule)


def words(world: Path, output: Path) -> list[object]:
    right = "dsw tiny 1 4 1e-3 1e-4 256 256 fp32 1 1 1 false false true true false false 5 DATA none none"
    data = str(world / "train.jsonl")
    return [*right.replace("DATA", data).split(), "3epochs", "0.5epochs", str(output)]


def begin(plan: Plan, output: Path) -> None:
    """As the driver does, with ranks that wait to be killed."""
    write_plan(output, content_of(plan))
    flags = " ".join(megatron_argv(plan))
    launch_and_signal(output, Path("-"), flags, processes=1, iteration=6, number=signal.SIGKILL)
