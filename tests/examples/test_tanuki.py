"""Tanuki's three scripts: its options reach Megatron, and a tiny training goes from text to an evaluation."""

from __future__ import annotations

import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from megatron_patch.launch.command import REPOSITORY

from ..launch.conftest import write_idxmap

TEST, INITIAL, CONTINUE = (
    "one_RTX3090_test.sh",
    "8B-A100_4_pretraining_initial_v2.sh",
    "8B-A100_4_pretraining_continue_v2.sh",
)
TANUKIS = """
--tensor-model-parallel-size 1 --pipeline-model-parallel-size 2 --context-parallel-size 1 --num-layers 32
--hidden-size 4096 --ffn-hidden-size 14336 --num-attention-heads 32 --group-query-attention --num-query-groups 8
--seq-length 2048 --max-position-embeddings 2048 --micro-batch-size 1 --global-batch-size 1536 --train-iters 300000
--tokenizer-type SentencePieceTokenizer --split 998,1,1 --distributed-backend nccl --init-method-std 0.008 --lr 8e-05
--min-lr 2e-05 --lr-decay-style cosine --lr-decay-iters 300000 --weight-decay 0.1 --clip-grad 0.8
--lr-warmup-iters 1000 --optimizer adam --adam-beta1 0.9 --adam-beta2 0.95 --adam-eps 1e-05 --log-interval 1
--save-interval 500 --eval-interval 10000 --eval-iters 10 --bf16 --untie-embeddings-and-output-weights
--position-embedding-type rope --rotary-base 500000 --disable-bias-linear --normalization RMSNorm --norm-epsilon 1e-05
--no-masked-softmax-fusion --attention-dropout 0 --hidden-dropout 0 --swiglu --attention-backend auto
--attention-softmax-in-fp32 --recompute-granularity selective --transformer-impl transformer_engine
--fp8-format hybrid --fp8-recipe delayed --fp8-amax-compute-algo max --fp8-amax-history-len 1024 --z-loss 0.0001
--log-throughput --wandb-exp-name Llama-3-8B-initial --wandb-project Llama-3-8B --wandb-entity weblab-geniac1
"""
"""Its list, in the words of megatron-core 0.19.2 (see the README); what it leaves open is the script's."""


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with `training`, a SentencePiece tokenizer and two corpora of 1,000 documents."""
    root = tmp_path_factory.mktemp("Tanuki_pretraining")
    for name in ("megatron_patch", "toolkits", "examples", "LM-Evaluation-Harness"):
        shutil.copytree(REPOSITORY / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "checkpoints"))
    training = root / "examples" / "tanuki_8b"
    (root / "training").symlink_to("examples/tanuki_8b")
    (training / "tokenizer").mkdir()
    for name, module in (("initial", textwrap), ("continue", inspect)):
        lines = inspect.getsource(module).splitlines() * 3
        documents = ["\n".join(lines[number : number + 12]) for number in range(1000)]
        text = root / f"{name}.jsonl"
        text.write_text("".join(json.dumps({"text": document}) + "\n" for document in documents))
        if name == "initial":
            (root / "text.txt").write_text("\n".join(documents))
            model = training / "tokenizer" / "tokenizer_scale200"
            SentencePieceTrainer.train(
                input=str(root / "text.txt"), model_prefix=str(model), vocab_size=600, byte_fallback=True, minloglevel=2
            )
        (training / "training_corpus" / name).mkdir(parents=True)
        run(
            root,
            "sh toolkits/pretrain_data_preprocessing/run_make_pretraining_dataset.sh",
            *(str(text), "examples/tanuki_8b/tokenizer", f"examples/tanuki_8b/training_corpus/{name}/text"),
        )
    return root


@pytest.fixture(scope="session")
def long_documents(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A corpus that 300,000 steps may read: Megatron's index of as many epochs of short documents needs 120 GB."""
    folder = tmp_path_factory.mktemp("long")
    write_idxmap(folder / "text_document", documents=1000, length=20_000)
    return str(folder)


