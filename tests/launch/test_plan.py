"""What a plan says: schedule, start, notes, warnings; and plan.json."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from megatron_patch.common.machine import Gpu
from megatron_patch.common.run_folder import PLAN, write_plan
from megatron_patch.launch import driver
from megatron_patch.launch.argv import megatron_argv
from megatron_patch.launch.command import build_command
from megatron_patch.launch.plan import Plan, content_of, count_iterations
from megatron_patch.launch.render import full_plan


def test_tokens_become_iterations_in_the_open() -> None:
    assert count_iterations(10000, False, 8, 128) == (
        9,
        "10000 tokens / (8 x 128) = 9 iterations, 784 tokens left over",
    )
    assert count_iterations(10240, False, 8, 128)[1] == "10240 tokens / (8 x 128) = 10 iterations"
    assert count_iterations(100, False, 8, 128)[0] == 0
    assert count_iterations(10000, True, 8, 128)[0] == 10000


def says(plan: Plan, *parts: str) -> None:
    """Each part stands in one of the notes."""
    for part in parts:
        assert any(part in note for note in plan.notes), (part, plan.notes)


def test_notes(plan_of: Callable[..., Plan]) -> None:
    says(plan_of(SP="true"), "SP=true does nothing at TP 1", "1 processes = TP x PP x CP")
    says(plan_of(TP="4", MP_NPROC="4"), "TP is larger than the 2 KV heads")
    says(plan_of(PP="3"), "embedding and loss count as one layer each")
    says(plan_of(WARMUP_TOKENS_OR_ITERS="100"), "no warm-up: fewer warm-up tokens than one iteration has")
    says(plan_of(VALID_DATASET_PATH="text"), "the validation data are the training data")
    says(plan_of(VALID_DATASET_PATH="none"), "no validation")
    says(plan_of(MODEL_SIZE="1B"), "the tokenizer has 258 ids, the model 128256 rows")
    says(plan_of(MP_AC_LAYERS="2"), "MP_AC_LAYERS=2 does nothing under AC=false")
    says(plan_of(PR="fp16"), "fp16 has no fast kernels on a CPU")
    says(plan_of(OMP_NUM_THREADS="3"), "OMP_NUM_THREADS=3 is taken from your environment")
    says(plan_of(MP_DEVICE="cuda"), "planned for 8 GPUs a machine that are not here")
    says(plan_of(MP_DEVICE="cuda", PR="bf16", MP_NPROC="8"), "gradients are summed in bf16")
    says(plan_of(MP_DEVICE="cuda", PR="fp8"), "weights travel in bf16, not fp8: DO is false")
    says(plan_of(MP_DEVICE="cuda", PR="bf16", DO="true", OPTIMIZER_OFFLOAD="auto"), "memory is not known here")


def test_checkpoints_that_the_disk_does_not_hold(plan_of: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept, and one that is written before an older one goes."""

    def warning(checkpoints: float, **changes: str) -> str:
        each = plan_of(**changes).checkpoint_bytes
        monkeypatch.setattr("megatron_patch.launch.notes.free_disk", lambda path: int(checkpoints * each))
        return "".join(warning for warning in plan_of(**changes).warnings if "disk" in warning)

    saves = {"SAVE_INTERVAL": "4", "TRAIN_TOKENS_OR_ITERS": str(22 * 8 * 128)}
    assert plan_of(**saves).schedule.saves() == 6
    assert plan_of(**saves).schedule.saves(done=8) == 4
    assert warning(0.5, **saves).startswith("one checkpoint takes")
    assert "6 checkpoints take" in warning(5.5, **saves) and warning(5.5, **saves).endswith("MP_KEEP_CHECKPOINTS=4")
    assert warning(1.5, **saves).endswith("a larger SAVE_INTERVAL (position 19), or another disk")
    assert "3 checkpoints take" in warning(2.5, **saves, MP_KEEP_CHECKPOINTS="2")
    assert warning(3, **saves, MP_KEEP_CHECKPOINTS="2") == warning(6, **saves) == ""
    assert "--keep-checkpoints 2" in " ".join(megatron_argv(plan_of(**saves, MP_KEEP_CHECKPOINTS="2")))


