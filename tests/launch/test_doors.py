"""The NeMo tutorials' front door: every flag of the three texts, and the plan of the 25 values behind it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from megatron_patch.launch.argv import megatron_argv
from megatron_patch.launch.command import REPOSITORY
from megatron_patch.launch.driver import make_plan
from megatron_patch.launch.nemo import flags
from megatron_patch.launch.nemo.door import main
from megatron_patch.launch.nemo.model_names import size_of, size_of_hub_name, supported_configs, supported_models
from megatron_patch.launch.nemo.request import FINETUNE, PRETRAIN, Request
from megatron_patch.launch.nemo.translate import translate
from megatron_patch.launch.plan import values_of

EXAMPLES = REPOSITORY / "examples" / "llama3_1"
Surroundings = Callable[..., dict[str, str]]

SEED_000 = """
--executor -E --experiment -a --account -p --partition -i --container_image -N --num_nodes -G --num_gpus
--hf_model_id -n --nemo_model --hf_token --dataset_path --max_steps -g --global_batch_size -m --micro_batch_size -T
--tensor_model_parallel_size -P --pipeline_model_parallel_size -C --context_parallel_size
""".split()  # noqa: SIM905
SEED_001 = """
--executor -E --experiment -A --account -P --partition -I --container-image -N --num-nodes -G --num-gpus -M
--model-name --hf-model-id --nemo-model --hf-token --max-steps -gbs --global-batch-size -mbs --micro_batch_size
--fp8 -TP --tensor-model-parallel-size -PP --pipeline-model-parallel-size -VPP
--virtual-pipeline-model-parallel-size -CP --context-parallel-size -SP --sequence-parallel --dataset-dir
--dataset_path --wandb --wandb-project --wandb-name --wandb-token --recompute-granularity --recompute-method
--recompute-num-layers --cpu-offloading --cpu-offloading-layers --cpu-offloading-activations
--cpu-offloading-weights --optim-cpu-offloading --optim-cpu-offloading-frac
""".split()  # noqa: SIM905
SEED_002 = """
--executor --experiment --num_nodes --num_gpus --model_size --hf_model_id --nemo_model --hf_token --max_steps
--global_batch_size --tensor_model_parallel_size --pipeline_model_parallel_size --context_parallel_size
--dataset_path
""".split()  # noqa: SIM905
DOCUMENTED = {
    "executor": "local",
    "experiment": "pretraining",
    "account": "root",
    "partition": "defq",
    "container_image": "nvcr.io/nvidia/nemo:dev",
    "num_nodes": 1,
    "num_gpus": 8,
    "nemo_model": None,
    "max_steps": None,
    "global_batch_size": 2048,
    "micro_batch_size": 1,
    "seq_length": 8192,
    "tensor_model_parallel_size": 1,
    "pipeline_model_parallel_size": 1,
    "context_parallel_size": 1,
    "virtual_pipeline_model_parallel_size": 1,
    "optim_cpu_offloading_frac": 1.0,
}
"""Defaults in the texts' tables; switches are off."""

TINY = "--hf_model_id tokenizer -M tiny --dataset_path data -s 128 -g 8 --max_steps 10 --warmup_steps 1"


