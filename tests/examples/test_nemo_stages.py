"""The four stages of a NeMo tutorial, by its own commands: convert, pretrain, finetune, export; `tiny` for 8B."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from megatron_patch.data.train_tokenizer import save, train
from megatron_patch.launch.command import REPOSITORY

EXAMPLES = REPOSITORY / "examples" / "llama3_1"
TOOLKITS = REPOSITORY / "toolkits"
TOKEN = "hf_s3cretOfTheTest"
MODEL = "Llama-3.1-8B-Instruct"
COMMON = (
    f"--executor local --num_nodes 1 --num_gpus 2 --model_size tiny --hf_token {TOKEN} "
    "--tensor_model_parallel_size 2 --pipeline_model_parallel_size 1 --context_parallel_size 1 "
    "--global_batch_size 4 --warmup_steps 1 --lr 1e-3"
)
"""The NeMo tutorial's flags, and four that make the run small."""


def run(folder: Path, script: Path, flags: str) -> str:
    """Everything that one of the scripts says, started in `folder`."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("MP_", "WANDB", "HF_TOKEN"))}
    environ |= {"MP_DEVICE": "cpu", "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), *flags.split()]
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def losses(experiment: Path) -> list[float]:
    records = map(json.loads, (experiment / "metrics.jsonl").read_text().splitlines())
    return [record["loss"] for record in records if "loss" in record]


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """What the tutorial's downloads would leave: a model of two commands' length, text, conversations."""
    lines = inspect.getsource(textwrap).splitlines()
    (tmp_path / "data" / "custom_dataset" / "json").mkdir(parents=True)
    text = tmp_path / "data" / "custom_dataset" / "json" / "wikinews-zhtw.jsonl"
    documents = [{"text": "\n".join(lines[number : number + 20])} for number in range(0, len(lines), 5)]
    text.write_text("".join(json.dumps(document) + "\n" for document in documents))
    save(train([text], vocab_size=512), tmp_path / "tokenizer")
    make = [sys.executable, "-m", "megatron_patch.checkpoint.random_model", "tiny", str(tmp_path / MODEL)]
    make += ["--tokenizer", str(tmp_path / "tokenizer"), "--precision", "fp32"]
    subprocess.run(make, cwd=REPOSITORY, check=True, capture_output=True, timeout=300)
    (tmp_path / "data" / "alpaca").mkdir()
    rows = [{"instruction": lines[n], "input": "", "output": lines[n + 1] or "nothing"} for n in range(60) if lines[n]]
    for name in ("training", "validation"):
        (tmp_path / "data" / "alpaca" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_tutorials_four_stages_run_one_after_the_other(workspace: Path) -> None:
    run(workspace, EXAMPLES / "convert_from_hf_to_nemo2.py", f"--source {MODEL} --output_path nemo_ckpt/{MODEL}")

    preprocess = "--input=data/custom_dataset/json/wikinews-zhtw.jsonl --json-keys=text --dataset-impl mmap "
    preprocess += f"--tokenizer-library=huggingface --tokenizer-type {MODEL} --append-eod "
    preprocess += "--output-prefix=data/custom_dataset/preprocessed/wikinews"
    (workspace / "data" / "custom_dataset" / "preprocessed").mkdir()
    run(workspace, TOOLKITS / "pretrain_data_preprocessing" / "preprocess_data_for_megatron.py", preprocess)

    pretrain = f"{COMMON} --experiment llama31_pretraining --hf_model_id meta-llama/{MODEL} "
    pretrain += f"--nemo_model nemo_ckpt/{MODEL} --seq_length 64 --dataset_path data/custom_dataset/preprocessed/"
    said = run(workspace, EXAMPLES / "pretrain_llm.py", f"{pretrain} --max_steps 4")
    assert f"the folder {MODEL} here is taken for meta-llama/{MODEL}" in said
    assert "tokens were visible in the process list until now" in said
    pretraining = workspace / "experiments" / "llama31_pretraining"
    first = losses(pretraining)
    assert len(first) == 4
    said = run(workspace, EXAMPLES / "pretrain_llm.py", f"{pretrain} --max_steps 6")  # resume_if_exists
    assert "resuming from iteration 4 of 6" in said
    assert losses(pretraining)[:4] == first
    assert len(losses(pretraining)) == 6

    finetune = (
        f"{COMMON} --experiment llama31_finetuning --hf_model_id {MODEL} --seq_length 256 --dataset_path data/alpaca "
    )
    run(
        workspace,
        EXAMPLES / "finetune_llm.py",
        f"{finetune} --nemo_model experiments/llama31_pretraining --max_steps 4",
    )
    finetuning = workspace / "experiments" / "llama31_finetuning"
    assert len(losses(finetuning)) == 4

    export = f"--source experiments/llama31_finetuning --output_path hf_ckpt --hf-path {MODEL}"
    run(workspace, EXAMPLES / "convert_from_nemo2_to_hf.py", export)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(workspace / "hf_ckpt")
    assert tokenizer.chat_template
    before, after = (AutoModelForCausalLM.from_pretrained(workspace / name) for name in (MODEL, "hf_ckpt"))
    pairs = zip(before.state_dict().values(), after.state_dict().values(), strict=True)
    assert all(one.shape == two.shape and not one.equal(two.to(one.dtype)) for one, two in pairs)

    for experiment in (pretraining, finetuning):
        assert {"plan.json", "metrics.jsonl", "logs", "checkpoints"} <= {path.name for path in experiment.iterdir()}
        files = (path for path in experiment.rglob("*") if path.is_file())
        assert [path for path in files if TOKEN.encode() in path.read_bytes()] == []
