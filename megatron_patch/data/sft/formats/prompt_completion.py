"""`prompt` and `completion`: two strings, or two lists of messages."""

from __future__ import annotations

from typing import Any

from megatron_patch.data.sft.formats.common import (
    COMMON,
    MESSAGE,
    Conversation,
    EmptyRow,
    Format,
    Record,
    conversation_of,
    message_of,
    text_of,
)


def _is_prompt_completion(record: Record) -> bool:
    return "prompt" in record and "completion" in record


def _turns(record: Record) -> list[Any]:
    prompt, completion = record["prompt"], record["completion"]
    return [*prompt, *completion] if isinstance(prompt, list) and isinstance(completion, list) else []


def _from_prompt_completion(record: Record) -> Conversation:
    prompt, completion = record["prompt"], record["completion"]
    if isinstance(prompt, list) and isinstance(completion, list):
        turns = [message_of(turn, number) for number, turn in enumerate(_turns(record), start=1)]
        return conversation_of(turns, record)
    question, reply = text_of(prompt, "prompt"), text_of(completion, "completion")
    if not question.strip() or not reply.strip():
        raise EmptyRow("row-empty", key="completion" if question.strip() else "prompt")
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
    return conversation_of(turns, record)


FORMAT = Format(
    name="prompt-completion",
    wanted="prompt + completion",
    keys=COMMON | {"prompt", "completion"},
    matches=_is_prompt_completion,
    convert=_from_prompt_completion,
    turns=_turns,
    turn_keys=MESSAGE,
    passes_on=True,
)
