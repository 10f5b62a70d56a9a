"""What the formats have in common: the conversation that each becomes, and its parts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from megatron_patch.common.errors import UserError
from megatron_patch.common.messages import Message
from megatron_patch.data.jsonl import DataError, json_kind, loads
from megatron_patch.data.sft.formats.speakers import CALLS, CONTEXT, ROLES, joined, speaker_of

Record = Mapping[str, Any]
ChatMessage = dict[str, Any]

SYSTEM = ("system", "system_prompt")
"""Keys of a system turn beside the others."""
MEDIA = ("image", "images", "video", "videos", "audio", "audios")
"""Keys of rows whose texts speak of something that is not text."""
LABELS = ("label", "kto_tag")
"""Keys of rows of preferences in KTO's form: false where the answer is one to be avoided. The names are those of TRL
and ms-swift, and of LLaMA-Factory."""
WEIGHT = "weight"
"""Key of a row, as Fireworks has it, and of a turn, as OpenAI has it."""
COMMON = frozenset(("tools", "functions", *SYSTEM, *LABELS, WEIGHT))
"""Keys that every format may have."""
ARGUMENTS = ("arguments", "parameters", "args", "input")
"""What the arguments of a call are called: by OpenAI, by Llama's own format, by others."""
WEIGHTS = (WEIGHT, "loss", "train", "training", "loss_scale")
"""Keys of a turn that say whether it is trained; the last two are Axolotl's and ms-swift's."""
WEIGHT_KEYS = frozenset(WEIGHTS)
MESSAGE = frozenset(("role", "content", "tool_calls", "function_call", *WEIGHTS))
"""Keys of a message that are read here; the others are the chat template's to read."""
TEXT_TYPES = ("text", "input_text", "output_text")
"""Types of content parts that hold text, in OpenAI's interfaces."""


REASONING_KEYS = ("reasoning_content", "thinking", "reasoning")
"""Names for a message's reasoning, the one that counts first. Source: transformers' `_REASONING_FIELDS`."""


class MalformedRow(UserError, ValueError):
    """A record that is not what its file's format asks for; the message says what is wrong and what would be right."""


class EmptyRow(UserError, ValueError):
    """A record of the right shape with nothing in it to learn: no answer, or no messages."""


class UnwantedRow(UserError, ValueError):
    """A record that says itself that it is not to be trained."""


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """What a chat template renders."""

    messages: list[ChatMessage]
    """Each has `role` and, unless it calls tools, `content` as a string; keys whose value is None are left out."""
    tools: list[dict[str, Any]] | None = None
    """JSON schemas of the functions the assistant may call."""
    context: frozenset[int] = frozenset()
    """Messages of the assistant, by their number from 0, that are read and not trained."""

    def texts(self) -> Iterator[str]:
        """Every string in it, names and values of tools and calls among them."""
        return _strings([self.messages, self.tools])


def _strings(value: object) -> Iterator[str]:
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, Mapping):
            waiting += value.keys()
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


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
    others: Callable[[Record], list[str]] = lambda record: []
    """Of `keys`, those that hold something in this record and are not read, as another is in their place."""
    turns: Callable[[Record], list[Any]] = lambda record: []
    """Of a record: its turns, where they are objects."""
    turn_keys: frozenset[str] = frozenset()
    """Every key of a turn that is read here."""
    passes_on: bool = False
    """The chat template gets a turn's other keys."""


def turns_of(record: Record, *keys: str) -> list[Any] | None:
    """The first of these keys that holds a list, or a text that is a JSON list; None if none does."""
    for key in keys:
        value = record.get(key)
        if isinstance(value, str) and value.lstrip().startswith("["):  # as some write it into a Parquet column
            try:
                value = loads(value)
            except DataError:
                continue
        if isinstance(value, list):
            return list(value)
    return None


def others_of(record: Record, keys: tuple[str, ...]) -> list[str]:
    """Lists of turns behind the first that holds some."""
    return [key for key in keys if turns_of(record, key)][1:]


def first_turn_has(record: Record, keys: tuple[str, ...], field: str) -> bool:
    """Whether there are turns under one of these keys, and the first is an object with this field."""
    turns = turns_of(record, *keys) or []
    return bool(turns) and isinstance(turns[0], Mapping) and field in turns[0]


def message_of(turn: object, number: int) -> ChatMessage:
    """A message of role and content.

    Args:
        number: from 1, for messages.
    Raises:
        MalformedRow: it is none.
    """
    if not isinstance(turn, Mapping):
        raise MalformedRow("row-message-kind", number=number, kind=json_kind(turn))
    if "role" not in turn:
        raise MalformedRow("row-message-no-role", number=number, keys=[str(key)[:40] for key in turn])
    role = speaker_of(turn["role"])
    if role is None:
        raise MalformedRow("row-message-role", number=number, role=str(turn["role"])[:40], valid=tuple(ROLES))
    message = {str(key): value for key, value in turn.items() if value is not None and key not in WEIGHT_KEYS}
    message["role"] = ROLES[role]
    if role in CALLS:
        text = text_of(message.pop("content", None), Message("part-content", number=number, role=role))
        message["tool_calls"] = calls_in(text, role, number)
    if calls := _calls_of(message, number):
        message["tool_calls"] = calls
    if not calls or "content" in message:
        content = turn.get("content")
        is_text = isinstance(content, str)  # nearly always: what a message would be called is not needed
        message["content"] = content if is_text else text_of(content, Message("part-content", number=number, role=role))
    return message if WEIGHT_KEYS.isdisjoint(turn) else weighted(message, turn, Message("part-message", number=number))


