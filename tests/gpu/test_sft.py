"""Packed conversations through Transformer Engine's THD attention: the losses of the processor."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch

from megatron_patch.data.train_tokenizer import save
from megatron_patch.data.train_tokenizer import train as train_tokenizer

from ..trainer.harness import Run
from ..trainer.harness import train as train_on_cpu
from .conftest import Once
from .harness import BF16, recorded, train

WORDS = ["import", "return", "lambda", "yield", "class", "raise", "with", "assert", "global", "while"]
FP32_TOLERANCE = 1e-4
BF16_TOLERANCE = 0.03
"""Nats over 6 iterations on losses of 6 to 12, from weights five times the usual: attention matters at once."""


@pytest.fixture(scope="module")
def conversations(once: Once) -> Path:
    """24 conversations of one to three turns."""

    def make(folder: Path) -> None:
        chance = random.Random(7)
        with (folder / "train.jsonl").open("w") as file:
            for number in range(24):
                messages = []
                for _ in range(1 + number % 3):
                    for role in ("user", "assistant"):
                        text = " ".join(chance.choices(WORDS, k=chance.randint(1, 7)))
                        messages.append({"role": role, "content": text})
                file.write(json.dumps({"messages": messages}) + "\n")

    return once("conversations", make) / "train.jsonl"


@pytest.fixture(scope="module")
def begin(once: Once, conversations: Path) -> str:
    """Flags of packed finetuning from a checkpoint that a CPU wrote."""

    def flags(folder: Path) -> str:
        return (
            f"--sft-data raw --sft-packing --calculate-per-token-loss --tokenizer-type HuggingFaceTokenizer "
            f"--tokenizer-model {folder}/tokenizer --seq-length 512 --max-position-embeddings 4096 "
            f"--data-cache-path {folder}/cache --train-iters 6 --lr-warmup-iters 0 --micro-batch-size 2 "
            f"--global-batch-size 4 "
        )

    def make(folder: Path) -> None:
        (folder / "corpus.jsonl").write_text(json.dumps({"text": " ".join(WORDS) + " user assistant\n\n"}) + "\n")
        save(train_tokenizer([folder / "corpus.jsonl"], vocab_size=640), folder / "tokenizer")
        saving = f"--init-method-std 0.1 --train-iters 1 --save {folder}/checkpoints --save-interval 1"
        train_on_cpu(folder / "output", conversations, flags(folder) + saving)

    folder = once("begin", make)
    return f"{flags(folder)} --load {folder}/checkpoints --finetune --no-load-optim --no-load-rng "


@pytest.fixture(scope="module")
def cpu_packed(once: Once, conversations: Path, begin: str) -> Run:
    """In fp32 on the processor."""
    return recorded(once("cpu-packed", lambda folder: train_on_cpu(folder, conversations, begin)))


@pytest.fixture(scope="module")
def cpu_packed_cp2(once: Once, conversations: Path, begin: str) -> Run:
    """The same over two processes: samples are padded to quarters, so that the rows hold others."""
    cp2 = f"{begin} --context-parallel-size 2"
    return recorded(once("cpu-packed-cp2", lambda folder: train_on_cpu(folder, conversations, cp2, processes=2)))


def gap(run: Run, reference: Run) -> float:
    """Largest difference of a loss."""
    assert len(run.losses) == len(reference.losses) == 6
    found = max(abs(a - b) for a, b in zip(run.losses, reference.losses, strict=True))
    print(f"largest difference {found:.2e}, losses {run.losses[0]:.3f} to {run.losses[-1]:.3f}")
    return found


def test_packed_in_fp32(tmp_path: Path, conversations: Path, begin: str, cpu_packed: Run) -> None:
    """Unfused THD attention, as cuDNN has none for fp32."""
    run = train(tmp_path, conversations, f"{begin} --cross-entropy-loss-fusion")
    assert gap(run, cpu_packed) <= FP32_TOLERANCE


def test_packed_in_bf16(tmp_path: Path, conversations: Path, begin: str, cpu_packed: Run) -> None:
    """cuDNN's THD attention."""
    run = train(tmp_path, conversations, begin + BF16)
    assert "attention cuDNN" in run.stdout
    assert gap(run, cpu_packed) <= BF16_TOLERANCE


def test_logits_at_trained_positions(tmp_path: Path, conversations: Path, begin: str, cpu_packed: Run) -> None:
    """As many rows as are trained, in the LM head and Transformer Engine's cross-entropy."""
    run = train(tmp_path, conversations, f"{begin} {BF16} --trained-logits 128")
    assert gap(run, cpu_packed) <= BF16_TOLERANCE


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_packed_over_two_gpus(tmp_path: Path, conversations: Path, begin: str, cpu_packed_cp2: Run) -> None:
    """Context parallelism: each sample is cut in four, two pieces for each GPU."""
    run = train(tmp_path, conversations, f"{begin} {BF16} --context-parallel-size 2", processes=2)
    assert gap(run, cpu_packed_cp2) <= BF16_TOLERANCE
