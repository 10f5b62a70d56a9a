"""Batches and learning rate over a run: arithmetic that has to be Megatron's."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from megatron_patch.launch.argv import megatron_argv
from megatron_patch.launch.driver import make_plan
from megatron_patch.launch.plan import Plan
from megatron_patch.launch.problems import driver_wording
from megatron_patch.launch.render import short_plan
from megatron_patch.launch.schedule import (
    DECAY_STYLES,
    WSD_STYLES,
    constant,
    count_iterations,
    make_rate,
    of_values,
    read_stages,
)
from megatron_patch.launch.variables import read_variables


def value_of(argv: list[str], flag: str) -> str:
    return argv[argv.index(flag) + 1]


def simulated(schedule: str, iterations: int) -> list[int]:
    """Batch of each iteration, by Megatron's own calculator."""
    from megatron.core.num_microbatches_calculator import StepBatchsizeNumMicroBatchesCalculator

    calculator = StepBatchsizeNumMicroBatchesCalculator(
        micro_batch_size=1, data_parallel_size=1, decrease_batch_size_if_needed=False, rank=1, schedule=schedule,
        seq_length=128,
    )  # fmt: skip
    done, found = 0, []
    for _ in range(iterations):
        calculator.update(done, consistency_check=True)
        found.append(calculator.get_current_global_batch_size())
        done += found[-1]
    return found


@pytest.mark.parametrize(
    "schedule", ["0:8", "0:4,1024:8", "0:2,1300:4,1500:8,9000:64", "0:64,1280:128,2560:256", "0:3,385:5,2000:7"]
)
def test_batches_are_those_of_megatron(schedule: str) -> None:
    """Also where a stage begins within an iteration, or is passed over by one."""
    batches, sizes = read_stages(schedule, sft=False, seq_len=128), simulated(schedule, 40)
    sums = [sum(sizes[:count]) for count in range(41)]
    assert [batches.samples(count) for count in range(41)] == sums
    assert [batches.batch_after(done) for done in sums[:-1]] == sizes
    assert [batches.iterations(done) for done in sums] == list(range(41))
    assert [batches.iterations(done - 1) for done in sums[1:]] == list(range(40))
    assert batches.changes() == [count for count in range(1, 40) if sizes[count] != sizes[count - 1]]


@pytest.mark.parametrize("wsd_style", WSD_STYLES)
@pytest.mark.parametrize("style", DECAY_STYLES)
@pytest.mark.parametrize("warmup", [0, 5])
def test_rates_are_those_of_megatron(style: str, wsd_style: str, warmup: int) -> None:
    """Bit for bit, over the warm-up, the decay, and beyond its end."""
    from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler

    batches = constant(6)
    rate = make_rate(batches, peak=3e-4, floor=1e-5, warmup=warmup, decay=40, style=style, wsd=11, wsd_style=wsd_style)
    group: dict[str, float] = {}
    scheduler = OptimizerParamScheduler(
        SimpleNamespace(param_groups=[group]), init_lr=0.0, max_lr=3e-4, min_lr=1e-5, lr_warmup_steps=6 * warmup,
        lr_decay_steps=240, lr_decay_style=style, start_wd=0.1, end_wd=0.1, wd_incr_steps=240,
        wd_incr_style="constant", wsd_decay_steps=66, lr_wsd_decay_style=wsd_style,
    )  # fmt: skip
    for iteration in range(45):
        assert rate.after(batches.samples(iteration)) == group["lr"], iteration
        scheduler.step(6)


def test_the_plan_shows_the_curve(plan_of: Callable[..., Plan]) -> None:
    """10 iterations, 1 of warm-up."""
    for changes, curve in (
        ({}, "then a cosine to 0.0001 at iteration 10"),
        ({"MP_LR_DECAY_STYLE": "constant"}, "then constant"),
        ({"MP_LR_DECAY_STYLE": "linear", "MP_LR_DECAY_ITERS": "8"}, "then a straight line to 0.0001 at iteration 8"),
        ({"MP_LR_DECAY_STYLE": "WSD", "MP_LR_WSD_DECAY_ITERS": "4", "MP_LR_WSD_DECAY_STYLE": "linear"},
         "constant until iteration 6, then a decay (linear) to 0.0001 at iteration 10"),
    ):  # fmt: skip
        assert curve in short_plan(plan_of(**changes), driver_wording())
    plan = plan_of(MP_LR_DECAY_STYLE="WSD", MP_LR_WSD_DECAY_ITERS="4", MP_LR_WSD_DECAY_STYLE="linear")
    assert "by iteration: 1: 0, 2: 0.001, 5: 0.001, 7: 0.001, 10: 0.000325" in short_plan(plan, driver_wording())
    assert "where the batch grows" not in short_plan(plan, driver_wording())
    argv = megatron_argv(plan)
    assert (value_of(argv, "--lr-decay-style"), value_of(argv, "--lr-wsd-decay-iters")) == ("WSD", "4")
    assert value_of(argv, "--lr-wsd-decay-style") == "linear"
    assert value_of(megatron_argv(plan_of(MP_LR_DECAY_STYLE="WSD")), "--lr-wsd-decay-iters") == "1"


