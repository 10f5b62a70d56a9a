"""The command of every kind of start, as text; each argv is then parsed by Megatron's own parser.

`UPDATE_GOLDEN=1 pytest tests/launch/test_golden.py` rewrites the texts; read the difference before committing it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megatron_patch.launch.argv import EMITTED, FIXED, GROUPS, megatron_argv
from megatron_patch.launch.command import REPOSITORY, build_command
from megatron_patch.launch.config import POSITIONS
from megatron_patch.launch.driver import make_plan

GOLDEN = Path(__file__).parents[1] / "golden" / "commands"

CUDA = {"MP_DEVICE": "cuda"}
DLC = {**CUDA, "ENV": "dlc", "RANK": "1", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}
PAIS = {
    **CUDA,
    "MODEL_SIZE": "8B",
    "LR": "1e-5",
    "MIN_LR": "1e-6",
    "PR": "bf16",
    "TP": "4",
    "PP": "2",
    "SP": "true",
    "DO": "true",
    "SAVE_INTERVAL": "100000",
    "PRETRAIN_CHECKPOINT_PATH": "mcore-tp4-pp2",
    "MP_TOKENIZER_PATH": "",
    "TRAIN_TOKENS_OR_ITERS": "10000",
    "WARMUP_TOKENS_OR_ITERS": "100",
}
"""Pai-Megatron-Patch's guide: its three commands differ in SFT, the data and MP_DATASET_TYPE."""
LARGE = {"BATCH_SIZE": "1", "GLOBAL_BATCH_SIZE": "128", "SEQ_LEN": "8192", "PAD_LEN": "8192", "PR": "bf16"}
LARGE |= {"DO": "true", "SP": "true", "TRAIN_TOKENS_OR_ITERS": "1048576000", "WARMUP_TOKENS_OR_ITERS": "10485760"}

COMMANDS: dict[str, dict[str, str]] = {
    "seed_pretrain": PAIS,
    "seed_sft_idxmap": {**PAIS, "SFT": "true", "DATASET_PATH": "sft-128", "VALID_DATASET_PATH": "sft-128"},
    "seed_sft_raw": {
        **PAIS,
        "SFT": "true",
        "MP_DATASET_TYPE": "raw",
        "DATASET_PATH": "chat.json",
        "VALID_DATASET_PATH": "chat.json",
    },
    "cpu_one_process": {},
    "cpu_tp2_pp2_vp2": {"TP": "2", "PP": "2", "SP": "true", "MP_VP": "1", "FL": "false"},
    "cpu_cp2_dp2_bf16": {"CP": "2", "MP_NPROC": "4", "DO": "true", "PR": "bf16", "AC": "sel", "MP_SEED": "7"},
    "cpu_from_hf": {
        "PRETRAIN_CHECKPOINT_PATH": "hf-tiny",
        "MP_TOKENIZER_PATH": "",
        "VALID_DATASET_PATH": "none",
        "MP_EXPORT_HF": "1",
    },
    "cpu_blend_and_split": {
        "DATASET_PATH": "0.3 text 0.7 with space",
        "VALID_DATASET_PATH": "none",
        "MP_SPLIT": "90.5,9.5",
        "MP_MEGATRON_ARGS": "--log-params-norm --timing-log-level 1",
        "MP_MASTER_PORT": "29507",
    },
    "gpu_1b_from_hf": {**CUDA, "MODEL_SIZE": "1B", "PR": "fp16", "PRETRAIN_CHECKPOINT_PATH": "hf-1B", "MP_NPROC": "2"},
    "gpu_auto_one_micro_batch": {
        **CUDA,
        "MODEL_SIZE": "auto",
        "PR": "bf16",
        "PRETRAIN_CHECKPOINT_PATH": "hf-8B",
        "DO": "true",
        "MP_NPROC": "8",
        "MP_INIT_STD": "0.008",
        "MP_ADAM_BETA2": "0.98",
    },
    "gpu_8b_fp8": {**CUDA, **LARGE, "MODEL_SIZE": "8B", "PR": "fp8", "PRETRAIN_CHECKPOINT_PATH": "released"},
    "gpu_8b_one_gpu": {**CUDA, **LARGE, "MODEL_SIZE": "8B", "SP": "false", "MP_NPROC": "1"}
    | {"GLOBAL_BATCH_SIZE": "16", "MP_MOMENTS": "bf16"},
    "gpu_8b_recompute_offload": {
        **CUDA,
        **LARGE,
        "MODEL_SIZE": "8B",
        "TP": "2",
        "AC": "full",
        "MP_AC_LAYERS": "4",
        "FL": "false",
        "OPTIMIZER_OFFLOAD": "static",
        "PRETRAIN_CHECKPOINT_PATH": "mcore-tp4-pp2/iter_0000001",
    },
    "gpu_8b_offload_activations": {**CUDA, **LARGE, "MODEL_SIZE": "8B", "AC": "offload", "MP_AC_LAYERS": "16"}
    | {"MP_ALLOW_UNFUSED_ATTENTION": "true", "SFT": "true", "MP_SFT_PACKING": "true"}
    | {"DATASET_PATH": "sft-8192", "VALID_DATASET_PATH": "sft-8192"}
    | {"TRAIN_TOKENS_OR_ITERS": "1000", "WARMUP_TOKENS_OR_ITERS": "10"},
    "gpu_8b_offload_in_a_pipeline": {**CUDA, **LARGE, "MODEL_SIZE": "8B", "TP": "2", "PP": "2", "AC": "offload"},
    "gpu_8b_chunks": {**CUDA, **LARGE, "MODEL_SIZE": "8B", "TP": "2", "PP": "2", "MP_VP": "8"},
    "gpu_8b_tp_overlap": {**CUDA, **LARGE, "MODEL_SIZE": "8B", "TP": "2", "PP": "2", "MP_TP_OVERLAP": "ring-all"},
    "gpu_8b_cuda_graphs": {**CUDA, **LARGE, "MODEL_SIZE": "8B", "TP": "2"},
    "gpu_8b_fp8_extra": {**CUDA, **LARGE, "MODEL_SIZE": "8B", "PR": "fp8", "MP_FP8_EXTRA": "sums,head"},
    "dlc_70b_vp5": {**DLC, **LARGE, "MODEL_SIZE": "70B", "TP": "8", "PP": "4", "MP_VP": "4"}
    | {"WORLD_SIZE": "8", "KUBERNETES_CONTAINER_RESOURCE_GPU": "8", "CP": "2"},
    "dlc_405b_pp16": {**DLC, **LARGE, "MODEL_SIZE": "405B", "TP": "8", "PP": "16", "AC": "full"}
    | {"WORLD_SIZE": "32", "KUBERNETES_CONTAINER_RESOURCE_GPU": "8"},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Start:
    """One dry run, in a machine with 16 cores."""

    text: str
    argv: list[str]
    world_size: int


@pytest.fixture
def start(
    values: Callable[..., list[str]], surroundings: Callable[..., dict[str, str]], world: Path
) -> Callable[..., Start]:
    """The command of one entry of COMMANDS."""
    positions = {position.name for position in POSITIONS}

    def build(changes: dict[str, str]) -> Start:
        typed = {name: value for name, value in changes.items() if name in positions}
        environ = surroundings(**{name: value for name, value in changes.items() if name not in positions})
        plan, environment, problems = make_plan(values(**typed), environ, dry_run=True)
        assert plan is not None, problems
        command = build_command(plan, dataclasses.replace(environment, cores=16))
        text = command.shell().replace(sys.executable, "PYTHON").replace(str(REPOSITORY), "REPO")
        text = text.replace(str(world), "WORLD")
        return Start(text=f"{text}\n", argv=megatron_argv(plan), world_size=plan.layout.world_size)

    return build


@pytest.mark.parametrize("name", COMMANDS)
def test_command_is_the_one_on_record(name: str, start: Callable[..., Start]) -> None:
    text = start(COMMANDS[name]).text
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()


def test_no_record_without_a_command() -> None:
    assert {path.stem for path in GOLDEN.glob("*.txt")} == set(COMMANDS)


def test_table_of_flags_is_complete() -> None:
    """MP_MEGATRON_ARGS may repeat none of our flags: the table that says so has to know them all."""
    recorded = {
        flag for path in GOLDEN.glob("*.txt") for flag in re.findall(r"^ +(--[a-z0-9-]+)", path.read_text(), re.M)
    }
    torchrun = {"--standalone", "--local-addr", "--nproc-per-node", "--nnodes", "--node-rank"}
    torchrun |= {"--master-addr", "--master-port"}
    extra = {"--log-params-norm", "--timing-log-level"}
    assert recorded - torchrun - extra <= EMITTED
    assert not EMITTED & FIXED


@pytest.fixture
def parsed(start: Callable[..., Start], tmp_path: Path) -> dict[str, Any]:
    """All commands after Megatron's parser."""
    cases = []
    for name, changes in COMMANDS.items():
        one = start(changes)
        cases.append({"name": name, "argv": one.argv, "world_size": one.world_size})
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    script = [sys.executable, str(Path(__file__).with_name("parse_argv.py")), str(tmp_path / "cases.json")]
    environ = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    run = subprocess.run(script, capture_output=True, text=True, env=environ, timeout=300, cwd=tmp_path)
    assert run.returncode == 0, run.stderr[-3000:]
    result: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return result


def test_megatron_understands_every_command(parsed: dict[str, Any], world: Path) -> None:
    """One process for all: it imports Megatron once. Expected values stand here, not in the code that made them."""
    assert set(parsed) == set(COMMANDS)
    for args in parsed.values():
        assert (args["swiglu"], args["add_bias_linear"]) == (True, False)
        assert (args["hidden_dropout"], args["attention_dropout"]) == (0.0, 0.0)
        assert (args["rotary_base"], args["use_rope_scaling"], args["layernorm_epsilon"]) == (500000, True, 1e-5)
        assert args["lr_decay_iters"] == args["train_iters"]

    def expect(name: str, **wanted: Any) -> None:
        assert {key: parsed[name][key] for key in wanted} == wanted, name

    pais = {"num_layers": 32, "hidden_size": 4096, "ffn_hidden_size": 14336, "num_attention_heads": 32}
    pais |= {"num_query_groups": 8, "kv_channels": 128, "padded_vocab_size": 128256, "rope_scaling_factor": 8.0}
    pais |= {"tensor_model_parallel_size": 4, "pipeline_model_parallel_size": 2, "data_parallel_size": 1}
    pais |= {"sequence_parallel": True, "use_distributed_optimizer": True, "bf16": True, "fp16": False, "fp8": None}
    pais |= {"load": str(world / "mcore-tp4-pp2"), "finetune": True, "ckpt_step": 1, "lr": 1e-5, "min_lr": 1e-6}
    expect("seed_pretrain", **pais, train_iters=9, lr_warmup_iters=0, sft_data=None, save_interval=100000)
    expect("seed_sft_idxmap", **pais, train_iters=10000, lr_warmup_iters=100, sft_data="idxmap")
    raw = [str(world / "chat.json")]
    expect("seed_sft_raw", **pais, train_iters=10000, sft_data="raw", train_data_path=raw, valid_data_path=raw)

    expect("cpu_one_process", num_layers=4, padded_vocab_size=384, bf16=False, fp16=False, attention_backend="flash")
    expect("cpu_one_process", spec=["megatron_patch.backend.cpu.layers", "local_layer_spec"], transformer_impl="local")
    expect("cpu_tp2_pp2_vp2", virtual_pipeline_model_parallel_size=2, attention_backend="unfused")
    expect("cpu_cp2_dp2_bf16", context_parallel_size=2, data_parallel_size=2, recompute_granularity="selective")
    expect("cpu_from_hf", load=None, valid_data_path=None, eval_iters=0)
    blend = ["0.3", str(world / "text"), "0.7", str(world / "with space")]
    expect("cpu_blend_and_split", data_path=blend, split="90.5,9.5,0", train_data_path=None)
    tied = {"untie_embeddings_and_output_weights": False, "rope_scaling_factor": 32.0, "kv_channels": 64}
    expect("gpu_1b_from_hf", **tied, fp16=True, spec=None, transformer_impl="transformer_engine")
    expect("gpu_auto_one_micro_batch", num_layers=32, data_parallel_size=8, attention_backend="auto")
    expect("gpu_8b_fp8", fp8="hybrid", fp8_recipe="tensorwise", fp8_param_gather=True, bf16=True, ckpt_step=None)
    expect("gpu_8b_recompute_offload", recompute_granularity="full", recompute_num_layers=4, ckpt_step=1)
    expect("gpu_8b_recompute_offload", optimizer_cpu_offload=True, optimizer_offload_fraction=1.0)
    expect("gpu_8b_offload_in_a_pipeline", cpu_offloading_num_layers=0, fine_grained_activation_offloading=True)
    expect("gpu_8b_offload_activations", cpu_offloading_num_layers=16, recompute_granularity=None)
    expect("dlc_70b_vp5", virtual_pipeline_model_parallel_size=5, data_parallel_size=1, context_parallel_size=2)
    expect("dlc_405b_pp16", num_layers=126, pipeline_model_parallel_size=16, data_parallel_size=2)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_builder_gives_only_what_it_declares(
    name: str, values: Callable[..., list[str]], surroundings: Callable[..., dict[str, str]]
) -> None:
    positions = {position.name for position in POSITIONS}
    typed = {key: value for key, value in COMMANDS[name].items() if key in positions}
    environ = surroundings(**{key: value for key, value in COMMANDS[name].items() if key not in positions})
    plan, _, problems = make_plan(values(**typed), environ, dry_run=True)
    assert plan is not None, problems
    for group in GROUPS[:-1]:  # the last is what the user gives
        given = {word for word in group(plan) if word.startswith("--")}
        assert given <= group.flags, (group.build.__name__, given - group.flags)


def test_no_flag_is_declared_twice() -> None:
    """One builder decides a flag; the precision-aware optimizer's is given for either of two reasons by one."""
    declared = [flag for group in GROUPS for flag in group.flags]
    assert len(declared) == len(set(declared))