def run(root: Path, command: str, *more: str, status: int = 0, **variables: str) -> str:
    """Everything that a command in the root of the project says."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("MP_", "WANDB"))}
    environ |= {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1", **variables}
    words = [*command.split(), *more]
    done = subprocess.run(words, cwd=root, env=environ, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == status, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def flags(said: str) -> dict[str, str]:
    """The flags of the command that a dry run shows."""
    words = said.split("pretrain_llama.py", 1)[1].replace("\\\n", " ").split()
    pairs = zip(words, [*words[1:], ""], strict=True)
    return {word: "" if value.startswith("--") else value for word, value in pairs if word.startswith("--")}


def test_every_option_of_tanukis_script_reaches_megatron(root: Path, long_documents: str) -> None:
    found = flags(run(root, f"./training/{INITIAL}", DRY_RUN="1", MP_DEVICE="cuda", TRAIN_DATA_PATH=long_documents))
    wanted = flags(f"pretrain_llama.py {TANUKIS}")
    assert {name: found.get(name, "absent") for name in wanted} == wanted
    assert found["--tokenizer-model"] == str(root / "examples/tanuki_8b/tokenizer/tokenizer_scale200.model")
    assert found["--padded-vocab-size"] == "640"
    assert "--use-rope-scaling" not in found


def test_values_of_ones_own(root: Path) -> None:
    changes = {"TENSOR_PARALLEL_SIZE": "2", "PIPELINE_PARALLEL_SIZE": "1", "PRECISION": "bf16", "TRAIN_STEPS": "7"}
    changes |= {"LR_WARMUP_STEPS": "2", "MP_Z_LOSS": "0.01", "MP_MEGATRON_ARGS": "--log-params-norm"}
    found = flags(run(root, f"./training/{INITIAL}", DRY_RUN="1", MP_DEVICE="cuda", **changes))
    assert (found["--tensor-model-parallel-size"], found["--train-iters"], found["--z-loss"]) == ("2", "7", "0.01")
    assert "--sequence-parallel" in found
    assert "--log-params-norm" in found
    assert "--fp8-format" not in found


OWN = {
    "MP_CLIP_GRAD": ("0.5", "--clip-grad"),
    "MP_LOG_INTERVAL": ("3", "--log-interval"),
    "MP_ADAM_BETA1": ("0.8", "--adam-beta1"),
    "MP_ADAM_BETA2": ("0.9", "--adam-beta2"),
    "MP_ADAM_EPS": ("1e-07", "--adam-eps"),
    "MP_WEIGHT_DECAY": ("0.2", "--weight-decay"),
    "MP_SPLIT": ("90,5,5", "--split"),
    "MP_LR_DECAY_ITERS": ("250000", "--lr-decay-iters"),
    "MP_FP8_RECIPE": ("tensorwise", "--fp8-recipe"),
    "MP_EVAL_ITERS": ("4", "--eval-iters"),
    "MP_EVAL_INTERVAL": ("123", "--eval-interval"),
    "MP_WANDB_PROJECT": ("mine", "--wandb-project"),
    "MP_WANDB_ENTITY": ("me", "--wandb-entity"),
    "MP_WANDB_NAME": ("this", "--wandb-exp-name"),
}
"""Every MP_ variable that facts.sh gives a value, except for what it adds to."""


def test_a_variable_that_is_set_before_the_script_wins(root: Path, long_documents: str) -> None:
    environ = {name: value for name, (value, _) in OWN.items()} | {"TRAIN_DATA_PATH": long_documents}
    found = flags(run(root, f"./training/{INITIAL}", DRY_RUN="1", MP_DEVICE="cuda", **environ))
    assert {flag: found.get(flag) for _, flag in OWN.values()} == {flag: value for value, flag in OWN.values()}
    exported = set(re.findall(r"\b(MP_\w+)=", (root / "training" / "facts.sh").read_text()))
    assert exported - set(OWN) == {"MP_TOKENIZER_PATH", "MP_Z_LOSS", "MP_MEGATRON_ARGS", "MP_NPROC"}


def test_nothing_is_said_of_a_variable_that_nobody_has_set(root: Path) -> None:
    said = run(root, f"./training/{TEST}", DRY_RUN="1", MP_DEVICE="cpu")
    assert "does nothing under" not in said


def test_few_documents(root: Path, tmp_path: Path) -> None:
    """400 are enough for the debug script; of 10, shares that fit are named, and taken."""
    for count in (400, 10):
        text = tmp_path / f"{count}.jsonl"
        text.write_text("".join(json.dumps({"text": f"document {number}"}) + "\n" for number in range(count)))
        make = "sh toolkits/pretrain_data_preprocessing/run_make_pretraining_dataset.sh"
        run(root, make, str(text), "examples/tanuki_8b/tokenizer", str(tmp_path / str(count) / "text"))
    few = {"DRY_RUN": "1", "MP_DEVICE": "cpu"}
    run(root, f"./training/{TEST}", TRAIN_DATA_PATH=str(tmp_path / "400"), **few)
    few |= {"TRAIN_DATA_PATH": str(tmp_path / "10")}
    said = run(root, f"./training/{TEST}", status=2, **few)
    assert "such as 8,1,1" in said and "[split-empty-share]" in said
    assert "--split 8,1,1" in run(root, f"./training/{TEST}", MP_SPLIT="8,1,1", **few)


def test_an_empty_folder_is_called_empty(root: Path, tmp_path: Path) -> None:
    said = run(root, f"./training/{TEST}", status=2, DRY_RUN="1", MP_DEVICE="cpu", TRAIN_DATA_PATH=str(tmp_path))
    assert f"the folder {tmp_path} is empty" in said and "[folder-empty]" in said


def test_what_is_missing_is_said(root: Path, tmp_path: Path) -> None:
    said = run(root, f"./training/{TEST}", status=2, MP_TOKENIZER_PATH=str(tmp_path), DRY_RUN="1")
    assert "[tokenizer-absent]" in said
    said = run(root, f"./training/{CONTINUE}", status=2, DRY_RUN="1", MP_DEVICE="cuda", LOAD=str(tmp_path / "absent"))
    assert "PRETRAIN_CHECKPOINT_PATH: no such folder" in said and "[no-such-folder]" in said


def test_the_super_light_model_on_a_cpu(root: Path) -> None:
    """As Tanuki's script starts it; shorter than it would be."""
    few = {"TRAIN_STEPS": "4", "LR_WARMUP_STEPS": "1", "MP_EVAL_ITERS": "2", "SEQ_LENGTH": "32"}
    run(root, f"./training/{TEST}", MP_DEVICE="cpu", **few)
    lines = (root / "training" / "checkpoints" / "test" / "metrics.jsonl").read_text().splitlines()
    steps = [record for record in map(json.loads, lines) if "loss" in record]
    assert len(steps) == 4
    assert all(step["z_loss"] > 0 for step in steps)


