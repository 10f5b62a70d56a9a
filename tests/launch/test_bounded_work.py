"""Numbers and folders beyond all reason are refused soon: operations are counted, not seconds."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megatron_patch.data import sources
from megatron_patch.launch.driver import make_plan
from megatron_patch.launch.layout import balanced_layers, divisors, split_layers, valid_tensor_parallel
from megatron_patch.models import model_of_size, model_to_hf_config
from megatron_patch.models.hf_config import LARGEST

MOST_CALLS = 1_500_000
"""Of functions, Python's and C's: a second or so. A plan that is right takes 20,000."""


def calls_of(work: Callable[[], Any]) -> int:
    """How many functions are called, Python's and C's; stops at the limit, so that a failure does not take hours."""
    count = 0

    def look(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")
        if count > MOST_CALLS:
            raise AssertionError("too much work")

    sys.setprofile(look)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


HUGE = 10**18 - 1


@pytest.mark.parametrize(
    "name", ["TP", "PP", "CP", "BATCH_SIZE", "GLOBAL_BATCH_SIZE", "SEQ_LEN", "PAD_LEN", "TRAIN_TOKENS_OR_ITERS"]
)
@pytest.mark.parametrize("value", [HUGE, 999_999_999, 2**40])
def test_huge_positions(
    name: str, value: int, values: Callable[..., list[str]], surroundings: Callable[..., dict[str, str]]
) -> None:
    """Refused or planned, soon."""
    typed = values(**{name: str(value)})
    assert calls_of(lambda: make_plan(typed, surroundings(), dry_run=True)) < MOST_CALLS


@pytest.mark.parametrize("world_size", ["999999999", "65536", str(HUGE)])
def test_huge_clusters(
    world_size: str, values: Callable[..., list[str]], surroundings: Callable[..., dict[str, str]]
) -> None:
    """Machines are counted; 999,999,999 took 20 s in looking for divisors."""
    place = {"WORLD_SIZE": world_size, "RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "1", "MP_NPROC": "4095"}
    typed = values(ENV="dlc", TP="3")
    found: list[Any] = []
    assert calls_of(lambda: found.append(make_plan(typed, surroundings(**place), dry_run=True))) < MOST_CALLS
    assert found[0][0] is None


@pytest.mark.parametrize(("key", "value"), [("num_hidden_layers", 80_000), ("num_attention_heads", 10**12)])
def test_huge_models(
    key: str, value: int, tmp_path: Path, values: Callable[..., list[str]], surroundings: Callable[..., dict[str, str]]
) -> None:
    """A config.json is refused by the key and what it may be."""
    config = model_to_hf_config(model_of_size("tiny"), dtype="float32", vocab_size=258) | {key: value}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes(b"x")
    typed = values(MODEL_SIZE="auto", PRETRAIN_CHECKPOINT_PATH=str(tmp_path), PP="8")
    found: list[Any] = []
    assert calls_of(lambda: found.append(make_plan(typed, surroundings(), dry_run=True))) < MOST_CALLS
    assert any(key in str(problem) and str(LARGEST[key]) in str(problem) for problem in found[0][2])


@pytest.mark.parametrize("pp", [2, 4, 5, 8, 100, 1000])
def test_the_largest_model_that_is_allowed_is_balanced_soon(pp: int) -> None:
    """1000 layers on any number of stages."""
    import dataclasses

    model = dataclasses.replace(model_of_size("8B"), num_layers=1000, num_attention_heads=8192, num_query_groups=8192)
    assert split_layers(1000, pp, 1)
    assert calls_of(lambda: balanced_layers(model, 128256, 8192, pp)) < MOST_CALLS
    assert calls_of(lambda: valid_tensor_parallel(model)) < 10_000


def test_divisors_are_all_there() -> None:
    """In the square root of the number of steps."""
    assert all(
        divisors(number) == [one for one in range(1, number + 1) if number % one == 0] for number in range(1, 300)
    )
    assert len(divisors(65536 * 4096)) == 29


def test_a_folder_of_everything_is_refused(
    tmp_path: Path,
    values: Callable[..., list[str]],
    surroundings: Callable[..., dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """/usr and its like are not looked through to the end; hidden folders are not looked into."""
    for number in range(60):
        (tmp_path / f"{number}.txt").write_text("")
    (tmp_path / ".hidden").mkdir()
    monkeypatch.setattr(sources, "MOST_ENTRIES", 50)
    for raw in ("idxmap", "raw"):
        typed = values(DATASET_PATH=str(tmp_path), SFT="true" if raw == "raw" else "false")
        _, _, problems = make_plan(typed, surroundings(MP_DATASET_TYPE=raw), dry_run=True)
        assert [problem.code for problem in problems if "DATASET_PATH" in problem.names] == ["folder-too-large"]


def test_a_path_of_many_words_is_not_tried_in_all_ways(
    values: Callable[..., list[str]], surroundings: Callable[..., dict[str, str]]
) -> None:
    """Paths with spaces are looked for; the looks grew with the square of the words."""
    typed = values(DATASET_PATH="x " * 1000)
    assert calls_of(lambda: make_plan(typed, surroundings(), dry_run=True)) < MOST_CALLS
