"""`prompt` and `completion`: two strings, or two lists of messages, of which the completion is trained, as in TRL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from megatron_patch.data.sft.formats.common import (
    COMMON,
    MESSAGE,
    WEIGHTS,
    Conversation,
    EmptyRow,
    Format,
    Record,
    conversation_of,
    messages_of,
    text_of,
)
from megatron_patch.data.sft.formats.speakers import ROLES, speaker_of


def _is_prompt_completion(record: Record) -> bool:
    return "prompt" in record and "completion" in record


def _turns(record: Record) -> list[Any]:
    prompt, completion = record["prompt"], record["completion"]
    return [*prompt, *completion] if isinstance(prompt, list) and isinstance(completion, list) else []


def _from_prompt_completion(record: Record) -> Conversation:
    prompt, completion = record["prompt"], record["completion"]
    if isinstance(prompt, list) and isinstance(completion, list):
        return conversation_of(messages_of([*map(_as_context, prompt), *completion]), record)
    question, reply = text_of(prompt, "prompt"), text_of(completion, "completion")
    if not question.strip() or not reply.strip():
        raise EmptyRow("row-empty", key="completion" if question.strip() else "prompt")
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
    return conversation_of(turns, record)


def _as_context(turn: Any) -> Any:
    """A turn of the prompt: what the assistant says there is not trained, unless the turn asks for it."""
    if not isinstance(turn, Mapping) or any(turn.get(key) is not None for key in WEIGHTS):
        return turn
    return {**turn, "weight": 0} if ROLES.get(str(speaker_of(turn.get("role")))) == "assistant" else turn


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