def messages_of(turns: list[Any]) -> list[ChatMessage]:
    """Messages of role and content.

    Raises:
        MalformedRow: one of them is none.
    """
    messages = [message_of(turn, number) for number, turn in enumerate(turns, start=1)]
    return joined(messages, [speaker_of(turn["role"]) for turn in turns])


def with_text(turns: list[Any], speaker: str, key: str, other: str) -> list[Any]:
    """Turns with their text under `key`, also those that have `speaker` and their text under `other`, as ms-swift
    takes them: OpenAI's `role` beside ShareGPT's `value`, and the reverse."""
    return [
        {key if name == other else name: value for name, value in turn.items()}
        if isinstance(turn, Mapping) and speaker in turn and other in turn and turn.get(key) is None
        else turn
        for turn in turns
    ]


def calls_in(text: str, speaker: str, number: int) -> list[dict[str, Any]]:
    """The calls that a turn of CALLS is.

    Raises:
        MalformedRow: it is not JSON, or calls nothing.
    """
    calls = parse_json(text, Message("part-calls", speaker=speaker, number=number))
    calls = calls if isinstance(calls, list) else [calls]
    if not calls:
        raise MalformedRow("row-calls-nothing", speaker=speaker, number=number)
    return [tool_call_of(call, number) for call in calls]


def _calls_of(message: ChatMessage, number: int) -> list[dict[str, Any]]:
    """What it calls, taken out of it: OpenAI's `tool_calls`, or `function_call` of its older interface."""
    calls, call = message.pop("tool_calls", None), message.pop("function_call", None)
    if calls and call:
        raise MalformedRow("row-two-calls", number=number)
    if call:
        return [tool_call_of(call, number)]
    if calls and not isinstance(calls, list):
        raise MalformedRow("row-calls-kind", number=number, kind=json_kind(calls))
    return [tool_call_of(call, number) for call in calls or []]


def weighted(message: ChatMessage, turn: Mapping[str, Any], what: Message) -> ChatMessage:
    """The message, with CONTEXT where the turn says that it is not trained: `weight: 0`, `loss: false`.

    Raises:
        MalformedRow: another value, several that differ, or a turn to be trained that is not the assistant's.
    """
    flags = {key: turn[key] for key in WEIGHTS if turn.get(key) is not None}
    for key, value in flags.items():
        if not isinstance(value, (bool, int, float)) or value not in (0, 1):
            raise MalformedRow("row-weight", key=key, what=what, value=str(value)[:40])
    if len(set(map(bool, flags.values()))) > 1:
        raise MalformedRow("row-weights-differ", what=what, said=[f"{key} {value}" for key, value in flags.items()])
    if any(flags.values()) and message["role"] != "assistant":
        raise MalformedRow("row-weight-role", what=what, role=message["role"])
    context = message["role"] == "assistant" and flags and not any(flags.values())
    return message | {CONTEXT: True} if context else message


def tool_call_of(call: object, number: int) -> dict[str, Any]:
    """A call as templates want it: its arguments an object (OpenAI writes a JSON string), its id if it has one.

    Raises:
        MalformedRow: not an object, without the name of a function, or without arguments under a known name.
    """
    if not isinstance(call, Mapping):
        raise MalformedRow("row-call-kind", number=number, kind=json_kind(call))
    function = call.get("function", call)
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise MalformedRow("row-call-name", number=number)
    given = {"type": "function", "function": {"name": function["name"], "arguments": _arguments(function, number)}}
    return {"id": call["id"], **given} if isinstance(call.get("id"), str) and call["id"] else given


def _arguments(function: Mapping[str, Any], number: int) -> dict[str, Any]:
    called = Message("part-call", number=number, name=str(function["name"])[:40])
    keys = [key for key in ARGUMENTS if function.get(key) is not None]
    if not keys:
        raise MalformedRow("row-no-arguments", call=called, keys=ARGUMENTS)
    if len(keys) > 1:
        raise MalformedRow("row-several-arguments", call=called, keys=keys)
    arguments, what = function[keys[0]], Message("at", path=called, what=keys[0])
    if isinstance(arguments, str):
        arguments = parse_json(arguments, what)
    if not isinstance(arguments, dict):
        raise MalformedRow("row-arguments-kind", what=what, kind=json_kind(arguments))
    return checked(arguments, what)


