"""What the formats have in common: the conversation that each becomes, and its parts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from megatron_patch.data.jsonl import json_kind

Record = Mapping[str, Any]
Message = dict[str, Any]

ROLES = ("system", "developer", "user", "assistant", "tool", "ipython")
COMMON = frozenset(("tools", "system"))
"""Keys that every format may have."""


class MalformedRow(ValueError):
    """A record that is not what its file's format asks for; the message says what is wrong and what would be right."""


class EmptyRow(ValueError):
    """A record of the right shape with nothing in it to learn: no answer, or no messages."""


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """What a chat template renders."""

    messages: list[Message]
    """Each has `role` and, unless it calls tools, `content` as a string; keys whose value is None are left out."""
    tools: list[dict[str, Any]] | None = None
    """JSON schemas of the functions the assistant may call."""


@dataclass(frozen=True, kw_only=True)
class Format:
    """One shape that conversations come in."""

    name: str
    wanted: str
    """What its records have, for messages."""
    keys: frozenset[str]
    """Every key that is read, COMMON among them; others are reported once per file."""
    matches: Callable[[Record], bool]
    convert: Callable[[Record], Conversation]


def turns_of(record: Record, *keys: str) -> list[Any] | None:
    """The first of these keys that holds a list; None if none does."""
    for key in keys:
        if isinstance(record.get(key), list):
            return list(record[key])
    return None


def first_turn_has(record: Record, keys: tuple[str, ...], field: str) -> bool:
    """Whether there are turns under one of these keys, and the first is an object with this field."""
    turns = turns_of(record, *keys) or []
    return bool(turns) and isinstance(turns[0], Mapping) and field in turns[0]


def message_of(turn: object, number: int) -> Message:
    """A message of role and content.

    Args:
        number: from 1, for messages.
    Raises:
        MalformedRow: it is none.
    """
    if not isinstance(turn, Mapping):
        raise MalformedRow(f"message {number} is a JSON {json_kind(turn)}; wanted an object with role and content")
    role = turn.get("role")
    if role not in ROLES:
        raise MalformedRow(f"message {number} has role {role!r}; valid: {', '.join(ROLES)}")
    message = {str(key): value for key, value in turn.items() if value is not None}
    if calls := message.get("tool_calls"):
        if not isinstance(calls, list):
            raise MalformedRow(f"tool_calls of message {number} is a JSON {json_kind(calls)}; wanted a list")
        message["tool_calls"] = [tool_call_of(call, number) for call in calls]
    else:
        message.pop("tool_calls", None)
        message["content"] = text_of(turn.get("content"), f"content of message {number} ({role})")
    return message


def tool_call_of(call: object, number: int) -> dict[str, Any]:
    """OpenAI writes the arguments as a JSON string, templates want the object.

    Raises:
        MalformedRow: no object, or without the name of a function.
    """
    if not isinstance(call, Mapping):
        raise MalformedRow(f"message {number}: a tool call is a JSON {json_kind(call)}; wanted an object")
    function = call.get("function", call)
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise MalformedRow(f"message {number}: a tool call without a function name")
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        arguments = parse_json(arguments, f"arguments of the tool call in message {number}")
    return {"type": "function", "function": {"name": function["name"], "arguments": arguments}}


def text_of(value: object, what: str) -> str:
    """A string, or the text parts of a list of content parts.

    Raises:
        MalformedRow: neither.
    """
    if isinstance(value, list):
        strange = [part for part in value if not _is_text(part)]
        if strange:
            raise MalformedRow(f"{what} has a part that is no text: {str(strange[0])[:80]}")
        value = "".join(part["text"] for part in value)
    if not isinstance(value, str):
        raise MalformedRow(f"{what} is a JSON {json_kind(value)}; wanted a string")
    return value


def _is_text(part: object) -> bool:
    return isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str)


def parse_json(text: str, what: str) -> Any:
    """JSON within JSON.

    Raises:
        MalformedRow: it is none.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise MalformedRow(f"{what}: bad JSON: {error.msg}") from None
    except RecursionError:
        raise MalformedRow(f"{what}: JSON nested too deep") from None


def conversation_of(messages: list[Message], record: Record) -> Conversation:
    """Add the record's system turn and tools, and see that there is something in it.

    Raises:
        MalformedRow: system or tools are not what they should be.
        EmptyRow: no message, or no answer.
    """
    system = record.get("system")
    if system is not None and not isinstance(system, str):
        raise MalformedRow(f"system is a JSON {json_kind(system)}; wanted a string")
    if system:
        if messages and messages[0]["role"] == "system":
            raise MalformedRow("two system turns: the key `system`, and the first message")
        messages = [{"role": "system", "content": system}, *messages]
    if not any(message["role"] != "system" for message in messages):
        raise EmptyRow("no messages")
    answers = [message for message in messages if message["role"] == "assistant"]
    if answers and not any(answer.get("tool_calls") or answer["content"].strip() for answer in answers):
        raise EmptyRow("every assistant turn is empty")
    return Conversation(messages=messages, tools=_tools(record))


def _tools(record: Record) -> list[dict[str, Any]] | None:
    tools = record.get("tools")
    if isinstance(tools, str):
        tools = parse_json(tools, "tools") if tools.strip() else None
    if not tools:
        return None
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise MalformedRow("tools is not a list of JSON schemas")
    return tools