def test_a_batch_that_grows(plan_of: Callable[..., Plan]) -> None:
    """10240 tokens are 80 sequences: 4 iterations of 4, from 2048 tokens on 8 iterations of 8."""
    plan = plan_of(MP_BATCH_SCHEDULE="0:4 2048:8", WARMUP_TOKENS_OR_ITERS="2048", SAVE_INTERVAL="5")
    schedule = plan.schedule
    assert (schedule.train_iters, schedule.samples, schedule.warmup_iters) == (12, 80, 4)
    assert schedule.saves() == 4  # 4, where it grows, 5, 10, 12
    argv = megatron_argv(plan)
    assert value_of(argv, "--step-batch-size-schedule") == "0:4,2048:8"
    for flag, value in (("train", 80), ("lr-decay", 80), ("lr-warmup", 16)):
        assert value_of(argv, f"--{flag}-samples") == str(value)
    assert value_of(argv, "--eval-global-batch-size") == "8"
    assert not {"--global-batch-size", "--train-iters", "--lr-decay-iters", "--lr-warmup-iters"} & set(argv)
    said = short_plan(plan, driver_wording())
    assert ", where the batch grows, and at the end" in said
    assert "10240 tokens = 12 iterations of 128 tokens a sequence and the batches below, 0 tokens left over" in said
    assert "from iteration 1 on 4 sequences" in said and "from iteration 5 on 8 sequences" in said


@pytest.mark.parametrize(
    ("asked", "unused"),
    [
        ("0:4,2048:8", []),
        ("0:4,9216:8", []),  # the last iteration
        ("0:4,10112:8", ["10112:8"]),  # within the last iteration
        ("0:4,10240:8", ["10240:8"]),  # the first that is not trained
        ("0:2,1e6:4,2e6:8", ["1000000:4", "2000000:8"]),
        ("0:2,2048:4,2176:6,2304:8", ["2176:6"]),  # over within the one iteration of 4
    ],
)
def test_a_stage_without_an_iteration_is_noted(plan_of: Callable[..., Plan], asked: str, unused: list[str]) -> None:
    plan = plan_of(MP_BATCH_SCHEDULE=asked)
    assert [note.values["stages"] for note in plan.notes if note.code == "stages-unused"] == [unused] * bool(unused)
    last = plan.schedule.train_iters
    reached = {plan.schedule.batches.batch_after(plan.schedule.batches.samples(at)) for at in range(last)}
    stages = plan.schedule.batches.stages
    assert {stage.batch for stage in stages} - reached == {int(stage.partition(":")[2]) for stage in unused}
    assert short_plan(plan, driver_wording()).count("sequences x ") == len(reached)


def test_a_batch_that_grows_under_sft(plan_of: Callable[..., Plan]) -> None:
    """There the starts are iterations, as TRAIN_TOKENS_OR_ITERS."""
    sft = {"SFT": "true", "MP_DATASET_TYPE": "raw", "DATASET_PATH": "chat.json", "VALID_DATASET_PATH": "none"}
    plan = plan_of(**sft, TRAIN_TOKENS_OR_ITERS="10", WARMUP_TOKENS_OR_ITERS="2", MP_BATCH_SCHEDULE="0:2,3:4,5:8")
    assert (plan.schedule.train_iters, plan.schedule.samples) == (10, 3 * 2 + 2 * 4 + 5 * 8)
    argv = megatron_argv(plan)
    assert value_of(argv, "--step-batch-size-schedule") == f"0:2,{6 * 128}:4,{14 * 128}:8"
    assert (value_of(argv, "--lr-warmup-samples"), value_of(argv, "--train-samples")) == ("4", "54")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("4:0,8:2048", "stage-form"),  # the other way round
        ("0:4,0:8", "stages-order"),
        ("0:4,9:8,9:16", "stages-order"),
        ("0:4,8", "stage-form"),
        ("0:4,1e3:0", "stage-form"),
        ("0:4,-1:8", "stage-form"),
        ("0:4,1.5:8", "stage-form"),
        ("0:4,nan:8", "stage-form"),
        ("0:4,1e999:8", "stage-form"),
        ("0:4,1_0:8", "stage-form"),
        (",", "stages-begin"),
    ],
)
def test_what_is_not_a_batch_schedule(text: str, code: str) -> None:
    values, problems = read_variables({"MP_BATCH_SCHEDULE": text})
    assert [problem.code for problem in problems] == [code]
    assert "batch_schedule" not in values


