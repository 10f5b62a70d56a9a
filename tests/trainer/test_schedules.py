"""Learning rates, growing batches and profiles of real runs, from the 25 values on: by hand, resumed, extended."""

from __future__ import annotations

import gzip
import json
import math
import shutil
from pathlib import Path

import pytest
import torch

from .harness import Run, complete_iterations, read_checkpoint
from .planned import SEQ, make_world, start

REPEATABLE = ("iteration", "loss", "lr", "grad_norm", "tokens", "batch", "validation_loss")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


def results(run: Run) -> list[dict]:
    return [{name: record.get(name) for name in REPEATABLE} for record in run.metrics]


def by_hand(style: str, step: int) -> float:
    """20 iterations, 4 of warm-up, 1e-3 to 1e-4; WSD falls in a straight line over the last 6. `step` counts from 0."""
    if step <= 4:
        return 1e-3 * step / 4
    part = {
        "linear": 1 - (step - 4) / 16,
        "constant": 1.0,
        "WSD": 1.0 if step <= 14 else 1 - (step - 14) / 6,
        "inverse-square-root": (math.sqrt(4 / step) - 0.1) / 0.9,
    }[style]
    return 1e-4 + 9e-4 * part


SLOW = [pytest.param(style, marks=pytest.mark.slow) for style in ("linear", "constant", "inverse-square-root")]


@pytest.mark.parametrize("style", ["WSD", *SLOW])
def test_the_rate_is_the_one_by_hand(style: str, world: Path, tmp_path: Path) -> None:
    variables = {"MP_LR_DECAY_STYLE": style}
    if style == "WSD":
        variables |= {"MP_LR_WSD_DECAY_ITERS": "6", "MP_LR_WSD_DECAY_STYLE": "linear"}
    length = {"TRAIN_TOKENS_OR_ITERS": 20 * 2 * SEQ, "WARMUP_TOKENS_OR_ITERS": 4 * 2 * SEQ, "GLOBAL_BATCH_SIZE": 2}
    run = start(world, tmp_path / "out", variables=variables, **length)
    rates = [record["lr"] for record in run.metrics]
    assert rates == pytest.approx([by_hand(style, step) for step in range(20)], rel=1e-9)


GROWING = {"MP_BATCH_SCHEDULE": f"0:2,{8 * SEQ}:4,{20 * SEQ}:8", "MP_LR_DECAY_STYLE": "WSD"}
"""4 iterations of 2, 3 of 4, then 8."""
SIZES = [2] * 4 + [4] * 3 + [8] * 5
LENGTH = {
    "TRAIN_TOKENS_OR_ITERS": sum(SIZES) * SEQ,
    "WARMUP_TOKENS_OR_ITERS": 8 * SEQ,
    "SAVE_INTERVAL": 4,
    "VALID_DATASET_PATH": "",
}


