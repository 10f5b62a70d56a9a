"""What the launcher says of a tokenizer for conversations is what a rank finds when it loads it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from megatron_patch.common.errors import UserError
from megatron_patch.data.sft.chat_tokenizer import load_chat_tokenizer
from megatron_patch.data.sft.formats import Conversation
from megatron_patch.data.sft.rendering.template import ChatTemplate
from megatron_patch.data.tokenizers.chat import LLAMA_TOKENS, chat_problems

NO_TEMPLATE: dict[str, Any] = {"chat_template": None}


def rename_tokens(folder: Path) -> None:
    """A tokenizer without those of Llama's conversations."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (folder / name).read_text(encoding="utf-8")
        for number, token in enumerate(LLAMA_TOKENS):
            text = text.replace(token, f"<other_{number}>")
        (folder / name).write_text(text, encoding="utf-8")


def on_a_rank(folder: Path) -> list[str]:
    try:
        ChatTemplate.of(load_chat_tokenizer(folder)).render(Conversation(messages=[{"role": "user", "content": "q"}]))
    except UserError as error:
        return [message.told.code for message in error.messages]
    return []


@pytest.mark.parametrize(
    ("changes", "renamed", "code"),
    [
        ({}, False, None),
        (NO_TEMPLATE, False, None),  # Llama 3.1's is used
        ({}, True, None),
        (NO_TEMPLATE, True, "template-none"),
        ({**NO_TEMPLATE, "additional_special_tokens": list(LLAMA_TOKENS)}, True, None),
        ({"chat_template": [{"name": "rag", "template": "x"}]}, False, "template-no-default"),
        ({"chat_template": [{"name": "default"}]}, False, "folder-templates"),
        ({"chat_template": "{% for m in messages %}"}, False, "template-syntax"),
        ({"chat_template": "x" * 1_000_001}, False, "template-long"),
        ({"eos_token": None}, False, "tokenizer-no-eos"),
        (None, False, "tokenizer-no-config"),
    ],
)
def test_the_launcher_says_what_a_rank_would(
    changes: dict[str, Any] | None, renamed: bool, code: str | None, tokenizer_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "tokenizer"
    shutil.copytree(tokenizer_folder, folder)
    if renamed:
        rename_tokens(folder)
    config = folder / "tokenizer_config.json"
    if changes is None:
        config.unlink()
    else:
        config.write_text(json.dumps(json.loads(config.read_text(encoding="utf-8")) | changes), encoding="utf-8")
    wanted = [code] if code else []
    assert [message.told.code for message in chat_problems(folder, template=True)] == wanted
    assert on_a_rank(folder) == wanted
    at_once = code is not None and code.startswith("tokenizer-")
    assert bool(chat_problems(folder, template=False)) == at_once  # tokens that are there need no template
