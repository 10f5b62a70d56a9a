"""OpenAI's: `messages` (or `conversations`) of `role` and `content`."""

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
    message_of,
    turns_of,
)


def _is_messages(record: Record) -> bool:
    return turns_of(record, "messages") is not None or first_turn_has(record, ("conversations",), "role")


def _turns(record: Record) -> list[Any]:
    return turns_of(record, "messages", "conversations") or []


def _from_messages(record: Record) -> Conversation:
    return conversation_of([message_of(turn, number) for number, turn in enumerate(_turns(record), start=1)], record)


FORMAT = Format(
    name="messages",
    wanted="messages",
    keys=COMMON | {"messages", "conversations"},
    matches=_is_messages,
    convert=_from_messages,
    turns=_turns,
    turn_keys=MESSAGE,
    passes_on=True,
)
