"""The four shapes conversations come in, recognised and brought to one: a list of messages and a list of tools.

| format | keys |
| --- | --- |
| messages | `messages` (or `conversations`) of `role`, `content`; `tools`, `system` |
| sharegpt | `conversations` (or `conversation`) of `from`, `value`; `tools`, `system` |
| alpaca | `instruction` or `query`, and `input` (alone in NeMo's form); `output`, `content` or `response`; |
| | `system`; `history` |
| prompt-completion | `prompt`, `completion`: two strings, or two lists of messages; `tools`, `system` |
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from megatron_patch.data.jsonl import json_kind

Record = Mapping[str, Any]
Message = dict[str, Any]

ROLES = ("system", "developer", "user", "assistant", "tool", "ipython")
SHAREGPT_ROLES = {
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
INSTRUCTION_KEYS = ("instruction", "query", "input")
"""In the order of preference; `input` alone is NeMo's form."""
OUTPUT_KEYS = ("output", "content", "response")


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
    """One of the four shapes."""

    name: str
    keys: frozenset[str]
    """Every key that is read; others are reported once per file."""
    matches: Callable[[Record], bool]
    convert: Callable[[Record], Conversation]


def recognise(record: object) -> Format | None:
    """The format of one record, or None. Raises nothing: the caller knows the line."""
    if not isinstance(record, Mapping):
        return None
    return next((kind for kind in FORMATS if kind.matches(record)), None)


def describe(record: object) -> str:
    """What a record of no known format looks like, for a message."""
    if not isinstance(record, Mapping):
        return f"a JSON {json_kind(record)}; wanted an object"
    keys = ", ".join(map(repr, record)) or "none"
    wanted = "; ".join(
        (
            "messages",
            "conversations",
            "instruction|query|input with output|content|response",
            "prompt with completion",
        )
    )
    return f"no known format: its keys are {keys}; wanted one of: {wanted}"


# ---------------------------------------------------------------- messages


def _turns(record: Record, *keys: str) -> list[Any] | None:
    for key in keys:
        if isinstance(record.get(key), list):
            return list(record[key])
    return None


def _first_turn_has(record: Record, keys: tuple[str, ...], field: str) -> bool:
    turns = _turns(record, *keys) or []
    return bool(turns) and isinstance(turns[0], Mapping) and field in turns[0]


def _is_messages(record: Record) -> bool:
    return isinstance(record.get("messages"), list) or _first_turn_has(record, ("conversations",), "role")


def _from_messages(record: Record) -> Conversation:
    turns = _turns(record, "messages", "conversations") or []
    return _conversation([_message(turn, number) for number, turn in enumerate(turns, start=1)], record)


def _message(turn: object, number: int) -> Message:
    if not isinstance(turn, Mapping):
        raise MalformedRow(f"message {number} is a JSON {json_kind(turn)}; wanted an object with role and content")
    role = turn.get("role")
    if role not in ROLES:
        raise MalformedRow(f"message {number} has role {role!r}; valid: {', '.join(ROLES)}")
    message = {str(key): value for key, value in turn.items() if value is not None}
    if message.get("tool_calls"):
        message["tool_calls"] = [_tool_call(call, number) for call in message["tool_calls"]]
    else:
        message.pop("tool_calls", None)
        message["content"] = _text(turn.get("content"), f"content of message {number} ({role})")
    return message


def _tool_call(call: object, number: int) -> dict[str, Any]:
    """OpenAI writes the arguments as a JSON string, templates want the object."""
    if not isinstance(call, Mapping):
        raise MalformedRow(f"message {number}: a tool call is a JSON {json_kind(call)}; wanted an object")
    function = call.get("function", call)
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise MalformedRow(f"message {number}: a tool call without a function name")
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        arguments = _parse_json(arguments, f"arguments of the tool call in message {number}")
    return {"type": "function", "function": {"name": function["name"], "arguments": arguments}}


def _text(value: object, what: str) -> str:
    """A string, or the text parts of a list of content parts."""
    if isinstance(value, list):
        strange = [part for part in value if not (isinstance(part, Mapping) and part.get("type") == "text")]
        if strange:
            raise MalformedRow(f"{what} has a part that is no text: {str(strange[0])[:80]}")
        value = "".join(part["text"] for part in value)
    if not isinstance(value, str):
        raise MalformedRow(f"{what} is a JSON {json_kind(value)}; wanted a string")
    return value


