"""MP_MEGATRON_ARGS: the table of the parser is the wheel's, and what is wrong is said before anything starts."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from megatron_patch.launch.argv import EMITTED, FIXED
from megatron_patch.launch.command import REPOSITORY
from megatron_patch.launch.driver import make_plan
from megatron_patch.launch.megatron_flags import FAMILIES, INERT, INERT_ON_CPU, TABLE, faults, read_table
from megatron_patch.launch.variables import VARIABLES


def said(*words: str) -> list[str]:
    return [str(fault) for fault in faults(words, EMITTED | FIXED)]


def test_the_table_is_the_wheels() -> None:
    """`UPDATE_GOLDEN=1` writes it."""
    script = [sys.executable, str(Path(__file__).with_name("dump_flags.py"))]
    environ = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(script, env=environ, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    if os.environ.get("UPDATE_GOLDEN"):
        TABLE.write_text(done.stdout)
    assert done.stdout == TABLE.read_text()


def test_every_flag_of_ours_is_in_it() -> None:
    table = set(read_table())
    assert table >= EMITTED | set(INERT) | set(INERT_ON_CPU)
    assert all(any(name.startswith(prefix) for name in table) for prefix in FAMILIES)
    assert not any(name.startswith(prefix) for name in EMITTED for prefix in FAMILIES)
    assert table >= {row.flag for row in VARIABLES if row.flag}
    unknown = FIXED - table
    assert unknown <= {"--encoder-num-layers"}, unknown


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["--log-params-norm", "--timing-log-level", "1"], ""),
        (["--tensorboard-queue-size=5"], ""),
        (["--ddp-bucket-size", "-1"], ""),
        (["--log-params-norm", "--lr-warmup-init", "-1e-2"], ""),
        (["--no-such-flag"], "knows no --no-such-flag"),
        (["--log-param-norm"], "nearest: --log-params-norm"),
        (["--log-params"], "knows no --log-params;"),  # its parser takes no abbreviations
        (["-x"], "knows no -x"),
        (["loose"], "'loose' belongs to no flag"),
        (["--log-params-norm", "1"], "--log-params-norm takes 0 values, here 1"),
        (["--timing-log-level"], "--timing-log-level takes 1 value, here 0"),
        (["--timing-log-level", "7"], "--timing-log-level takes 0, 1, 2, not '7'"),
        (["--tensorboard-queue-size", "many"], "takes a whole number, not 'many'"),
        (["--lr-warmup-init", "much"], "takes a number, not 'much'"),
        (["--lr", "1"], "--lr: decided by the 25 values"),
        (["--lr=1"], "--lr: decided by the 25 values"),
        (["--rampup-batch-size", "8", "8", "1000"], "--rampup-batch-size is not taken"),
        (["--reset-attention-mask"], "the kernels are causal"),
        (["--num-experts", "8"], "a dense model"),
        (["--full-validation"], "fails at the first validation"),
        (["--full-validation", "--multiple-validation-sets"], ""),
        (
            ["--persistent-save-interval", "9"],
            "--persistent-save-interval: decided by",
        ),  # another name of --save-interval
        (["--override-opt_param-scheduler"], "--override-opt_param-scheduler: decided by"),
        (["--use-checkpoint-opt_param-scheduler"], "not that of LR and MIN_LR"),
        (["--data-args-path", "blend.txt"], '"$(cat FILE)"'),
        (["--per-split-data-args-path", "blends.json"], '"$(cat FILE)"'),
        (["--pretrained-checkpoint", "/x"], "starts from PRETRAIN_CHECKPOINT_PATH"),
        (["--non-persistent-save-interval", "5"], "the checkpoints that SAVE_INTERVAL asks for"),
        (["--fake-process-group"], "the ranks talk to each other"),
        (["--yaml-cfg", "x.yaml"], "replaces all that the plan says"),
        (["--recompute-activations"], "it is AC=sel"),
        (["--batch-size", "4"], "it is BATCH_SIZE"),
        (["--rotary-percent", "1.0"], "the architecture is that of MODEL_SIZE"),
        (["--window-size", "128,0"], "the architecture is that of MODEL_SIZE"),
        (["--moe-router-topk", "2"], "a dense model"),
        (["--no-rl-partial-rollouts"], "nothing is generated"),
        (["--inference-max-seq-length", "9"], "nothing is generated"),
        (["--use-flash-attn"], "nothing in megatron-core 0.19.2 reads it"),
    ],
)
def test_each_fault_has_its_sentence(words: list[str], fault: str) -> None:
    found = said(*words)
    assert len(found) == bool(fault) and fault in "".join(found), found


def test_all_faults_at_once() -> None:
    assert len(said("--no-such-flag", "--lr", "1", "--reset-position-ids", "--log-params-norm", "2")) == 4


def test_the_driver_refuses_them(values: Callable[..., list[str]], surroundings: Callable[..., dict[str, str]]) -> None:
    environ = surroundings(MP_MEGATRON_ARGS="--log-straggler --no-such-flag")
    plan, _, problems = make_plan(values(), environ, dry_run=True)
    assert plan is None
    assert [problem.names for problem in problems] == [("MP_MEGATRON_ARGS",)] * 2
    assert [problem.code for problem in problems] == ["flag-not-megatrons", "flag-on-cpu"]
