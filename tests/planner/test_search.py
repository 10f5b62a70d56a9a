"""The planner's command: what it proposes can be typed, fits, and is what the driver plans."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from megatron_patch.common.machine import Gpu
from megatron_patch.launch.config import POSITIONS
from megatron_patch.launch.driver import make_plan
from megatron_patch.launch.gpu_kinds import KINDS, NETWORKS
from megatron_patch.launch.step_time import time_of_plan
from megatron_patch.models import model_of_size
from megatron_patch.planner.__main__ import main
from megatron_patch.planner.failures import expected_time, optimum_interval, outlook
from megatron_patch.planner.layouts import TrainingJob, default_choice, values_of, variables_of
from megatron_patch.planner.search import NothingFits, search

from ..launch.conftest import surroundings, values, world  # noqa: F401  # fixtures

COMMUNICATION = (
    *(f"{kind}_parallel" for kind in ("tensor", "context", "pipeline", "data")),
    "bubble",
    "stragglers",
)


def job(size: str = "8B", gpus: int = 8, batch: int = 128, kind: str = "h100", precision: str = "bf16") -> TrainingJob:
    model = model_of_size(size)
    assert model.vocab_size is not None
    return TrainingJob(
        size=size,
        model=model,
        vocab_size=model.vocab_size,
        gpus=gpus,
        kind=KINDS[kind],
        network=NETWORKS["400Gb"],
        seq_len=8192,
        global_batch=batch,
        precision=precision,
    )


def test_json_has_what_programs_want(capsys: pytest.CaptureFixture[str]) -> None:
    command = "70B --gpus 64 --kind h100 --global-batch 128 --precision fp8 --tokens 1e12 --mtbf-hours 50000 --json"
    assert main(command.split()) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"step_seconds", "tokens_per_s_per_gpu", "tflops_per_gpu", "mfu", "memory_bytes_per_gpu", "layout"} <= set(
        found
    )
    assert sum(found["step_components"].values()) == pytest.approx(found["step_seconds"])
    assert sum(found["memory_components"].values()) == found["memory_bytes_per_gpu"]
    assert found["training"]["gpu_hours"] == pytest.approx(found["training"]["days"] * 24 * 64)
    assert 0.9 < found["failures"]["effective"] < 1
    assert found["step_seconds"] <= min(other["step_seconds"] for other in found["others"])


def test_a_given_layout_is_predicted(capsys: pytest.CaptureFixture[str]) -> None:
    flags = "--tp 8 --pp 8 --vpp 8 --cp 2 --micro-batch 1 --recompute none"
    assert main(f"405B --gpus 1024 --global-batch 512 {flags} --json".split()) == 0
    layout = json.loads(capsys.readouterr().out)["layout"]
    assert (layout["tp"], layout["pp"], layout["vpp"], layout["cp"], layout["dp"]) == (8, 8, 8, 2, 8)


@pytest.mark.parametrize(("more", "chunks"), [("", 2), ("--vpp 1", 1), ("--vpp 4", 4)])
def test_a_given_layout_has_the_chunks_that_the_driver_would_take(
    more: str, chunks: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(f"8B --gpus 4 --global-batch 32 --tp 2 --pp 2 {more} --json".split()) == 0
    assert json.loads(capsys.readouterr().out)["layout"]["vpp"] == chunks


@pytest.mark.parametrize(
    ("command", "status", "words"),
    [
        ("8B --gpus 7 --global-batch 13", 1, "no layout divides"),
        ("8B --gpus 12 --global-batch 12", 2, "whole machines of 8"),
        ("405B --gpus 8 --global-batch 8 --tp 1 --pp 1 --cp 1", 1, "no layout fits"),
        ("8B --gpus 8 --global-batch 8 --kind a100 --precision fp8", 2, "no FP8 units"),
        ("tiny --gpus 8 --global-batch 8", 2, "--vocab-size"),
        ("8B --gpus 8 --global-batch 8 --seq 1000000", 2, "131072 tokens at most"),
    ],
)
def test_what_cannot_be(command: str, status: int, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command.split()) == status
    printed = capsys.readouterr()
    assert words in printed.err
    assert not printed.out


def test_the_picture_and_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["8B", "--gpus", "8", "--global-batch", "64", "--plot", str(tmp_path / "step.svg")]) == 0
    assert ElementTree.parse(tmp_path / "step.svg").getroot().tag.endswith("svg")
    printed = capsys.readouterr().out
    assert "where the step" in printed
    line = shlex.split(printed.splitlines()[-1])
    assert len(line[line.index("sh") + 2 :]) == len(POSITIONS)


@pytest.mark.parametrize(
    ("size", "gpus", "kind", "precision"),
    [("8B", 8, "h100", "bf16"), ("8B", 2, "h200", "fp8"), ("70B", 16, "h200", "bf16")],
)
def test_the_driver_takes_every_proposal(
    size: str,
    gpus: int,
    kind: str,
    precision: str,
    surroundings: Callable[..., dict[str, str]],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Typed on machines with such GPUs, no check refuses it, and memory and time are the planner's."""
    asked = job(size, gpus, 64, kind, precision)
    gpu = Gpu(name=f"NVIDIA {kind.upper()}", memory_bytes=asked.kind.memory_bytes, uuid="GPU-0")
    monkeypatch.setattr("megatron_patch.launch.environment.installed_gpus", lambda: (gpu,) * min(8, gpus))
    cluster = {"WORLD_SIZE": str(gpus // 8), "RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
    cluster |= {"KUBERNETES_CONTAINER_RESOURCE_GPU": "8"}
    for found in search(asked, default_choice(asked)).best:
        folders = {"DATASET_PATH": "text", "PRETRAIN_CHECKPOINT_PATH": "none", "OUTPUT_BASEPATH": "out"}
        typed = values_of(asked, found.candidate, **folders)
        environ = surroundings(MP_DEVICE="auto", **variables_of(found.candidate), **(cluster if gpus > 8 else {}))
        plan, _, problems = make_plan(typed, environ, dry_run=True)
        assert plan is not None, problems
        assert plan.memory == found.fit.memory
        assert plan.layout == found.candidate.layout
        predicted = time_of_plan(plan)
        assert predicted is not None
        assert predicted.total == pytest.approx(found.time.total)


def test_one_chunk_is_typed_too() -> None:
    """Without the variable the driver would decide it."""
    asked = job("8B", 4, 32, "h200")
    choice = replace(default_choice(asked), tp=(2,), pp=(1, 2), cp=(1,), chunks=(1,))
    typed = {one.candidate.layout.pp: variables_of(one.candidate) for one in search(asked, choice).best}
    assert typed == {1: {}, 2: {"MP_VP_CHUNKS": "1"}}


GIVEN = "DATASET_PATH=text PRETRAIN_CHECKPOINT_PATH=none OUTPUT_BASEPATH=out LR=1e-5 MIN_LR=1e-6"
SET = " ".join(f"--set {word}" for word in GIVEN.split())


@pytest.mark.parametrize(
    ("way", "gpus", "more"),
    [("dsw", 8, ""), ("slurm", 32, "--set MP_SLURM_PARTITION=h100"), ("k8s", 32, "--set MP_K8S_IMAGE=a/b:1")],
)
def test_the_emitted_command_is_the_layout(
    way: str,
    gpus: int,
    more: str,
    surroundings: Callable[..., dict[str, str]],  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Typed as a dry run, the driver plans the search's winner on as many machines."""
    assert main(f"70B --gpus {gpus} --kind h200 --global-batch 64 --emit {way} {SET} {more}".split()) == 0
    asked = job("70B", gpus, 64, "h200")
    best = search(asked, default_choice(asked)).best[0].candidate.layout
    words = shlex.split(capsys.readouterr().out)
    at = words.index("sh")
    variables, values_typed = dict(word.split("=", 1) for word in words[:at]), words[at + 2 :]
    assert Path(words[at + 1]).is_file()
    assert ("--emit" in values_typed) == (way == "k8s")
    plan, _, problems = make_plan(
        values_typed[: len(POSITIONS)],
        surroundings(**variables),
        dry_run=way != "k8s",
        emit=way == "k8s",
    )
    assert plan is not None, problems
    for name in ("nodes", "processes", "tp", "pp", "cp", "dp", "chunks", "stage_layers"):
        assert getattr(plan.layout, name) == getattr(best, name), name
    assert plan.config.lr == 1e-5


def test_the_tokens_of_the_training_are_typed(capsys: pytest.CaptureFixture[str]) -> None:
    """In the table's command and the emitted one; what --set says goes first. Without them, 1000 iterations."""
    at = [position.name for position in POSITIONS].index("TRAIN_TOKENS_OR_ITERS")
    for flags, tokens in (
        ("--tokens 3e11", 300_000_000_000),
        ("--tokens 3e11 --emit dsw", 300_000_000_000),
        ("--tokens 3e11 --emit dsw --set TRAIN_TOKENS_OR_ITERS=4096000", 4_096_000),
        ("", 1000 * 64 * 8192),
    ):
        assert main(f"8B --gpus 8 --global-batch 64 {flags}".split()) == 0
        words = shlex.split(capsys.readouterr().out.splitlines()[-1])
        script = words.index("sh") + 1
        assert int(words[script + 1 + at]) == tokens, flags
        assert Path(words[script]).is_file(), "from any folder"
    for wrong in ("nan", "inf", "-5", "0", "1_000_000_000"):
        for flag in ("--tokens", "--mtbf-hours"):
            with pytest.raises(SystemExit) as ended:
                main(f"8B --gpus 8 --global-batch 64 {flag}={wrong}".split())
            assert ended.value.code == 2 and f"'{wrong}' is not a number from" in capsys.readouterr().err
    few = ["8B", "--gpus", "8", "--global-batch", "64", "--tokens", "1000"]
    assert main(few) == 2  # the command to type would be refused
    assert "--tokens 1000: fewer than one iteration has, 64 sequences: 524,288" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--emit dsw", "4 machines; valid: slurm, k8s"),
        ("--emit slurm --set COLOUR=red", "--set COLOUR"),
        ("--emit slurm --set LR", "NAME=VALUE"),
        ("--emit slurm --set TP=3", "--set TP: the planner decides it; --tp"),
        ("--set LR=1e-5", "--set is for the command of --emit"),
    ],
)
def test_what_cannot_be_emitted(flags: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(f"70B --gpus 32 --kind h200 --global-batch 64 {flags}".split()) == 2
    printed = capsys.readouterr()
    assert words in printed.err and not printed.out


@pytest.mark.parametrize("size", ["8B", "70B"])
def test_more_gpus_do_not_slow_a_batch_that_divides(size: str) -> None:
    """At a fixed global batch, twice the GPUs may add communication and nothing else."""
    gpus, times = (64, 128, 256, 512), []
    for count in gpus:
        asked = job(size, count, 512)
        times.append(search(asked, default_choice(asked)).best[0].time)
    for before, after in pairwise(times):
        added = sum(max(0.0, getattr(after, name) - getattr(before, name)) for name in COMMUNICATION)
        assert after.total <= before.total + added
        assert after.total < before.total  # and up to here it is far less than what is saved


def test_a_count_that_divides_nothing_says_so() -> None:
    asked = job(gpus=8, batch=9)
    with pytest.raises(NothingFits, match="global batch 9"):
        search(asked, replace(default_choice(asked), tp=(1,), pp=(1,), cp=(1,)))


def test_failures() -> None:
    """Daly's optimum is one: saving more or less often takes longer."""
    stall, mean = 5.0, 3600.0
    best = optimum_interval(stall, mean)
    times = [expected_time(1.0, best * factor, stall, 60.0, mean) for factor in (0.5, 1.0, 2.0)]
    assert times[1] < min(times[0], times[2])
    assert outlook(16384, 50_000).effective < outlook(1024, 50_000).effective < 1


def test_light() -> None:
    """Neither torch nor numpy: it runs on a laptop that has only Python."""
    import subprocess
    import sys

    code = "import sys, megatron_patch.planner.__main__; print(*({'torch', 'numpy', 'rich'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ})
    assert done.stdout.strip() == ""


def test_a_value_with_spaces_is_still_an_assignment(capsys: pytest.CaptureFixture[str]) -> None:
    """A quoted `NAME=VALUE` would be a command that nobody finds: the shell that reads the line says what it sees."""
    claims = "a:/x b:/y"
    asked = ["8B", "--gpus", "16", "--global-batch", "128", "--emit", "k8s", "--set", f"MP_K8S_VOLUMES={claims}"]
    assert main(asked) == 0
    line = capsys.readouterr().out.replace(" sh /", " true /", 1).strip()
    before, _, _ = line.partition(" true ")
    shown = subprocess.run(["sh", "-c", f"{before}; echo $MP_K8S_VOLUMES"], capture_output=True, text=True, timeout=20)
    assert shown.stdout.strip() == claims
