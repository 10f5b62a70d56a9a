"""What a plan says: schedule, start, notes, warnings; and plan.json."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from megatron_patch.common.machine import Gpu
from megatron_patch.common.messages import Message
from megatron_patch.common.terminal import width_of
from megatron_patch.data.jsonl import DataError
from megatron_patch.data.sources import find_sources
from megatron_patch.launch import driver
from megatron_patch.launch.argv import megatron_argv
from megatron_patch.launch.build_plan import validation
from megatron_patch.launch.command import build_command
from megatron_patch.launch.plan import Plan, content_of
from megatron_patch.launch.problems import driver_wording
from megatron_patch.launch.render import _training_data, full_plan, short_plan, wrap
from megatron_patch.launch.schedule import constant, count_iterations
from megatron_patch.runs.folder import PLAN, write_plan


def test_tokens_become_iterations_in_the_open() -> None:
    count, arithmetic = count_iterations(10000, False, constant(8), 128)
    assert (count, str(arithmetic)) == (9, "10000 tokens / (8 x 128) = 9 iterations, 784 tokens left over")
    assert str(count_iterations(10240, False, constant(8), 128)[1]) == "10240 tokens / (8 x 128) = 10 iterations"
    assert count_iterations(100, False, constant(8), 128)[0] == 0
    assert count_iterations(10000, True, constant(8), 128)[0] == 10000


def says(plan: Plan, code: str, **values: object) -> None:
    """One of the notes is this one."""
    assert Message(code, **values) in plan.notes, plan.notes


def test_each_thing_to_know_is_a_note(plan_of: Callable[..., Plan]) -> None:
    says(plan_of(SP="true"), "sp-alone")
    says(plan_of(), "processes-of-layout", processes=1)
    says(plan_of(TP="4", MP_NPROC="4"), "kv-heads-shared", groups=2)
    says(plan_of(PP="3"), "ends-count")
    says(plan_of(WARMUP_TOKENS_OR_ITERS="100"), "no-warmup")
    says(plan_of(VALID_DATASET_PATH="text"), "validates-on-training")
    says(plan_of(VALID_DATASET_PATH="none"), "no-validation")
    text, valid = os.path.abspath("text"), os.path.abspath("valid")  # noqa: PTH100
    says(plan_of(VALID_DATASET_PATH="text valid"), "validates-partly", paths=[text], count=1)
    says(plan_of(DATASET_PATH="0.5 valid 0.5 text 2 valid"), "data-twice", paths=[valid], count=1)
    says(plan_of(MP_SPLIT="12,6,2", VALID_DATASET_PATH="none"), "split-test", percent=10.0)
    says(plan_of(MP_LR_DECAY_STYLE="WSD"), "wsd-unseen", last=10)
    assert "wsd-unseen" not in {note.code for note in plan_of(MP_LR_DECAY_STYLE="WSD", MP_LR_WSD_DECAY_ITERS="2").notes}
    says(plan_of(MODEL_SIZE="1B"), "rows-unused", ids=258, rows=128256)
    under = Message("setting", name="AC", value="false")
    says(plan_of(MP_AC_LAYERS="2"), "idle-under", name="MP_AC_LAYERS", value="2", under=under)
    says(plan_of(PR="fp16"), "fp16-slow")
    says(plan_of(OMP_NUM_THREADS="3"), "yours", name="OMP_NUM_THREADS", value="3")
    says(plan_of(MP_DEVICE="cuda"), "gpus-not-here", processes=8)
    says(plan_of(MP_DEVICE="cuda", PR="bf16", MP_NPROC="8"), "gradients-bf16", micro_batches=1)
    says(plan_of(MP_DEVICE="cuda", PR="fp8"), "fp8-travel-do")
    says(plan_of(MP_DEVICE="cuda", PR="bf16", DO="true", OPTIMIZER_OFFLOAD="auto"), "offload-unknown")


def test_each_part_of_a_blend_has_its_share_and_its_epochs(plan_of: Callable[..., Plan]) -> None:
    """Weights need not sum to 1; MP_SPLIT leaves less for training, so that it is read more often."""

    def lines(**changes: str) -> list[Message]:
        return list(_training_data(plan_of(**changes)))

    first, second = lines(DATASET_PATH="1 text 3 more")
    assert (first.values["share"], second.values["share"]) == (25, 75)
    assert first.values["times"] == 10240 / 4 / 2000 and second.values["times"] == 3 * 10240 / 4 / 2000
    assert lines(VALID_DATASET_PATH="none", MP_SPLIT="1,1")[0].values["times"] == 10240 / 1000
    assert lines(DATASET_PATH="text more")[0].values["times"] == 10240 / 4000
    many = lines(DATASET_PATH=" ".join(f"{weight} text" for weight in range(1, 26)))
    assert [line.code for line in many] == ["data-part"] * 20 + ["data-parts-more"]
    assert many[-1].values["count"] == 5


def test_hidden_data_of_a_folder_are_named(plan_of: Callable[..., Plan], tmp_path: Path, world: Path) -> None:
    """A folder stands for the idxmaps in it; `.ipynb_checkpoints` and its like hold copies of them."""
    for name in ("a", ".b", ".hidden/c"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        for suffix in (".bin", ".idx"):
            shutil.copy(world / f"text{suffix}", tmp_path / f"{name}{suffix}")
    (tmp_path / "README.md").touch()
    folder = str(tmp_path)
    plan = plan_of(DATASET_PATH=folder, VALID_DATASET_PATH=folder)
    assert [corpus.path for corpus in plan.train_data] == [f"{folder}/a"]
    says(plan, "left-out-hidden", folder=folder, files=2, names=[".b.idx", ".hidden/c.idx"])
    assert len([note for note in plan.notes if note.code.startswith("left-out")]) == 1
    assert not [note for note in plan_of(DATASET_PATH=f"{folder}/a").notes if note.code.startswith("left-out")]


def test_the_folder_of_a_run_among_conversations_is_not_read(
    world: Path, tmp_path: Path, plan_of: Callable[..., Plan]
) -> None:
    """OUTPUT_BASEPATH below DATASET_PATH: plan, metrics and reports of the run are JSON, and were rows from then on."""
    shutil.copy(world / "chat.json", tmp_path)
    (tmp_path / "out" / "data").mkdir(parents=True)
    for name in ("plan.json", "metrics.jsonl", "command.txt", "data/training_0.json"):
        (tmp_path / "out" / name).write_text("{}")
    chats = {"SFT": "true", "MP_DATASET_TYPE": "raw", "VALID_DATASET_PATH": "none", "DATASET_PATH": str(tmp_path)}
    plan = plan_of(**chats, TRAIN_TOKENS_OR_ITERS="10", WARMUP_TOKENS_OR_ITERS="2")
    assert find_sources([tmp_path]) == [tmp_path / "chat.json"]
    says(plan, "left-out-runs", folder=str(tmp_path), files=1, names=["out"])
    assert len([note for note in plan.notes if note.code.startswith("left-out")]) == 1
    with pytest.raises(DataError, match="output folder of a run"):
        find_sources([tmp_path / "out"])


def test_what_an_idxmap_has_decided_is_told(plan_of: Callable[..., Plan]) -> None:
    """MP_SFT_LOSS=last over an idxmap trained all turns, and nobody said so."""
    asked = {
        "MP_SFT_LOSS": "last", "MP_SFT_OVERLONG": "drop", "MP_SFT_DROPPED": "keep", "MP_SFT_TURNS": "one-by-one"
    }  # fmt: skip
    chats = {"SFT": "true", "TRAIN_TOKENS_OR_ITERS": "10", "WARMUP_TOKENS_OR_ITERS": "2", "VALID_DATASET_PATH": "none"}

    def idle(**changes: str) -> dict[str, str]:
        notes = [note for note in plan_of(**asked, **changes).notes if note.code == "idle-under"]
        return {str(note.values["name"]): str(note.values["under"]) for note in notes}

    told = idle(**chats, DATASET_PATH="sft-128")
    assert set(told) == set(asked) and set(told.values()) == {"MP_DATASET_TYPE=idxmap"}
    assert idle(**chats, DATASET_PATH="chat.json", MP_DATASET_TYPE="raw") == {}
    assert set(idle().values()) == {"SFT=false"}


def test_data_that_are_the_same_files_are_told(world: Path, tmp_path: Path, plan_of: Callable[..., Plan]) -> None:
    """Validation data in the folder of the training data, behind a link, or by another spelling of the path."""
    for name in ("a.json", "valid.json"):
        (tmp_path / "in").mkdir(exist_ok=True)
        shutil.copy(world / "chat.json", tmp_path / "in" / name)
    (tmp_path / "link.json").symlink_to(tmp_path / "in" / "valid.json")
    chats = {"SFT": "true", "MP_DATASET_TYPE": "raw", "TRAIN_TOKENS_OR_ITERS": "10", "WARMUP_TOKENS_OR_ITERS": "2"}
    folder, valid = str(tmp_path / "in"), str(tmp_path / "in" / "valid.json")
    for path in (valid, f"{folder}/../in/valid.json", str(tmp_path / "link.json")):
        plan = plan_of(**chats, DATASET_PATH=folder, VALID_DATASET_PATH=path)
        says(plan, "validates-partly", paths=[valid], count=1)
        plan = plan_of(**chats, DATASET_PATH=f"{folder} {path}", VALID_DATASET_PATH="none")
        says(plan, "data-twice", paths=[valid], count=1)
        says(plan_of(**chats, DATASET_PATH=valid, VALID_DATASET_PATH=path), "validates-on-training")
    plan = plan_of(**chats, DATASET_PATH=f"{folder}/a.json", VALID_DATASET_PATH=valid)
    assert not {note.code for note in plan.notes} & {"validates-partly", "validates-on-training", "data-twice"}


def test_notes_in_words(plan_of: Callable[..., Plan]) -> None:
    """Names and numbers as a person types them; `1 process`, `2 processes`."""
    said = [str(note) for note in plan_of(SP="true", MP_AC_LAYERS="2").notes]
    assert "1 process = TP x PP x CP; MP_NPROC sets another number" in said
    assert "MP_AC_LAYERS=2 does nothing under AC=false" in said
    assert "SP=true does nothing at TP 1: there is no second rank to split the sequence with" in said


def test_checkpoints_that_the_disk_does_not_hold(plan_of: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept, and one that is written before an older one goes."""

    def warning(checkpoints: float, **changes: str) -> tuple[object, ...]:
        each = plan_of(**changes).checkpoint_bytes
        monkeypatch.setattr("megatron_patch.launch.notes.free_disk", lambda path: int(checkpoints * each))
        found = [one for one in plan_of(**changes).warnings if one.code.startswith("disk")]
        return tuple((one.code, one.values.get("count"), one.values.get("change")) for one in found)

    saves = {"SAVE_INTERVAL": "4", "TRAIN_TOKENS_OR_ITERS": str(22 * 8 * 128)}
    assert plan_of(**saves).schedule.saves() == 6
    assert plan_of(**saves).schedule.saves(done=8) == 4
    assert warning(0.5, **saves) == (("disk-one", None, None),)
    assert warning(5.5, **saves) == (("disk-several", 6, Message("disk-keep", fits=4)),)
    assert warning(1.5, **saves) == (("disk-several", 6, Message("disk-interval")),)
    assert warning(2.5, **saves, MP_KEEP_CHECKPOINTS="2")[0][:2] == ("disk-several", 3)
    assert warning(3, **saves, MP_KEEP_CHECKPOINTS="2") == warning(6, **saves) == ()
    assert "--keep-checkpoints 2" in " ".join(megatron_argv(plan_of(**saves, MP_KEEP_CHECKPOINTS="2")))


