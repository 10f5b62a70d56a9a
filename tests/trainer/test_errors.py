"""Whatever goes wrong is seen on the screen, and the exit status is not 0."""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from megatron_patch.common.errors import WorkerKilled
from megatron_patch.common.network import NetworkError
from megatron_patch.models import ConfigError
from megatron_patch.peft.settings import PeftError
from megatron_patch.runs.recovery import Status
from megatron_patch.runs.status import read_end
from megatron_patch.torchrun import describe
from megatron_patch.trainer.checks import refuse_contradictions
from megatron_patch.trainer.entry import status_of
from megatron_patch.trainer.errors import TrainerError

from . import harness
from .harness import Run, launch, launch_by_torchrun


class Flags(SimpleNamespace):
    """Megatron's arguments, as far as a test sets them; the others are off."""

    def __getattr__(self, name: str) -> int | None:
        return 0 if name == "trained_logits" else None


def assert_explained(run: Run, *messages: str) -> None:
    """The reason and the log's path are on the real standard error; the status says failure."""
    assert run.returncode != 0
    for message in (*messages, "the whole log:", "logs/rank_0.log"):
        assert message in run.stderr, run.stderr
    assert re.search(r"failed first, with status [126]: what it said stands above$", run.stderr.rstrip())
    assert "torch/distributed/elastic" not in run.stderr


def test_missing_checkpoint(tmp_path: Path, data: Path) -> None:
    """Megatron would train from random weights."""
    (tmp_path / "empty").mkdir()
    run = launch_by_torchrun(tmp_path, data, f"--load {tmp_path}/empty")
    assert_explained(run, "empty holds no checkpoint")
    assert run.losses == []


