"""Command lines that are wrong: each ends with 2, names what is wrong, and starts nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

import pytest

from megatron_patch.common.messages import Message
from megatron_patch.launch.config import POSITIONS, Position, missing_positions
from megatron_patch.launch.driver import main, make_plan
from megatron_patch.launch.problems import NUMBERS
from megatron_patch.models import size_names

POSITION_NAMES = {position.name for position in POSITIONS}

CUDA = {"MP_DEVICE": "cuda", "DRY_RUN": "1"}
GRAPHS = {"MP_CUDA_GRAPHS": "layers", "PR": "bf16", **CUDA}
FP8 = {"PR": "fp8", **CUDA}
PAIS = "dsw 8B 1 8 1e-5 1e-6 128 128 bf16 4 2 1 true true true false false false 100000 A B C 10000 100 out"
DLC = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500", "MP_NPROC": "1"}
CHAT = {"SFT": "true", "MP_DATASET_TYPE": "raw", "DATASET_PATH": "chat.json", "VALID_DATASET_PATH": "none"}
CHAT |= {"TRAIN_TOKENS_OR_ITERS": "10", "WARMUP_TOKENS_OR_ITERS": "2"}

BAD: list[tuple[dict[str, str | None], tuple[str, ...], str, dict[str, object]]] = [
    # one value: what was typed, the names in the error, its code, what its text is told
    ({"ENV": "local"}, ("ENV",), "unknown-value", {}),
    ({"MODEL_SIZE": "8b"}, ("MODEL_SIZE",), "unknown-value-nearest", {"nearest": "8B"}),
    ({"MODEL_SIZE": "13B"}, ("MODEL_SIZE",), "unknown-value-nearest", {}),
    ({"BATCH_SIZE": "0"}, ("BATCH_SIZE",), "out-of-range", {}),
    ({"BATCH_SIZE": "one"}, ("BATCH_SIZE",), "not-whole", {}),
    ({"GLOBAL_BATCH_SIZE": "8.0"}, ("GLOBAL_BATCH_SIZE",), "not-whole-in-digits", {"digits": "8"}),
    ({"GLOBAL_BATCH_SIZE": "-8"}, ("GLOBAL_BATCH_SIZE",), "out-of-range", {}),
    ({"LR": "0"}, ("LR",), "out-of-range", {}),
    ({"LR": "nan"}, ("LR",), "not-number", {}),
    ({"LR": "1e999"}, ("LR",), "not-finite", {}),
    ({"MIN_LR": "-1e-5"}, ("MIN_LR",), "out-of-range", {}),
    ({"MIN_LR": "inf"}, ("MIN_LR",), "not-number", {}),
    ({"SEQ_LEN": "1k"}, ("SEQ_LEN",), "not-whole", {}),
    ({"PAD_LEN": ""}, ("PAD_LEN",), "not-whole", {}),
    ({"PR": "float16"}, ("PR",), "unknown-value", {}),
    ({"PR": "BF16"}, ("PR",), "unknown-value-nearest", {"nearest": "bf16"}),
    ({"TP": "three"}, ("TP",), "not-whole", {}),
    ({"PP": "0"}, ("PP",), "out-of-range", {}),
    ({"CP": "1_0"}, ("CP",), "not-whole", {}),
    ({"SP": "yes"}, ("SP",), "not-boolean", {}),
    ({"DO": "1"}, ("DO",), "not-boolean", {}),
    ({"FL": "flash"}, ("FL",), "not-boolean", {}),
    ({"SFT": "finetune"}, ("SFT",), "not-boolean", {}),
    ({"AC": "selective"}, ("AC",), "unknown-value", {}),
    ({"OPTIMIZER_OFFLOAD": "true"}, ("OPTIMIZER_OFFLOAD",), "unknown-value", {}),
    ({"SAVE_INTERVAL": "0"}, ("SAVE_INTERVAL",), "out-of-range", {}),
    ({"TRAIN_TOKENS_OR_ITERS": "1e6"}, ("TRAIN_TOKENS_OR_ITERS",), "not-whole-in-digits", {"digits": "1000000"}),
    ({"SAVE_INTERVAL": "1_000"}, ("SAVE_INTERVAL",), "not-whole-in-digits", {"digits": "1000"}),
    ({"SAVE_INTERVAL": "1,000"}, ("SAVE_INTERVAL",), "not-whole-in-digits", {"digits": "1000"}),
    ({"SAVE_INTERVAL": "2.5e3"}, ("SAVE_INTERVAL",), "not-whole-in-digits", {"digits": "2500"}),
    ({"SAVE_INTERVAL": "1.5"}, ("SAVE_INTERVAL",), "not-whole", {}),
    ({"WARMUP_TOKENS_OR_ITERS": "-1"}, ("WARMUP_TOKENS_OR_ITERS",), "out-of-range", {}),
    # paths
    ({"DATASET_PATH": "absent"}, ("DATASET_PATH",), "no-such-file", {"files": ["absent.bin", "absent.idx"]}),
    ({"DATASET_PATH": "text.bin"}, ("DATASET_PATH",), "prefix-with-suffix", {"prefix": "text.bin", "suffix": ".bin"}),
    ({"DATASET_PATH": "chat.json"}, ("DATASET_PATH",), "no-such-file-but-json", {}),
    ({"DATASET_PATH": "~/text"}, ("DATASET_PATH",), "no-such-file-tilde", {"files": ["~/text.bin", "~/text.idx"]}),
    ({"DATASET_PATH": "0.3 text 0.7"}, ("DATASET_PATH",), "blend-form", {}),
    ({"DATASET_PATH": "0.3 text valid more"}, ("DATASET_PATH",), "blend-form", {}),
    ({"DATASET_PATH": "0.3 text -1 valid"}, ("DATASET_PATH",), "blend-form", {}),
    ({"DATASET_PATH": "text absent"}, ("DATASET_PATH",), "no-such-file", {"files": ["absent.bin", "absent.idx"]}),
    ({"DATASET_PATH": "$(touch pwned2)"}, ("DATASET_PATH",), "no-such-file", {"files": ["$(touch.bin", "$(touch.idx"]}),
    ({"DATASET_PATH": " "}, ("DATASET_PATH",), "empty", {}),
    (
        {"VALID_DATASET_PATH": "absent"},
        ("VALID_DATASET_PATH",),
        "no-such-file",
        {"files": ["absent.bin", "absent.idx"]},
    ),
    ({"PRETRAIN_CHECKPOINT_PATH": "absent"}, ("PRETRAIN_CHECKPOINT_PATH",), "no-such-folder", {}),
    ({"PRETRAIN_CHECKPOINT_PATH": "chat.json"}, ("PRETRAIN_CHECKPOINT_PATH",), "file-not-folder", {}),
    (
        {"PRETRAIN_CHECKPOINT_PATH": "tokenizer"},
        ("PRETRAIN_CHECKPOINT_PATH",),
        "no-checkpoint",
        {"found": ["tokenizer.json", "tokenizer_config.json"]},
    ),
    ({"OUTPUT_BASEPATH": "chat.json"}, ("OUTPUT_BASEPATH",), "output-not-folder", {}),
    ({"OUTPUT_BASEPATH": "chat.json/out"}, ("OUTPUT_BASEPATH",), "output-not-folder", {}),
    ({"OUTPUT_BASEPATH": "~/out"}, ("OUTPUT_BASEPATH",), "output-tilde", {}),
    ({"OUTPUT_BASEPATH": "hf-tiny"}, ("OUTPUT_BASEPATH",), "output-is-model", {}),
    (
        {**CHAT, "DATASET_PATH": "chats", "OUTPUT_BASEPATH": "chats"},
        ("OUTPUT_BASEPATH", "DATASET_PATH"),
        "output-is-data",
        {},
    ),
    (
        {**CHAT, "VALID_DATASET_PATH": "chats", "OUTPUT_BASEPATH": "chats/../chats"},
        ("OUTPUT_BASEPATH", "VALID_DATASET_PATH"),
        "output-is-data",
        {},
    ),
    ({"DATASET_PATH": "chats"}, ("DATASET_PATH",), "folder-of-json", {"folder": "chats"}),
    # several values
    (
        {"GLOBAL_BATCH_SIZE": "7", "BATCH_SIZE": "2"},
        ("GLOBAL_BATCH_SIZE", "BATCH_SIZE"),
        "batch-multiple",
        {"batch_size": 2, "dp": 1, "multiple": 2},
    ),
    ({"MIN_LR": "1e-2"}, ("MIN_LR", "LR"), "rates", {"lr": 0.001}),
    ({"PAD_LEN": "256"}, ("PAD_LEN", "SEQ_LEN"), "padding", {"seq_len": 128}),
    ({"SEQ_LEN": "262144", "PAD_LEN": "262144"}, ("SEQ_LEN", "MODEL_SIZE"), "sequence-too-long", {"limit": 131072}),
    ({"TP": "3"}, ("TP", "MODEL_SIZE"), "tp-heads", {"heads": 8, "fits": [1, 2, 4, 8]}),
    ({"MODEL_SIZE": "8B", "TP": "64"}, ("TP", "MODEL_SIZE"), "tp-heads", {"heads": 32, "fits": [1, 2, 4, 8, 16, 32]}),
    ({"MODEL_SIZE": "3B", "TP": "3"}, ("TP", "MODEL_SIZE"), "tp-kv-heads", {"groups": 8, "fits": [1, 2, 4, 8]}),
    ({"PP": "5"}, ("PP", "MODEL_SIZE"), "pp-layers", {"layers": 4, "padded": 6, "pp": 5, "fits": [1, 2, 3, 4]}),
    (
        {"MODEL_SIZE": "405B", "PP": "5"},
        ("PP", "MODEL_SIZE"),
        "pp-layers",
        {"layers": 126, "padded": 128, "pp": 5, "fits": [1, 2, 3, 4, 6, 7, 8, 9, 14, 16, 18, 21, 32, 42, 63, 64, 126]},
    ),
    ({"MP_VP": "2"}, ("MP_VP", "PP"), "vp-without-pipeline", {"name": "MP_VP"}),
    ({"MP_VP_CHUNKS": "2"}, ("MP_VP_CHUNKS", "PP"), "vp-without-pipeline", {"name": "MP_VP_CHUNKS"}),
    (
        {"MP_VP": "3", "PP": "2"},
        ("MP_VP", "PP", "MODEL_SIZE"),
        "vp-layers",
        {"vp": 3, "stage": Message("stage", layers=2)},
    ),
    ({"MP_VP_CHUNKS": "5", "PP": "2"}, ("MP_VP_CHUNKS", "PP", "MODEL_SIZE"), "vp-chunks", {"chunks": 5}),
    ({"MP_VP": "1", "MP_VP_CHUNKS": "1", "PP": "2"}, ("MP_VP", "MP_VP_CHUNKS"), "vp-and-chunks", {"made": 2}),
    (
        {"MP_VP": "1", "PP": "2", "GLOBAL_BATCH_SIZE": "3"},
        ("MP_VP", "GLOBAL_BATCH_SIZE", "PP"),
        "vp-micro-batches",
        {"micro_batches": 3},
    ),
    ({"CP": "2", "SEQ_LEN": "130", "PAD_LEN": "130"}, ("SEQ_LEN", "CP"), "sequence-cp", {"multiple": 4}),
    (
        {"TP": "4", "SP": "true", "SEQ_LEN": "130", "PAD_LEN": "130"},
        ("SEQ_LEN", "CP", "TP", "SP"),
        "sequence-sp",
        {"part": 130, "tp": 4, "multiple": 4},
    ),
    (
        {"MP_NPROC": "3", "TP": "2"},
        ("TP", "PP", "CP"),
        "ranks-not-divisible-cpu",
        {"product": 2, "world": 3, "fits": [1, 3]},
    ),
    (
        {**CUDA, "TP": "8", "PP": "2"},
        ("TP", "PP", "CP"),
        "ranks-not-divisible",
        {"product": 16, "world": 8, "fits": [1, 2, 4, 8]},
    ),
    (
        {"TRAIN_TOKENS_OR_ITERS": "1023"},
        ("TRAIN_TOKENS_OR_ITERS", "GLOBAL_BATCH_SIZE", "SEQ_LEN"),
        "no-iteration",
        {
            "tokens": 1024,
            "arithmetic": Message("count-tokens-left", value=1023, batch=8, length=128, iterations=0, left=1023),
        },
    ),
    (
        {"WARMUP_TOKENS_OR_ITERS": "10240"},
        ("WARMUP_TOKENS_OR_ITERS", "TRAIN_TOKENS_OR_ITERS"),
        "warmup-too-long",
        {"limit": 10},
    ),
    (
        {"SFT": "true", "WARMUP_TOKENS_OR_ITERS": "10240"},
        ("WARMUP_TOKENS_OR_ITERS", "TRAIN_TOKENS_OR_ITERS"),
        "warmup-too-long",
        {"limit": 10240, "warmup": Message("count-sft", value=10240)},
    ),
    ({"AC": "offload"}, ("AC",), "offload-on-cpu", {}),
    ({"AC": "full", "MP_AC_LAYERS": "5"}, ("MP_AC_LAYERS", "AC", "MODEL_SIZE"), "ac-layers-chunk", {"limit": 4}),
    (
        {**CUDA, "AC": "offload", "MP_AC_LAYERS": "4"},
        ("MP_AC_LAYERS", "AC", "MODEL_SIZE"),
        "ac-layers-offload",
        {"limit": 3},
    ),
    ({**CUDA, "OPTIMIZER_OFFLOAD": "static"}, ("OPTIMIZER_OFFLOAD", "DO"), "optimizer-offload-needs-do", {}),
    (
        {**CUDA, "OPTIMIZER_OFFLOAD": "auto", "DO": "true", "PR": "fp32"},
        ("OPTIMIZER_OFFLOAD", "PR"),
        "optimizer-offload-fp32",
        {},
    ),
    ({"OPTIMIZER_OFFLOAD": "auto", "DO": "true"}, ("OPTIMIZER_OFFLOAD",), "optimizer-on-cpu", {}),
    ({"PR": "fp8"}, ("PR",), "fp8-on-cpu", {}),
    ({**CUDA, "PR": "fp32", "CP": "2"}, ("PR", "CP"), "fp32-cp", {}),
    ({**CUDA, "PR": "fp8", "SEQ_LEN": "24", "PAD_LEN": "24"}, ("SEQ_LEN", "PR"), "fp8-rows", {"rows": 24}),
    (
        {"MODEL_SIZE": "auto"},
        ("MODEL_SIZE", "PRETRAIN_CHECKPOINT_PATH"),
        "auto-needs-config",
        {"sizes": [name for name in size_names() if name != "auto"]},
    ),
    (
        {"MODEL_SIZE": "8B", "PRETRAIN_CHECKPOINT_PATH": "hf-1B"},
        ("MODEL_SIZE", "PRETRAIN_CHECKPOINT_PATH"),
        "size-is-another",
        {},
    ),
    ({"SFT": "true"}, ("DATASET_PATH", "SEQ_LEN"), "sft-idxmap", {}),
    ({**CHAT, "MP_TOKENIZER_PATH": "base-tokenizer"}, ("MP_TOKENIZER_PATH", "SFT"), "sft-tokenizer", {}),
    ({"SFT": "true", "MP_SPLIT": "9,1", "VALID_DATASET_PATH": "none"}, ("MP_SPLIT", "SFT"), "split-under-sft", {}),
    ({"SFT": "true", "MP_SFT_LOSS": "user"}, ("MP_SFT_LOSS",), "unknown-value", {}),
    ({"MODEL_SIZE": "405B"}, ("MODEL_SIZE",), "memory-cpu", {}),
    # variables
    ({"MP_VPP": "2"}, ("MP_VPP",), "unknown-variable-nearest", {"nearest": "MP_VP"}),
    ({"MP_DATASET_TYPE": "json"}, ("MP_DATASET_TYPE",), "unknown-value", {}),
    ({"MP_DATASET_TYPE": "raw", "DATASET_PATH": "chat.json"}, ("MP_DATASET_TYPE", "SFT"), "raw-without-sft", {}),
    ({"MP_SFT_PACKING": "true"}, ("MP_SFT_PACKING", "SFT"), "packing-without-sft", {}),
    ({"MP_TOKENIZER_PATH": None}, ("MP_TOKENIZER_PATH", "PRETRAIN_CHECKPOINT_PATH"), "tokenizer-not-named", {}),
    ({"MP_TOKENIZER_PATH": "absent"}, ("MP_TOKENIZER_PATH",), "tokenizer-not-folder", {"place": "absent"}),
    ({"MP_TOKENIZER_PATH": "released"}, ("MP_TOKENIZER_PATH",), "tokenizer-absent", {"place": "released"}),
    ({"MP_NPROC": "0"}, ("MP_NPROC",), "out-of-range", {}),
    ({"MP_DEVICE": "gpu"}, ("MP_DEVICE",), "unknown-value-nearest", {"nearest": "cpu"}),
    ({"MP_MASTER_PORT": "70000"}, ("MP_MASTER_PORT",), "out-of-range", {}),
    ({"MP_SPLIT": "99,1"}, ("MP_SPLIT", "VALID_DATASET_PATH"), "split-and-data", {}),
    ({"MP_SPLIT": "all", "VALID_DATASET_PATH": "none"}, ("MP_SPLIT",), "split-form", {}),
    (
        {"MP_SPLIT": "998,1,1", "VALID_DATASET_PATH": "none"},
        ("MP_SPLIT", "DATASET_PATH"),
        "split-empty-share",
        {"share": "1", "documents": 20, "suggested": "18,1,1"},
    ),
    ({"MP_ATTENTION_BACKEND": "fused"}, ("MP_ATTENTION_BACKEND",), "attention-on-cpu", {}),
    ({"MP_ATTENTION_BACKEND": "flash", "PR": "fp32", **CUDA}, ("MP_ATTENTION_BACKEND", "PR"), "attention-fp32", {}),
    ({"FL": "false", "PR": "fp32", **CUDA}, ("FL", "PR"), "attention-fp32", {}),
    ({"MP_CUDA_GRAPHS": "layers"}, ("MP_CUDA_GRAPHS",), "graphs-on-cpu", {}),
    ({**GRAPHS, "PP": "2"}, ("MP_CUDA_GRAPHS", "PP"), "graphs-pipeline", {}),
    ({**GRAPHS, "SFT": "true", "MP_DATASET_TYPE": "raw"}, ("MP_CUDA_GRAPHS", "SFT"), "graphs-sft", {}),
    ({**GRAPHS, "AC": "full"}, ("MP_CUDA_GRAPHS", "AC"), "graphs-ac", {}),
    ({**GRAPHS, "PR": "fp16"}, ("MP_CUDA_GRAPHS", "PR"), "graphs-precision", {}),
    ({**GRAPHS, "PR": "fp8", "MP_FP8_RECIPE": "delayed"}, ("MP_CUDA_GRAPHS", "MP_FP8_RECIPE"), "graphs-recipe", {}),
    ({**GRAPHS, "MP_FREEZE": "embedding"}, ("MP_CUDA_GRAPHS", "MP_FREEZE"), "graphs-frozen", {}),
    (
        {**GRAPHS, "MP_MEGATRON_ARGS": "--enable-cuda-graph"},
        ("MP_CUDA_GRAPHS", "MP_MEGATRON_ARGS"),
        "graphs-twice",
        {"flag": "--enable-cuda-graph"},
    ),
    (
        {**GRAPHS, "MP_MEGATRON_ARGS": "--cuda-graph-scope full_iteration"},
        ("MP_CUDA_GRAPHS", "MP_MEGATRON_ARGS"),
        "graphs-twice",
        {"flag": "--cuda-graph-scope"},
    ),
    (
        {**GRAPHS, "MP_MEGATRON_ARGS": "--qk-clip"},
        ("MP_CUDA_GRAPHS", "MP_MEGATRON_ARGS"),
        "graphs-flag",
        {"flag": "--qk-clip"},
    ),
    (
        {**GRAPHS, "MP_MEGATRON_ARGS": "--eval-micro-batch-size 4", "BATCH_SIZE": "2"},
        ("MP_CUDA_GRAPHS", "MP_MEGATRON_ARGS", "BATCH_SIZE"),
        "graphs-batch",
        {"flag": "--eval-micro-batch-size"},
    ),
    ({"MP_TP_OVERLAP": "ring"}, ("MP_TP_OVERLAP",), "overlap-on-cpu", {}),
    ({"MP_TP_OVERLAP": "ring", "TP": "2", "PR": "bf16", **CUDA}, ("MP_TP_OVERLAP", "TP", "SP"), "overlap-needs-sp", {}),
    ({"MP_TP_OVERLAP": "ring", "TP": "2", "SP": "true", **CUDA}, ("MP_TP_OVERLAP", "PR"), "overlap-precision", {}),
    (
        {"MP_TP_OVERLAP": "ring", "TP": "2", "SP": "true", "PR": "fp8", "MP_FP8_RECIPE": "delayed", **CUDA},
        ("MP_TP_OVERLAP", "MP_FP8_RECIPE"),
        "overlap-recipe",
        {},
    ),
    ({"MP_FP8_EXTRA": "sums,none", **FP8}, ("MP_FP8_EXTRA",), "none-and-more", {}),
    ({"MP_FP8_EXTRA": "attention", **FP8}, ("MP_FP8_EXTRA",), "unknown-value", {}),
    (
        {"MP_FP8_EXTRA": "sums", "MP_FP8_RECIPE": "delayed", **FP8},
        ("MP_FP8_EXTRA", "MP_FP8_RECIPE"),
        "fp8-extra-recipe",
        {},
    ),
    ({"MP_FP8_EXTRA": "head", "TP": "2", **FP8}, ("MP_FP8_EXTRA", "TP"), "fp8-head-untried", {}),
    (
        {"MP_FP8_EXTRA": "head", "MP_FREEZE": "head", **FP8},
        ("MP_FP8_EXTRA", "MP_FREEZE"),
        "fp8-head-untried",
        {},
    ),
    (
        {"MP_FP8_EXTRA": "sums,head", "MODEL_SIZE": "qwen3-0.6B", **FP8},
        ("MP_FP8_EXTRA", "MODEL_SIZE"),
        "fp8-head-tied",
        {},
    ),
    ({"MP_TP_OVERLAP": "nvls"}, ("MP_TP_OVERLAP",), "unknown-value", {}),
    ({"MP_GRAD_REDUCE": "bf16"}, ("MP_GRAD_REDUCE", "PR"), "gradient-bf16", {}),
    ({"MP_WANDB_PROJECT": "mine"}, ("MP_WANDB_PROJECT",), "wandb-no-key", {}),
    ({"MP_LOGGERS": "wandb"}, ("MP_LOGGERS",), "wandb-no-key", {}),
    ({"MP_LOGGERS": "mlfow"}, ("MP_LOGGERS",), "unknown-value-nearest", {"nearest": "mlflow"}),
    ({"MP_LOGGERS": "none,mlflow"}, ("MP_LOGGERS",), "none-and-more", {}),
    ({"MP_LOGGERS": "mlflow", "MP_WANDB_NAME": "mine"}, ("MP_WANDB_NAME",), "logger-not-asked", {}),
    ({"MP_LOGGERS": "comet", "COMET_API_KEY": None, "DRY_RUN": "1"}, ("MP_LOGGERS",), "logger-no-key", {}),
    (
        {"MP_MEGATRON_ARGS": "--lr=1 --use-flash-attn"},
        ("MP_MEGATRON_ARGS",),
        "flag-taken",
        {"flag": "--lr"},
    ),
    ({"MP_MEGATRON_ARGS": "--x 'open"}, ("MP_MEGATRON_ARGS",), "megatron-args-form", {}),
    ({"OMP_NUM_THREADS": "0"}, ("OMP_NUM_THREADS",), "omp-threads", {}),
    ({"OMP_NUM_THREADS": "all"}, ("OMP_NUM_THREADS",), "omp-threads", {}),
    ({"DRY_RUN": "maybe"}, ("DRY_RUN",), "dry-run-value", {}),
    # several machines
    ({**DLC, "ENV": "dlc", "WORLD_SIZE": None}, ("WORLD_SIZE",), "dlc-variable-missing", {}),
    ({**DLC, "ENV": "dlc", "RANK": "x"}, ("RANK",), "not-whole", {}),
    ({**DLC, "ENV": "dlc", "RANK": "2"}, ("RANK", "WORLD_SIZE"), "dlc-rank", {"last": 1}),
    ({**DLC, "ENV": "dlc", "MASTER_ADDR": None}, ("MASTER_ADDR",), "dlc-variable-missing", {}),
    ({**DLC, "ENV": "dlc", "MASTER_PORT": "0"}, ("MASTER_PORT",), "out-of-range", {}),
    ({**DLC, "ENV": "dlc", "MP_NPROC": None}, ("KUBERNETES_CONTAINER_RESOURCE_GPU",), "dlc-gpus-missing", {}),
    ({**DLC, "ENV": "dlc", "MP_MASTER_PORT": "29501"}, ("MP_MASTER_PORT", "ENV"), "master-port-twice", {"env": "dlc"}),
    (
        {**DLC, "ENV": "dlc", "TP": "4"},
        ("TP", "PP", "CP"),
        "ranks-not-divisible-nodes-cpu",
        {"product": 4, "world": 2, "fits": [1, 2], "nodes": 2},
    ),
]


@pytest.fixture(autouse=True)
def never_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Becoming torchrun is the last thing that a wrong command may do."""

    def execve(*command: object) -> None:
        raise AssertionError(f"something was started: {command}")

    monkeypatch.setattr(os, "execve", execve)


