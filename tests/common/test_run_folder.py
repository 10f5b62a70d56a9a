"""plan.json is read as it was written, by today's code and by the first version; what is damaged is named."""

from __future__ import annotations

import copy
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megatron_patch.models import model_from_dict, model_of_size
from megatron_patch.runs import folder as run_folder
from megatron_patch.runs import status as run_status
from megatron_patch.runs.folder import (
    PLAN,
    VERSION,
    PlanError,
    in_todays_names,
    is_run,
    parse_plan,
    read_plan,
    write_plan,
)

FIRST = json.loads((Path(__file__).resolve().parents[1] / "golden" / "plan_version_1.json").read_text())


def test_the_first_version_in_todays_names() -> None:
    record = parse_plan(in_todays_names(copy.deepcopy(FIRST)))
    assert (record.version, record.vocab_size, record.device, record.gpu) == (1, 258, "cpu", None)
    assert (record.layout.sizes, record.layout.chunks) == ((1, 2, 1, 1), 2)
    assert record.values["MP_VP_CHUNKS"] == 2 and "MP_VP" not in record.values
    assert (record.schedule.train_iters, record.schedule.tokens_per_iteration) == (10, 1024)
    assert record.tokenizer.ids == 258
    assert model_from_dict(record.model) == model_of_size("tiny")
    assert record.notes[1] == "no validation (VALID_DATASET_PATH is none)"


def test_written_and_read(tmp_path: Path) -> None:
    assert read_plan(tmp_path) is None and read_plan(tmp_path / "absent") is None and not is_run(tmp_path)
    content = copy.deepcopy(FIRST)
    content["model"], content["layout"]["chunks"] = content.pop("shape"), 1
    content["values"]["MP_VP_CHUNKS"] = None
    write_plan(tmp_path, content)
    record = read_plan(tmp_path)
    assert record is not None and is_run(tmp_path)
    assert (record.version, record.layout.chunks, record.values["MP_VP_CHUNKS"]) == (VERSION, 1, None)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda plan: plan.pop("shape"), "model is missing, not an object"),
        (lambda plan: plan["layout"].pop("tp"), "layout.tp is missing, not a whole number"),
        (lambda plan: plan["layout"].update(tp=True), "layout.tp is 'True', not a whole number"),
        (lambda plan: plan["layout"].update(tp=10**400), "the number 1000"),
        (lambda plan: plan["layout"].update(vp=0), "layout.chunks is '0', not a whole number >= 1"),
        (lambda plan: plan["layout"].update(vp=-2), "layout.chunks is '-2', not a whole number >= 1"),
        (lambda plan: plan["schedule"].update(arithmetic=[1]), "schedule.arithmetic is"),
        (lambda plan: plan["values"].update(LR="x"), "values.LR is 'x', not a number"),
        (lambda plan: plan["values"].update(LR=float("nan")), "the number NaN"),
        (lambda plan: plan.update(version=VERSION + 1), "of a later megatron_patch"),
        (lambda plan: plan.update(values=[]), "values is '\\[\\]', not an object"),
        (lambda plan: plan.update(gpu={"name": "x"}), "gpu.memory_bytes is missing"),
        (lambda plan: plan.update(memory={"weights": "many"}), "memory is"),
    ],
)
def test_what_is_damaged_is_named(damage: Callable[[dict[str, Any]], Any], said: str, tmp_path: Path) -> None:
    plan = copy.deepcopy(FIRST)
    damage(plan)
    (tmp_path / PLAN).write_text(json.dumps(plan))
    with pytest.raises(PlanError, match=said):
        read_plan(tmp_path)


def test_no_content_is_a_traceback(tmp_path: Path) -> None:
    """Bytes exchanged at random, cut files, values of other kinds: read, or PlanError."""
    draw, text = random.Random(5), json.dumps(FIRST).encode()
    refused = 0
    for _ in range(300):
        damaged = bytearray(text[: draw.randrange(len(text))] if draw.random() < 0.3 else text)
        for _ in range(3):
            damaged[draw.randrange(len(damaged))] = draw.choice(b'{}[]",:0e\x00\xff-N')
        (tmp_path / PLAN).write_bytes(damaged)
        try:
            read_plan(tmp_path)
        except PlanError:
            refused += 1
    assert refused > 100


def test_a_start_removes_what_the_last_did_not_finish(tmp_path: Path) -> None:
    """A half-written checkpoint may be what fills the disk: it goes before anything is written."""
    checkpoints = tmp_path / "checkpoints"
    for name in (".incomplete_iter_0000010", ".incomplete_old_iter_0000005", "iter_0000005", ".incomplete_thoughts"):
        (checkpoints / name).mkdir(parents=True)
    os.close(run_status.take(tmp_path))
    assert {path.name for path in checkpoints.iterdir()} == {"iter_0000005", ".incomplete_thoughts"}


def test_what_bears_a_name_of_ours_and_is_of_another_kind(tmp_path: Path) -> None:
    """It is set aside and said, each time under a name of its own; what is as it should be stays."""
    for _ in range(2):
        for name in ("plan.json", "logs/rank_0.log", "cache.real"):
            (tmp_path / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "tensorboard").write_text("x")
        (tmp_path / "metrics.jsonl").write_text("")
        (tmp_path / "cache").exists() or (tmp_path / "cache").symlink_to("cache.real")
        said = run_folder.set_misfits_aside(tmp_path)
        assert len(said) == 3 and "plan.json is a folder, not a file: set aside as damaged_plan.json" in str(said[0])
    assert run_folder.set_misfits_aside(tmp_path) == []
    assert {"damaged_plan.json", "damaged_plan.json_2", "damaged_tensorboard_2", "cache", "metrics.jsonl"} <= {
        path.name for path in tmp_path.iterdir()
    }
