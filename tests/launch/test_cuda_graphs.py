"""Layers as CUDA graphs: where they are taken without being asked for, and what a run gets then."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from megatron_patch.launch.argv import megatron_argv
from megatron_patch.launch.command import rank_variables
from megatron_patch.launch.cuda_graphs import ROOM
from megatron_patch.launch.environment import read_environment
from megatron_patch.launch.plan import Plan
from megatron_patch.launch.step_time import time_of_plan

TP2 = {"MODEL_SIZE": "8B", "PR": "bf16", "TP": "2", "SP": "true", "DO": "true", "GLOBAL_BATCH_SIZE": "8"}
TP2 |= {"SEQ_LEN": "8192", "PAD_LEN": "8192", "TRAIN_TOKENS_OR_ITERS": "99999999"}
H200S = {"gigabytes": 148, "gpus": 2, "name": "NVIDIA H200"}
SFT = {"SFT": "true", "MP_DATASET_TYPE": "raw", "DATASET_PATH": "chat.json", "VALID_DATASET_PATH": "none"}
SFT |= {"TRAIN_TOKENS_OR_ITERS": "100", "WARMUP_TOKENS_OR_ITERS": "10", "MP_SFT_PACKING": "true"}


@pytest.fixture
def planned(plan_on_gpus: Callable[..., Plan]) -> Callable[..., Plan]:
    """8B at TP2 in bf16 on two H200s, with changes."""
    return lambda **changes: plan_on_gpus(H200S, **TP2 | changes)


def test_taken_under_tensor_parallelism(planned: Callable[..., Plan]) -> None:
    """Not under MP_CUDA_GRAPHS=none."""
    plan, eager = planned(), planned(MP_CUDA_GRAPHS="none")
    assert plan.cuda_graphs and not eager.cuda_graphs
    flags = megatron_argv(plan)
    assert flags[flags.index("--cuda-graph-impl") + 1] == "local"
    assert "--cuda-graph-impl" not in megatron_argv(eager)
    assert "graphs" in {note.code for note in plan.notes} and "graphs" not in {note.code for note in eager.notes}


def test_in_fp8_a_step_is_shorter(planned: Callable[..., Plan]) -> None:
    """Measured on two H200s, 2026-11-27: 2.228 s a step, one by one 2.408."""
    taken, eager = planned(PR="fp8"), planned(PR="fp8", MP_CUDA_GRAPHS="none")
    assert taken.cuda_graphs and not eager.cuda_graphs
    assert "graphs-tight" not in {note.code for note in taken.notes}
    times = time_of_plan(taken), time_of_plan(eager)
    assert times[0] is not None and times[1] is not None
    assert times[0].total == pytest.approx(2.228, rel=0.05)
    assert times[0].total < times[1].total


@pytest.mark.parametrize(
    "changes",
    [
        {"TP": "1", "SP": "false"},
        {"PP": "2", "TP": "1", "SP": "false"},
        {"CP": "2", "TP": "1", "SP": "false", "GLOBAL_BATCH_SIZE": "8"},
        {"SP": "false"},
        {"MP_ATTENTION_BACKEND": "unfused", "MP_ALLOW_UNFUSED_ATTENTION": "1"},
        {"AC": "full"},
        {"PR": "fp8", "MP_FP8_RECIPE": "delayed"},
        {"OPTIMIZER_OFFLOAD": "static"},
        {"MP_FREEZE": "embedding"},
        {"MP_LORA_RANK": "8", "PRETRAIN_CHECKPOINT_PATH": "hf-8B"},
        {"MP_MEGATRON_ARGS": "--enable-cuda-graph"},
        {"MP_MEGATRON_ARGS": "--log-max-attention-logit"},
        {"MP_MEGATRON_ARGS": "--eval-micro-batch-size 2"},
        {"MP_MEGATRON_ARGS": "--log-throughput --deterministic-mode"},
        SFT,
    ],
    ids=lambda changes: "-".join([*changes, *changes.get("MP_MEGATRON_ARGS", "").split()[-2:]]),
)
def test_not_taken_where_they_were_not_tried(planned: Callable[..., Plan], changes: dict[str, str]) -> None:
    """One GPU, pipelines, context parallelism, recomputation, other scaling, adapters, rows that differ."""
    plan = planned(**changes)
    assert not plan.cuda_graphs
    assert "--cuda-graph-impl" not in megatron_argv(plan)


@pytest.mark.parametrize("name", ["NVIDIA A100-SXM4-80GB", "NVIDIA B200", "NVIDIA L40S", "NVIDIA H100 NVL"])
def test_not_taken_on_gpus_that_never_ran_them(plan_on_gpus: Callable[..., Plan], name: str) -> None:
    """A slower one waits less for the host, and a graph takes its memory all the same; `layers` has them."""
    other = H200S | {"name": name}
    assert not plan_on_gpus(other, **TP2).cuda_graphs
    assert plan_on_gpus(other, **TP2, MP_CUDA_GRAPHS="layers").cuda_graphs


def test_flags_that_reach_no_layer_leave_them(planned: Callable[..., Plan]) -> None:
    """Logs, data, rates and checkpoints are the same with graphs."""
    assert planned(
        MP_MEGATRON_ARGS="--log-throughput --eod-mask-loss --exit-interval 5 --no-mmap-bin-files"
    ).cuda_graphs


def test_they_need_more_memory_than_the_plan(plan_on_gpus: Callable[..., Plan]) -> None:
    """Nobody else can use a graph's memory between two replays: `auto` does without, `layers` is told."""
    limit = plan_on_gpus(H200S, **TP2).memory_limit
    planned = plan_on_gpus(H200S, **TP2).memory.total
    assert limit is not None
    reserve = H200S["gigabytes"] * 10**9 - limit
    tight = H200S | {"gigabytes": int((planned * (1 + ROOM) / 2 + reserve) / 1e9)}
    plan = plan_on_gpus(tight, **TP2)
    assert (plan.memory.total, plan.cuda_graphs) == (planned, False)
    asked = plan_on_gpus(tight, **TP2, MP_CUDA_GRAPHS="layers")
    assert asked.cuda_graphs and "graphs-tight" in {note.code for note in asked.notes}


@pytest.mark.parametrize("asked", [{}, {"MP_MEGATRON_ARGS": "--enable-cuda-graph"}], ids=["ours", "Megatron's"])
def test_memory_of_collectives_stays_where_it_is(planned: Callable[..., Plan], asked: dict[str, str]) -> None:
    """Whoever asks for graphs: NCCL would register memory that expandable segments move."""
    plan = planned(**asked)
    environment, _ = read_environment({}, device="cuda")
    assert rank_variables(plan, environment)["NCCL_GRAPH_REGISTER"] == "0"