def checked[Value](value: Value, what: Message | str) -> Value:
    """A value that a template can write as JSON.

    Raises:
        MalformedRow: NaN or infinity stand in it, or what JSON does not have (from a Parquet column).
    """
    try:
        json.dumps(value, allow_nan=False)
    except RecursionError:
        raise MalformedRow("row-part-too-deep", what=what) from None
    except (ValueError, TypeError) as error:
        raise MalformedRow("row-unwritable", what=what, error=error) from None
    return value


def text_of(value: object, what: Message | str) -> str:
    """A string, or the text parts of a list of content parts.

    Raises:
        MalformedRow: neither.
    """
    if isinstance(value, list):
        value = "".join(_part(part, what) for part in value)
    if not isinstance(value, str):
        raise MalformedRow("row-text-kind", what=what, kind=json_kind(value))
    return value


def _part(part: object, what: Message | str) -> str:
    """One part of a content: an object of a text type, whose text may be an object with a value."""
    if isinstance(part, Mapping) and part.get("type", "text") in TEXT_TYPES:
        text = part.get("text")
        text = text.get("value") if isinstance(text, Mapping) else text
        if isinstance(text, str):
            return text
    raise MalformedRow("row-not-text", what=what, part=shown(part))


def shown(value: object) -> str | Message:
    """The beginning of a value, for messages; of any depth."""
    try:
        return str(value)[:80]
    except RecursionError:
        return Message("row-too-deep")


def parse_json(text: str, what: Message | str) -> Any:
    """JSON within JSON.

    Raises:
        MalformedRow: it is not JSON, or has numbers that Python does not read.
    """
    try:
        return loads(text)
    except DataError as error:
        raise MalformedRow.of(error.about(what).messages) from None


def conversation_of(messages: list[ChatMessage], record: Record) -> Conversation:
    """Add the record's system turn and tools, and see that there is something in it.

    Raises:
        MalformedRow: system, tools or weight are not what they should be.
        EmptyRow: no message, or no answer.
        UnwantedRow: it is marked as not to be trained.
    """
    _check_marks(record)
    if media := next((key for key in MEDIA if record.get(key)), None):
        raise MalformedRow("row-media", media=media)
    messages = _with_system(messages, record)
    if not any(message["role"] != "system" for message in messages):
        raise EmptyRow("row-no-messages")
    answers = [message for message in messages if message["role"] == "assistant"]
    if answers and not any(answer.get("tool_calls") or answer["content"].strip() for answer in answers):
        raise EmptyRow("row-no-answer")
    context = frozenset(number for number, message in enumerate(messages) if message.pop(CONTEXT, False))
    return Conversation(messages=messages, tools=_tools(record), context=context)


def _check_marks(record: Record) -> None:
    """Source: `label` of trl's KTOTrainer. Supervised training on a bad answer would teach it."""
    for key in LABELS:
        if record.get(key) is False:
            raise UnwantedRow("row-undesirable", key=key)
    weight = record.get(WEIGHT)
    if not isinstance(weight, (bool, int, float)):
        return
    if weight not in (0, 1):
        raise MalformedRow("row-weight", key=WEIGHT, what=Message("part-row"), value=str(weight)[:40])
    if not weight:
        raise UnwantedRow("row-weight-zero")


def unread_marks(record: Record) -> Iterator[str]:
    """Of LABELS and WEIGHT, those that hold something else than such a mark: a class, a text."""
    yield from (key for key in LABELS if record.get(key) is not None and not isinstance(record[key], bool))
    if record.get(WEIGHT) is not None and not isinstance(record[WEIGHT], (bool, int, float)):
        yield WEIGHT


def _with_system(messages: list[ChatMessage], record: Record) -> list[ChatMessage]:
    given = {key: record[key] for key in SYSTEM if record.get(key) not in (None, "")}
    for key, system in given.items():
        if not isinstance(system, str):
            raise MalformedRow("row-text-kind", what=key, kind=json_kind(system))
    if not given:
        return messages
    if len(set(given.values())) > 1:
        raise MalformedRow("row-systems-differ")
    key, system = next(iter(given.items()))
    if messages and messages[0]["role"] == "system":
        raise MalformedRow("row-two-systems", key=key)
    return [{"role": "system", "content": system}, *messages]


def _tools(record: Record) -> list[dict[str, Any]] | None:
    """Those of `tools`, or of `functions` (OpenAI's older interface); either may be JSON text."""
    if record.get("tools") and record.get("functions"):
        raise MalformedRow("row-two-tools")
    name = "functions" if record.get("functions") else "tools"
    tools = record.get(name)
    if isinstance(tools, str):
        tools = parse_json(tools, name) if tools.strip() else None
    if not tools:
        return None
    if not isinstance(tools, list) or not all(isinstance(tool, (dict, str)) for tool in tools):
        raise MalformedRow("row-tools", name=name)
    schemas = [parse_json(tool, name) if isinstance(tool, str) else tool for tool in tools]
    if not all(isinstance(schema, dict) for schema in schemas):
        raise MalformedRow("row-tools", name=name)
    if name == "functions":
        schemas = [{"type": "function", "function": schema} for schema in schemas]
    return checked(schemas, name)
