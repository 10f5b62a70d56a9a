"""Is what the row says in what the template rendered? Texts, reasoning, calls with their arguments, tools, context.

A template may trim, reorder keys and write JSON in its own way; it may not leave out, in silence, what is to be
learned, nor what it is learned from: system prompts, the user's turns, results of tools.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from megatron_patch.common.messages import Message
from megatron_patch.data.sft.formats import ChatMessage
from megatron_patch.data.sft.formats.common import REASONING_KEYS

TEXT, REASONING, CALL, ARGUMENTS, TOOL = "text", "reasoning", "tool call", "arguments", "tool"
SYSTEM, USER, RESULT = "system prompt", "user's text", "tool result"
PARTS = {
    TEXT: Message("part-text"),
    REASONING: Message("part-reasoning"),
    CALL: Message("part-tool-call"),
    ARGUMENTS: Message("part-arguments"),
    TOOL: Message("part-tool"),
    SYSTEM: Message("part-system"),
    USER: Message("part-user"),
    RESULT: Message("part-result"),
}
"""What each is called."""
CONTEXT = {"system": SYSTEM, "developer": SYSTEM, "user": USER, "tool": RESULT, "ipython": RESULT}
"""By role of a message."""
_THINK = re.compile(r"(</?think>)")


@dataclass(frozen=True, kw_only=True)
class Dropped:
    """Something of the row that is not in the rendering."""

    what: str
    """TEXT, REASONING, CALL, ARGUMENTS, TOOL, SYSTEM, USER or RESULT."""
    message: int | None
    """Number of the message, from 1; None for a tool."""
    shown: str
    """Its beginning."""
    by_design: bool = False
    """Rendered as the conversation's last turn, and left out because others follow, as reasoning models do."""

    @property
    def told(self) -> Message:
        """For people."""
        if self.message is None:
            return Message("row-tool-left-out", part=PARTS[self.what], shown=self.shown)
        return Message("row-left-out", part=PARTS[self.what], number=self.message, shown=self.shown)


def missing(message: ChatMessage, number: int, rendered: str) -> list[Dropped]:
    """What of an assistant's message is not in its rendering, in order.

    Args:
        number: of the message, from 1.
        rendered: its turn as text.
    """
    found, at = [], 0
    for what, piece in _texts(message):
        place = rendered.find(piece, at)
        if place < 0:
            found.append(Dropped(what=what, message=number, shown=_shown(piece)))
        else:
            at = place + len(piece)
    for call in message.get("tool_calls") or ():
        function = call["function"]
        end = _end_of_name(function["name"], rendered, at)
        if end is None:
            found.append(Dropped(what=CALL, message=number, shown=function["name"]))
            continue
        behind = _end_of_arguments(function.get("arguments"), rendered, at)
        if behind is None:
            shown = _shown(json.dumps(function["arguments"], ensure_ascii=False))
            found.append(Dropped(what=ARGUMENTS, message=number, shown=f"{function['name']} {shown}"))
        at = max(end, behind or 0)
    return found


TELLING = 16
"""Characters of a text that is not found elsewhere by chance."""


def missing_context(message: ChatMessage, number: int, rendered: str, place: tuple[int, int]) -> list[Dropped]:
    """The text of a message that is not the assistant's, if it is not in the rendering.

    Args:
        rendered: the whole conversation.
        place: characters between the assistant's turns before and behind the message. A system prompt, or a text
            long enough to be told from others, may stand elsewhere: Mistral's templates move the system prompt.
    """
    what, text = CONTEXT[message["role"]], message["content"].strip()
    start, end = (0, len(rendered)) if what == SYSTEM or len(text) >= TELLING else place
    if not text or rendered.find(text, *place) >= 0 or rendered.find(text, start, end) >= 0:
        return []
    escaped = (json.dumps(text, ensure_ascii=ascii_only)[1:-1] for ascii_only in (False, True))
    if any(rendered.find(form, start, end) >= 0 for form in escaped):
        return []
    if "".join(text.split()) in "".join(rendered[start:end].split()):
        return []
    return [Dropped(what=what, message=number, shown=_shown(text))]


def reasoning_of(message: ChatMessage) -> str:
    """The reasoning that a message gives beside its content; empty without it."""
    found = next((message[key] for key in REASONING_KEYS if message.get(key) is not None), "")
    return found if isinstance(found, str) else ""


def _texts(message: ChatMessage) -> Iterator[tuple[str, str]]:
    """Reasoning and texts in order, each without the white space around it, none empty."""
    if reasoning := reasoning_of(message).strip():
        yield REASONING, reasoning
    content = message.get("content")
    parts = _THINK.split(content if isinstance(content, str) else "")
    for i in range(0, len(parts), 2):
        inside = parts[i - 1 : i] == ["<think>"] or parts[i + 1 : i + 2] == ["</think>"]
        if piece := parts[i].strip():
            yield REASONING if inside else TEXT, piece


def _end_of_name(name: str, text: str, at: int) -> int | None:
    place = text.find(name, at)
    return place + len(name) if place >= 0 else None


def _end_of_arguments(arguments: Any, text: str, at: int) -> int | None:
    """Where a call's arguments end, as JSON however it is written, else as keys and values one by one."""
    if isinstance(arguments, str):
        arguments = _parsed(arguments)
    if arguments in ({}, [], "", None):
        return at
    wanted = _canonical(arguments)
    decoder, place = json.JSONDecoder(), at
    opening = "[" if isinstance(arguments, list) else "{"
    while (place := text.find(opening, place)) >= 0:
        try:
            value, end = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            place += 1
            continue
        if any(_canonical(inner) == wanted for inner in _within(value)):
            return end
        place = end
    return len(text) if all(_written(leaf, text, at) for leaf in _leaves(arguments)) else None


def _within(value: Any) -> Iterator[Any]:
    """A JSON value, all that is in it, and what its texts hold as JSON: arguments are often a text."""
    yield value
    if isinstance(value, str) and value[:1] in ("{", "["):
        yield _parsed(value)
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for each in inner:
        yield from _within(each)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield key
            yield from _leaves(each)
    elif isinstance(value, list):
        for each in value:
            yield from _leaves(each)
    else:
        yield value


def _written(leaf: Any, text: str, at: int) -> bool:
    """Whether a key or a value stands in the text as JSON, as Python or as it is."""
    forms = (str(leaf).strip(), json.dumps(leaf), json.dumps(leaf, ensure_ascii=False), repr(leaf))
    return any(text.find(form, at) >= 0 for form in forms)


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def renamed_tools(tools: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    """The tools under names that occur nowhere else, and for each its name and that part of the new one."""
    changed, marks = [], []
    for number, tool in enumerate(tools):
        inner = tool.get("function")
        function = inner if isinstance(inner, Mapping) else tool
        if not isinstance(name := function.get("name"), str):
            changed.append(tool)
            continue
        mark = f"zq{number}qz"
        new = {**function, "name": name + mark}
        changed.append({**tool, "function": new} if isinstance(inner, Mapping) else new)
        marks.append((name, mark))
    return changed, marks