def test_validation_takes_a_tenth_unless_asked_otherwise(plan_of: Callable[..., Plan]) -> None:
    assert (plan_of().schedule.eval_interval, plan_of().schedule.eval_iters) == (4, 1)
    assert plan_of(VALID_DATASET_PATH="none").schedule.eval_iters == 0
    assert plan_of(VALID_DATASET_PATH="none", MP_SPLIT="9,1").schedule.eval_iters == 1
    assert plan_of(MP_EVAL_ITERS="3", MP_EVAL_INTERVAL="7").schedule.eval_interval == 7


def test_architecture_of_auto_is_the_checkpoints(plan_of: Callable[..., Plan]) -> None:
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
    monkeypatch.setattr("megatron_patch.launch.environment.total_memory", lambda: 2 * 10**12)
    monkeypatch.setattr("megatron_patch.launch.environment.installed_gpus", lambda: (gpu,) * 8)
    long = {"SEQ_LEN": "4096", "PAD_LEN": "4096", "TRAIN_TOKENS_OR_ITERS": "999999"}
    large = values(MODEL_SIZE="8B", PR="bf16", DO="true", **long)

    def plan(nproc: str) -> Plan:
        found, _, problems = driver.make_plan(large, surroundings(MP_DEVICE="auto", MP_NPROC=nproc), dry_run=True)
        assert found is not None, problems
        return found

    one, eight = plan("1"), plan("8")
    assert eight.gpu == gpu
    assert not [warning for warning in eight.warnings if warning.code == "memory-warning-gpu"]
    (warning,) = [warning for warning in one.warnings if warning.code == "memory-warning-gpu"]
    assert "OPTIMIZER_OFFLOAD=auto (position 18)" in driver_wording().text(warning)


