"""Conversations of every format, and a tokenizer folder as Hugging Face loads it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megatron_patch.data.sft.chat_tokenizer import ChatTokenizer, load_chat_tokenizer
from megatron_patch.data.sft.template import ChatTemplate

WORDS = ["def", "return", "the quick", "北京", "naïve", "🦙", "lambda x:", "\n\n", " ", "tail\t42", "1234567", "don't"]
WORDS += ["<|eot_id|>-ish", "self.assertEqual("]


def words(random_state: random.Random, least: int = 1, most: int = 30) -> str:
    """A text that is awkward for tokenizers; never blank."""
    return " ".join(random_state.choice(WORDS) for _ in range(random_state.randint(least, most))) + "."


def conversation(random_state: random.Random, turns: int = 1, system: bool = False) -> list[dict[str, Any]]:
    """Messages that alternate, beginning with the user's."""
    messages = [{"role": "system", "content": words(random_state)}] if system else []
    for _ in range(turns):
        messages += [
            {"role": "user", "content": words(random_state)},
            {"role": "assistant", "content": words(random_state)},
        ]
    return messages


@pytest.fixture(scope="session")
def conversations() -> list[list[dict[str, Any]]]:
    random_state = random.Random(0)
    return [conversation(random_state, turns=1 + i % 4, system=i % 3 == 0) for i in range(60)]


@pytest.fixture(scope="session")
def tokenizer(tokenizer_folder: Path) -> ChatTokenizer:
    return load_chat_tokenizer(tokenizer_folder)


@pytest.fixture(scope="session")
def template(tokenizer: ChatTokenizer) -> ChatTemplate:
    return ChatTemplate.of(tokenizer)


@pytest.fixture(scope="session")
def write_json_lines() -> Callable[[Path, list[Any]], Path]:
    def write(path: Path, rows: list[Any]) -> Path:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write
