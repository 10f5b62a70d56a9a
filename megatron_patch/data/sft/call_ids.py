"""Ids of tool calls, for templates that insist on them: Mistral's want nine letters or digits."""

from __future__ import annotations

import dataclasses
import hashlib
import re

from megatron_patch.data.sft.formats import Conversation, Message

LENGTH = 9


def with_ids(conversation: Conversation, template: str) -> Conversation | None:
    """The conversation with an id for each call and each answer of a tool; None where that would change nothing.

    Ids of the row stay what they are if they are nine letters or digits, else they are replaced by such ones, equal
    ids by equal ones. An answer without an id belongs to the first call that has no answer yet.

    Args:
        template: its text; one that does not speak of call ids is left alone.
    """
    if not re.search(r"tool_call_id|tool_call\.id|\bid\b[^\n]{0,40}length", template):
        return None
    messages: list[Message] = []
    waiting: list[str] = []
    for place, message in enumerate(conversation.messages):
        changed = dict(message)
        if message.get("tool_calls"):
            ids = [_id(call.get("id"), f"{place} {at}") for at, call in enumerate(message["tool_calls"])]
            calls = zip(message["tool_calls"], ids, strict=True)
            changed["tool_calls"] = [{**call, "id": number} for call, number in calls]
            waiting += ids
        elif message["role"] in ("tool", "ipython"):
            given = message.get("tool_call_id")
            number = _id(given, "") if given is not None else (waiting[0] if waiting else _id(None, str(place)))
            changed["tool_call_id"] = number
            waiting = [other for other in waiting if other != number]
        messages.append(changed)
    found = dataclasses.replace(conversation, messages=messages)
    return None if found.messages == conversation.messages else found


def _id(given: object, otherwise: str) -> str:
    if isinstance(given, str) and re.fullmatch(rf"[A-Za-z0-9]{{{LENGTH}}}", given):
        return given
    return hashlib.sha256(str(otherwise if given is None else given).encode()).hexdigest()[:LENGTH]