@pytest.fixture(scope="module")
def grown(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """12 iterations of a batch that grows twice, with validation."""
    length = LENGTH | {"VALID_DATASET_PATH": world / "data"}
    return start(world, tmp_path_factory.mktemp("grown") / "out", variables=GROWING, **length)


def test_the_batch_grows_where_it_should(grown: Run) -> None:
    steps = [record for record in grown.metrics if "loss" in record]
    assert [record["batch"] for record in steps] == SIZES
    assert [record["tokens"] for record in steps] == [sum(SIZES[:count]) * SEQ for count in range(1, 13)]
    rates = [record["lr"] for record in steps]
    done = [sum(SIZES[:count]) for count in range(12)]  # samples before each step
    assert rates[:5] == pytest.approx([1e-3 * samples / 8 for samples in done[:5]])  # the warm-up counts samples too
    assert rates[5:] == pytest.approx([1e-3] * 7)
    assert complete_iterations(grown.output / "checkpoints") == [4, 7, 8, 12]  # 4 once, and 7 because it grows there
    assert "12 iterations of 2 then 4 then 8 x 64" in grown.stdout


@pytest.mark.parametrize("step", [7, *(pytest.param(step, marks=pytest.mark.slow) for step in (4, 8))])
def test_it_is_resumed_bitwise(grown: Run, world: Path, tmp_path: Path, step: int) -> None:
    """In front of where it grows, there, and behind."""
    again = tmp_path / "out"
    shutil.copytree(grown.output, again)
    for later in [later for later in (4, 7, 8, 12) if later > step]:
        shutil.rmtree(again / "checkpoints" / f"iter_{later:07d}")
    run = start(world, again, variables=GROWING, **LENGTH | {"VALID_DATASET_PATH": world / "data"})
    assert f"resuming from iteration {step}" in run.stdout
    assert results(run) == results(grown)
    found, expected = (read_checkpoint(of.output / "checkpoints" / "iter_0000012") for of in (run, grown))
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


def test_it_is_extended(grown: Run, world: Path, tmp_path: Path) -> None:
    """By two iterations and another stage; what was done stays."""
    again = tmp_path / "out"
    shutil.copytree(grown.output, again)
    longer = LENGTH | {"VALID_DATASET_PATH": world / "data", "GLOBAL_BATCH_SIZE": 16}
    longer |= {"TRAIN_TOKENS_OR_ITERS": (sum(SIZES) + 2 * 16) * SEQ}
    variables = {**GROWING, "MP_BATCH_SCHEDULE": f"{GROWING['MP_BATCH_SCHEDULE']},{sum(SIZES) * SEQ}:16"}
    run = start(world, again, variables=variables, **longer)
    steps = [record for record in run.metrics if "loss" in record]
    assert [record["batch"] for record in steps] == [*SIZES, 16, 16]
    assert results(run)[: len(grown.metrics)] == results(grown)


@pytest.mark.slow
def test_two_processes_share_it(grown: Run, world: Path, tmp_path: Path) -> None:
    """The same samples in each iteration; sums in another order."""
    length = LENGTH | {"VALID_DATASET_PATH": world / "data"}
    run = start(world, tmp_path / "out", processes=2, variables=GROWING, **length)
    steps = [record for record in run.metrics if "loss" in record]
    assert [record["batch"] for record in steps] == SIZES
    assert run.losses == pytest.approx(grown.losses, abs=1e-5)


def test_a_profile_of_two_iterations(world: Path, tmp_path: Path) -> None:
    """A trace that opens, and a table that adds up to the time; losses are those of a run without."""
    length = {"TRAIN_TOKENS_OR_ITERS": 5 * 8 * SEQ, "WARMUP_TOKENS_OR_ITERS": 0}
    plain = start(world, tmp_path / "plain", variables={}, **length)
    run = start(world, tmp_path / "out", variables={"MP_PROFILE": "3-4", "MP_PROFILE_RANKS": "0"}, **length)
    assert results(run) == results(plain)
    profile = json.loads((run.output / "profile" / "rank_0.json").read_text())
    assert (profile["iterations"], profile["rank"]) == ([3, 4], 0)
    kinds = {one["kind"]: one for one in profile["kinds"]}
    assert {"matmuls", "attention", "optimizer", "idle"} <= set(kinds)
    layers, micro_batches, matmuls = 4, 8, 4
    assert (
        kinds["matmuls"]["calls"] >= 2 * micro_batches * layers * matmuls * 3
    )  # forward, and two of the backward pass
    times = [record["step_ms"] / 1e3 for record in run.metrics][2:4]
    assert sum(times) <= profile["wall_s"]
    assert sum(one["seconds"] for one in profile["kinds"]) == pytest.approx(profile["wall_s"], rel=0.02)
    with gzip.open(run.output / "profile" / profile["trace"]) as file:
        events = json.load(file)["traceEvents"]
    assert sum(event.get("name") == "aten::mm" for event in events) > 0
    screen = run.stdout.splitlines()
    assert any(line.startswith("profile of rank 0, iterations 3 to 4: ") for line in screen)
    assert any(line.strip().startswith("matmuls ") for line in screen)
    assert not (plain.output / "profile").exists()


@pytest.mark.slow
def test_a_batch_grows_under_sft(world: Path, tmp_path: Path) -> None:
    """By iterations there; stopped where it grows and gone on."""
    rows = [
        {"messages": [{"role": "user", "content": f"letter {n}"}, {"role": "assistant", "content": f"a few words {n}"}]}
        for n in range(30)
    ]
    (tmp_path / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    variables = {"MP_DATASET_TYPE": "raw", "MP_BATCH_SCHEDULE": "0:2,3:4"}
    changes = {"SFT": "true", "DATASET_PATH": tmp_path / "chat.jsonl", "GLOBAL_BATCH_SIZE": 4, "SAVE_INTERVAL": 100}
    changes |= {"TRAIN_TOKENS_OR_ITERS": 6, "WARMUP_TOKENS_OR_ITERS": 2, "SEQ_LEN": 256, "PAD_LEN": 256}
    whole = start(world, tmp_path / "out", variables=variables, **changes)
    assert [record["batch"] for record in whole.metrics] == [2, 2, 2, 4, 4, 4]
    assert "an epoch is 30 rows, in a batch that grows" in whole.stdout  # it was 15.0 iterations, by the first batch
    assert [record["lr"] for record in whole.metrics][:3] == pytest.approx([0, 5e-4, 1e-3])
    again = tmp_path / "again"
    shutil.copytree(whole.output, again)
    shutil.rmtree(again / "checkpoints" / "iter_0000006")
    run = start(world, again, variables=variables, **changes)
    assert "resuming from iteration 3" in run.stdout
    assert results(run) == results(whole)
