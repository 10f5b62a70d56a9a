"""Conversations of every format, and a tokenizer folder as Hugging Face loads it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megatron_patch.data.sft.chat_tokenizer import ChatTokenizer, load_chat_tokenizer
from megatron_patch.data.sft.rendering.template import ChatTemplate

WORDS = ["def", "return", "the quick", "北京", "naïve", "🦙", "lambda x:", "\n\n", " ", "tail\t42", "1234567", "don't"]
WORDS += ["<|eot_id|>-ish", "self.assertEqual("]


# Written for these tests from the documented format, not from the project's template: with the blocks that tell
# Hugging Face which tokens the assistant wrote.
MARKED = """{{- bos_token -}}
{%- if messages[0]['role'] == 'system' -%}
{%- set system = messages[0]['content']|trim -%}{%- set rest = messages[1:] -%}
{%- else -%}{%- set system = '' -%}{%- set rest = messages -%}{%- endif -%}
{{- '<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n' -}}
{{- 'Today Date: 26 Jul 2024\n\n' + system + '<|eot_id|>' -}}
{%- for message in rest -%}
{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' -}}
{%- if message['role'] == 'assistant' -%}
{%- generation -%}{{- message['content']|trim + '<|eot_id|>' -}}{%- endgeneration -%}
{%- else -%}{{- message['content']|trim + '<|eot_id|>' -}}{%- endif -%}
{%- endfor -%}"""


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


@pytest.fixture(scope="session")
def marked_template() -> str:
    """Llama 3.1's template with the blocks from which Hugging Face makes its assistant mask."""
    return MARKED