@pytest.mark.parametrize(
    "asked", [{"NVTE_ALLOW_NONDETERMINISTIC_ALGO": "0"}, {"MP_MEGATRON_ARGS": "--deterministic-mode"}]
)
def test_memory_of_a_deterministic_run(
    values: Callable[..., list[str]],
    surroundings: Callable[..., dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
    asked: dict[str, str],
) -> None:
    gpu = Gpu(name="141 GB", memory_bytes=141_000_000_000, uuid="GPU-1")
    monkeypatch.setattr("megatron_patch.launch.environment.installed_gpus", lambda: (gpu,))
    long = {"SEQ_LEN": "8192", "PAD_LEN": "8192", "TRAIN_TOKENS_OR_ITERS": "999999"}
    typed = values(MODEL_SIZE="8B", PR="bf16", DO="true", **long)

    def plan(**environ: str) -> Plan:
        found, _, problems = driver.make_plan(typed, surroundings(MP_DEVICE="auto", **environ), dry_run=True)
        assert found is not None, problems
        return found

    plain, one_order = plan(NVTE_ALLOW_NONDETERMINISTIC_ALGO="1"), plan(**asked)
    assert not plain.deterministic and one_order.deterministic
    assert one_order.memory.total > plain.memory.total + 1e9


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
        assert plan.memory.host_optimizer == pytest.approx(plan.offload_fraction * 12 * 8.03e9, rel=0.03)
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
    text = full_plan(plan, build_command(plan, environment), driver_wording())
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


def test_the_plan_in_chinese(
    values: Callable[..., list[str]], surroundings: Callable[..., dict[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    """The same lines; what stands in English are names, figures and the command."""
    environ = surroundings(DRY_RUN="1", MP_LANG="zh", MP_NPROC="4")
    assert driver.main(values(TP="2", SP="true", DO="true"), environ) == 0
    said = capsys.readouterr().out.split("\n命令\n")[0]
    assert "进程        4 个进程 = TP 2 x PP 1 x CP 1 x DP 2，序列并行，分布式优化器" in said
    assert "训练        10240 个词元 / (8 x 128) = 10 次迭代" in said
    assert not [line for line in said.splitlines() if line and line.isascii() and "/" not in line]
    assert all(width_of(line) <= 118 for line in said.splitlines() if line.startswith("提示"))


def test_plan_json_is_in_english(plan_of: Callable[..., Plan]) -> None:
    plan = plan_of(MP_LANG="zh")
    content = json.loads(json.dumps(content_of(plan)))
    assert content["notes"] == [driver_wording().text(note) for note in plan.notes]
    assert content["schedule"]["arithmetic"][0] == "10240 tokens / (8 x 128) = 10 iterations"
    assert "MP_LANG" not in content["values"]
    assert "随机权重" in short_plan(plan, driver_wording("zh"))


def test_chinese_is_wrapped_by_columns() -> None:
    lines = wrap("提示        " + "词元数，" * 30, 40, " " * 12).splitlines()
    assert max(map(width_of, lines)) <= 42  # a comma may hang over
    assert not [line for line in lines if line.strip().startswith("，")]
    assert "".join(line.strip() for line in lines) == "提示        " + "词元数，" * 30


def test_the_same_facts_make_the_same_plan(plan_of: Callable[..., Plan]) -> None:
    first, second = plan_of(CP="2"), plan_of(CP="2")
    assert megatron_argv(first) == megatron_argv(second)


def test_a_blend_without_weights_is_weighted_by_its_tokens(plan_of: Callable[..., Plan], world: Path) -> None:
    """Megatron reads one without weights once, and ends with StopIteration where more is wanted."""
    argv = megatron_argv(plan_of(DATASET_PATH="text more", VALID_DATASET_PATH="valid"))
    at = argv.index("--train-data-path")
    assert argv[at + 1 : at + 5] == ["2000.0", str(world / "text"), "2000.0", str(world / "more")]
    assert argv[argv.index("--valid-data-path") + 1] == str(world / "valid")


@pytest.mark.parametrize("train", [4, 9, 10, 33, 100, 1000, 20_000])
@pytest.mark.parametrize(("interval", "iterations"), [(None, None), (None, 10), (None, 3), (50, None), (4, None)])
def test_validation_takes_a_tenth_of_the_time(train: int, interval: int | None, iterations: int | None) -> None:
    """A validation iteration takes a third of a training iteration; the one after the last is not counted."""
    every, each = validation(train, interval, iterations)
    assert (interval or every, iterations or each) == (every, each) and each >= 1
    assert train // every * each / 3 <= 0.1 * train


def test_both_asked_for_are_taken() -> None:
    assert validation(9, 1, 10) == (1, 10)
    assert validation(10_000, None, None) == (1000, 10)


def test_a_corpus_that_is_read_very_often(
    values: Callable[..., list[str]], surroundings: Callable[..., dict[str, str]]
) -> None:
    """1e12 tokens of 2,000: their order alone takes more RAM than there is."""
    plan, _, problems = driver.make_plan(values(TRAIN_TOKENS_OR_ITERS=f"{10**15}"), surroundings(), dry_run=True)
    assert plan is None
    (problem,) = problems
    assert (problem.code, problem.names) == ("index-memory", ("TRAIN_TOKENS_OR_ITERS", "DATASET_PATH"))
    most = int(float(str(problem.message.values["most"])) * 0.9)
    plan, _, problems = driver.make_plan(values(TRAIN_TOKENS_OR_ITERS=f"{most}"), surroundings(), dry_run=True)
    assert plan is not None, problems


def test_the_plan_predicts_a_step(
    values: Callable[..., list[str]], surroundings: Callable[..., dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU with a row of rates, and not on another."""
    large = {"MODEL_SIZE": "8B", "PR": "bf16", "SEQ_LEN": "8192", "PAD_LEN": "8192", "DO": "true"}
    typed = values(**large, TRAIN_TOKENS_OR_ITERS=str(100 * 8 * 8192), WARMUP_TOKENS_OR_ITERS="0")
    environ = surroundings(MP_DEVICE="auto", MP_TOKENIZER_PATH="hf-8B", DRY_RUN="1")
    shown = {}
    for name in ("NVIDIA H200", "NVIDIA L40S"):
        gpu = Gpu(name=name, memory_bytes=150 * 10**9, uuid="GPU-1")
        monkeypatch.setattr("megatron_patch.launch.environment.installed_gpus", lambda gpu=gpu: (gpu,))
        plan, environment, problems = driver.make_plan(typed, environ, dry_run=False)
        assert plan is not None, problems
        shown[name] = full_plan(plan, build_command(plan, environment), driver_wording())
    assert re.search(r"time +about [56]\.\d+ s a step by prediction: 1\d,\d{3} tokens/s per GPU", shown["NVIDIA H200"])
    assert "by prediction" not in shown["NVIDIA L40S"]
