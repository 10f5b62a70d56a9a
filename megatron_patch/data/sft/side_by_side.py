"""One row of a file of conversations: what it says, beside what the chat template makes of it.

Left the row, right the rendering with what is trained between ⟦ and ⟧; below what the template left out.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

from megatron_patch.common.values import printable
from megatron_patch.data import rows
from megatron_patch.data.jsonl import DataError
from megatron_patch.data.rows import Cut, Row
from megatron_patch.data.sft.fidelity import REASONING_KEYS
from megatron_patch.data.sft.formats import Conversation, EmptyRow, MalformedRow, Message, describe, recognise
from megatron_patch.data.sft.template import ChatTemplate, Rendered
from megatron_patch.data.sft.tokenize import CHUNK_BYTES, ROW_KEYS

LEAST_WIDTH = 20
"""Characters of a column."""


def row_at(path: Path, line: int) -> Row:
    """The row on a line, or in Parquet the row of that number.

    Raises:
        DataError: there is none.
    """
    cut = Cut(chunk_bytes=CHUNK_BYTES, row_keys=ROW_KEYS, numbered=True)
    for chunk in rows.chunks(0, path, cut):
        for row in rows.parse(chunk, path).rows:
            if line == (row.row or row.line):  # of a list, which may be on one line, the number of the row
                return row
    raise DataError(f"{path} has no row on line {line}")


def compare(path: Path, line: int, template: ChatTemplate, width: int) -> str:
    """The two columns and what is below them.

    Args:
        width: characters of both columns together.
    Raises:
        DataError: no such row.
        TemplateError: a template that cannot be used.
    """
    row = row_at(path, line)
    head = rows.place(path, row.line, row.row)
    try:
        conversation = _conversation(row)
        rendered = template.render(conversation)
    except (MalformedRow, EmptyRow) as error:
        return f"{head}: lost: {error}"
    column = max(LEAST_WIDTH, (width - 3) // 2)
    left, right = (_wrapped(text, column) for text in (says(conversation), marked(rendered)))
    lines = [f"{head}: what the row says │ what the model reads, trained between ⟦ and ⟧"]
    lines += [f"{a:<{column}} │ {b}".rstrip() for a, b in zip_longest(left, right, fillvalue="")]
    return "\n".join([*lines, *_left_out(rendered)])


def says(conversation: Conversation) -> str:
    """The conversation, message by message."""
    parts = [f"tools: {json.dumps(conversation.tools, ensure_ascii=False)}"] if conversation.tools else []
    for number, message in enumerate(conversation.messages):
        context = ", weight 0" if number in conversation.context else ""
        parts.append("\n".join([f"{message['role']}{context}:", *_parts(message)]))
    return "\n\n".join(parts)


def marked(rendered: Rendered) -> str:
    """The rendering with brackets around what is trained."""
    parts, at = [], 0
    for start, end in rendered.spans:
        parts += [rendered.text[at:start], "⟦", rendered.text[start:end], "⟧"]
        at = end
    return "".join([*parts, rendered.text[at:]])


def _conversation(row: Row) -> Conversation:
    if row.error is not None:
        raise MalformedRow(row.error)
    kind = recognise(row.record)
    if kind is None:
        raise MalformedRow(describe(row.record))
    return kind.convert(row.record)


def _parts(message: Message) -> Iterator[str]:
    for key in REASONING_KEYS:
        if message.get(key):
            yield f"  {key}: {message[key]}"
    if message.get("content"):
        yield f"  {message['content']}"
    for call in message.get("tool_calls") or ():
        function = call["function"]
        yield f"  calls {function['name']} {json.dumps(function['arguments'], ensure_ascii=False)}"


def _left_out(rendered: Rendered) -> Iterator[str]:
    if not rendered.dropped:
        yield "nothing of it is left out"
    for item in rendered.dropped:
        yield f"{item}{' (as is its way with earlier turns)' if item.by_design else ''}"


def _visible(text: str) -> str:
    """With what a terminal would obey written out, line breaks aside."""
    return "\n".join(printable(line) for line in text.expandtabs(4).split("\n"))


def _wrapped(text: str, column: int) -> list[str]:
    return [
        part
        for line in _visible(text).split("\n")
        for part in textwrap.wrap(line, column, drop_whitespace=False, replace_whitespace=False) or [""]
    ]
