"""Other writings of a conversation, for a chat template that refuses it as it is.

What they say stays the same: Mistral's templates want ids of nine letters or digits for calls, Qwen3's a content
beside calls, others the arguments as text.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import re
from collections.abc import Callable, Iterator

from megatron_patch.data.sft.formats import ChatMessage, Conversation

LENGTH = 9
"""Of a call's id, where Mistral writes one."""


def variants(conversation: Conversation, template: str) -> Iterator[Conversation]:
    """The conversation, then each other writing of it, those with one change first.

    Args:
        template: its text; one that does not speak of call ids gets none.
    """
    yield conversation
    if not any(message.get("tool_calls") or message["role"] == "tool" for message in conversation.messages):
        return
    changes: list[Callable[[list[ChatMessage]], list[ChatMessage]]] = [_with_contents, _with_texts]
    changes += [_with_ids] if re.search(r"tool_call_id|tool_call\.id|\bid\b[^\n]{0,40}length", template) else []
    for number in range(1, len(changes) + 1):
        for chosen in itertools.combinations(changes, number):
            messages = conversation.messages
            for change in chosen:
                messages = change(messages)
            if messages != conversation.messages:
                yield dataclasses.replace(conversation, messages=messages)


def _with_contents(messages: list[ChatMessage]) -> list[ChatMessage]:
    return [message if "content" in message else {**message, "content": ""} for message in messages]


def _with_texts(messages: list[ChatMessage]) -> list[ChatMessage]:
    """Arguments as JSON text."""

    def changed(call: dict[str, dict[str, object]]) -> dict[str, object]:
        function = call["function"]
        text = json.dumps(function["arguments"], ensure_ascii=False)
        return {**call, "function": {**function, "arguments": text}}

    return [
        {**message, "tool_calls": list(map(changed, message["tool_calls"]))} if message.get("tool_calls") else message
        for message in messages
    ]


def _with_ids(messages: list[ChatMessage]) -> list[ChatMessage]:
    """An id for each call and each answer of a tool.

    Ids of the row stay what they are if they are nine letters or digits, else they are replaced by such ones, equal
    ids by equal ones. An answer without an id belongs to the first call that has no answer yet.
    """
    found: list[ChatMessage] = []
    waiting: list[str] = []
    for place, message in enumerate(messages):
        if calls := message.get("tool_calls"):
            ids = [_id(call.get("id"), f"{place} {at}") for at, call in enumerate(calls)]
            message = {**message, "tool_calls": [{**call, "id": one} for call, one in zip(calls, ids, strict=True)]}
            waiting += ids
        elif message["role"] in ("tool", "ipython"):
            given = message.get("tool_call_id")
            number = waiting[0] if given is None and waiting else _id(given, str(place))
            message = {**message, "tool_call_id": number}
            waiting = [other for other in waiting if other != number]
        found.append(message)
    return found


def _id(given: object, otherwise: str) -> str:
    if isinstance(given, str) and re.fullmatch(rf"[A-Za-z0-9]{{{LENGTH}}}", given):
        return given
    return hashlib.sha256(str(otherwise if given is None else given).encode()).hexdigest()[:LENGTH]