@pytest.mark.parametrize(("changes", "names", "code", "told"), BAD, ids=[str(changes)[:80] for changes, *_ in BAD])
def test_is_refused_by_name(
    changes: dict[str, str | None],
    names: tuple[str, ...],
    code: str,
    told: dict[str, object],
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
    assert [line for line in shown.err.splitlines() if line.startswith(f"  {where}: ") and line.endswith(f"[{code}]")]
    _, _, problems = make_plan(values(**typed), environ, dry_run=False)
    found = [problem.message.values for problem in problems if (problem.code, problem.names) == (code, names)]
    assert any(told.items() <= Values(one) for one in found), (told, problems)


class Values(dict[str, object]):
    """What a text is told, compared by equality alone: lists among them cannot be hashed."""

    def __ge__(self, items: Iterable[tuple[str, object]]) -> bool:
        return all(name in self and self[name] == value for name, value in items)


@pytest.mark.parametrize("position", POSITIONS, ids=lambda position: position.name)
def test_what_would_be_right_is_said(
    position: Position, values: Callable[..., list[str]], surroundings: Callable[..., dict[str, str]]
) -> None:
    """As the table of positions says it; every position refuses an empty text."""
    _, _, problems = make_plan(values(**{position.name: ""}), surroundings(), dry_run=False)
    told = [problem.message.values.get("expected") for problem in problems if problem.names == (position.name,)]
    assert position.kind.expects in told


def test_a_value_that_is_wrong_is_shown_with_what_is_right(
    values: Callable[..., list[str]], surroundings: Callable[..., dict[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(values(TP="three"), surroundings()) == 2
    line = 'position 10 TP: not a whole number: is "three"; valid: whole number >= 1 [not-whole]'
    assert line in capsys.readouterr().err


def test_problems_and_their_positions_are_chinese(
    values: Callable[..., list[str]], surroundings: Callable[..., dict[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(values(TP="three", MIN_LR="1"), surroundings(LANG="zh_CN.UTF-8")) == 2
    assert capsys.readouterr().err.splitlines() == [
        "2 个问题；没有启动任何任务。",
        '  第 6 个值 MIN_LR 与 第 5 个值 LR：终值高于峰值：MIN_LR 为 "1"、LR 为 "1e-3"；可用：MIN_LR <= 0.001 [rates]',
        '  第 10 个值 TP：不是整数：现为 "three"；可用：>= 1 的整数 [not-whole]',
        "  `--help` 列出全部 25 个值。",
    ]


def test_there_are_enough_of_them() -> None:
    assert len(BAD) >= 60
    covered = {name for _, names, *_ in BAD for name in names}
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
    position: Position, values: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    """Pai's values in order, one left out: the place is found, or a run of neighbours that it is one of."""
    words = PAIS.split()
    del words[position.number - 1]
    assert main(words, {}) == 2
    shown = capsys.readouterr().err
    assert "24 of 25 values are given; missing: position" in shown
    assert position in missing_positions(words)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (23, "missing: position 24 WARMUP_TOKENS_OR_ITERS, position 25 OUTPUT_BASEPATH"),
        (21, "missing: position 22 PRETRAIN_CHECKPOINT_PATH, position 23 TRAIN_TOKENS_OR_ITERS, "
         "position 24 WARMUP_TOKENS_OR_ITERS, and what follows it"),
    ],
)  # fmt: skip
def test_several_values_too_few(given: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(PAIS.split()[:given], {}) == 2
    assert capsys.readouterr().err.rstrip().endswith(said)


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
def test_help_has_every_position_and_variable(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    from megatron_patch.launch.variables import VARIABLES

    assert main([flag], {}) == 0
    shown = capsys.readouterr().out
    for position in POSITIONS:
        assert f"{position.number:>2}  {position.name}" in shown
        assert position.meaning in shown
        assert f"valid: {position.kind.expects}; e.g. {position.example}" in shown
    assert all(variable.name in shown for variable in VARIABLES)
