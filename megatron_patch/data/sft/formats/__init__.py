"""The four shapes conversations come in, recognised and brought to one: a list of messages and a list of tools.

Each is a file; another one is a file more, and an entry in FORMATS.

| format | keys |
| --- | --- |
| messages | `messages` (or `conversations`, `conversation`) of `role`, `content`; `tools`, `system` |
| sharegpt | `conversations` (or `conversation`, `messages`) of `from`, `value`; `tools`, `system` |
| alpaca | `instruction`, `query`, `prompt` or `question`, and `input` (alone in NeMo's form); `output`, `content`, |
| | `response` or `answer`; `system`; `history` |
| prompt-completion | `prompt`, `completion`: two strings, or two lists of messages; `tools`, `system` |
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from megatron_patch.common.messages import Message
from megatron_patch.data.jsonl import json_kind
from megatron_patch.data.sft.formats import alpaca, messages, prompt_completion, sharegpt
from megatron_patch.data.sft.formats.common import (
    COMMON,
    ChatMessage,
    Conversation,
    EmptyRow,
    Format,
    MalformedRow,
    UnwantedRow,
    unread_marks,
)

if TYPE_CHECKING:
    from megatron_patch.data.rows import Row

__all__ = [
    "FORMATS",
    "ChatMessage",
    "Conversation",
    "EmptyRow",
    "Format",
    "MalformedRow",
    "UnwantedRow",
    "describe",
    "format_of",
    "recognise",
    "row_keys_of",
    "unread_marks",
]

PREFERENCES = ("chosen", "rejected")
"""Keys of two answers to be compared, as in DPO."""
FORMATS = (messages.FORMAT, sharegpt.FORMAT, alpaca.FORMAT, prompt_completion.FORMAT)
"""In the order they are tried."""
ROW_KEYS = frozenset().union(*(kind.keys for kind in FORMATS)) - COMMON - {"content"}  # a turn has that too
"""Keys of which every row has one."""


def row_keys_of(columns: Collection[str] | None) -> Collection[str]:
    """Keys of which every row of a file has one, by which an object around all rows is told from a row.

    Args:
        columns: those of the file, where they have other names.
    """
    return columns or ROW_KEYS


def recognise(record: object) -> Format | None:
    """The format of one record, or None. Raises nothing: the caller knows the line."""
    if not isinstance(record, Mapping):
        return None
    return next((kind for kind in FORMATS if kind.matches(record)), None)


def format_of(row: Row) -> Format:
    """The format of a row.

    Raises:
        MalformedRow: it cannot be read, or is of no known format.
    """
    if row.error is not None:
        raise MalformedRow.of([row.error])
    kind = recognise(row.record)
    if kind is None:
        raise MalformedRow.of([describe(row.record)])
    return kind


def describe(record: object) -> Message:
    """What a record of no known format looks like."""
    if not isinstance(record, Mapping):
        return Message("row-kind", kind=json_kind(record))
    for key in ("messages", "conversations", "conversation"):
        if key in record:
            return Message("row-turns", key=key, found=_unusable(record[key]))
    if preferred := [key for key in PREFERENCES if key in record]:
        return Message("row-preference", keys=preferred)
    keys = [repr(str(key)[:40]) for key in record] or Message("none")
    return Message("row-no-format", keys=keys, formats=[kind.wanted for kind in FORMATS])


def _unusable(turns: object) -> Message:
    """What stands where a list of turns is wanted."""
    if isinstance(turns, str):
        return Message("row-turns-text")
    if isinstance(turns, list):
        return Message("row-turns-first")
    return Message("row-turns-kind", kind=json_kind(turns))
