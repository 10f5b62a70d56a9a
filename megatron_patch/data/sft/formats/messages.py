"""OpenAI's: `messages` (or `conversations`) of `role` and `content`."""

from __future__ import annotations

from megatron_patch.data.sft.formats.common import (
    COMMON,
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


def _from_messages(record: Record) -> Conversation:
    turns = turns_of(record, "messages", "conversations") or []
    return conversation_of([message_of(turn, number) for number, turn in enumerate(turns, start=1)], record)


FORMAT = Format(
    name="messages",
    wanted="messages",
    keys=COMMON | {"messages", "conversations"},
    matches=_is_messages,
    convert=_from_messages,
)
