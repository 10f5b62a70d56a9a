"""Questions, a tokenizer and two tiny models, made once for a session."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from megatron_patch.checkpoint.random_model import make_hf_checkpoint, tokenizer_vocab_size
from megatron_patch.data.train_tokenizer import save, train
from megatron_patch.evaluation import synthetic
from megatron_patch.models import model_of_size

ROOT = Path(__file__).resolve().parents[2]
HARNESS = ROOT / "LM-Evaluation-Harness"


@pytest.fixture(scope="session")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two questions a subject, in cmmlu/ and ceval/."""
    folder = tmp_path_factory.mktemp("questions")
    synthetic.make(folder, 2)
    return folder


@pytest.fixture(scope="session")
def tokenizer(questions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level BPE that knows the questions' words."""
    folder = tmp_path_factory.mktemp("tokenizer")
    texts = [file.read_text(encoding="utf-8") for file in sorted(questions.glob("*/*/*.csv"))]
    corpus = folder / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in [*texts, "答案： A B C D"] * 2))
    save(train([corpus], vocab_size=1024), folder / "tokenizer")
    return folder / "tokenizer"


def make_model(folder: Path, tokenizer: Path, seed: int, family: str | None = None) -> Path:
    """Two layers, Llama's unless said otherwise, with random weights large enough that answers differ."""
    shape = replace(
        model_of_size("tiny", family), num_layers=2, hidden_size=64, ffn_hidden_size=128, num_attention_heads=4,
        num_query_groups=2, head_dim=16, init_method_std=0.08,
    )  # fmt: skip
    vocab = tokenizer_vocab_size(tokenizer)
    make_hf_checkpoint(folder, shape, precision="fp32", vocab_size=vocab, tokenizer=tokenizer, seed=seed)
    return folder


@pytest.fixture(scope="session")
def model(tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "base", tokenizer, 1)