@pytest.mark.parametrize(
    ("changes", "codes"),
    [
        ({"MP_BATCH_SCHEDULE": "0:4,2K:16"}, ["stages-last"]),
        ({"MP_BATCH_SCHEDULE": "0:16,2K:8"}, ["stages-grow"]),
        ({"MP_BATCH_SCHEDULE": "0:8,2K:8"}, ["stages-grow"]),
        ({"MP_BATCH_SCHEDULE": "0:2,2049:4,2050:8"}, ["stages-within-a-sequence"]),
        ({"MP_BATCH_SCHEDULE": "0:3,2K:8", "BATCH_SIZE": "2"}, ["batch-stage-multiple"]),
        ({"MP_BATCH_SCHEDULE": "0:2,2K:8", "MP_NPROC": "8"}, ["batch-stage-multiple"]),
        ({"MP_LR_DECAY_STYLE": "WSD", "MP_LR_WSD_DECAY_ITERS": "10"}, ["wsd-too-long"]),
        ({"MP_LR_DECAY_STYLE": "inverse-square-root", "WARMUP_TOKENS_OR_ITERS": "0"}, ["inverse-root-needs-warmup"]),
        ({"MP_LR_DECAY_STYLE": "wsd"}, ["unknown-value-nearest"]),
        ({"MP_PROFILE": "9-11"}, ["profile-beyond"]),
        ({"MP_PROFILE": "0-2"}, ["stretch-order"]),
        ({"MP_PROFILE": "4-2"}, ["stretch-order"]),
        ({"MP_PROFILE": "1:2"}, ["not-stretch"]),
        ({"MP_PROFILE": "1-21"}, ["stretch-long"]),
        ({"MP_PROFILE": "2", "MP_PROFILE_RANKS": "0,1"}, ["profile-no-rank"]),
        ({"MP_PROFILE_RANKS": "all"}, ["not-numbers"]),
        ({"MP_MEGATRON_ARGS": "--step-batch-size-schedule 0:8"}, ["flag-taken"]),
        ({"MP_MEGATRON_ARGS": "--iterations-to-skip 0 3 11"}, ["skip-beyond"]),
        ({"MP_MEGATRON_ARGS": "--iterations-to-skip 10", "SAVE_INTERVAL": "5"}, ["skip-last"]),
        ({"MP_MEGATRON_ARGS": "--iterations-to-skip ten"}, ["flag-whole"]),
    ],
)
def test_what_a_schedule_cannot_be_is_refused_by_code(
    changes: dict[str, str],
    codes: list[str],
    values: Callable[..., list[str]],
    surroundings: Callable[..., dict[str, str]],
) -> None:
    environ = {name: changes[name] for name in changes if name.startswith("MP_")}
    positions = {name: changes[name] for name in changes if name not in environ}
    plan, _, problems = make_plan(values(**positions), surroundings(**environ), dry_run=True)
    assert plan is None
    assert [problem.code for problem in problems] == codes


@pytest.mark.parametrize(
    ("changes", "codes"),
    [
        ({"DO": "true"}, ["muon-shards"]),
        ({"DO": "true", "OPTIMIZER_OFFLOAD": "static"}, ["optimizer-on-cpu", "muon-shards", "muon-offload"]),
        ({"PR": "fp16"}, ["muon-precision"]),
        ({"MP_FREEZE": "embedding"}, ["muon-partly"]),
    ],
)
def test_where_muon_does_not_train(
    changes: dict[str, str],
    codes: list[str],
    values: Callable[..., list[str]],
    surroundings: Callable[..., dict[str, str]],
) -> None:
    environ = {"MP_OPTIMIZER": "muon"} | {name: changes[name] for name in changes if name.startswith("MP_")}
    positions = {name: changes[name] for name in changes if name not in environ}
    _, _, problems = make_plan(values(**positions), surroundings(**environ), dry_run=True)
    assert [problem.code for problem in problems if problem.code != "muon-not-installed"] == codes


