"""OpenAI's: `messages` (or `conversations`, `conversation`) of `role` and `content`."""

from __future__ import annotations

from typing import Any

from megatron_patch.data.sft.formats.common import (
    COMMON,
    MESSAGE,
    Conversation,
    Format,
    Record,
    conversation_of,
    first_turn_has,
    messages_of,
    others_of,
    turns_of,
    with_text,
)

KEYS = ("messages", "conversations", "conversation")


def _is_messages(record: Record) -> bool:
    if turns_of(record, "messages") is not None:
        return first_turn_has(record, ("messages",), "role") or not first_turn_has(record, ("messages",), "from")
    return first_turn_has(record, KEYS[1:], "role")


def _turns(record: Record) -> list[Any]:
    return with_text(turns_of(record, *KEYS) or [], "role", "content", "value")


def _from_messages(record: Record) -> Conversation:
    return conversation_of(messages_of(_turns(record)), record)


FORMAT = Format(
    name="messages",
    wanted="messages",
    keys=COMMON | {*KEYS},
    matches=_is_messages,
    convert=_from_messages,
    others=lambda record: others_of(record, KEYS),
    turns=_turns,
    turn_keys=MESSAGE,
    passes_on=True,
)
