"""Who speaks in a turn, by every name that formats have for it, and the turns that are calls written as text."""

from __future__ import annotations

from typing import Any

ROLES = {
    "system": "system",
    "developer": "developer",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bard": "assistant",
    "bing": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "ai": "assistant",
    "function_call": "assistant",
    "tool_call": "assistant",
    "tool": "tool",
    "ipython": "ipython",
    "function": "tool",
    "observation": "tool",
    "function_response": "tool",
    "tool_response": "tool",
}
"""The role in a chat template: OpenAI's names of today and before, ShareGPT's, LLaMA-Factory's, ms-swift's."""


def speaker_of(name: object) -> str | None:
    """Who speaks, as ROLES has it: `Assistant` is the assistant; None for anybody else."""
    if not isinstance(name, str):
        return None
    if name in ROLES:
        return name
    return said if (said := name.strip().lower()) in ROLES else None


PARALLEL = "tool_call"
"""ms-swift's: a turn is one call, and continues the turn of the assistant's in front of it."""
CONTEXT = "__context__"
"""Marks a message that is not trained, until `conversation_of` has counted it."""
CALLS = ("function_call", PARALLEL)
"""Turns whose text is a call as JSON, or a list of them."""


def joined(messages: list[dict[str, Any]], speakers: list[str | None]) -> list[dict[str, Any]]:
    """Each `tool_call` as part of the assistant's turn that it follows, where both are trained or neither is.

    Args:
        speakers: of each message, as ROLES has them.
    """
    found: list[dict[str, Any]] = []
    for message, speaker in zip(messages, speakers, strict=True):
        before = found[-1] if found else {}
        same = before.get("role") == "assistant" and before.get(CONTEXT) == message.get(CONTEXT)
        if speaker == PARALLEL and same:
            found[-1] = {**before, "tool_calls": [*before.get("tool_calls", ()), *message["tool_calls"]]}
        else:
            found.append(message)
    return found