def test_muon_in_the_plan(plan_of: Callable[..., Plan]) -> None:
    """One moment less for the matrices of the layers; Adam's flags stay for the rest."""
    adam, muon = plan_of(MP_DEVICE="cuda"), plan_of(MP_DEVICE="cuda", MP_OPTIMIZER="muon", MP_MUON_NESTEROV="0")
    matrices = adam.model.num_layers * adam.model.parameters_per_layer()
    assert adam.memory.optimizer - muon.memory.optimizer == 4 * matrices
    argv = megatron_argv(muon)
    assert (value_of(argv, "--optimizer"), value_of(argv, "--muon-momentum")) == ("muon", "0.95")
    assert value_of(argv, "--muon-tp-mode") == "duplicated" and "--muon-nesterov" not in argv
    assert "--adam-beta2" in argv
    assert not [word for word in megatron_argv(adam) if word.startswith("--muon")]


def test_what_goes_with_an_iteration_that_is_skipped_is_noted(plan_of: Callable[..., Plan]) -> None:
    """Megatron's loop neither saves nor validates there; the end of a run is saved unless an interval ends with it."""
    plan = plan_of(MP_MEGATRON_ARGS="--iterations-to-skip 3 4 6 10", SAVE_INTERVAL="4", MP_EVAL_INTERVAL="3")
    noted = {note.code: note.values for note in plan.notes if note.code.startswith("skip-")}
    assert noted == {"skip-saves": {"unsaved": [4]}, "skip-validations": {"untried": [3, 6]}}
    plan = plan_of(MP_MEGATRON_ARGS="--iterations-to-skip=5 --exit-interval 7", SAVE_INTERVAL="4", MP_EVAL_INTERVAL="3")
    assert not [note for note in plan.notes if note.code.startswith("skip-")]


@pytest.mark.parametrize(
    ("skipped", "interval", "noted"),
    [
        ("4", 4, {"missed": [4], "end": 8}),
        ("4 8 9", 4, {"missed": [4, 8], "end": 10}),
        ("8", 4, None),
        ("1 2 3", 5, None),
        ("4", 0, None),
    ],
)
def test_an_end_that_is_skipped_is_noted(
    skipped: str, interval: int, noted: dict[str, object] | None, plan_of: Callable[..., Plan]
) -> None:
    """The run of ten iterations goes on to the next multiple, or to its own end."""
    plan = plan_of(MP_MEGATRON_ARGS=f"--exit-interval {interval} --iterations-to-skip {skipped}", SAVE_INTERVAL="7")
    assert [note.values for note in plan.notes if note.code == "skip-ends"] == ([noted] if noted else [])


def test_variables_that_do_nothing(plan_of: Callable[..., Plan]) -> None:
    idle = {note.values["name"] for note in plan_of(MP_LR_WSD_DECAY_ITERS="3").notes if note.code == "idle-under"}
    assert idle == {"MP_LR_WSD_DECAY_ITERS"}
    idle = {
        note.values["name"]
        for note in plan_of(MP_LR_DECAY_STYLE="constant", MP_LR_DECAY_ITERS="9").notes
        if note.code == "idle-under"
    }
    assert idle == {"MP_LR_DECAY_ITERS"}
    spikes = {"MP_SPIKE_FACTOR": "3", "MP_SPIKE_WINDOW": "9"}
    plan = plan_of(**spikes, MP_PROFILE_RANKS="3")
    assert {note.values["name"] for note in plan.notes if note.code == "idle-under"} == set(spikes)
    assert [note.values["name"] for note in plan.notes if note.code == "idle-without"] == ["MP_PROFILE_RANKS"]
    plan = plan_of(**spikes, MP_ON_SPIKE="skip", MP_PROFILE="2")
    assert not [note for note in plan.notes if note.code.startswith("idle-")]


def test_values_of_an_older_plan() -> None:
    """Before there were styles: a cosine, one batch."""
    batches, rate = of_values({
        "SFT": False, "SEQ_LEN": 128, "GLOBAL_BATCH_SIZE": 8, "TRAIN_TOKENS_OR_ITERS": 10240,
        "WARMUP_TOKENS_OR_ITERS": 1024, "LR": 1e-3, "MIN_LR": 1e-4, "MP_LR_DECAY_ITERS": None,
    })  # fmt: skip
    assert batches == constant(8)
    assert rate.after(72) == pytest.approx(1e-4 + 9e-4 * 0.5 * (math.cos(math.pi * 8 / 9) + 1))
    assert count_iterations(10_240, False, batches, 128)[0] == 10
