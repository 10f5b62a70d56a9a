"""The NeMo tutorials' two scripts: the texts' commands as they stand, and what is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_patch.launch.command import REPOSITORY
from megatron_patch.nemo.cli import main
from megatron_patch.nemo.translate import FINETUNE, PRETRAIN

EXAMPLES = REPOSITORY / "examples" / "llama3_1"
TINY = "--hf_model_id tokenizer -M tiny --dataset_path data -s 128 -g 8 --max_steps 10 --warmup_steps 1"


COMMANDS = {
    "pretraining.py": """
        --executor local --experiment llama31_pretraining --num_nodes 1 --num_gpus 8
        --hf_model_id meta-llama/Llama-3.1-8B-Instruct --nemo_model nemo_ckpt/Llama-3.1-8B-Instruct
        --hf_token <HF_TOKEN> --max_steps 100 --global_batch_size 2048
        --tensor_model_parallel_size 4 --pipeline_model_parallel_size 1 --context_parallel_size 1
        --dataset_path data/custom_dataset/preprocessed/""",
    "pretrain_llm.py": """
        --executor local --experiment llama31_pretraining --num-gpus 8
        --hf-model-id Llama-3.1-8B-Instruct --nemo-model nemo2 --max-steps 100 --global-batch-size 2048
        --tensor_model_parallel_size 4 --pipeline_model_parallel_size 1 --context_parallel_size 1
        --dataset_path processed""",
    "four stages: pretrain": """
        --executor local --experiment llama31_pretraining --num_nodes 1 --num_gpus 8 --model_size 8B
        --hf_model_id meta-llama/Llama-3.1-8B-Instruct --nemo_model nemo_ckpt/Llama-3.1-8B-Instruct
        --hf_token <HF_TOKEN> --max_steps 100 --global_batch_size 2048
        --tensor_model_parallel_size 2 --pipeline_model_parallel_size 1 --context_parallel_size 1
        --dataset_path data/custom_dataset/preprocessed/""",
    "four stages: finetune": """
        --executor local --experiment llama31_finetuning --num_nodes 1 --num_gpus 8 --model_size 8B
        --hf_model_id meta-llama/Llama-3.1-8B-Instruct --hf_token <HF_TOKEN> --nemo_model
        --max_steps 100 --global_batch_size 128
        --tensor_model_parallel_size 2 --pipeline_model_parallel_size 1 --context_parallel_size 1
        --dataset_path data/alpaca""",
}
"""Of the tutorials, by script."""


@pytest.mark.parametrize("name", COMMANDS)
def test_the_tutorials_commands(name: str, folders: Path, world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the folders that the tutorials describe: hub download, converted checkpoint, preprocessed data."""
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
    assert "--train-iters 100" in said
    assert "--global-batch-size " + ("128" if stage == FINETUNE else "2048") in said
    assert str(folders / "experiments" / ("llama31_finetuning" if stage == FINETUNE else "llama31_pretraining")) in said


BAD = [
    # the command line, what the error calls the flags (as they were typed), its code
    ("--dataset_path data", "--hf_model_id", "nemo-tokenizer-needed"),
    ("--hf_model_id tokenizer -M tiny", "--dataset_path", "nemo-data-needed"),
    (f"{TINY} --exectuor local", "--exectuor", "flag-unknown-nearest"),
    (f"{TINY} -g", "-g", "flag-without-value"),
    (f"{TINY} -gbs 8", "-gbs", "flag-twice"),
    (f"{TINY} -T three", "-T", "not-whole"),
    (f"{TINY} --tensor-model-parallel-size three", "--tensor-model-parallel-size", "not-whole"),
    (f"{TINY} -T 3", "-T with -M", "tp-heads"),
    (f"{TINY} -mbs 3", "-g with -mbs", "batch-multiple"),
    (f"{TINY} -s 200000", "-s", "flag-twice"),
    (f"{TINY} -N 2", "-N", "nemo-local-nodes"),
    (f"{TINY} --fp8=true", "--fp8", "flag-is-switch"),
    (f"{TINY} --cpu-offloading-weights", "--cpu-offloading-weights", "nemo-offload-weights"),
    (f"{TINY} --cpu-offloading", "--cpu_offloading_layers", "nemo-offload-layers"),
    (f"{TINY} --cpu-offloading --cpu-offloading-layers 1", "--cpu-offloading", "nemo-offload-nothing"),
    (
        f"{TINY} --recompute-granularity full --cpu-offloading --cpu-offloading-activations --cpu-offloading-layers 1",
        "--cpu-offloading",
        "nemo-offload-and-recompute",
    ),
    (f"{TINY} --model_size llama3_8b", "--model_size", "flag-twice"),
    ("--hf_model_id tokenizer --dataset_path data -M llama3_8b", "-M", "nemo-size-llama3"),
    ("--hf_model_id tokenizer --dataset_path data --model-name llama31", "--model-name", "nemo-size-unknown-nearest"),
    ("--hf_model_id tokenizer --dataset_path data -M zzz", "-M", "nemo-size-unknown"),
    ("--hf_model_id tokenizer --dataset_path data", "--model_size", "nemo-size-not-told"),
    ("--dataset_path data", "--model_size", "nemo-size-needed"),
    ("--hf_model_id nobody/nothing --dataset_path data -M tiny", "--hf_model_id", "hub-not-cached"),
    ("--hf_model_id nothing --dataset_path data -M tiny", "--hf_model_id", "hub-nowhere"),
    (f"{TINY} --nemo_model absent", "--nemo_model", "no-such-folder"),
    ("--hf_model_id tokenizer -M tiny -s 128 --dataset_path data", "--max_steps", "nemo-epoch-too-short"),
    (f"{TINY} --executor kubernetes", "--executor", "unknown-value"),
    (f"{TINY} --wandb", "--wandb", "nemo-wandb-no-key"),
]


