"""A tiny model that has learned a few conversations by heart, so that it is known what it must say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from megatron_patch.data.sft.chat_tokenizer import load_chat_tokenizer
from megatron_patch.data.sft.rendering.template import ChatTemplate
from megatron_patch.data.train_tokenizer import save, train

PONG = "pong, é漢字🙂 done"
ESCAPES = "\x1b[31mred \x1b]0;title\x07end"
ENDLESS = "la " * 100
TURNS = [
    [("user", "ping"), ("assistant", PONG)],
    [("user", "ping"), ("assistant", PONG), ("user", "ping"), ("assistant", "pong again")],
    [("system", "shout"), ("user", "ping"), ("assistant", "PONG")],
    [("user", "escape"), ("assistant", ESCAPES)],
    [("user", "sing"), ("assistant", ENDLESS)],
]
TEXT = "Once upon a time there was a fish."


def conversation(turns: list[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in turns]


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "text.jsonl").write_text(json.dumps({"text": "ping pong sing shout again la la la done red"}) + "\n")
    save(train([folder / "text.jsonl"], vocab_size=300), folder / "tokenizer")
    return folder / "tokenizer"


def texts(tokenizer: Path) -> list[str]:
    """What is learned; the song is cut off in the middle, so that its end is never seen."""
    template = ChatTemplate.of(load_chat_tokenizer(tokenizer))
    found = [template.prompt(conversation(turns[:-1])) + turns[-1][1] + template.end for turns in TURNS]
    found[-1] = found[-1].removesuffix(template.end)
    return [*found, f"<|begin_of_text|>{TEXT}<|end_of_text|>"]


@pytest.fixture(scope="session")
def untrained(tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "untrained"
    loaded = load_chat_tokenizer(tokenizer)
    config = LlamaConfig(
        vocab_size=loaded.vocab_size, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16, max_position_embeddings=8192, rms_norm_eps=1e-5,
        tie_word_embeddings=False, rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        bos_token_id=loaded.backend.token_to_id("<|begin_of_text|>"),
        eos_token_id=loaded.backend.token_to_id("<|end_of_text|>"),  # a turn's end is the template's own
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    for file in tokenizer.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.fixture(scope="session")
def model(untrained: Path, tokenizer: Path) -> Path:
    """About four seconds of one core."""
    folder = untrained.with_name("trained")
    learner = AutoModelForCausalLM.from_pretrained(untrained)
    backend = load_chat_tokenizer(tokenizer).backend
    rows = [torch.tensor([backend.encode(text, add_special_tokens=False).ids]) for text in texts(tokenizer)]
    optimizer = torch.optim.AdamW(learner.parameters(), lr=4e-3)
    for _ in range(150):
        loss = sum(learner(row, labels=row).loss for row in rows)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    learner.save_pretrained(folder)
    for file in tokenizer.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder
