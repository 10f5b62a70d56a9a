"""ShareGPT's: `conversations` (or `conversation`) of `from` and `value`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from megatron_patch.common.messages import Message as Said
from megatron_patch.data.jsonl import json_kind
from megatron_patch.data.sft.formats.common import (
    COMMON,
    WEIGHTS,
    Conversation,
    Format,
    MalformedRow,
    Message,
    Record,
    conversation_of,
    first_turn_has,
    parse_json,
    text_of,
    tool_call_of,
    turns_of,
    weighted,
)

ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bard": "assistant",
    "bing": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "observation": "tool",
    "function_response": "tool",
}


def _is_sharegpt(record: Record) -> bool:
    keys = ("conversations", "conversation")
    return turns_of(record, *keys) is not None and (first_turn_has(record, keys, "from") or not turns_of(record, *keys))


def _turns(record: Record) -> list[Any]:
    return turns_of(record, "conversations", "conversation") or []


def _from_sharegpt(record: Record) -> Conversation:
    return conversation_of([_turn(turn, number) for number, turn in enumerate(_turns(record), start=1)], record)


def _turn(turn: object, number: int) -> Message:
    if not isinstance(turn, Mapping):
        raise MalformedRow("row-turn-kind", number=number, kind=json_kind(turn))
    speaker = turn.get("from")
    if not isinstance(speaker, str) or speaker not in ROLES:
        raise MalformedRow("row-turn-from", number=number, speaker=speaker, valid=tuple(ROLES))
    value = text_of(turn.get("value"), Said("part-value", number=number, speaker=speaker))
    message: Message = {"role": ROLES[speaker], "content": value}
    if speaker == "function_call":
        calls = parse_json(value, Said("part-function-call", number=number))
        calls = calls if isinstance(calls, list) else [calls]
        if not calls:
            raise MalformedRow("row-calls-nothing", number=number)
        message = {"role": "assistant", "tool_calls": [tool_call_of(call, number) for call in calls]}
    return weighted(message, turn, Said("part-turn", number=number))


FORMAT = Format(
    name="sharegpt",
    wanted="conversations",
    keys=COMMON | {"conversations", "conversation"},
    matches=_is_sharegpt,
    convert=_from_sharegpt,
    turns=_turns,
    turn_keys=frozenset(("from", "value", *WEIGHTS)),
)