@pytest.fixture
def folders(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a tokenizer, checkpoints, a folder of idxmaps and one of conversations."""
    for name in ("tokenizer", "hf-8B", "hf-tiny", "mcore-tp4-pp2"):
        (tmp_path / name).symlink_to(world / name)
    (tmp_path / "data").mkdir()
    (tmp_path / "alpaca").mkdir()
    for name in ("text", "more"):
        for suffix in (".bin", ".idx"):
            (tmp_path / "data" / f"{name}{suffix}").symlink_to(world / f"{name}{suffix}")
    rows = "".join(json.dumps({"input": f"q{n}", "output": "a"}) + "\n" for n in range(20))
    for name in ("training", "validation", "test"):
        (tmp_path / "alpaca" / f"{name}.jsonl").write_text(rows)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def asked_for(command: str, stage: str = PRETRAIN, **environ: str) -> Request:
    """A command line, translated; no problem in it."""
    given, _, problems = flags.parse(command.split())
    asked = Request(given=given, environ={"DRY_RUN": "1", **environ}, stage=stage)
    translate(asked)
    assert not problems + asked.problems
    return asked


# ---------------------------------------------------------------- the flags


@pytest.mark.parametrize("word", sorted({*SEED_000, *SEED_001, *SEED_002}))
def test_every_spelling_of_the_texts_is_known(word: str) -> None:
    both = {word, word[:2] + word[2:].replace("-", "_"), word[:2] + word[2:].replace("_", "-")}
    for spelling in both if word.startswith("--") else {word}:
        _, _, problems = flags.parse([spelling, "1"] if spelling != "--executor" else [spelling, "local"])
        assert not [one for one in problems if "unknown flag" in one.what and one.names[0] == spelling]


def test_documented_defaults() -> None:
    asked = Request(given={}, environ={}, stage=PRETRAIN)
    assert {name: asked.get(name) for name in DOCUMENTED} == DOCUMENTED
    assert not any(asked.get(flag.name) for flag in flags.FLAGS if flag.kind is None)


def test_short_p_is_two_things() -> None:
    """Seed 000 means the pipeline by it, seed 001 the partition."""
    assert flags.parse(["-P", "4"])[0] == {"pipeline_model_parallel_size": 4}
    assert flags.parse(["-P", "gpu"])[0] == {"partition": "gpu"}


def test_no_two_flags_share_a_spelling() -> None:
    words = [word for flag in flags.FLAGS for word in (f"--{flag.name}", *flag.also)]
    assert {word for word in words if words.count(word) > 1} == {"-P"}


def test_the_readme_maps_every_flag() -> None:
    """One row each, with all spellings and what it becomes."""
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    rows = [flag_row(flag) for flag in flags.FLAGS if flag.becomes]
    if os.environ.get("UPDATE_GOLDEN"):
        begin, end = "<!-- nemo flags: begin (tests/launch/test_doors.py) -->\n", "<!-- nemo flags: end -->"
        before, rest = text.split(begin)
        head = "| flag | default | becomes | |\n| --- | --- | --- | --- |\n"
        text = before + begin + head + "\n".join(rows) + "\n" + end + rest.split(end)[1]
        (EXAMPLES / "README.md").write_text(text, encoding="utf-8")
    assert [row for row in rows if row not in text] == []


def flag_row(flag: flags.Flag) -> str:
    spelled = ", ".join(f"`{word}`" for word in (f"--{flag.name}", *flag.also))
    default = "off" if flag.kind is None else "" if flag.default is None else f"`{flag.default}`"
    return f"| {spelled} | {default} | {flag.becomes} | {flag.meaning} |"


def test_lists_of_models() -> None:
    assert (EXAMPLES / "supported_model.txt").read_text().split() == supported_models()
    assert (EXAMPLES / "supported_config.txt").read_text().split() == supported_configs()
    assert {size_of(name) for name in supported_configs()} == {"tiny", "1B", "3B", "8B", "70B", "405B", "auto"}
    assert size_of_hub_name("meta-llama/Llama-3.1-8B-Instruct") == "8B"
    assert size_of_hub_name("meta-llama/Llama-3.2-1B") == "1B"
    assert size_of_hub_name("meta-llama/Meta-Llama-3-8B") is None


# ---------------------------------------------------------------- the same plan

SAME = {
    "plain": (
        f"{TINY} --lr 1e-3 --min_lr 1e-4",
        {},
        "dsw tiny 1 8 1e-3 1e-4 128 128 bf16 1 1 1 false true true false false false "
        "500 data none none 10240 1024 experiments/pretraining",
    ),
    "parallel": (
        f"{TINY} -T 2 -PP 2 -SP -VPP 2 -E job --lr 1e-3 --min_lr 0 --precision fp32 --save_interval 5 --num_gpus 4",
        {"MP_VP": "2", "MP_NPROC": "4"},
        "dsw tiny 1 8 1e-3 0 128 128 fp32 2 2 1 true true true false false false "
        "5 data none none 10240 1024 experiments/job",
    ),
    "recompute": (
        f"{TINY} --recompute-granularity full --recompute-method block --recompute-num-layers 2 --fp8 -G 1",
        {"MP_AC_METHOD": "block", "MP_AC_LAYERS": "2", "MP_DEVICE": "cuda", "MP_NPROC": "1"},
        "dsw tiny 1 8 1e-5 1e-6 128 128 fp8 1 1 1 false true true false full false "
        "500 data none none 10240 1024 experiments/pretraining",
    ),
    "offload": (
        f"{TINY} --cpu-offloading --cpu-offloading-layers 3 --cpu-offloading-activations --split 80,10,10 "
        "--optim-cpu-offloading --optim-cpu-offloading-frac 0.5 --num-gpus 1",
        {"MP_AC_LAYERS": "3", "MP_OPTIMIZER_OFFLOAD_FRACTION": "0.5", "MP_SPLIT": "80,10,10"}
        | {"MP_DEVICE": "cuda", "MP_NPROC": "1"},
        "dsw tiny 1 8 1e-5 1e-6 128 128 bf16 1 1 1 false true true false offload static "
        "500 data none none 10240 1024 experiments/pretraining",
    ),
    "continued": (
        "--hf_model_id meta-llama/Llama-3.1-8B --nemo_model hf-8B --dataset_path data -g 2 --max_steps 7 "
        "--warmup_steps 0 --num_gpus 8 -T 4 -C 2",
        {"MP_DEVICE": "cuda", "MP_NPROC": "8", "MP_TOKENIZER_PATH": "hf-8B"},
        "dsw auto 1 2 1e-5 1e-6 8192 8192 bf16 4 1 2 false true true false false false "
        "500 data none hf-8B 114688 0 experiments/pretraining",
    ),
    "finetune": (
        "--hf_model_id hf-tiny --dataset_path alpaca -g 4 -s 128 --max_steps 5 --warmup_steps 1 --nemo_model",
        {"MP_DATASET_TYPE": "raw", "MP_TOKENIZER_PATH": "hf-tiny"},
        "dsw auto 1 4 5e-6 5e-7 128 128 bf16 1 1 1 false true true true false false "
        "500 alpaca/training.jsonl alpaca/validation.jsonl hf-tiny 5 1 experiments/finetuning",
    ),
    "slurm": (
        f"{TINY} --executor slurm -N 2 -G 4 -p gpu -A team -T 4 --time 4:00:00 --container_image none",
        {"MP_SLURM_NODES": "2", "MP_SLURM_GPUS": "4", "MP_SLURM_PARTITION": "gpu", "MP_SLURM_ACCOUNT": "team"}
        | {"MP_SLURM_TIME": "4:00:00", "MP_SLURM_IMAGE": "none", "MP_DEVICE": "auto"},
        "slurm tiny 1 8 1e-5 1e-6 128 128 bf16 4 1 1 false true true false false false "
        "500 data none none 10240 1024 experiments/pretraining",
    ),
}
"""A job in both spellings: named flags; variables and 25 values."""


@pytest.mark.parametrize("name", SAME)
def test_both_doors_make_the_same_plan(name: str, folders: Path) -> None:
    words, variables, positions = SAME[name]
    device = {"MP_DEVICE": variables.get("MP_DEVICE", "cpu")}
    asked = asked_for(words, FINETUNE if name == "finetune" else PRETRAIN, **device)
    environ = {"MP_TOKENIZER_PATH": "tokenizer", **device, **variables}
    first, _, wrong = make_plan(asked.command_line(), asked.environ, dry_run=True)
    second, _, also_wrong = make_plan(positions.split(), environ, dry_run=True)
    assert first is not None, wrong
    assert second is not None, also_wrong
    assert megatron_argv(first) == megatron_argv(second)
    assert values_of(first) == values_of(second)
    assert (first.layout, first.schedule, first.cluster) == (second.layout, second.schedule, second.cluster)


# ---------------------------------------------------------------- the texts' commands, as they stand

COMMON = "--executor local --experiment llama31_pretraining --num_nodes 1 --num_gpus 8"
PARALLEL = "--tensor_model_parallel_size {tp} --pipeline_model_parallel_size 1 --context_parallel_size 1"
COMMANDS = {
    "seed 000": f"{COMMON} --hf_model_id meta-llama/Llama-3.1-8B-Instruct --nemo_model nemo_ckpt/Llama-3.1-8B-Instruct "
    f"--hf_token <HF_TOKEN> --max_steps 100 --global_batch_size 2048 {PARALLEL.format(tp=4)} "
    "--dataset_path data/custom_dataset/preprocessed/",
    "seed 001": "--executor local --experiment llama31_pretraining --num-gpus 8 --hf-model-id Llama-3.1-8B-Instruct "
    "--nemo-model nemo2 --max-steps 100 --global-batch-size 2048 "
    f"{PARALLEL.format(tp=4)} --dataset_path processed",
    "seed 002": f"{COMMON} --model_size 8B --hf_model_id meta-llama/Llama-3.1-8B-Instruct "
    "--nemo_model nemo_ckpt/Llama-3.1-8B-Instruct --hf_token <HF_TOKEN> --max_steps 100 --global_batch_size 2048 "
    f"{PARALLEL.format(tp=2)} --dataset_path data/custom_dataset/preprocessed/",
    "seed 002 finetune": "--executor local --experiment llama31_finetuning --num_nodes 1 --num_gpus 8 --model_size 8B "
    "--hf_model_id meta-llama/Llama-3.1-8B-Instruct --hf_token <HF_TOKEN> --nemo_model --max_steps 100 "
    f"--global_batch_size 128 {PARALLEL.format(tp=2)} --dataset_path data/alpaca",
}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_texts_commands(name: str, folders: Path, world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the folders that the texts describe: hub download, converted checkpoint, preprocessed data."""
    for place in ("Llama-3.1-8B-Instruct", "nemo_ckpt/Llama-3.1-8B-Instruct", "nemo2"):
        (folders / place).parent.mkdir(exist_ok=True)
        (folders / place).symlink_to(world / "hf-8B")
    for place in ("data/custom_dataset/preprocessed", "processed/preprocessed"):
        (folders / place).mkdir(parents=True)
        for suffix in (".bin", ".idx"):
            (folders / place / f"wikinews_text_document{suffix}").symlink_to(world / f"text{suffix}")
    (folders / "data" / "alpaca").symlink_to(folders / "alpaca")
    stage = FINETUNE if "finetune" in name else PRETRAIN
    environ = {"DRY_RUN": "1", "MP_DEVICE": "cuda", "MP_NPROC": "8"}
    assert main(COMMANDS[name].split(), environ, stage) == 0
    said = capsys.readouterr().out
    assert "8 processes = TP" in said
    assert f"--train-iters {100}" in said
    assert "--global-batch-size " + ("128" if stage == FINETUNE else "2048") in said
    assert str(folders / "experiments" / ("llama31_finetuning" if stage == FINETUNE else "llama31_pretraining")) in said


def test_one_epoch(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two idxmaps of 2000 tokens: 4000 / (4 x 128) = 7 iterations; 20 conversations in fours: 5."""
    common = "--hf_model_id tokenizer -M tiny -s 128 -g 4 --dataset_path"
    asked = asked_for(f"{common} data")
    assert asked.values["TRAIN_TOKENS_OR_ITERS"] == str(7 * 4 * 128)
    assert "--max_steps is not given: one epoch = 4000 tokens / (4 x 128) = 7 steps" in asked.notes
    asked = asked_for(f"{common} alpaca --nemo_model hf-tiny", FINETUNE)
    assert asked.values["TRAIN_TOKENS_OR_ITERS"] == "5"
    assert "--max_steps is not given: one epoch = 20 conversations / 4 = 5 steps" in asked.notes


# ---------------------------------------------------------------- what is wrong

BAD = [
    ("--dataset_path data", "--hf_model_id: it is needed"),
    ("--hf_model_id tokenizer -M tiny", "--dataset_path: it is needed"),
    (f"{TINY} --exectuor local", "--exectuor: unknown flag; nearest: --executor"),
    (f"{TINY} -g", "--global_batch_size: no value after it"),
    (f"{TINY} -g 8 -gbs 8", "--global_batch_size: given twice"),
    (f"{TINY} -T three", "--tensor_model_parallel_size: not a whole number"),
    (f"{TINY} -T 3", "--tensor_model_parallel_size with --model_size: 8 attention heads"),
    (f"{TINY} -N 2", "--num_nodes: --executor local is one machine, not 2"),
    (f"{TINY} --fp8=true", "--fp8: a switch takes no value"),
    (f"{TINY} --cpu-offloading-weights", "--cpu_offloading_weights: Transformer Engine does not move weights any more"),
    (f"{TINY} --cpu-offloading", "--cpu_offloading_layers: --cpu_offloading needs it"),
    (f"{TINY} --cpu-offloading --cpu-offloading-layers 1", "--cpu_offloading: nothing to move"),
    (
        f"{TINY} --recompute-granularity full --cpu-offloading --cpu-offloading-activations --cpu-offloading-layers 1",
        "--cpu_offloading: not together with --recompute_granularity",
    ),
    (f"{TINY} --model_size llama3_8b", "--model_size: given twice"),
    ("--hf_model_id tokenizer --dataset_path data -M llama3_8b", "--model_size: this is Llama 3, not 3.1"),
    ("--hf_model_id tokenizer --dataset_path data", "--model_size: neither tokenizer nor a config.json tells it"),
    ("--hf_model_id nobody/nothing --dataset_path data -M tiny", "--hf_model_id: not in the hub's cache"),
    (f"{TINY} --nemo_model absent", "--nemo_model: no such folder"),
    ("--hf_model_id tokenizer -M tiny -s 128 --dataset_path data", "--max_steps: not given, and one epoch is less"),
    (f"{TINY} --executor kubernetes", "--executor: unknown value"),
]


@pytest.mark.parametrize(("command", "message"), BAD)
def test_bad_command_lines(command: str, message: str, folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command.split(), {"DRY_RUN": "1", "MP_DEVICE": "cpu"}, PRETRAIN) == 2
    assert message in capsys.readouterr().err


def test_a_flag_and_a_variable_that_disagree(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TINY.split(), "-VPP", "2"], {"DRY_RUN": "1", "MP_VP": "4", "MP_DEVICE": "cpu"}, PRETRAIN) == 2
    assert "the command line makes MP_VP 2, the environment says 4" in capsys.readouterr().err


def test_wandb_only_where_it_is_asked_for(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A key in the environment alone sends nothing; the key itself stands nowhere."""
    environ = {"DRY_RUN": "1", "WANDB_API_KEY": "k3y", "MP_DEVICE": "cpu"}
    assert main(TINY.split(), environ, PRETRAIN) == 0
    assert "--wandb" not in capsys.readouterr().out
    assert main([*TINY.split(), "--wandb", "--wandb-project", "mine"], environ, PRETRAIN) == 0
    said = capsys.readouterr().out
    assert "--wandb-project mine" in said
    assert "--wandb-exp-name pretraining" in said
    assert "k3y" not in said


def test_tokens_leave_the_process_list(folders: Path) -> None:
    """The door starts itself again without them, in the environment that `ps` does not show to others."""
    command = [sys.executable, str(EXAMPLES / "pretrain_llm.py"), *TINY.split(), "--dry-run"]
    command += ["--hf_token", "hf_s3cret", "--wandb", "--wandb-token=w_s3cret"]
    environ = {**os.environ, "MP_DEVICE": "cpu", "PYTHONPROFILEIMPORTTIME": ""}
    seen = []
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            with Path(f"/proc/{process.pid}/cmdline").open("rb") as file:
                seen.append(b"s3cret" in file.read())
            time.sleep(0.001)
        out, err = process.communicate()
    assert process.returncode == 0, err
    gone = len(seen) - seen[::-1].index(True) if True in seen else 0
    assert len(seen) > gone, "they stayed until the end"
    assert "s3cret" not in out + err
    assert "tokens were visible in the process list until now; export HF_TOKEN, WANDB_API_KEY instead" in err


def test_help_and_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"], {}, PRETRAIN) == 0
    assert "--tensor_model_parallel_size" in capsys.readouterr().out
    assert main(["--list"], {}, FINETUNE) == 0
    assert "llama31_8b = 8B" in capsys.readouterr().out


def test_any_python_finds_the_project() -> None:
    """Started by the system's Python, which may be too old and has no torch, from another folder."""
    command = ["/usr/bin/env", "-i", "PATH=/usr/bin:/bin", "HOME=/nonexistent", f"PYTHON={sys.executable}"]
    system = subprocess.run(["sh", "-c", "command -v python3"], capture_output=True, text=True, check=False)
    if system.returncode:
        pytest.skip("no other python3 here")
    for name in ("pretrain_llm", "finetune_llm", "convert_from_hf_to_nemo2", "convert_from_nemo2_to_hf"):
        run = [*command, system.stdout.strip(), str(EXAMPLES / f"{name}.py"), "--help"]
        done = subprocess.run(run, capture_output=True, text=True, cwd="/", timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        assert "--" in done.stdout
