"""Command lines that are wrong: each ends with 2, names what is wrong, and starts nothing."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from megatron_patch.launch.config import POSITIONS
from megatron_patch.launch.driver import main
from megatron_patch.launch.problems import NUMBERS

POSITION_NAMES = {position.name for position in POSITIONS}

CUDA = {"MP_DEVICE": "cuda", "DRY_RUN": "1"}
SEED = "dsw 8B 1 8 1e-5 1e-6 128 128 bf16 4 2 1 true true true false false false 100000 A B C 10000 100 out"
DLC = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500", "MP_NPROC": "1"}

BAD: list[tuple[dict[str, str | None], tuple[str, ...], str]] = [
    # one value: what was typed, the positions and variables that the error names, a part of the message
    ({"ENV": "local"}, ("ENV",), "valid: dsw, dlc"),
    ({"MODEL_SIZE": "8b"}, ("MODEL_SIZE",), "nearest: 8B"),
    ({"MODEL_SIZE": "13B"}, ("MODEL_SIZE",), "valid: tiny, 1B, 3B, 8B, 70B, 405B, auto"),
    ({"BATCH_SIZE": "0"}, ("BATCH_SIZE",), "out of range"),
    ({"BATCH_SIZE": "one"}, ("BATCH_SIZE",), "not a whole number"),
    ({"GLOBAL_BATCH_SIZE": "8.0"}, ("GLOBAL_BATCH_SIZE",), "not a whole number"),
    ({"GLOBAL_BATCH_SIZE": "-8"}, ("GLOBAL_BATCH_SIZE",), "out of range"),
    ({"LR": "0"}, ("LR",), "valid: number > 0"),
    ({"LR": "nan"}, ("LR",), "not a number"),
    ({"LR": "1e999"}, ("LR",), "not finite"),
    ({"MIN_LR": "-1e-5"}, ("MIN_LR",), "out of range"),
    ({"MIN_LR": "inf"}, ("MIN_LR",), "not a number"),
    ({"SEQ_LEN": "1k"}, ("SEQ_LEN",), "not a whole number"),
    ({"PAD_LEN": ""}, ("PAD_LEN",), 'is ""'),
    ({"PR": "float16"}, ("PR",), "valid: fp32, bf16, fp16, fp8"),
    ({"PR": "BF16"}, ("PR",), "nearest: bf16"),
    ({"TP": "three"}, ("TP",), 'position 10 TP: not a whole number: is "three"; valid: whole number >= 1'),
    ({"PP": "0"}, ("PP",), "out of range"),
    ({"CP": "1_0"}, ("CP",), "not a whole number"),
    ({"SP": "yes"}, ("SP",), "neither true nor false"),
    ({"DO": "1"}, ("DO",), "neither true nor false"),
    ({"FL": "flash"}, ("FL",), "valid: true, false"),
    ({"SFT": "finetune"}, ("SFT",), "neither true nor false"),
    ({"AC": "selective"}, ("AC",), "valid: sel, full, offload, false, none"),
    ({"OPTIMIZER_OFFLOAD": "true"}, ("OPTIMIZER_OFFLOAD",), "valid: false, static, auto"),
    ({"SAVE_INTERVAL": "0"}, ("SAVE_INTERVAL",), "out of range"),
    ({"TRAIN_TOKENS_OR_ITERS": "1e6"}, ("TRAIN_TOKENS_OR_ITERS",), "not a whole number"),
    ({"WARMUP_TOKENS_OR_ITERS": "-1"}, ("WARMUP_TOKENS_OR_ITERS",), "out of range"),
    # paths
    ({"DATASET_PATH": "absent"}, ("DATASET_PATH",), "no such file: absent.bin, absent.idx"),
    ({"DATASET_PATH": "text.bin"}, ("DATASET_PATH",), "give the prefix, without .bin"),
    ({"DATASET_PATH": "0.3 text 0.7"}, ("DATASET_PATH",), "weight, path, weight, path"),
    ({"DATASET_PATH": "0.3 text valid more"}, ("DATASET_PATH",), "weight, path, weight, path"),
    ({"DATASET_PATH": "0.3 text -1 valid"}, ("DATASET_PATH",), "weight, path, weight, path"),
    ({"DATASET_PATH": "text absent"}, ("DATASET_PATH",), "absent.bin"),
    ({"DATASET_PATH": "$(touch pwned2)"}, ("DATASET_PATH",), "no such file"),
    ({"DATASET_PATH": "   "}, ("DATASET_PATH",), "empty"),
    ({"VALID_DATASET_PATH": "absent"}, ("VALID_DATASET_PATH",), "or none"),
    ({"PRETRAIN_CHECKPOINT_PATH": "absent"}, ("PRETRAIN_CHECKPOINT_PATH",), "no such folder"),
    ({"PRETRAIN_CHECKPOINT_PATH": "chat.json"}, ("PRETRAIN_CHECKPOINT_PATH",), "a file, not a folder"),
    ({"PRETRAIN_CHECKPOINT_PATH": "tokenizer"}, ("PRETRAIN_CHECKPOINT_PATH",), "it holds tokenizer.json"),
    ({"OUTPUT_BASEPATH": "chat.json"}, ("OUTPUT_BASEPATH",), "is not a folder"),
    ({"OUTPUT_BASEPATH": "chat.json/out"}, ("OUTPUT_BASEPATH",), "is not a folder"),
    # several values
    ({"GLOBAL_BATCH_SIZE": "7", "BATCH_SIZE": "2"}, ("GLOBAL_BATCH_SIZE", "BATCH_SIZE"), "valid: a multiple of 2"),
    ({"MIN_LR": "1e-2"}, ("MIN_LR", "LR"), "the end is above the peak"),
    ({"PAD_LEN": "256"}, ("PAD_LEN", "SEQ_LEN"), "valid: PAD_LEN 128"),
    ({"SEQ_LEN": "262144", "PAD_LEN": "262144"}, ("SEQ_LEN", "MODEL_SIZE"), "131072 tokens at most"),
    ({"TP": "3"}, ("TP", "MODEL_SIZE"), "valid: TP 1, 2, 4, 8"),
    ({"MODEL_SIZE": "8B", "TP": "64"}, ("TP", "MODEL_SIZE"), "32 attention heads"),
    ({"MODEL_SIZE": "3B", "TP": "3"}, ("TP", "MODEL_SIZE"), "8 KV heads"),
    ({"PP": "5"}, ("PP", "MODEL_SIZE"), "valid: PP 1, 2, 3, 4"),
    ({"MODEL_SIZE": "405B", "PP": "5"}, ("PP", "MODEL_SIZE"), "neither 126 layers nor 128"),
    ({"MP_VP": "2"}, ("MP_VP", "PP"), "chunks need a pipeline"),
    ({"MP_VP_CHUNKS": "2"}, ("MP_VP_CHUNKS", "PP"), "chunks need a pipeline"),
    (
        {"MP_VP": "3", "PP": "2"},
        ("MP_VP", "PP", "MODEL_SIZE"),
        "a stage of 2 layers is not a whole number of chunks of 3",
    ),
    ({"MP_VP_CHUNKS": "5", "PP": "2"}, ("MP_VP_CHUNKS", "PP", "MODEL_SIZE"), "does not divide into 5 chunks"),
    ({"MP_VP": "1", "MP_VP_CHUNKS": "1", "PP": "2"}, ("MP_VP", "MP_VP_CHUNKS"), "makes 2 chunks a stage"),
    ({"MP_VP": "1", "PP": "2", "GLOBAL_BATCH_SIZE": "3"}, ("MP_VP", "GLOBAL_BATCH_SIZE", "PP"), "here 3"),
    ({"CP": "2", "SEQ_LEN": "130", "PAD_LEN": "130"}, ("SEQ_LEN", "CP"), "valid: a multiple of 4"),
    ({"TP": "4", "SP": "true", "SEQ_LEN": "130", "PAD_LEN": "130"}, ("SEQ_LEN", "CP", "TP", "SP"), "SP false"),
    ({"MP_NPROC": "3", "TP": "2"}, ("TP", "PP", "CP"), "does not divide the 3 processes"),
    ({**CUDA, "TP": "8", "PP": "2"}, ("TP", "PP", "CP"), "= 16 does not divide the 8 GPUs"),
    (
        {"TRAIN_TOKENS_OR_ITERS": "1023"},
        ("TRAIN_TOKENS_OR_ITERS", "GLOBAL_BATCH_SIZE", "SEQ_LEN"),
        "1023 tokens / (8 x 128) = 0 iterations",
    ),
    ({"WARMUP_TOKENS_OR_ITERS": "10240"}, ("WARMUP_TOKENS_OR_ITERS", "TRAIN_TOKENS_OR_ITERS"), "fewer than 10"),
    ({"SFT": "true", "WARMUP_TOKENS_OR_ITERS": "10240"}, ("WARMUP_TOKENS_OR_ITERS",), "the value counts iterations"),
    ({"AC": "offload"}, ("AC",), "needs Transformer Engine"),
    ({"AC": "full", "MP_AC_LAYERS": "5"}, ("MP_AC_LAYERS", "AC", "MODEL_SIZE"), "valid: 1 to 4"),
    ({**CUDA, "AC": "offload", "MP_AC_LAYERS": "4"}, ("MP_AC_LAYERS",), "valid: 1 to 3"),
    ({**CUDA, "OPTIMIZER_OFFLOAD": "static"}, ("OPTIMIZER_OFFLOAD", "DO"), "only the distributed optimizer"),
    ({"OPTIMIZER_OFFLOAD": "auto", "DO": "true"}, ("OPTIMIZER_OFFLOAD",), "already on the CPU"),
    ({"PR": "fp8"}, ("PR",), "needs a GPU with FP8 units"),
    ({**CUDA, "PR": "fp32", "CP": "2"}, ("PR", "CP"), "no attention in fp32 over context-parallel ranks"),
    ({**CUDA, "PR": "fp8", "SEQ_LEN": "24", "PAD_LEN": "24"}, ("SEQ_LEN", "PR"), "multiple of 16"),
    ({"MODEL_SIZE": "auto"}, ("MODEL_SIZE", "PRETRAIN_CHECKPOINT_PATH"), "auto needs a config.json"),
    (
        {"MODEL_SIZE": "8B", "PRETRAIN_CHECKPOINT_PATH": "hf-1B"},
        ("MODEL_SIZE", "PRETRAIN_CHECKPOINT_PATH"),
        "config.json: num_layers is 16, but MODEL_SIZE 8B has 32",
    ),
    ({"SFT": "true"}, ("DATASET_PATH", "SEQ_LEN"), "not 128"),
    ({"SFT": "true", "MP_SPLIT": "9,1", "VALID_DATASET_PATH": "none"}, ("MP_SPLIT", "SFT"), "no splitting"),
    ({"SFT": "true", "MP_SFT_LOSS": "user"}, ("MP_SFT_LOSS",), "unknown value"),
    ({"MODEL_SIZE": "405B"}, ("MODEL_SIZE",), "of RAM for it"),
    # variables
    ({"MP_VPP": "2"}, ("MP_VPP",), "unknown variable; nearest: MP_VP"),
    ({"MP_DATASET_TYPE": "json"}, ("MP_DATASET_TYPE",), "valid: idxmap, raw"),
    ({"MP_DATASET_TYPE": "raw", "DATASET_PATH": "chat.json"}, ("MP_DATASET_TYPE", "SFT"), "raw JSON"),
    ({"MP_SFT_PACKING": "true"}, ("MP_SFT_PACKING", "SFT"), "packing is for SFT"),
    ({"MP_TOKENIZER_PATH": None}, ("MP_TOKENIZER_PATH",), "the tokenizer has to be named"),
    ({"MP_TOKENIZER_PATH": "absent"}, ("MP_TOKENIZER_PATH",), "is not a folder"),
    ({"MP_TOKENIZER_PATH": "released"}, ("MP_TOKENIZER_PATH",), "holds no tokenizer.json"),
    ({"MP_NPROC": "0"}, ("MP_NPROC",), "out of range"),
    ({"MP_DEVICE": "gpu"}, ("MP_DEVICE",), "valid: auto, cpu, cuda"),
    ({"MP_MASTER_PORT": "70000"}, ("MP_MASTER_PORT",), "from 1 to 65535"),
    ({"MP_SPLIT": "99,1"}, ("MP_SPLIT", "VALID_DATASET_PATH"), "both say where"),
    ({"MP_SPLIT": "all", "VALID_DATASET_PATH": "none"}, ("MP_SPLIT",), "such as 99,1"),
    (
        {"MP_SPLIT": "998,1,1", "VALID_DATASET_PATH": "none"},
        ("MP_SPLIT", "DATASET_PATH"),
        "a share of 1 of the 20 documents in",
    ),
    ({"MP_ATTENTION_BACKEND": "fused"}, ("MP_ATTENTION_BACKEND",), "cuDNN needs a GPU"),
    ({"MP_TP_OVERLAP": "ring"}, ("MP_TP_OVERLAP",), "on GPUs"),
    ({"MP_TP_OVERLAP": "ring", "TP": "2", "PR": "bf16", **CUDA}, ("MP_TP_OVERLAP", "TP", "SP"), "sequence parallelism"),
    ({"MP_TP_OVERLAP": "ring", "TP": "2", "SP": "true", **CUDA}, ("MP_TP_OVERLAP", "PR"), "for bf16"),
    ({"MP_TP_OVERLAP": "nvls"}, ("MP_TP_OVERLAP",), "valid: auto, none, pipeline, ring, ring-all"),
    ({"MP_GRAD_REDUCE": "bf16"}, ("MP_GRAD_REDUCE", "PR"), "bf16 sums need"),
    ({"MP_WANDB_PROJECT": "mine"}, ("MP_WANDB_PROJECT",), "no key"),
    ({"MP_MEGATRON_ARGS": "--lr=1 --use-flash-attn"}, ("MP_MEGATRON_ARGS",), "--lr: decided by"),
    ({"MP_MEGATRON_ARGS": "--x 'open"}, ("MP_MEGATRON_ARGS",), "cannot be split"),
    ({"DRY_RUN": "maybe"}, ("DRY_RUN",), "valid: 0, 1"),
    # several machines
    ({**DLC, "ENV": "dlc", "WORLD_SIZE": None}, ("WORLD_SIZE",), "ENV=dlc needs it"),
    ({**DLC, "ENV": "dlc", "RANK": "x"}, ("RANK",), "not a whole number"),
    ({**DLC, "ENV": "dlc", "RANK": "2"}, ("RANK", "WORLD_SIZE"), "valid: 0 to 1"),
    ({**DLC, "ENV": "dlc", "MASTER_ADDR": None}, ("MASTER_ADDR",), "ENV=dlc needs it"),
    ({**DLC, "ENV": "dlc", "MASTER_PORT": "0"}, ("MASTER_PORT",), "from 1 to 65535"),
    ({**DLC, "ENV": "dlc", "MP_NPROC": None}, ("KUBERNETES_CONTAINER_RESOURCE_GPU",), "ENV=dlc needs it"),
    ({**DLC, "ENV": "dlc", "MP_MASTER_PORT": "29501"}, ("MP_MASTER_PORT", "ENV"), "dlc takes MASTER_PORT"),
    ({**DLC, "ENV": "dlc", "TP": "4"}, ("TP", "PP", "CP"), "2 processes on the CPU of 2 machines"),
]


@pytest.fixture(autouse=True)
def never_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Becoming torchrun is the last thing that a wrong command may do."""

    def execve(*command: object) -> None:
        raise AssertionError(f"something was started: {command}")

    monkeypatch.setattr(os, "execve", execve)


