"""Lengths in epochs: counted exactly, before the plan is made, and kept by a run that goes on."""

from __future__ import annotations

import fcntl
import json
import math
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from megatron_patch.common.values import ValueProblem
from megatron_patch.data.sft.cache import CacheSource
from megatron_patch.data.sft.held_out import hold_out
from megatron_patch.data.sft.layout import RowLayout
from megatron_patch.data.sft.prepare import SFTData, open_components
from megatron_patch.launch.argv import megatron_argv
from megatron_patch.launch.command import REPOSITORY
from megatron_patch.launch.driver import make_plan
from megatron_patch.launch.epochs import LENGTHS, count_rows, settle_rows
from megatron_patch.launch.plan import Plan, content_of
from megatron_patch.launch.problems import Problem, driver_wording
from megatron_patch.launch.render import short_plan
from megatron_patch.launch.schedule import Batches, BatchStage, Epochs, constant, length
from megatron_patch.runs.folder import write_plan

SEQ_LEN, BATCH, ROWS = 128, 8, 50
RAW = {"MP_DATASET_TYPE": "raw"}
Planned = tuple[Plan | None, list[Problem]]


@pytest.mark.parametrize(
    ("text", "rows", "batch", "iterations"),
    [
        ("3epochs", 50, 8, 19),
        ("1epoch", 50, 8, 7),
        ("1epochs", 48, 8, 6),
        ("0.5epochs", 50, 8, 4),
        ("0.1epochs", 240, 8, 3),
        ("1.10epochs", 80, 8, 11),  # 1.1 * 80 is 88.00000000000001 in floating point
        ("0.001epochs", 3, 8, 1),
        ("999999epochs", 10**9, 1, 999999 * 10**9),
    ],
)
def test_iterations_are_rounded_up_without_floating_point(text: str, rows: int, batch: int, iterations: int) -> None:
    assert length(1).parse(text).of(rows, constant(batch)) == iterations


@pytest.mark.parametrize(
    ("train", "warmup", "rows", "found"),
    [("1epoch", "0.1epochs", 50, (7, 1)), ("1epoch", "0.1epochs", 6, (1, 0)), ("1epoch", "1epoch", 6, (1, 1))],
)
def test_a_part_of_a_short_run_is_not_the_whole(train: str, warmup: str, rows: int, found: tuple[int, int]) -> None:
    """Rounded up a tenth of one iteration is one: a warm-up without an end, which would be refused."""
    facts: dict[str, Any] = {"batches": constant(BATCH)}
    settle_rows(facts, dict(zip(LENGTHS, (length(1).parse(text) for text in (train, warmup)), strict=True)), rows)
    assert tuple(facts[name] for name in LENGTHS) == found


def test_batches_that_grow_are_followed() -> None:
    batches = Batches((BatchStage(start=0, batch=2), BatchStage(start=10, batch=8)))
    epochs = length(1).parse("3epochs")
    assert isinstance(epochs, Epochs)
    assert epochs.of(4, batches) == 6  # 5 of 2, one of 8
    assert epochs.of(6, batches) == 6
    assert epochs.of(7, batches) == 7


@pytest.mark.parametrize(
    ("text", "code"),
    [
        *[(text, "epochs-form") for text in ("3 epochs", "-1epochs", "3epoch s", "epochs", "1e1epochs", "3Epochs")],
        *[(text, "epochs-form") for text in (".5epochs", "3.epochs", "3epochs\n", "\u0663epochs", "1234567epochs")],
        *[(text, "epochs-none") for text in ("0epochs", "0.000epochs")],
        *[(text, "not-whole") for text in ("3ep", "1.5", "three")],
        ("0", "out-of-range"),
    ],
)
def test_other_texts_are_refused(text: str, code: str) -> None:
    with pytest.raises(ValueProblem) as caught:
        length(1).parse(text)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("text", "size", "each", "iterations"),
    [("1epoch", 50, 8, 7), ("0.5epochs", 50, 8, 4), ("1.10epochs", 80, 8, 11), ("2epochs", 48, 8, 12)],
)
def test_intervals_are_rounded_up(text: str, size: int, each: int, iterations: int) -> None:
    assert length(1).parse(text).every(size, each) == length(1).parse(text).of(size, constant(each)) == iterations


