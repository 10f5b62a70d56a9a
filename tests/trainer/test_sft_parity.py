"""Finetuning through the driver against Hugging Face: raw JSON, the template's own assistant mask, one loss."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from megatron_patch.checkpoint.random_model import make_hf_checkpoint
from megatron_patch.data.train_tokenizer import save, train
from megatron_patch.models import families

from ..data.sft.conftest import MARKED, WORDS, conversation
from . import driver
from .chat_templates import CHATS
from .harness import read_metrics

LLAMA = next(iter(families()))
SAMPLES, SEQ = 16, 1024
TOLERANCE = 1e-5


QUICK = (LLAMA, "qwen3")
"""Mistral's template is held against Hugging Face's model in tests/data/sft/test_losses.py, without the driver."""
FAMILIES = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in (LLAMA, *CHATS)]


@pytest.fixture(scope="module", params=FAMILIES)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`hf`, a model of a family with tokenizer and chat template; `train.jsonl`, conversations that all fit."""
    folder = tmp_path_factory.mktemp(f"sft-{request.param}") / request.param
    folder.mkdir()
    (folder / "corpus.jsonl").write_text(json.dumps({"text": " ".join(WORDS) + " user assistant system"}) + "\n")
    save(train([folder / "corpus.jsonl"], vocab_size=640), folder / "tokenizer")
    if request.param in CHATS:
        CHATS[request.param].give_to(folder / "tokenizer")
    shape = replace(families()[request.param].sizes["tiny"], hidden_size=128, ffn_hidden_size=256, head_dim=16)
    vocab = len(AutoTokenizer.from_pretrained(folder / "tokenizer"))
    make_hf_checkpoint(
        folder / "hf", shape, precision="fp32", vocab_size=-(-vocab // 128) * 128, tokenizer=folder / "tokenizer"
    )  # a multiple of 128: rows of padding would be in Megatron's softmax alone
    chance = random.Random(3)
    rows = [{"messages": conversation(chance, turns=1 + i % 3, system=i % 2 == 0)} for i in range(SAMPLES)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def hugging_face_loss(folder: Path, average: str) -> float:
    """Mean over all trained tokens, or over conversations, of HF's model under HF's labels."""
    tokenizer = AutoTokenizer.from_pretrained(folder / "hf")
    model = AutoModelForCausalLM.from_pretrained(folder / "hf", dtype=torch.float32)
    marked = CHATS[folder.name].template if folder.name in CHATS else MARKED
    sums, counts = [], []
    for line in (folder / "train.jsonl").read_text().splitlines():
        out = tokenizer.apply_chat_template(
            json.loads(line)["messages"], chat_template=marked, return_assistant_tokens_mask=True, return_tensors="pt"
        )
        assert out["input_ids"].size(1) <= SEQ
        labels = out["input_ids"].masked_fill(out["assistant_masks"] == 0, -100)[0, 1:]
        with torch.no_grad():
            logits = model(out["input_ids"]).logits[0, :-1]
        sums.append(torch.nn.functional.cross_entropy(logits, labels, reduction="sum").item())
        counts.append(int((labels != -100).sum()))
    if average == "token":
        return sum(sums) / sum(counts)
    return sum(total / count for total, count in zip(sums, counts, strict=True)) / len(sums)


@pytest.mark.parametrize("average", ["token", pytest.param("sequence", marks=pytest.mark.slow)])
def test_first_loss(world: Path, average: str, tmp_path: Path) -> None:
    """One iteration over every conversation, two ranks side by side."""
    values = [
        "dsw", "auto", 2, SAMPLES, 1e-4, 1e-5, SEQ, SEQ, "fp32", 1, 1, 1, "false", "true", "true", "true", "false",
        "false", 10, world / "train.jsonl", "none", world / "hf", 1, 0, tmp_path / "out",
    ]  # fmt: skip
    mp = {"MP_NPROC": "2", "MP_DATASET_TYPE": "raw", "MP_SFT_AVERAGE": average}
    driver.train(values, warm=tmp_path / "screen", **mp)
    (record,) = (one for one in read_metrics(tmp_path / "out") if "loss" in one)
    assert record["loss"] == pytest.approx(hugging_face_loss(world, average), abs=TOLERANCE)