@pytest.mark.parametrize(("command", "label", "code"), BAD)
def test_bad_command_lines(
    command: str, label: str, code: str, folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each is one problem, under the names that were typed."""
    assert main(command.split(), {"DRY_RUN": "1", "MP_DEVICE": "cpu"}, PRETRAIN) == 2
    said = capsys.readouterr().err
    assert "position" not in said
    lines = [line for line in said.splitlines() if line.startswith(f"  {label}: ")]
    if code in PLACES_OF_THE_DRIVER:
        assert lines, said
    else:
        assert [line.endswith(f"[{code}]") for line in lines] == [True], said


PLACES_OF_THE_DRIVER = {"tp-heads", "batch-multiple", "no-such-folder"}


def test_the_nearest_name(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = "--hf_model_id tokenizer --dataset_path data --model-name llama31"
    assert main(command.split(), {"DRY_RUN": "1", "MP_DEVICE": "cpu"}, PRETRAIN) == 2
    assert "nearest: llama31_8b" in capsys.readouterr().err


def test_a_flag_and_a_variable_that_disagree(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TINY.split(), "-VPP", "2"], {"DRY_RUN": "1", "MP_VP_CHUNKS": "4", "MP_DEVICE": "cpu"}, PRETRAIN) == 2
    said = capsys.readouterr().err
    assert "  -VPP: " in said
    assert "[flag-and-variable]" in said


def test_the_hubs_cache_is_trained_from(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its files are links to ../../blobs/HASH: the folder of the snapshot is taken, not that of the blobs."""
    repository = folders / "hub" / "models--meta-llama--Llama-3.1-8B-Instruct"
    snapshot = repository / "snapshots" / "0e9e39f2"
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0e9e39f2")
    for number, file in enumerate(sorted((folders / "hf-tiny").iterdir())):
        (repository / "blobs" / str(number)).write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    command = "--hf_model_id meta-llama/Llama-3.1-8B-Instruct --dataset_path alpaca -g 4 -s 128 --max_steps 5 --dry_run"
    environ = {"HF_HUB_CACHE": str(folders / "hub"), "MP_DEVICE": "cpu"}
    assert main(command.split(), environ, FINETUNE) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert f"--tokenizer-model {snapshot}" in said
    assert f"--hf-checkpoint {snapshot}" in said
    assert "blobs" not in said


def test_notes_name_flags_as_typed(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = f"{TINY} -SP --recompute-num-layers 2 --account me"
    assert main(command.split(), {"DRY_RUN": "1", "MP_DEVICE": "cpu"}, PRETRAIN) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "-SP does nothing at --tensor_model_parallel_size 1" in said
    assert "--recompute-num-layers does nothing without --recompute_granularity full" in said
    assert "--account does nothing under --executor local" in said
    assert "position" not in said.split(" command ")[0]


def test_problems_name_nemos_flags_in_chinese(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(f"{TINY} -mbs 3".split(), {"DRY_RUN": "1", "MP_DEVICE": "cpu", "LANG": "zh_CN.UTF-8"}, PRETRAIN) == 2
    assert "  -g 与 -mbs：不是 -mbs x 数据并行数 = 3 x 1 的倍数" in capsys.readouterr().err


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


NOTES_ITSELF = """
import os
with open("/proc/self/cmdline", "rb") as mine, open(os.environ["NOTES"], "ab") as notes:
    notes.write(mine.read().replace(b"\\0", b" ") + b"\\n")
"""


def test_tokens_leave_the_process_list(folders: Path, tmp_path: Path) -> None:
    """The CLI starts itself again without them, in the environment that `ps` does not show to others.

    Each Python writes down what `ps` would show of it.
    """
    (tmp_path / "sitecustomize.py").write_text(NOTES_ITSELF)
    command = [sys.executable, str(EXAMPLES / "pretrain_llm.py"), *TINY.split(), "--dry-run"]
    command += ["--hf_token", "hf_s3cret", "--wandb", "--wandb-token=w_s3cret"]
    environ = {**os.environ, "MP_DEVICE": "cpu", "PYTHONPATH": str(tmp_path), "NOTES": str(tmp_path / "notes")}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=300, check=False)
    out, err = done.stdout, done.stderr
    assert done.returncode == 0, err
    first, *others = (tmp_path / "notes").read_text().splitlines()
    assert "s3cret" in first and others
    assert not any("s3cret" in line for line in others), others
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
        done = subprocess.run(run, capture_output=True, text=True, cwd="/", timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        assert "--" in done.stdout