def _parse_json(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise MalformedRow(f"{what}: bad JSON: {error.msg}") from None


def _tools(record: Record) -> list[dict[str, Any]] | None:
    tools = record.get("tools")
    if isinstance(tools, str):
        tools = _parse_json(tools, "tools") if tools.strip() else None
    if not tools:
        return None
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise MalformedRow("tools is not a list of JSON schemas")
    return tools


def _conversation(messages: list[Message], record: Record) -> Conversation:
    """Add the record's system turn and tools, and see that there is something in it."""
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


# ---------------------------------------------------------------- ShareGPT


def _is_sharegpt(record: Record) -> bool:
    keys = ("conversations", "conversation")
    return _turns(record, *keys) is not None and (_first_turn_has(record, keys, "from") or not _turns(record, *keys))


def _from_sharegpt(record: Record) -> Conversation:
    turns = _turns(record, "conversations", "conversation") or []
    return _conversation([_sharegpt_turn(turn, number) for number, turn in enumerate(turns, start=1)], record)


def _sharegpt_turn(turn: object, number: int) -> Message:
    if not isinstance(turn, Mapping):
        raise MalformedRow(f"turn {number} is a JSON {json_kind(turn)}; wanted an object with from and value")
    speaker = turn.get("from")
    if speaker not in SHAREGPT_ROLES:
        raise MalformedRow(f"turn {number} is from {speaker!r}; valid: {', '.join(SHAREGPT_ROLES)}")
    value = _text(turn.get("value"), f"value of turn {number} ({speaker})")
    if speaker == "function_call":
        calls = _parse_json(value, f"function_call in turn {number}")
        calls = calls if isinstance(calls, list) else [calls]
        return {"role": "assistant", "tool_calls": [_tool_call(call, number) for call in calls]}
    return {"role": SHAREGPT_ROLES[speaker], "content": value}


# ---------------------------------------------------------------- Alpaca


def _key_of(record: Record, keys: tuple[str, ...]) -> str | None:
    return next((key for key in keys if key in record), None)


def _is_alpaca(record: Record) -> bool:
    return _key_of(record, INSTRUCTION_KEYS) is not None and _key_of(record, OUTPUT_KEYS) is not None


def _from_alpaca(record: Record) -> Conversation:
    """Instruction and input are joined by a line break, as in LLaMA-Factory; Pai joins them with nothing."""
    question, answer = _key_of(record, INSTRUCTION_KEYS), _key_of(record, OUTPUT_KEYS)
    assert question is not None and answer is not None
    parts = [_text(record[question], question)]
    if question != "input" and record.get("input") is not None:
        parts.append(_text(record["input"], "input"))
    prompt = "\n".join(part for part in parts if part.strip())
    reply = _text(record[answer] if record[answer] is not None else "", answer)
    if not prompt:
        raise EmptyRow("input is empty" if question == "input" else f"{question} and input are empty")
    if not reply.strip():
        raise EmptyRow(f"{answer} is empty")
    turns = _history(record.get("history"))
    return _conversation([*turns, {"role": "user", "content": prompt}, {"role": "assistant", "content": reply}], record)


def _history(pairs: object) -> list[Message]:
    if pairs in (None, "", []):
        return []
    if not isinstance(pairs, list):
        raise MalformedRow(f"history is a JSON {json_kind(pairs)}; wanted a list of [question, answer] pairs")
    turns: list[Message] = []
    for number, pair in enumerate(pairs, start=1):
        if not isinstance(pair, list) or len(pair) != 2:
            raise MalformedRow(f"entry {number} of history is not a [question, answer] pair")
        for role, text in zip(("user", "assistant"), pair, strict=True):
            turns.append({"role": role, "content": _text(text, f"entry {number} of history ({role})")})
    return turns


# ---------------------------------------------------------------- prompt and completion


def _is_prompt_completion(record: Record) -> bool:
    return "prompt" in record and "completion" in record


def _from_prompt_completion(record: Record) -> Conversation:
    prompt, completion = record["prompt"], record["completion"]
    if isinstance(prompt, list) and isinstance(completion, list):
        turns = [_message(turn, number) for number, turn in enumerate([*prompt, *completion], start=1)]
        return _conversation(turns, record)
    question, reply = _text(prompt, "prompt"), _text(completion, "completion")
    if not question.strip() or not reply.strip():
        raise EmptyRow("prompt is empty" if not question.strip() else "completion is empty")
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
    return _conversation(turns, record)


_COMMON = ("tools", "system")
FORMATS = (
    Format(
        name="messages",
        keys=frozenset(("messages", "conversations", *_COMMON)),
        matches=_is_messages,
        convert=_from_messages,
    ),
    Format(
        name="sharegpt",
        keys=frozenset(("conversations", "conversation", *_COMMON)),
        matches=_is_sharegpt,
        convert=_from_sharegpt,
    ),
    Format(
        name="alpaca",
        keys=frozenset((*INSTRUCTION_KEYS, "input", *OUTPUT_KEYS, "history", *_COMMON)),
        matches=_is_alpaca,
        convert=_from_alpaca,
    ),
    Format(
        name="prompt-completion",
        keys=frozenset(("prompt", "completion", *_COMMON)),
        matches=_is_prompt_completion,
        convert=_from_prompt_completion,
    ),
)
"""In the order they are tried."""