class Start(NamedTuple):
    """A start under SFT, on 50 conversations."""

    data: Path
    output: Path
    plan: Callable[..., Planned]
    """Of positions and MP_ variables that are another, and `real=True` for no dry run."""


def write_conversations(path: Path, rows: int, unusable: int = 0) -> None:
    chance = random.Random(3)
    said = [("q" * chance.randint(1, 40), "a" * chance.randint(1, 40)) for _ in range(rows)]
    lines = [{"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]} for q, a in said]
    lines += [{"messages": [{"role": "user", "content": "nobody answers"}]}] * unusable
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def start(values: Callable[..., list[str]], surroundings: Callable[..., dict[str, str]], tmp_path: Path) -> Start:
    data, output = tmp_path / "train.jsonl", tmp_path / "out"
    write_conversations(data, ROWS, unusable=3)
    typed = {"SFT": "true", "DATASET_PATH": str(data), "VALID_DATASET_PATH": "none", "OUTPUT_BASEPATH": str(output)}
    typed |= {"TRAIN_TOKENS_OR_ITERS": "3epochs", "WARMUP_TOKENS_OR_ITERS": "0.3epochs"}

    def plan(*, real: bool = False, **changes: str) -> Planned:
        environ = RAW | {name: changes.pop(name) for name in list(changes) if name.startswith("MP_")}
        made, _, problems = make_plan(values(**typed | changes), surroundings(**environ), dry_run=not real)
        return made, problems

    return Start(data, output, plan)


def made(planned: Planned) -> Plan:
    plan, problems = planned
    assert plan is not None, problems
    return plan


def flag(plan: Plan, name: str) -> str:
    argv = megatron_argv(plan)
    return argv[argv.index(name) + 1]


def rows_of(start: Start, folder: Path, *, packing: bool, split: str = "") -> int:
    """As the trainer opens them: `trainer/data/sft.py`."""
    data = SFTData(tokenizer=Path("tokenizer"), seq_length=SEQ_LEN, cache=folder, workers=1)
    (component,) = open_components([str(start.data)], data, say=lambda message: None)
    component = hold_out(component, split)[0] if split else component
    return len(RowLayout(seq_length=SEQ_LEN, packing=packing, pad_id=0).rows(component.samples.lengths))


@pytest.mark.parametrize("split", ["", "90,10"])
@pytest.mark.parametrize("packing", [False, True])
def test_what_the_ranks_will_read_is_counted(start: Start, tmp_path: Path, packing: bool, split: str) -> None:
    rows = rows_of(start, tmp_path / "cache", packing=packing, split=split)
    assert rows < ROWS / 2 + 5 if packing else rows == (45 if split else ROWS)
    environ = ({"MP_SFT_PACKING": "true"} if packing else {}) | ({"MP_SPLIT": split} if split else {})
    plan = made(start.plan(**environ))
    train, warmup = math.ceil(3 * rows / BATCH), math.ceil(3 * rows / 10 / BATCH)
    assert (plan.schedule.train_iters, plan.schedule.warmup_iters, plan.schedule.decay_iters) == (train, warmup, train)
    assert flag(plan, "--train-iters") == flag(plan, "--lr-decay-iters") == str(train)
    assert flag(plan, "--lr-warmup-iters") == str(warmup)
    assert plan.epochs is not None
    assert plan.epochs.size == rows
    told = f"3 epochs x {rows} rows / {BATCH}, rounded up: {train} iterations"
    assert str(plan.schedule.arithmetic[0]) == told


def test_a_dry_run_leaves_nothing_and_takes_what_is_there(start: Start, capfd: pytest.CaptureFixture[str]) -> None:
    first = made(start.plan())
    assert "tokenizing" in capfd.readouterr().err
    assert not start.output.exists()
    made(start.plan(real=True))
    assert "tokenizing" in capfd.readouterr().err
    before = sorted((path, path.stat().st_mtime_ns) for path in start.output.rglob("*"))
    assert {path.name for path, _ in before} >= {"cache", "meta.json", "tokens.bin"}
    third = made(start.plan())
    assert "tokenizing" not in capfd.readouterr().err
    assert before == sorted((path, path.stat().st_mtime_ns) for path in start.output.rglob("*"))
    assert first.schedule == third.schedule


def test_conversations_in_an_idxmap_are_counted(start: Start) -> None:
    plan = made(start.plan(DATASET_PATH="sft-128", MP_DATASET_TYPE="idxmap"))
    assert plan.schedule.train_iters == math.ceil(3 * 20 / BATCH)


def test_data_sets_without_weights_are_one_epoch(start: Start, tmp_path: Path) -> None:
    write_conversations(tmp_path / "more.jsonl", 7)
    plan = made(start.plan(DATASET_PATH=f"{start.data} {tmp_path / 'more.jsonl'}"))
    assert plan.epochs is not None
    assert plan.epochs.size == ROWS + 7


def test_under_pretraining_the_tokens_of_the_idx_count(start: Start) -> None:
    text = {"SFT": "false", "MP_DATASET_TYPE": "idxmap", "WARMUP_TOKENS_OR_ITERS": "0"}
    plan = made(start.plan(**text, DATASET_PATH="text"))  # 20 documents of 100 tokens
    assert plan.config.train_tokens_or_iters == 6000
    assert plan.schedule.train_iters == 6000 // (BATCH * SEQ_LEN)
    assert str(plan.schedule.arithmetic[0]).startswith("3 epochs of 2000 tokens: 6000 tokens / ")
    plan = made(start.plan(**text, DATASET_PATH="text more", TRAIN_TOKENS_OR_ITERS="0.5epochs"))
    assert plan.config.train_tokens_or_iters == 2000
    _, problems = start.plan(**text, DATASET_PATH="text", MP_SPLIT="90,10")
    assert [problem.code for problem in problems] == ["epochs-split"]


INTERVALS = {"SAVE_INTERVAL": "1epoch", "MP_EVAL_INTERVAL": "0.5epochs", "MP_SPLIT": "90,10"}  # leaves 45 rows


@pytest.mark.parametrize("train", ["3epochs", "17"])
def test_intervals_in_epochs_are_iterations(start: Start, train: str) -> None:
    plan = made(start.plan(**INTERVALS, TRAIN_TOKENS_OR_ITERS=train, WARMUP_TOKENS_OR_ITERS="2"))
    assert (plan.schedule.save_interval, plan.schedule.eval_interval) == (6, 3)
    assert (flag(plan, "--save-interval"), flag(plan, "--eval-interval")) == ("6", "3")
    assert (plan.schedule.train_iters, plan.schedule.saves()) == (17, 3)
    shown = short_plan(plan, driver_wording())
    assert "1 epoch x 45 rows / 8, rounded up: 6 iterations" in shown
    assert "0.5 epochs x 45 rows / 8, rounded up: 3 iterations" in shown
    assert content_of(plan)["values"]["SAVE_INTERVAL"] == 6


def test_intervals_under_pretraining_are_rounded_up(start: Start) -> None:
    text = {"SFT": "false", "MP_DATASET_TYPE": "idxmap", "DATASET_PATH": "text", "VALID_DATASET_PATH": "text"}
    text |= {"WARMUP_TOKENS_OR_ITERS": "0", "SAVE_INTERVAL": "1epoch", "MP_EVAL_INTERVAL": "2epochs"}
    plan = made(start.plan(**text, TRAIN_TOKENS_OR_ITERS="9000"))  # 2000 tokens, 1024 in an iteration
    assert (plan.schedule.save_interval, plan.schedule.eval_interval, plan.schedule.train_iters) == (2, 4, 8)
    assert "1 epoch of 2000 tokens / (8 x 128), rounded up: 2 iterations" in short_plan(plan, driver_wording())


def test_the_decay_in_epochs(start: Start) -> None:
    """Its end is the iteration that the same epochs of training are; WSD's length an interval."""
    plan = made(start.plan(MP_LR_DECAY_ITERS="3epochs"))
    assert (plan.schedule.decay_iters, flag(plan, "--lr-decay-iters")) == (19, "19")
    plan = made(start.plan(MP_LR_DECAY_ITERS="2epochs", MP_LR_DECAY_STYLE="WSD", MP_LR_WSD_DECAY_ITERS="0.5epochs"))
    assert (plan.schedule.decay_iters, plan.schedule.wsd_iters) == (13, 4)
    assert (flag(plan, "--lr-decay-iters"), flag(plan, "--lr-wsd-decay-iters")) == ("13", "4")
    shown = short_plan(plan, driver_wording())
    assert "2 epochs x 50 rows / 8, rounded up: 13 iterations" in shown
    assert "0.5 epochs x 50 rows / 8, rounded up: 4 iterations" in shown
    content = content_of(plan)
    assert (content["values"]["MP_LR_DECAY_ITERS"], content["values"]["MP_LR_WSD_DECAY_ITERS"]) == (13, 4)
    grown = {"MP_BATCH_SCHEDULE": "0:4,5:8", "MP_LR_DECAY_ITERS": "1epoch"}  # 5 of 4, then 30 of 8
    assert made(start.plan(**grown)).schedule.decay_iters == 9
    idle = made(start.plan(MP_LR_DECAY_ITERS="2epochs", MP_LR_DECAY_STYLE="constant"))
    assert "2 epochs" not in short_plan(idle, driver_wording())
    assert "idle-under" in [note.code for note in idle.notes]


@pytest.mark.parametrize("batches", ["", "0:4,1024:8"])
def test_the_decay_under_pretraining_ends_with_as_many_epochs_of_training(start: Start, batches: str) -> None:
    text = {"SFT": "false", "MP_DATASET_TYPE": "idxmap", "DATASET_PATH": "text", "VALID_DATASET_PATH": "text"}
    text |= {"WARMUP_TOKENS_OR_ITERS": "0"} | ({"MP_BATCH_SCHEDULE": batches} if batches else {})
    plan = made(start.plan(**text, TRAIN_TOKENS_OR_ITERS="3epochs", MP_LR_DECAY_ITERS="3epochs"))
    assert plan.schedule.decay_iters == plan.schedule.train_iters == (6 if batches else 5)
    plan = made(start.plan(**text, TRAIN_TOKENS_OR_ITERS="9000", MP_LR_DECAY_ITERS="2epochs"))
    assert plan.schedule.decay_iters == (4 if batches else 3)
    assert "2 epochs of 2000 tokens: 4000 tokens" in short_plan(plan, driver_wording())
    _, problems = start.plan(**text, TRAIN_TOKENS_OR_ITERS="9000", MP_LR_DECAY_ITERS="0.1epochs")
    assert [(one.code, one.names[0]) for one in problems] == [("no-iteration", "MP_LR_DECAY_ITERS")]


def test_a_decay_that_is_wrong_is_told(start: Start, capfd: pytest.CaptureFixture[str]) -> None:
    _, problems = start.plan(MP_LR_DECAY_ITERS="1 epoch", MP_LR_WSD_DECAY_ITERS="0epochs")
    assert [(one.code, one.names) for one in problems] == [
        ("epochs-form", ("MP_LR_DECAY_ITERS",)),
        ("epochs-none", ("MP_LR_WSD_DECAY_ITERS",)),
    ]
    wsd = {"MP_LR_DECAY_STYLE": "WSD", "MP_LR_WSD_DECAY_ITERS": "1epoch"}
    _, problems = start.plan(**wsd, MP_BATCH_SCHEDULE="0:4 2:8")
    assert [(one.code, one.names[0]) for one in problems] == [("epochs-grown", "MP_LR_WSD_DECAY_ITERS")]
    weighted = f"0.5 {start.data} 0.5 {start.data}"
    _, problems = start.plan(TRAIN_TOKENS_OR_ITERS="9", WARMUP_TOKENS_OR_ITERS="1", DATASET_PATH=weighted, **wsd)
    assert [(one.code, one.names[0]) for one in problems] == [("epochs-weights", "MP_LR_WSD_DECAY_ITERS")]
    assert capfd.readouterr().err == ""
    _, problems = start.plan(MP_LR_DECAY_ITERS="0.3epochs")
    assert [(one.code, one.names[1]) for one in problems] == [("warmup-too-long", "MP_LR_DECAY_ITERS")]
    _, problems = start.plan(**wsd | {"MP_LR_WSD_DECAY_ITERS": "3epochs"})
    assert [one.code for one in problems] == ["wsd-too-long"]


def test_intervals_that_are_wrong_are_told(start: Start, capfd: pytest.CaptureFixture[str]) -> None:
    _, problems = start.plan(SAVE_INTERVAL="1 epoch", MP_EVAL_INTERVAL="0epochs")
    assert [(one.code, one.names) for one in problems] == [
        ("epochs-form", ("SAVE_INTERVAL",)),
        ("epochs-none", ("MP_EVAL_INTERVAL",)),
    ]
    grown = {"MP_BATCH_SCHEDULE": "0:4 2:8", "SAVE_INTERVAL": "1epoch", "MP_EVAL_INTERVAL": "1epoch"}
    _, problems = start.plan(**grown, MIN_LR="1")
    assert [one.code for one in problems] == ["epochs-grown", "epochs-grown", "rates"]
    _, problems = start.plan(**INTERVALS, DATASET_PATH=f"0.5 {start.data} 0.5 {start.data}")
    assert [one.code for one in problems] == ["epochs-weights"] * 4
    assert capfd.readouterr().err == ""
    _, problems = start.plan(**INTERVALS | {"MP_EVAL_INTERVAL": "0.7epochs"}, MP_KEEP_BEST="1")  # 4 does not divide 6
    assert [one.code for one in problems] == ["best-interval"]
    assert made(start.plan(**INTERVALS, MP_KEEP_BEST="1")).schedule.eval_interval == 3


def test_everything_wrong_is_said_at_once_and_nothing_is_tokenized(
    start: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    _, problems = start.plan(real=True, TRAIN_TOKENS_OR_ITERS="3 epochs", WARMUP_TOKENS_OR_ITERS="0epochs", TP="x")
    assert {problem.code for problem in problems} == {"epochs-form", "epochs-none", "not-whole"}
    _, problems = start.plan(real=True, DATASET_PATH=f"0.5 {start.data} 0.5 {start.data}", MIN_LR="1")
    assert {problem.code for problem in problems} == {"epochs-weights", "rates"}
    assert capfd.readouterr().err == ""
    assert not start.output.exists()


def test_a_length_is_judged_once_it_is_counted(start: Start) -> None:
    _, problems = start.plan(WARMUP_TOKENS_OR_ITERS="3epochs", MP_PROFILE="19-20")
    assert [problem.code for problem in problems] == ["warmup-too-long"]
    _, problems = start.plan(MP_PROFILE="19-20")
    assert [problem.code for problem in problems] == ["profile-beyond"]
    assert made(start.plan(TRAIN_TOKENS_OR_ITERS="10")).schedule.warmup_iters == 2
    assert made(start.plan(WARMUP_TOKENS_OR_ITERS="18")).schedule.warmup_iters == 18


def test_data_that_cannot_be_used_are_told(start: Start) -> None:
    write_conversations(start.data, ROWS, unusable=30)
    _, problems = start.plan(real=True)
    assert [(problem.code, problem.names) for problem in problems] == [("epochs-count-fails", ("DATASET_PATH",))]
    assert "37.5% of the rows are lost" in str(problems[0].message)


def test_a_folder_that_cannot_be_written_is_told(start: Start) -> None:
    start.output.mkdir()
    (start.output / "cache").write_text("a file")
    _, problems = start.plan(real=True)
    assert [(problem.code, problem.names) for problem in problems] == [("epochs-unwritable", ("OUTPUT_BASEPATH",))]


def test_data_that_cannot_be_read_do_not_blame_the_output(start: Start) -> None:
    """A file that is gone once its first rows were looked at."""
    plan = made(start.plan(TRAIN_TOKENS_OR_ITERS="10", WARMUP_TOKENS_OR_ITERS="1"))
    start.data.unlink()
    _, problems = count_rows(plan, keep=True)
    assert [(problem.code, problem.names) for problem in problems] == [("epochs-count-fails", ("DATASET_PATH",))]


class Saved(NamedTuple):
    """A run with a checkpoint, of 19 iterations."""

    start: Start
    plan: Plan


@pytest.fixture
def saved(start: Start, mcore: Callable[..., None]) -> Saved:
    plan = made(start.plan(real=True))
    write_plan(start.output, content_of(plan))
    mcore(start.output / "checkpoints", "4")
    return Saved(start, plan)


def test_a_run_that_goes_on_keeps_its_count(saved: Saved, capfd: pytest.CaptureFixture[str]) -> None:
    """Without counting; other data than before are then refused by the ranks, as ever."""
    write_conversations(saved.start.data, 2 * ROWS)
    capfd.readouterr()
    plan = made(saved.start.plan())
    assert (plan.resume_iteration, plan.epochs, plan.schedule) == (4, saved.plan.epochs, saved.plan.schedule)
    assert not [note for note in plan.notes if note.code.startswith("changed")]
    longer = made(saved.start.plan(TRAIN_TOKENS_OR_ITERS="5epochs"))
    assert longer.schedule.train_iters == math.ceil(5 * ROWS / BATCH)
    assert "counting" not in capfd.readouterr().err


def test_a_run_that_goes_on_keeps_its_intervals(saved: Saved, capfd: pytest.CaptureFixture[str]) -> None:
    """Typed as iterations they are the same; epochs that came later are of the rows that were counted."""
    write_conversations(saved.start.data, 2 * ROWS)
    capfd.readouterr()
    plan = made(saved.start.plan(SAVE_INTERVAL="1epoch"))
    assert (plan.resume_iteration, plan.schedule.save_interval) == (4, 7)
    assert "counting" not in capfd.readouterr().err
    write_plan(saved.start.output, content_of(plan))
    for same in ("1epoch", "7"):
        again = made(saved.start.plan(SAVE_INTERVAL=same))
        assert again.schedule == plan.schedule
        assert not [note for note in again.notes if note.code.startswith("changed")]
    later = made(saved.start.plan(MP_LR_DECAY_ITERS="2epochs"))
    assert later.schedule.decay_iters == 13
    assert [note.code for note in later.notes if note.code in ("changed-value", "rate-jumps")]
    assert "counting" not in capfd.readouterr().err


def test_a_finished_run_stays_finished(saved: Saved, mcore: Callable[..., None]) -> None:
    mcore(saved.start.output / "checkpoints", "19")
    assert made(saved.start.plan()).finished
    assert not made(saved.start.plan(TRAIN_TOKENS_OR_ITERS="4epochs")).finished


def test_other_rows_are_counted_anew(saved: Saved, capfd: pytest.CaptureFixture[str]) -> None:
    capfd.readouterr()
    plan = made(saved.start.plan(MP_SFT_PACKING="true"))
    assert "counting" in capfd.readouterr().err
    assert plan.schedule.train_iters < saved.plan.schedule.train_iters
    assert [note for note in plan.notes if note.code == "changed-remark"]


def test_a_run_that_began_in_iterations_goes_on(saved: Saved) -> None:
    """Of a version that knew no epochs: plan.json does not mention them."""
    content = content_of(saved.plan)
    del content["epochs"]
    write_plan(saved.start.output, content)
    plan = made(saved.start.plan(TRAIN_TOKENS_OR_ITERS="19", WARMUP_TOKENS_OR_ITERS="2"))
    assert (plan.resume_iteration, plan.epochs) == (4, None)
    assert made(saved.start.plan()).schedule.train_iters == 19


def test_without_a_checkpoint_it_is_counted(saved: Saved) -> None:
    for path in sorted((saved.start.output / "checkpoints").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    write_conversations(saved.start.data, 2 * ROWS)
    assert made(saved.start.plan()).schedule.train_iters == math.ceil(6 * ROWS / BATCH)


def test_a_process_that_dies_is_told(start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plan = made(start.plan(TRAIN_TOKENS_OR_ITERS="10", WARMUP_TOKENS_OR_ITERS="1"))
    (tmp_path / "sitecustomize.py").write_text("import os; os._exit(9)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    _, problems = count_rows(plan, keep=False)
    assert [problem.code for problem in problems] == ["epochs-count-fails"]


def test_ctrl_c_while_it_is_counted_is_one_sentence(
    start: Start, values: Callable[..., list[str]], surroundings: Callable[..., dict[str, str]]
) -> None:
    """Which waits here for another process that tokenizes the same data."""
    source = CacheSource.of([start.data], "tokenizer")
    cache = start.output / "cache"
    cache.mkdir(parents=True)
    typed = {"SFT": "true", "DATASET_PATH": str(start.data), "VALID_DATASET_PATH": "none"}
    typed |= {"TRAIN_TOKENS_OR_ITERS": "3epochs", "WARMUP_TOKENS_OR_ITERS": "0", "OUTPUT_BASEPATH": str(start.output)}
    command = [sys.executable, "-m", "megatron_patch.launch", *values(**typed)]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MP_")}
    environ |= surroundings(**RAW) | {"PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1"}
    with (cache / f"sft-{source.key()[:20]}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        job = subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True, start_new_session=True)
        assert job.stderr is not None
        assert [job.stderr.readline().partition(" ")[0] for _ in range(2)] == ["counting", "waiting"]
        os.killpg(job.pid, signal.SIGINT)
        assert job.stderr.read().startswith("interrupted while")
        assert job.wait(60) == 130
    assert {path.name for path in start.output.iterdir()} == {"cache"}