@pytest.mark.parametrize(("changes", "names", "message"), BAD, ids=[str(changes)[:80] for changes, _, _ in BAD])
def test_is_refused_by_name(
    changes: dict[str, str | None],
    names: tuple[str, ...],
    message: str,
    values: Callable[..., list[str]],
    surroundings: Callable[..., dict[str, str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    typed = {name: value for name, value in changes.items() if name in POSITION_NAMES}
    environ = surroundings(**{name: value for name, value in changes.items() if name not in POSITION_NAMES})
    assert main(values(**typed), environ) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    where = " with ".join(f"position {NUMBERS[name]} {name}" if name in NUMBERS else name for name in names)
    lines = [line for line in shown.err.splitlines() if line.startswith(f"  {where}")]
    assert any(message in line for line in lines), shown.err


def test_there_are_enough_of_them() -> None:
    assert len(BAD) >= 60
    covered = {name for _, names, _ in BAD for name in names}
    assert covered >= POSITION_NAMES


def test_all_errors_come_at_once(
    values: Callable[..., list[str]], surroundings: Callable[..., dict[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = {
        "PR": "fp3",
        "CP": "0",
        "TP": "3",
        "PAD_LEN": "1",
        "DATASET_PATH": "absent",
        "OUTPUT_BASEPATH": "chat.json",
    }
    assert main(values(**wrong), surroundings(MP_VPP="1")) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "7 problems; nothing was started."
    starts = [line.split(":")[0].strip() for line in lines[1:-1]]
    assert starts == [
        "position 8 PAD_LEN with position 7 SEQ_LEN",
        "position 9 PR",
        "position 10 TP with position 2 MODEL_SIZE",
        "position 12 CP",
        "position 20 DATASET_PATH",
        "position 25 OUTPUT_BASEPATH",
        "MP_VPP",
    ]


def test_control_characters_do_not_reach_the_terminal(
    values: Callable[..., list[str]], surroundings: Callable[..., dict[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(values(PR="fp\n\x1b[31m32"), surroundings()) == 2
    shown = capsys.readouterr().err
    assert "\x1b" not in shown
    assert 'is "fp\\n\\u001b[31m32"' in shown


@pytest.mark.parametrize("position", POSITIONS, ids=lambda position: position.name)
def test_one_value_too_few_names_the_missing_one(
    position: object, values: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    """The seed's values in order, one left out: the place is found, or a run of neighbours that it is one of."""
    seed = SEED.split()
    index = position.number - 1  # type: ignore[attr-defined]
    assert main(seed[:index] + seed[index + 1 :], {}) == 2
    shown = capsys.readouterr().err
    assert "24 of 25 values are given; missing: position" in shown
    from megatron_patch.launch.config import missing_positions

    assert position in missing_positions(seed[:index] + seed[index + 1 :])


def test_no_values_at_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([], {}) == 2
    shown = capsys.readouterr().err
    assert "0 of 25 values are given; missing: position 1 ENV" in shown
    assert all(position.name in shown for position in POSITIONS)


def test_too_many_values(values: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*values(), "surplus"], {}) == 2
    assert 'left over: "surplus"' in capsys.readouterr().err


def test_dry_run_in_place_of_a_value(values: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*values()[:-1], "--dry-run"], {}) == 2
    assert "24 of 25 values are given" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    from megatron_patch.launch.variables import VARIABLES

    assert main([flag], {}) == 0
    shown = capsys.readouterr().out
    for position in POSITIONS:
        assert f"{position.number:>2}  {position.name}" in shown
        assert position.meaning in shown
        assert f"valid: {position.kind.valid}; e.g. {position.example}" in shown
    assert all(variable.name in shown for variable in VARIABLES)
