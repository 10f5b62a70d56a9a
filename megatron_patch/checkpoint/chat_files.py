"""What a finetuned model's Hugging Face folder needs so that others talk to it as it was trained.

A base model ends a text with another token than a turn (`<|end_of_text|>`, `<|eot_id|>`), and may have no chat
template: transformers and vLLM would then find no words for a conversation, and no end of an answer. Imports no torch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from megatron_patch.common.messages import say
from megatron_patch.common.strict_json import JsonError, read_object
from megatron_patch.runs.folder import PlanError, load_plan

GENERATION = "generation_config.json"
TEMPLATE = "chat_template.jinja"


def add_chat_files(folder: Path, run: Path) -> None:
    """Complete a Hugging Face folder that holds the weights of a finetuned run; others stay as they are.

    Args:
        folder: with config.json and tokenizer; its chat template and generation config are written where the training
            used what they lack.
        run: the output folder of the training that the weights come from; anything else changes nothing.
    """
    try:
        values = (load_plan(run) or {}).get("values")
    except PlanError:
        return  # it serves the tools around a run, and keeps no checkpoint from being used
    if not isinstance(values, dict) or values.get("SFT") is not True:
        return
    from megatron_patch.data.sft.chat_tokenizer import load_chat_tokenizer
    from megatron_patch.data.sft.rendering.template import ChatTemplate, TemplateError
    from megatron_patch.data.tokenizers.text_tokenizer import TokenizerError

    try:
        tokenizer = load_chat_tokenizer(folder)
        template = ChatTemplate.of(tokenizer)
    except (TokenizerError, TemplateError) as error:
        say("chat-files-not-added", folder=folder.name, why=error)
        return
    if not tokenizer.chat_templates:
        (folder / TEMPLATE).write_text(template.text, encoding="utf-8")
        say("chat-template-added", file=TEMPLATE)
    end = tokenizer.backend.token_to_id(template.end) if template.end else None
    try:
        if end is not None and _add_end(folder, end):
            say("chat-end-added", token=template.end, file=GENERATION)
    except JsonError as error:
        say("chat-files-not-added", folder=folder.name, why=error)


def _add_end(folder: Path, end: int) -> bool:
    """Let a text end with this token too; False where it does already."""
    path, config = folder / GENERATION, read_object(folder / "config.json")
    generation: dict[str, Any] = read_object(path) if path.is_file() else _from_config(config)
    told = generation.get("eos_token_id")
    ends = told if isinstance(told, list) else [] if told is None else [told]
    if end in ends:
        return False
    generation["eos_token_id"] = [*ends, end] if ends else end
    path.write_text(json.dumps(generation, indent=2) + "\n", encoding="utf-8")
    return True


def _from_config(config: dict[str, Any]) -> dict[str, Any]:
    """What transformers makes of a folder without a generation config."""
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    return {"_from_model_config": True} | {name: config[name] for name in names if config.get(name) is not None}
