"""The four shapes conversations come in, recognised and brought to one: a list of messages and a list of tools.

Each is a file; another one is a file more, and an entry in FORMATS.

| format | keys |
| --- | --- |
| messages | `messages` (or `conversations`) of `role`, `content`; `tools`, `system` |
| sharegpt | `conversations` (or `conversation`) of `from`, `value`; `tools`, `system` |
| alpaca | `instruction` or `query`, and `input` (alone in NeMo's form); `output`, `content` or `response`; |
| | `system`; `history` |
| prompt-completion | `prompt`, `completion`: two strings, or two lists of messages; `tools`, `system` |
"""

from __future__ import annotations

from collections.abc import Mapping

from megatron_patch.data.jsonl import json_kind
from megatron_patch.data.sft.formats import alpaca, messages, prompt_completion, sharegpt
from megatron_patch.data.sft.formats.common import Conversation, EmptyRow, Format, MalformedRow, Message

__all__ = ["FORMATS", "Conversation", "EmptyRow", "Format", "MalformedRow", "Message", "describe", "recognise"]

FORMATS = (messages.FORMAT, sharegpt.FORMAT, alpaca.FORMAT, prompt_completion.FORMAT)
"""In the order they are tried."""


def recognise(record: object) -> Format | None:
    """The format of one record, or None. Raises nothing: the caller knows the line."""
    if not isinstance(record, Mapping):
        return None
    return next((kind for kind in FORMATS if kind.matches(record)), None)


def describe(record: object) -> str:
    """What a record of no known format looks like, for a message."""
    if not isinstance(record, Mapping):
        return f"a JSON {json_kind(record)}; wanted an object"
    keys = ", ".join(repr(str(key)[:40]) for key in record) or "none"
    for key in ("messages", "conversations", "conversation"):
        if key in record:
            return f"{key!r} is {_unusable(record[key])}; wanted a list of turns"
    return f"no known format: its keys are {keys}; wanted one of: {'; '.join(kind.wanted for kind in FORMATS)}"


def _unusable(turns: object) -> str:
    """What stands where a list of turns is wanted."""
    if isinstance(turns, str):
        return "a string that is not a JSON list"
    if isinstance(turns, list):
        return "a list whose first element has neither role nor from"
    return f"a JSON {json_kind(turns)}"