def test_token_outside_the_vocabulary(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Megatron masks such ids silently at TP > 1. One rank reads the data and fails; the other does not hide it.

    And torchrun's folder, which tells it who failed first, is gone.
    """
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    run = launch(tmp_path, data, "--vocab-size 96 --tensor-model-parallel-size 2", processes=2)
    assert_explained(run, "error on rank 0 of 2", f"{data}.bin holds ", " ids, so it is of another tokenizer")
    assert "rank 1 of 2 lost its connection to another rank, which failed first" in run.stderr
    assert list((tmp_path / "tmp").glob("torchelastic_*")) == []


def test_the_cause_is_blamed_however_late_its_rank_ends(tmp_path: Path, data: Path) -> None:
    """The other rank has ended long before, with a lost connection; torchrun then ends this one by a signal."""
    script = Path(__file__).with_name("slow_to_end.py")
    run = launch_by_torchrun(
        tmp_path, data, "--vocab-size 96 --tensor-model-parallel-size 2", processes=2, script=script
    )
    assert_explained(run, "error on rank 0 of 2", "rank 0 failed first, with status 6")


@pytest.mark.slow
@pytest.mark.parametrize("token", [-1, -7])
def test_a_negative_number_that_nobody_has_seen_before(tmp_path: Path, data: Path, token: int) -> None:
    """Megatron takes -1 for its own padding: trained on as id 0, with a loss of 0."""
    for suffix in (".bin", ".idx"):
        shutil.copyfile(f"{data}{suffix}", tmp_path / f"negative{suffix}")
    tokens = np.fromfile(tmp_path / "negative.bin", dtype=np.uint16).view(np.int16)
    tokens[5000] = token
    tokens.tofile(tmp_path / "negative.bin")
    index = bytearray((tmp_path / "negative.idx").read_bytes())
    index[17] = 3  # int16
    (tmp_path / "negative.idx").write_bytes(index)
    run = launch(tmp_path, tmp_path / "negative", "--train-iters 200 --tensor-model-parallel-size 2", processes=2)
    assert_explained(run, f"{tmp_path}/negative.bin holds {token} (sequence ", ", byte 10000): ids are not negative")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("extra", "messages"),
    [
        ("--load {first} --ckpt-step 7", ["iter_0000007"]),
        ("--load {first} --ckpt-step 3 --num-layers 8", ["Global shape mismatch", "[4, 64]", "(8, 64)"]),
        ("--load {torn}", ["the checkpoint cannot be loaded"]),
        ("--load {cut}", ["iter_0000003/__0_1.distcp: ", ": cut off, 0 of "]),
        ("--no-such-flag 3", ["ended with status 2", "unrecognized arguments: --no-such-flag 3"]),
        ("--eval-iters 5", ["--eval-iters 5 without --valid-data-path"]),
        ("--micro-batch-size 3", ["AssertionError", "must be divisible by"]),
        ("--lr 1e30 --clip-grad 0", ["a loss or a gradient is NaN or inf. The weights are those of iteration "]),
    ],
    ids=["step", "model", "tracker", "cut off", "flag", "contradiction", "assertion", "NaN"],
)
def test_explained(tmp_path: Path, data: Path, first: Run, extra: str, messages: list[str]) -> None:
    """Errors of Megatron, of its parser, and ours; a torn tracker would end with status 0."""
    torn, cut = tmp_path / "torn", tmp_path / "cut"
    shutil.copytree(first.output / "checkpoints", cut)
    os.truncate(cut / "iter_0000003" / "__0_1.distcp", 1000)
    torn.mkdir()
    (torn / "latest_checkpointed_iteration.txt").write_text("")
    run = launch_by_torchrun(tmp_path, data, extra.format(first=first.output / "checkpoints", torn=torn, cut=cut))
    assert_explained(run, *messages)


def test_contradictions_are_said_all_at_once() -> None:
    """One message names every one."""
    args = Flags(load="a", hf_checkpoint="b", async_save=True, eval_iters=3, full_validation=True)
    with pytest.raises(TrainerError) as caught:
        refuse_contradictions(args)
    message = str(caught.value)
    assert all(flag in message for flag in ("--hf-checkpoint", "--async-save", "--eval-iters 3", "--full-validation"))


def test_sound_flags_pass() -> None:
    refuse_contradictions(Flags(load="a", eval_iters=3, valid_data_path=["b"]))


def test_passes_that_cannot_be_left_out() -> None:
    """On the processor, in bf16, with tied embeddings, with adapters."""
    both = {"fewer_passes": ["swiglu"], "fp8_extra": ["head"]}
    with pytest.raises(TrainerError) as caught:
        refuse_contradictions(Flags(lora_rank=4, base_checkpoint="a", tensor_model_parallel_size=2, **both))
    message = str(caught.value)
    wanted = ("a GPU", "--fp8-recipe tensorwise", "tied embeddings", "above 1: not tried", "with --lora-rank")
    assert all(words in message for words in wanted), message
    gpu = {"transformer_impl": "transformer_engine", "fp8": "hybrid", "fp8_recipe": "tensorwise"}
    alone = {"untie_embeddings_and_output_weights": True, "tensor_model_parallel_size": 1}
    refuse_contradictions(Flags(**gpu, **alone, **both))
    refuse_contradictions(Flags(transformer_impl="transformer_engine", fewer_passes=["residual"], fp8_extra=()))


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ConfigError.at(Path("model"), "config-absent"), Status.NOT_AGAIN),
        (PeftError("peft-base-changed", found="pissa"), Status.NOT_AGAIN),
        (WorkerKilled("worker-killed"), Status.FAILED),
        (NetworkError("hub-unreachable", name="hub", host="host"), Status.FAILED),
        (RuntimeError("Connection reset by peer"), Status.LOST),
        (RuntimeError("shape"), Status.FAILED),
    ],
)
def test_only_what_may_pass_is_started_again(error: Exception, status: Status) -> None:
    """What a sentence says about a value ends the same at every start; a killed worker or a lost network may not."""
    assert status_of(error) == status


def test_a_killed_rank_is_named() -> None:
    """It could not say anything itself; others only lost their connection to it."""
    killed = ProcessFailure(local_rank=1, pid=1, exitcode=-9, error_file="none")
    echo = ProcessFailure(local_rank=0, pid=2, exitcode=1, error_file="none")
    for killed.timestamp, echo.timestamp in ((100, 101), (101, 100)):  # torchrun looks every tenth of a second
        assert str(describe({4: echo, 5: killed})).startswith("rank 5 was killed by SIGKILL: the kernel does that")
    killed.timestamp, echo.timestamp = 130, 100  # by torchrun, as it did not end
    assert str(describe({4: echo, 5: killed})).startswith("rank 4 failed first")


@pytest.mark.parametrize(
    ("limit", "flags", "file"),
    [
        (30_000, "", "logs/rank_0.log"),
        (500_000, "--background-save", "checkpoints/.incomplete_iter_0000002/__0_0.distcp"),
    ],
)
def test_a_file_that_may_not_grow(tmp_path: Path, data: Path, limit: int, flags: str, file: str) -> None:
    """As on a full disk: which file, and how much it may have; no traceback stands for it."""
    output = tmp_path / "run"
    saving = f"--save {output}/checkpoints --save-interval 2 --train-iters 4 {flags}"
    done = subprocess.run(
        harness.command(output, data, saving), env=harness.environment(), capture_output=True, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)), check=False,
    )  # fmt: skip
    assert done.returncode == 1
    said = f"{output}/{file} cannot be written: File too large; a file may have {limit:,} bytes here (ulimit -f)"
    assert said in done.stderr and "Traceback" not in done.stderr
    assert said in str(read_end(output))
