"""ShareGPT's: `conversations` (or `conversation`, `messages`) of `from` and `value`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from megatron_patch.common.messages import Message
from megatron_patch.data.jsonl import json_kind
from megatron_patch.data.sft.formats.common import (
    COMMON,
    REASONING_KEYS,
    WEIGHT_KEYS,
    WEIGHTS,
    ChatMessage,
    Conversation,
    Format,
    MalformedRow,
    Record,
    calls_in,
    conversation_of,
    first_turn_has,
    others_of,
    text_of,
    turns_of,
    weighted,
    with_text,
)
from megatron_patch.data.sft.formats.speakers import CALLS, ROLES, joined, speaker_of

KEYS = ("conversations", "conversation")


def _is_sharegpt(record: Record) -> bool:
    if first_turn_has(record, ("messages",), "from"):
        return True
    return turns_of(record, *KEYS) is not None and (first_turn_has(record, KEYS, "from") or not turns_of(record, *KEYS))


def _turns(record: Record) -> list[Any]:
    keys = ("messages",) if first_turn_has(record, ("messages",), "from") else KEYS
    return with_text(turns_of(record, *keys) or [], "from", "value", "content")


def _from_sharegpt(record: Record) -> Conversation:
    turns = _turns(record)
    messages = [_turn(turn, number) for number, turn in enumerate(turns, start=1)]
    return conversation_of(joined(messages, [speaker_of(turn["from"]) for turn in turns]), record)


def _turn(turn: object, number: int) -> ChatMessage:
    if not isinstance(turn, Mapping):
        raise MalformedRow("row-turn-kind", number=number, kind=json_kind(turn))
    speaker = speaker_of(turn.get("from"))
    if speaker is None:
        raise MalformedRow("row-turn-from", number=number, speaker=turn.get("from"), valid=tuple(ROLES))
    value = turn.get("value")
    if not isinstance(value, str):
        value = text_of(value, Message("part-value", number=number, speaker=speaker))
    message: ChatMessage = {"role": ROLES[speaker], "content": value}
    if speaker in CALLS:
        message = {"role": "assistant", "tool_calls": calls_in(value, speaker, number)}
    message |= {key: turn[key] for key in REASONING_KEYS if turn.get(key) is not None}
    return message if WEIGHT_KEYS.isdisjoint(turn) else weighted(message, turn, Message("part-turn", number=number))


FORMAT = Format(
    name="sharegpt",
    wanted="conversations",
    keys=COMMON | {*KEYS, "messages"},
    matches=_is_sharegpt,
    convert=_from_sharegpt,
    others=lambda record: others_of(record, ("messages", *KEYS)),
    turns=_turns,
    turn_keys=frozenset(("from", "value", *REASONING_KEYS, *WEIGHTS)),
)