def test_validation(plan_of: Callable[..., Plan]) -> None:
    assert plan_of().schedule.eval_iters == 10
    assert plan_of(VALID_DATASET_PATH="none").schedule.eval_iters == 0
    assert plan_of(VALID_DATASET_PATH="none", MP_SPLIT="9,1").schedule.eval_iters == 10
    assert plan_of(MP_EVAL_ITERS="3", MP_EVAL_INTERVAL="7").schedule.eval_interval == 7


def test_geometry_of_auto_is_the_checkpoints(plan_of: Callable[..., Plan]) -> None:
    plan = plan_of(MODEL_SIZE="auto", PRETRAIN_CHECKPOINT_PATH="hf-1B", MP_TOKENIZER_PATH="")
    named = plan_of(MODEL_SIZE="1B", PRETRAIN_CHECKPOINT_PATH="hf-1B", MP_TOKENIZER_PATH="")
    loose = {"name": "", "source": ""}
    assert dataclasses.replace(plan.model, **loose) == dataclasses.replace(named.model, **loose)
    assert plan.tokenizer.path.endswith("/hf-1B")


def test_vocabulary_of_tiny_is_the_checkpoints_then_the_tokenizers(plan_of: Callable[..., Plan]) -> None:
    assert (plan_of().vocab_size, plan_of().vocab_rows) == (258, 384)
    assert plan_of(PRETRAIN_CHECKPOINT_PATH="hf-tiny").vocab_size == 258
    assert plan_of(MODEL_SIZE="8B").vocab_rows == 128256


def test_where_it_starts(plan_of: Callable[..., Plan], world: Path) -> None:
    assert "--load" not in megatron_argv(plan_of())
    argv = megatron_argv(plan_of(PRETRAIN_CHECKPOINT_PATH="hf-tiny"))
    assert argv[argv.index("--hf-checkpoint") + 1] == str(world / "hf-tiny")
    assert "--load" not in argv
    argv = megatron_argv(plan_of(PRETRAIN_CHECKPOINT_PATH="mcore-tp4-pp2"))
    assert argv[argv.index("--load") + 1] == str(world / "mcore-tp4-pp2")
    assert {"--finetune", "--no-load-optim", "--no-load-rng"} <= set(argv)


def test_numbers_keep_all_digits(plan_of: Callable[..., Plan]) -> None:
    argv = megatron_argv(plan_of(LR="1.23456789e-05", MIN_LR="1.2345678e-7", MP_CLIP_GRAD="0.123456789"))
    for flag, value in (("--lr", 1.23456789e-05), ("--min-lr", 1.2345678e-7), ("--clip-grad", 0.123456789)):
        assert float(argv[argv.index(flag) + 1]) == value