@pytest.mark.slow
def test_initial_continued_exported_evaluated(root: Path, tmp_path: Path) -> None:
    """The 8B scripts with the light model, in fp32 on a CPU: all but the size is theirs."""
    light = {"MODEL_SIZE": "tanuki-light", "PRECISION": "fp32", "MP_DEVICE": "cpu", "MP_NPROC": "2", "SEQ_LENGTH": "64"}
    light |= {"GLOBAL_BATCH_SIZE": "4", "LR_WARMUP_STEPS": "1", "TRAIN_STEPS": "4", "MP_EVAL_ITERS": "1"}
    run(root, f"./training/{INITIAL}", **light)
    said = run(root, f"./training/{CONTINUE}", **light | {"TRAIN_STEPS": "5"})
    said = " ".join(said.split())
    assert "kept from iteration 4 of" in said
    assert "the weights, 640 rows of vocabulary" in said
    assert "reset: optimizer state, iteration count, learning rate schedule, position in the data" in said
    assert "new beside that run: LR 8e-05 -> 5e-05, MIN_LR 2e-05 -> 5e-06, DATASET_PATH" in said
    losses = {}
    for name in ("initial", "continue"):
        lines = (root / "training" / "checkpoints" / name / "metrics.jsonl").read_text().splitlines()
        losses[name] = [record["loss"] for record in map(json.loads, lines) if "loss" in record]
    assert [len(losses[name]) for name in losses] == [4, 5]
    assert losses["continue"][0] < losses["initial"][0], "it begins with what was learned"

    convertor = "sh toolkits/model_checkpoints_convertor/llama/hf2mcore_convertor_llama3_1.sh auto"
    to_hf = ("1", "1", "true", "false", "false", "fp32")
    run(root, convertor, "training/checkpoints/continue", str(tmp_path / "hf"), *to_hf)
    from transformers import AutoTokenizer

    ours = AutoTokenizer.from_pretrained(tmp_path / "hf")
    theirs = SentencePieceProcessor(model_file=str(root / "training" / "tokenizer" / "tokenizer_scale200.model"))
    text = "def f(x):\n    return x  # これは日本語です\n"
    assert ours(text, add_special_tokens=False)["input_ids"] == theirs.encode(text)
    from megatron_patch.evaluation import synthetic

    synthetic.make(tmp_path / "questions", 1)
    evaluate = ("sh LM-Evaluation-Harness/evaluate.sh", str(tmp_path / "hf"), "cmmlu", str(tmp_path / "questions"))
    run(root, *evaluate, "--output", str(tmp_path / "scores"))
    results = json.loads(next((tmp_path / "scores").rglob("results.json")).read_text())
    assert len(results["subjects"]) == 67


@pytest.mark.slow
def test_a_checkpoint_with_a_smaller_vocabulary(root: Path, tmp_path: Path) -> None:
    """The tokenizer has more pieces than the checkpoint has rows: refused before anything is loaded."""
    more = {"vocab_size": 700, "byte_fallback": True, "minloglevel": 2}
    SentencePieceTrainer.train(input=str(root / "text.txt"), model_prefix=str(tmp_path / "larger"), **more)
    light = {"SEQ_LENGTH": "32", "TRAIN_STEPS": "2", "LR_WARMUP_STEPS": "1", "MP_DEVICE": "cpu", "MP_EVAL_ITERS": "1"}
    run(root, f"./training/{TEST}", **light, CHECKPOINT_SAVE_DIR=str(tmp_path / "small"))
    light |= {"MODEL_SIZE": "tanuki-light", "MP_NPROC": "1", "PIPELINE_PARALLEL_SIZE": "1", "PRECISION": "fp32"}
    light |= {"LOAD": str(tmp_path / "small"), "MP_TOKENIZER_PATH": str(tmp_path / "larger.model")}
    said = run(root, f"./training/{CONTINUE}", status=2, **light)
    assert "the tokenizer has 700 ids, the model 600 rows" in said and "[tokenizer-too-large]" in said