def test_memory_is_compared(
    values: Callable[..., list[str]], surroundings: Callable[..., dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a GPU of 80 GB: 8B on 1 of them does not fit, on 8 with the distributed optimizer it does."""
    gpu = Gpu(name="80 GB", memory_bytes=80_000_000_000, uuid="GPU-1")
    monkeypatch.setattr("megatron_patch.launch.environment.installed_gpus", lambda: (gpu,) * 8)
    long = {"SEQ_LEN": "4096", "PAD_LEN": "4096", "TRAIN_TOKENS_OR_ITERS": "999999"}
    large = values(MODEL_SIZE="8B", PR="bf16", DO="true", **long)

    def plan(nproc: str) -> Plan:
        found, _, problems = driver.make_plan(large, surroundings(MP_DEVICE="auto", MP_NPROC=nproc), dry_run=True)
        assert found is not None, problems
        return found

    one, eight = plan("1"), plan("8")
    assert eight.gpu == gpu
    assert not [warning for warning in eight.warnings if "a rank needs" in warning]
    assert any("cheapest change: OPTIMIZER_OFFLOAD auto" in warning for warning in one.warnings)


def test_offload_auto_moves_what_has_to_move(
    values: Callable[..., list[str]], surroundings: Callable[..., dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = values(MODEL_SIZE="8B", PR="bf16", DO="true", OPTIMIZER_OFFLOAD="auto")
    fractions = []
    for size in (200, 120, 70, 40):
        gpu = Gpu(name="some", memory_bytes=size * 10**9, uuid="GPU-1")
        monkeypatch.setattr("megatron_patch.launch.environment.installed_gpus", lambda gpu=gpu: (gpu,))
        plan, _, problems = driver.make_plan(typed, surroundings(MP_DEVICE="auto"), dry_run=True)
        assert plan is not None, problems
        fractions.append(plan.offload_fraction)
        assert plan.memory.host_optimizer == pytest.approx(plan.offload_fraction * 12 * 8.03e9, rel=0.01)
        assert ("--optimizer-cpu-offload" in megatron_argv(plan)) == (plan.offload_fraction > 0)
    assert fractions[0] == 0.0
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0


def test_plan_json_is_json_and_complete(plan_of: Callable[..., Plan], tmp_path: Path) -> None:
    plan = plan_of(TP="2", SP="true", DO="true")
    write_plan(tmp_path, content_of(plan))
    content = json.loads((tmp_path / PLAN).read_text())
    assert content["values"]["TP"] == 2
    assert content["values"]["MP_SEED"] == 1234
    assert content["values"]["DATASET_PATH"].startswith("/")
    assert content["model"]["num_layers"] == 4
    assert content["vocab_rows"] == 384
    assert content["layout"]["tp"] == 2
    assert content["schedule"]["train_iters"] == 10
    assert content["memory"]["weights"] > 0
    assert content["resume_iteration"] is None


def test_the_plan_as_text(
    values: Callable[..., list[str]], surroundings: Callable[..., dict[str, str]], world: Path
) -> None:
    environ = surroundings(DRY_RUN="1", MP_NPROC="4")
    plan, environment, _ = driver.make_plan(values(TP="2", DO="true", MIN_LR="1e-5"), environ, dry_run=False)
    assert plan is not None
    text = full_plan(plan, build_command(plan, environment))
    for part in (
        "tiny: 3.1 M parameters, 4 layers, hidden 256, FFN 768, 8 heads (2 KV), vocabulary 258 padded to 384",
        "4 processes = TP 2 x PP 1 x CP 1 x DP 2, distributed optimizer",
        "DP 2: ranks 0, 2 see different sequences",
        "10240 tokens / (8 x 128) = 10 iterations",
        "0 to 0.001 over the warm-up, then a cosine to 1e-05 at iteration 10",
        "4 micro batches of 1 on each of 2 data-parallel ranks",
        "(2000 tokens, read 5.12 times)",
        f"validation: {world}/valid",
        "tokenizer (258 ids)",
        "weights ",
        "optimizer ",
        "activations ",
        "checkpoints/: 1 of about",
        "megatron_patch.torchrun",
    ):
        assert part in text, part


def test_the_same_facts_make_the_same_plan(plan_of: Callable[..., Plan]) -> None:
    first, second = plan_of(CP="2"), plan_of(CP="2")
    assert megatron_argv(first) == megatron_argv(second)


def test_a_blend_without_weights_is_weighted_by_its_tokens(plan_of: Callable[..., Plan], world: Path) -> None:
    """Megatron reads one without weights once, and ends with StopIteration where more is wanted."""
    argv = megatron_argv(plan_of(DATASET_PATH="text more", VALID_DATASET_PATH="valid"))
    at = argv.index("--train-data-path")
    assert argv[at + 1 : at + 5] == ["2000.0", str(world / "text"), "2000.0", str(world / "more")]
    assert argv[argv.index("--valid-data-path") + 1] == str(world / "valid")
